"""Fetching from a hub on loopback: the cache, working offline, and every failure with its line."""

import hashlib
import os

import numpy as np
import pytest
from safetensors.numpy import save

import crosscale
from crosscale.errors import RequestError, WorkError
from crosscale.models.registry import get_preset
from crosscale.pretrained import from_variables, load_pretrained, load_weights
from crosscale.weights.hub import fetch
from tests.hub_server import COMMIT, Hub
from tests.models.test_crossvit_parity import golden
from tests.seeded import seeded_variables

REPO = "timm/crossvit_plain.in1k"


@pytest.fixture
def hub(monkeypatch):
    """Serves narrow weights that timm made."""
    from huggingface_hub import constants

    server = Hub()
    _, weights, _ = golden("plain")
    server.files[REPO, "model.safetensors"] = save({k: np.ascontiguousarray(v) for k, v in weights.items()})
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "2")
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    server.close()


def test_fetch_then_cache_then_offline(hub, tmp_path, monkeypatch, caplog):
    path = fetch(REPO, cache_dir=tmp_path)
    assert path.read_bytes() == hub.files[REPO, "model.safetensors"]
    assert COMMIT in path.parts
    assert ("GET", f"/{REPO}/resolve/main/model.safetensors") in hub.requests
    hub.requests.clear()
    assert fetch(REPO, cache_dir=tmp_path) == path
    assert {method for method, _ in hub.requests} == {"HEAD"}
    hub.requests.clear()
    assert fetch(REPO, cache_dir=tmp_path, local_files_only=True) == path
    assert not hub.requests
    hub.close()
    assert fetch(REPO, cache_dir=tmp_path) == path
    assert "no answer from http://127.0.0.1" in caplog.text


@pytest.mark.slow
def test_timm_file_through_the_hub_gives_timms_logits(hub, tmp_path):
    import jax

    model, _, arrays = golden("plain")
    variables = load_weights(fetch(REPO, cache_dir=tmp_path), model)
    logits = jax.jit(model.apply)(variables, arrays["images"].transpose(0, 2, 3, 1))
    assert np.abs(logits - arrays["logits"]).max() < 1e-5 * np.abs(arrays["logits"]).max()


def test_pinned_commit_needs_no_second_question(hub, tmp_path):
    path = fetch(REPO, COMMIT, cache_dir=tmp_path)
    hub.close()
    assert fetch(REPO, COMMIT, cache_dir=tmp_path) == path


@pytest.mark.parametrize(
    ("repo", "options", "message"),
    [
        ("timm/nothing", {}, "404 RepositoryNotFound"),
        (REPO, {"revision": "v9"}, "404 RevisionNotFound"),
        (REPO, {"filename": "other.safetensors"}, "404 (Remote)?EntryNotFound"),
        (REPO, {"filename": "../../outside"}, "leads out of the cache"),
        (REPO, {"filename": "/etc/passwd"}, "leads out of the cache"),
        ("timm/../../outside", {}, "leads out of the cache"),
        ("not a name", {}, "not a name"),
    ],
)
def test_wrong_requests(hub, tmp_path, repo, options, message):
    with pytest.raises(RequestError, match=message) as error:
        fetch(repo, **{"revision": "main", **options}, cache_dir=tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("corrupt", "SHA-256 is not the recorded"),
        ("wrong_hash", "SHA-256 is not the recorded"),
        ("broken", "not in the cache .* by hand"),
        ("stalled", "not in the cache .* by hand"),
    ],
)
def test_failing_servers(hub, tmp_path, monkeypatch, fault, message):
    hub.fault = fault
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.3")
    with pytest.raises(WorkError, match=message) as error:
        fetch(REPO, cache_dir=tmp_path)
    assert "\n" not in str(error.value)
    hub.fault = None
    assert fetch(REPO, cache_dir=tmp_path).read_bytes() == hub.files[REPO, "model.safetensors"]


