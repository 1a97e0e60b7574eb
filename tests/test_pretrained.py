"""Weights onto other classes, sizes and channels; recognition and its refusals; folders for the hub."""

import json
import logging

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import crosscale
from crosscale.errors import RequestError
from crosscale.models.registry import input_spec
from crosscale.predictor import Predictor
from crosscale.pretrained import best_preset, from_variables, load_weights, recognise, save_pretrained, save_weights
from crosscale.pretrained.adapt import other_channels, resize_position
from crosscale.trees import flatten
from crosscale.weights.positions import PositionTable
from tests.seeded import seeded_variables

FIELDS = {
    "img_size": (48, 32),
    "patch_size": (12, 16),
    "embed_dim": (8, 16),
    "depth": ((1, 1, 0),),
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "num_classes": 5,
    "qkv_bias": True,
}

OPTIONS = {name: value for name, value in FIELDS.items() if name != "num_classes"}


def model(**changes):
    return crosscale.CrossViT(**{**FIELDS, **changes})


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "timm.safetensors"
    save_weights(path, seeded_variables(model()), model(), "timm")
    return path


def params(variables):
    return flatten(variables["params"])


@pytest.fixture
def info(caplog):
    caplog.set_level(logging.INFO, "crosscale")
    return caplog


@pytest.mark.slow
def test_other_number_of_classes(file, info):
    with pytest.raises(RequestError, match=r"head/branch_0/bias has shape \(5,\)"):
        load_weights(file, model(num_classes=3))
    new = params(load_weights(file, model(num_classes=3), adapt=True))
    old = params(load_weights(file, model()))
    assert new["head/branch_1/kernel"].shape == (16, 3)
    assert np.abs(new["head/branch_1/kernel"]).max() > 0
    assert all(np.array_equal(new[name], old[name]) for name in old if name.startswith("backbone/"))
    assert "new head (3 classes instead of 5); the rest is kept" in info.text
    again = params(load_weights(file, model(num_classes=3), adapt=True, seed=1))
    assert not np.array_equal(again["head/branch_0/kernel"], new["head/branch_0/kernel"])


def test_no_head_at_all(file):
    new = params(load_weights(file, model(num_classes=0), adapt=True))
    assert not [name for name in new if name.startswith("head/")]


@pytest.mark.parametrize("size", [(72, 64), ((48, 72), (32, 48))])
def test_other_image_size(file, info, size):
    from crosscale.layers.resize import resize_bicubic

    target = model(img_size=size)
    new = params(load_weights(file, target, adapt=True))
    old = params(load_weights(file, model()))
    for b, grid in enumerate(target.config.grids):
        before, after = (tree[f"backbone/embed_{b}/position"] for tree in (old, new))
        side = (4, 2)[b]
        np.testing.assert_array_equal(after[:, 0], before[:, 0])
        picture = resize_bicubic(before[:, 1:].reshape(1, side, side, -1), grid)
        np.testing.assert_allclose(after[:, 1:].reshape(picture.shape), picture, atol=1e-6)
    assert "backbone/embed_0/position resized from 4 x 4 to" in info.text
    images = np.zeros((1, *target.input_size, 3), np.float32)
    assert np.isfinite(jax.jit(target.apply)(load_weights(file, target, adapt=True), images)).all()


def test_position_grid_comes_from_the_run_or_the_proportions(tmp_path):
    table = np.arange(24, dtype=np.float32).reshape(1, 6, 4)
    old, new = PositionTable((2, 3), False), PositionTable((4, 6), False)
    assert resize_position(table, old, new).shape == (1, 24, 4)
    np.testing.assert_array_equal(resize_position(table, old, old), table)
    with pytest.raises(RequestError, match="CLS token"):
        resize_position(table, old, PositionTable((4, 6), True))
    wide = model(img_size=((36, 48), (32, 64)))
    save_pretrained(
        tmp_path / "wide",
        seeded_variables(wide),
        wide,
        name="crossvit",
        spec=crosscale.InputSpec(),
        options={**OPTIONS, "img_size": [[36, 48], [32, 64]]},
    )
    load_weights(tmp_path / "wide", model(), adapt=True)
    with pytest.raises(RequestError, match="neither a square grid nor the proportions"):
        load_weights(tmp_path / "wide" / "model.safetensors", model(), adapt=True)
    load_weights(tmp_path / "wide" / "model.safetensors", model(img_size=((72, 96), (64, 128))), adapt=True)


