"""`crosscale convert`: names both ways bit for bit, folders for the hub, and what it refuses."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from crosscale.cli.main import main
from crosscale.predictor import Predictor
from tests.conftest import TINY_CROSSVIT
from tests.models.test_crossvit_parity import golden

FIELDS = [word for name, value in TINY_CROSSVIT.items() for word in (f"--model.options.{name}", json.dumps(value))]


def convert(capsys, *words, status=0):
    assert main(["convert", *map(str, words)]) == status
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured


def test_run_to_every_scheme_and_back(capsys, tiny_run, tmp_path):
    convert(capsys, tiny_run, tmp_path / "own.safetensors")
    own = load_file(tmp_path / "own.safetensors")
    for scheme in ("timm", "ibm", "mindcv"):
        path, back = tmp_path / f"{scheme}.safetensors", tmp_path / f"{scheme}.back.safetensors"
        convert(capsys, tiny_run, path, "--names", scheme)
        words = ["--model", "crossvit", *FIELDS, "--model.options.in_channels", 1, path, back, "--json"]
        result = json.loads(convert(capsys, *words).out)
        assert (result["names_in"], result["names"], result["num_classes"]) == (scheme, "crosscale", 10)
        again = load_file(back)
        assert set(again) == set(own)
        assert all(again[name].tobytes() == own[name].tobytes() for name in own)


@pytest.mark.slow
def test_timms_file_to_ibms_names(capsys, tmp_path):
    _, weights, _ = golden("dagger")
    save_file({k: np.ascontiguousarray(v) for k, v in weights.items()}, tmp_path / "timm.safetensors")
    fields = {"img_size": [48, 32], "embed_dim": [8, 16], "num_heads": [2, 2], "mlp_ratio": [2.0, 1.5, 1.0],
              "qkv_bias": True, "depth": [[1, 2, 0], [1, 2, 0]], "multi_conv": True}  # fmt: skip
    options = [word for name, value in fields.items() for word in (f"--model.options.{name}", json.dumps(value))]
    words = ["--model", "crossvit", *options, tmp_path / "timm.safetensors", tmp_path / "ibm.safetensors"]
    captured = convert(capsys, *words, "--names", "ibm")
    assert "from the names of 'timm' to those of 'ibm'" in captured.err
    ibm = load_file(tmp_path / "ibm.safetensors")
    assert "pos_embed.0" in ibm
    assert ibm["pos_embed.0"].tobytes() == np.ascontiguousarray(weights["pos_embed_0"]).tobytes()


@pytest.mark.slow
def test_folder_for_the_hub(capsys, tiny_run, tmp_path):
    folder = tmp_path / "hub"
    convert(capsys, tiny_run, folder, "--folder", "--license", "mit")
    config = json.loads((folder / "config.json").read_text())
    assert config["license"] == "mit"
    assert config["classes"] == [str(digit) for digit in range(10)]
    assert config["pretrained_cfg"]["input_size"] == [1, 16, 16]
    ours, theirs = Predictor.from_run(tiny_run), Predictor.from_run(folder)
    picture = np.full((8, 8), 90, np.uint8)
    assert list(ours.predict([picture])) == list(theirs.predict([picture]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["only-one"], "expected IN and OUT, got 1"),
        (["a.safetensors", "b.safetensors"], "a file does not say its model; give --model M"),
        (["--pretrained", "out.safetensors"], "--pretrained needs --model M"),
        (["RUN", "TMP/exists.safetensors"], "exists already; give another OUT, or --overwrite"),
        (["RUN", "TMP/x.safetensors", "--names", "tim"], "did you mean 'timm'"),
        (["RUN", "TMP/x.safetensors", "--license", "mit"], "give --folder too"),
        (["RUN", "TMP/x.ckpt"], "read, not written"),
        (["--model", "crossvit_9_240", "TMP/none", "TMP/x.safetensors"], "no such weight file"),
    ],
)
def test_refusals(capsys, tiny_run, tmp_path, words, message):
    (tmp_path / "exists.safetensors").touch()
    filled = [word.replace("RUN", str(tiny_run)).replace("TMP", str(tmp_path)) for word in words]
    error = convert(capsys, *filled, status=2).err
    assert message in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--model.options.num_classes", "10"],
         "--model.options.num_classes: the number of classes is no option here; give --num-classes N"),
        (["--model.options.mlp_ratio", "[two]"], "mlp_ratio"),
    ],
)  # fmt: skip
def test_options_that_build_no_model_are_one_line(capsys, tiny_run, tmp_path, words, line):
    said = convert(capsys, tiny_run, tmp_path / "out.safetensors", *words, status=2).err
    assert line in said
    assert len(said.splitlines()) == 1