def test_cut_off_download(hub, tmp_path, monkeypatch):
    from huggingface_hub import file_download

    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)  # between the client's own retries
    hub.fault = "cut"
    with pytest.raises(WorkError, match=r"failed|broke off"):
        fetch(REPO, cache_dir=tmp_path)
    assert not list(tmp_path.rglob("model.safetensors"))
    hub.fault = None
    fetch(REPO, cache_dir=tmp_path)


def test_slow_server(hub, tmp_path):
    hub.fault = "slow"
    assert fetch(REPO, cache_dir=tmp_path).stat().st_size == len(hub.files[REPO, "model.safetensors"])


def test_nothing_cached_and_no_network(hub, tmp_path):
    hub.close()
    with pytest.raises(
        WorkError, match=rf"{REPO}/model.safetensors at main: not in the cache \({tmp_path}.*--pretrained"
    ):
        fetch(REPO, cache_dir=tmp_path)
    with pytest.raises(WorkError, match="not in the cache"):
        fetch(REPO, cache_dir=tmp_path, local_files_only=True)


def test_changed_in_the_cache(hub, tmp_path):
    path = fetch(REPO, cache_dir=tmp_path)
    blob = path.resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x01")
    with pytest.raises(WorkError, match="damaged"):
        fetch(REPO, cache_dir=tmp_path, local_files_only=True)
    assert not blob.exists()


def test_link_out_of_the_cache(hub, tmp_path):
    path = fetch(REPO, cache_dir=tmp_path / "cache")
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(path.read_bytes())
    path.unlink()
    os.symlink(outside, path)
    with pytest.raises(WorkError, match="leads out of the cache"):
        fetch(REPO, cache_dir=tmp_path / "cache", local_files_only=True)
    assert outside.exists()


def test_given_hash(hub, tmp_path):
    good = hashlib.sha256(hub.files[REPO, "model.safetensors"]).hexdigest()
    fetch(REPO, cache_dir=tmp_path, sha256=good)
    with pytest.raises(WorkError, match="not 0000"):
        fetch(REPO, cache_dir=tmp_path, sha256="0" * 64)


@pytest.mark.slow
def test_load_pretrained_by_name(hub, tmp_path):
    model = crosscale.create_model("crossvit_tiny_240")
    variables = seeded_variables(model)
    flat = from_variables(variables, model, "timm")
    hub.files[get_preset("crossvit_tiny_240").hub, "model.safetensors"] = save(flat)
    again = from_variables(load_pretrained("crossvit_tiny_240", cache_dir=tmp_path), model, "timm")
    assert all(again[name].tobytes() == flat[name].tobytes() for name in flat)
    ten = load_pretrained("crossvit_tiny_224", cache_dir=tmp_path, num_classes=10, in_channels=1)["params"]
    assert ten["head"]["branch_0"]["kernel"].shape == (96, 10)
    grey = flat["patch_embed.0.proj.weight"].sum(1, keepdims=True).transpose(2, 3, 1, 0)
    np.testing.assert_allclose(ten["backbone"]["embed_0"]["patches"]["kernel"], grey, rtol=1e-6)


@pytest.mark.slow
def test_preset_without_weights(tmp_path):
    with pytest.raises(RequestError, match="crossvit_18_dagger_480: no weights on the hub"):
        load_pretrained("crossvit_18_dagger_480", cache_dir=tmp_path)
    with pytest.raises(RequestError, match="did you mean"):
        load_pretrained("crossvit_9_204", cache_dir=tmp_path)


@pytest.mark.parity
def test_weights_that_timm_made(hub, tmp_path):
    pytest.importorskip("timm")
    import jax

    from benchmarks.parity import deviation, reference_and_ours

    name = "crossvit_15_dagger_240"
    reference, images, model, _ = reference_and_ours(name, batch=1)
    state = {k: v.numpy() for k, v in reference.state_dict().items()}
    hub.files[get_preset(name).hub, "model.safetensors"] = save(state)
    variables = load_pretrained(name, cache_dir=tmp_path)
    logits = jax.jit(model.apply)(variables, images.numpy().transpose(0, 2, 3, 1))
    assert deviation(logits, reference(images).detach().numpy()) < 1e-4