def test_other_channels(file, info):
    kernel = np.random.default_rng(0).standard_normal((2, 2, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(other_channels(kernel, 1), kernel.sum(2, keepdims=True))
    assert other_channels(kernel, 7).shape == (2, 2, 7, 4)
    grey = np.random.default_rng(1).standard_normal((2, 2, 1)).astype(np.float32)
    for channels in (1, 2, 3, 4, 6):
        got = np.einsum("hwc,hwco->o", np.repeat(grey, channels, -1), other_channels(kernel, channels))
        if channels in (1, 3, 6):  # whole repetitions: equal channels give what three gave
            np.testing.assert_allclose(got, np.einsum("hwc,hwco->o", np.repeat(grey, 3, -1), kernel), rtol=1e-4)
    new = params(load_weights(file, model(in_channels=1, multi_conv=False), adapt=True))
    assert new["backbone/embed_1/patches/kernel"].shape == (16, 16, 1, 16)
    assert "1 input channels made of 3" in info.text


def test_channels_are_those_of_each_picture(file, info):
    old = params(load_weights(file, model()))
    for channels in (1, 3, 4):
        new = params(load_weights(file, model(pictures=2, in_channels=2 * channels), adapt=True))
        for name in ("backbone/embed_0/patches/kernel", "backbone/embed_1/patches/kernel"):
            np.testing.assert_array_equal(new[name], other_channels(old[name], channels))
    assert "1 input channels made of 3" in info.text


def test_partial_loading(file, info):
    old = params(load_weights(file, model()))
    new = params(load_weights(file, model(), only=["backbone/stage_0/.*", "backbone/embed_0/.*"]))
    for name, value in old.items():
        taken = name.startswith(("backbone/stage_0/", "backbone/embed_0/"))
        assert np.array_equal(new[name], value) == taken, name
    assert "parameters taken by name, the others made anew" in info.text
    one = params(load_weights(file, model(), only="backbone/embed_0/.*"))
    assert [name for name in old if np.array_equal(one[name], old[name])] == [
        name for name in old if name.startswith("backbone/embed_0/")
    ]
    with pytest.raises(RequestError, match=r"'stage.*' matches no parameter"):
        load_weights(file, model(), only=["stage.*"])
    with pytest.raises(RequestError, match="not a regular expression"):
        load_weights(file, model(), only=["("])


def test_adaptation_is_still_strict(file):
    with pytest.raises(RequestError, match="missing backbone/stage_1"):
        load_weights(file, model(depth=((1, 1, 0),) * 2), adapt=True)
    with pytest.raises(RequestError, match="has shape"):
        load_weights(file, model(embed_dim=(8, 32)), adapt=True)


def test_nan_is_named(file, tmp_path, caplog):
    flat = from_variables(load_weights(file, model()), model(), "timm")
    flat["norm.1.bias"] = np.full_like(flat["norm.1.bias"], np.nan)
    save_file(flat, tmp_path / "nan.safetensors")
    load_weights(tmp_path / "nan.safetensors", model())
    assert "backbone/norm_1/bias holds numbers that are not finite" in caplog.text


def test_recognition(file, tmp_path, info):
    variables = load_weights(file, model())
    assert "tensors under the names of 'timm'" in info.text
    for scheme in ("crosscale", "timm", "ibm", "mindcv"):
        assert recognise(from_variables(variables, model(), scheme), model(), "x") == scheme
    with pytest.raises(RequestError, match="first foreign, of which; known schemes: crosscale, timm, ibm, mindcv"):
        recognise({"foreign": np.zeros(1), "of which": np.zeros(1)}, model(), "x")
    with pytest.raises(RequestError, match="holds no tensors"):
        recognise({}, model(), "x")


def test_ambiguous_names_are_refused(monkeypatch):
    from crosscale.weights.rules import Rule

    tables = {"one": (Rule("w", "head/branch_0/bias"),), "two": (Rule("w", "head/branch_1/bias"),)}
    monkeypatch.setattr(crosscale.CrossViT, "weight_rules", lambda self: tables)
    with pytest.raises(RequestError, match=r"fit several schemes \(one, two\) in different ways; .*names='one'"):
        recognise({"w": np.zeros(5)}, model(), "x")


@pytest.mark.slow
def test_a_file_of_another_model_names_the_preset(tmp_path):
    tiny = crosscale.create_model("crossvit_tiny_240", num_classes=10)
    save_weights(tmp_path / "tiny.safetensors", seeded_variables(tiny), tiny, "ibm")
    with pytest.raises(RequestError, match=r"it fits crossvit_tiny_240 best \(100% of its tensors\)"):
        load_weights(tmp_path / "tiny.safetensors", crosscale.create_model("crossvit_9_240"))
    match = best_preset(from_variables(seeded_variables(tiny), tiny))
    assert match == ("crossvit_tiny_240", "crosscale", 1.0)
    assert best_preset({"foreign": np.zeros(1)}) is None


# ---- folders for the hub ----


def test_folder_is_loadable_alone(file, tmp_path):
    spec = crosscale.InputSpec(size=(48, 48), crop_pct=0.9)
    classes = ["ant", "bee", "cat", "dog", "eel"]
    folder = save_pretrained(
        tmp_path / "new" / "folder",
        load_weights(file, model()),
        model(),
        name="crossvit",
        spec=spec,
        options=OPTIONS,
        classes=classes,
        licence="cc-by-4.0",
        metrics={"top1": 0.5},
    )
    predictor = Predictor.from_run(folder)
    assert predictor.classes == tuple(classes)
    assert predictor.spec == spec
    config = json.loads((folder / "config.json").read_text())
    assert config["license"] == "cc-by-4.0"
    assert config["metrics"] == {"top1": 0.5}
    assert config["architecture"].startswith("crossvit_")
    assert "license: cc-by-4.0" in (folder / "README.md").read_text()
    old, new = (params(load_weights(path, model())) for path in (file, folder))
    assert all(np.array_equal(old[name], new[name]) for name in old)
    # other names of as many classes: the head is of no use
    other = params(load_weights(folder, model(), adapt=True, classes=["a", "b", "c", "d", "e"]))
    assert not np.array_equal(other["head/branch_0/kernel"], old["head/branch_0/kernel"])


def test_folder_refusals(file, tmp_path):
    variables, spec = load_weights(file, model()), crosscale.InputSpec()
    (tmp_path / "other.txt").touch()
    with pytest.raises(RequestError, match=r"already holds other things \(other.txt\)"):
        save_pretrained(tmp_path, variables, model(), name="crossvit", spec=spec)
    with pytest.raises(RequestError, match="2 class names for a model of 5"):
        save_pretrained(tmp_path / "a", variables, model(), name="crossvit", spec=spec, classes=["a", "b"])
    with pytest.raises(RequestError, match=r"a folder without model\.safetensors"):
        load_weights(tmp_path, model())
    with pytest.raises(RequestError, match="read, not written"):
        save_weights(tmp_path / "x.ckpt", variables, model())


# ---- live ----


def strict_in_timm(name, path):
    from safetensors.torch import load_file

    from benchmarks.parity import import_timm

    reference = import_timm().create_model(name).eval()
    reference.load_state_dict(load_file(path), strict=True)
    return reference


@pytest.mark.parity
def test_written_files_load_strictly_in_timm(tmp_path):
    torch = pytest.importorskip("torch")
    from benchmarks.parity import deviation

    ours = crosscale.create_model("crossvit_9_dagger_240")
    variables = seeded_variables(ours)
    save_weights(tmp_path / "x.safetensors", variables, ours, "timm")
    reference = strict_in_timm("crossvit_9_dagger_240", tmp_path / "x.safetensors")
    images = torch.randn(1, 3, 240, 240)
    logits = jax.jit(ours.apply)(variables, images.numpy().transpose(0, 2, 3, 1))
    assert deviation(logits, reference(images).detach().numpy()) < 1e-4


@pytest.mark.parity
@pytest.mark.parametrize("changes", [{}, {"in_channels": 1}, {"img_size": (408, 384), "multi_conv": True}])
def test_folders_load_in_timm(tmp_path, changes):
    torch = pytest.importorskip("torch")
    from benchmarks.parity import deviation, import_timm

    ours = crosscale.create_model("crossvit_9_240", num_classes=3, **changes)
    variables, spec = seeded_variables(ours), input_spec("crossvit_9_240", ours)
    folder = save_pretrained(
        tmp_path, variables, ours, name="crossvit_9_240", spec=spec, options=changes, classes=["a", "b", "c"]
    )
    reference = import_timm().create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert reference.pretrained_cfg["label_names"] == ["a", "b", "c"]
    images = torch.randn(1, ours.in_channels, *ours.input_size)
    logits = jax.jit(ours.apply)(variables, images.numpy().transpose(0, 2, 3, 1))
    assert deviation(logits, reference(images).detach().numpy()) < 1e-4


@pytest.mark.parity
def test_vit_pytorch_state_dicts_both_ways(tmp_path):
    torch = pytest.importorskip("torch")
    from benchmarks.parity import deviation, import_timm

    import_timm()  # makes torchvision importable, which vit-pytorch needs
    vit_pytorch = pytest.importorskip("vit_pytorch.cross_vit")
    from safetensors.torch import load_file

    from crosscale.compat.vit_pytorch import CrossViT

    fields = {"image_size": 48, "num_classes": 4, "sm_dim": 16, "lg_dim": 24, "depth": 1, "lg_enc_depth": 1}
    reference = vit_pytorch.CrossViT(**fields).eval()
    torch.save(reference.state_dict(), tmp_path / "x.pt")
    ours = CrossViT(**fields)
    variables = load_weights(tmp_path / "x.pt", ours)
    images = torch.randn(1, 3, 48, 48)
    logits = jax.jit(ours.apply)(variables, images.numpy().transpose(0, 2, 3, 1))
    assert deviation(logits, reference(images).detach().numpy()) < 1e-4
    save_weights(tmp_path / "back.safetensors", variables, ours, "vit_pytorch")
    reference.load_state_dict(load_file(tmp_path / "back.safetensors"), strict=True)
    assert all(
        torch.equal(reference.state_dict()[k], v) for k, v in torch.load(tmp_path / "x.pt", weights_only=True).items()
    )


@pytest.mark.parity
def test_position_tables_as_torch_resizes_them():
    torch = pytest.importorskip("torch")
    table = np.random.default_rng(0).standard_normal((1, 1 + 14 * 14, 8)).astype(np.float32)
    for grid in ((24, 24), (7, 9), (15, 30)):
        picture = torch.from_numpy(table[:, 1:].reshape(1, 14, 14, 8)).permute(0, 3, 1, 2)
        theirs = torch.nn.functional.interpolate(picture, size=grid, mode="bicubic", align_corners=False)
        ours = resize_position(table, PositionTable((14, 14)), PositionTable(grid))
        np.testing.assert_allclose(ours[:, 1:], theirs.permute(0, 2, 3, 1).reshape(1, -1, 8), atol=1e-5)
