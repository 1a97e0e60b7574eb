"""Requests about weights that are wrong are one line each: swapped arguments, other archives, other numbers, damage."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from crosscale import load_weights, save_weights
from crosscale.artifact import file_digest, read_artifact, write_artifact
from crosscale.errors import RequestError
from crosscale.predictor import Predictor
from crosscale.pretrained import restore_model
from crosscale.pretrained.teacher import load_teacher


@pytest.fixture(scope="module")
def stored(tiny_run):
    """The model and its variables."""
    artifact = read_artifact(tiny_run / "best")
    model = restore_model(artifact, tiny_run)
    return model, load_weights(tiny_run, model)


def test_arguments_in_another_order(stored, tmp_path):
    model, variables = stored
    file = tmp_path / "w.safetensors"
    for words in ((variables, file, model), (file, model, variables), (model, variables, file)):
        with pytest.raises(RequestError, match=r"save_weights takes \(path, variables, model\)"):
            save_weights(*words)
    with pytest.raises(RequestError, match="not what is inside 'params'"):
        save_weights(file, variables["params"], model)
    with pytest.raises(RequestError, match=r"load_weights takes \(path, model\)"):
        load_weights(model, file)
    assert not file.exists()


def test_a_file_that_is_replaced_is_named(stored, tmp_path, caplog):
    model, variables = stored
    file = tmp_path / "w.safetensors"
    save_weights(file, variables, model)
    assert caplog.messages == []
    save_weights(file, variables, model)
    assert caplog.messages == [f"{file}: replaces the file that was there"]


@pytest.mark.parametrize("at", [0.5, 0.9])
def test_best_weights_that_were_damaged_are_refused(tiny_run, stored, tmp_path, at):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    weights = run / "best" / "model.safetensors"
    artifact = read_artifact(run / "best")
    write_artifact(run / "best", replace(artifact, weights_digest=file_digest(weights)))
    load_weights(run, stored[0])
    data = bytearray(weights.read_bytes())
    data[int(len(data) * at)] ^= 1
    weights.write_bytes(data)
    for place in (run, run / "best"):
        with pytest.raises(RequestError, match=r"model\.safetensors: damaged, it is not what was written"):
            load_weights(place, stored[0])
        with pytest.raises(RequestError, match=r"model\.safetensors: damaged, it is not what was written"):
            Predictor.from_run(place)
        with pytest.raises(RequestError, match=r"model\.safetensors: damaged, it is not what was written"):
            load_teacher(str(place), None, artifact.labels, artifact.input_spec)
    config = json.loads((run / "best" / "config.json").read_text())
    del config["weights_digest"]  # as the line says, for other weights there
    (run / "best" / "config.json").write_text(json.dumps(config))
    load_weights(run, stored[0])


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2", "bfloat16"])
def test_small_numbers_of_pytorch_are_widened(tmp_path, kind):
    torch = pytest.importorskip("torch")
    from crosscale.weights.torch_file import read_torch

    torch.save({"w": torch.tensor([0.5, -2.0]).to(getattr(torch, kind))}, tmp_path / "w.pth")
    flat, _ = read_torch(tmp_path / "w.pth")
    assert flat["w"].dtype == np.float32
    assert flat["w"].tolist() == [0.5, -2.0]


@pytest.mark.parity
def test_a_torchscript_archive_is_named(tmp_path):
    torch = pytest.importorskip("torch")
    from crosscale.weights.torch_file import read_torch

    for module in (torch.nn.Linear(2, 2), torch.nn.Conv2d(1, 1, 1)):
        torch.jit.script(module).save(str(tmp_path / "w.pt"))
        with pytest.raises(RequestError, match="a TorchScript archive, which holds a program"):
            read_torch(tmp_path / "w.pt")


@pytest.mark.slow
def test_an_operator_set_that_does_not_do(tiny_run, tmp_path, capsys):
    pytest.importorskip("jax2onnx")
    from crosscale.cli.main import main

    for opset in ("7", "99"):
        words = ["export", "--run", str(tiny_run), "--format", "onnx", "--opset", opset, str(tmp_path / "m.onnx")]
        assert main(words) == 2
        error = capsys.readouterr().err
        assert f"error: --opset {opset}: " in error.splitlines()[-1]
        assert "Traceback" not in error
