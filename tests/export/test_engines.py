"""Engines: the exported program in the model's place, chosen by a trial, kept between processes."""

import copy
import importlib.util
import os
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from crosscale.cli.main import main
from crosscale.errors import RequestError, WorkError
from crosscale.export import engines, formats, stored
from crosscale.export.engines import choose_engine, quickest
from crosscale.export.program import Program
from crosscale.export.stored import stored_onnx


def pictures(count):
    return np.random.default_rng(3).integers(0, 256, (count, 16, 16, 1), dtype=np.uint8)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of kept programs, of this test's own."""
    monkeypatch.setenv("CROSSCALE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "programs"


class Written:
    """Stands in for the converter and both runtimes: what was written, and what is added to the model's outputs."""

    def __init__(self, predictor):
        self.predictor, self.files, self.off = predictor, [], []

    def write(self, program, draft):
        draft.write_bytes(b"a program")
        self.files.append(draft.name)

    def open(self, place):
        assert place.read_bytes() == b"a program"
        off = self.off.pop(0) if self.off else 0.0
        return lambda images: np.asarray(self.predictor.outputs(images)) + off


@pytest.fixture
def written(digits, cache, monkeypatch):
    found = Written(digits)
    monkeypatch.setattr(stored, "write_onnx", found.write)
    monkeypatch.setattr(stored, "version", lambda name: "1")
    monkeypatch.setattr(engines, "OPENERS", {"onnxruntime": found.open, "openvino": found.open})
    monkeypatch.setattr(formats, "find_spec", lambda name: name)
    return found


def test_the_program_is_kept_by_its_weights(written, digits, cache):
    program = Program(digits, activated=False)
    file, there = stored_onnx(program)
    assert (file.parent, there) == (cache, False)
    assert stored_onnx(program) == (file, True)
    assert cache.stat().st_mode & 0o077 == 0
    other = copy.copy(digits)
    other.variables = jax.tree.map(lambda x: x * 1.001, digits.variables)
    files = {file, stored_onnx(Program(other, activated=False))[0], stored_onnx(Program(digits))[0]}
    assert len(files) == len(written.files) == 3


def test_a_place_that_cannot_be_written(written, digits, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CROSSCALE_CACHE", str(tmp_path / "file"))
    file, there = stored_onnx(Program(digits, activated=False))
    assert not there
    assert file.read_bytes() == b"a program"
    shutil.rmtree(file.parent)


def test_the_least_used_goes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "PROGRAM_BYTES", 250)
    for age, name in enumerate("abcd"):
        (tmp_path / f"{name}.onnx").write_bytes(bytes(100))
        os.utime(tmp_path / f"{name}.onnx", (1e9 - age, 1e9 - age))
    stored._prune(tmp_path, tmp_path / "d.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"a.onnx", "d.onnx"}


def test_a_wrong_program_is_made_again_or_refused(written, digits):
    """A stored program that is off is thrown away; a new one that is off is an error, and under auto a reason."""
    assert choose_engine(digits, "onnxruntime").trials[0].deviation == 0
    written.off = [1.0]
    assert choose_engine(digits, "onnxruntime").trials[0].deviation == 0
    assert len(written.files) == 2
    written.off = [1.0, 1.0]
    with pytest.raises(WorkError, match=r"--engine onnxruntime: its outputs differ from the model's by .* more than"):
        choose_engine(digits, "onnxruntime")
    written.off = [1.0] * 4
    found = choose_engine(digits, "auto")
    assert found.engine == "jax"
    assert found.predictor is digits
    assert "onnxruntime its outputs differ" in found.told()


def test_an_engine_that_fails_is_one_line(written, digits, monkeypatch):
    def fail(place):
        raise RuntimeError("No such operator:\nGelu")

    monkeypatch.setattr(engines, "OPENERS", {"openvino": fail})
    with pytest.raises(WorkError, match=r"--engine openvino: does not run the program .* No such operator: Gelu"):
        choose_engine(digits, "openvino")


def test_auto_takes_the_fastest_and_says_why(written, digits, monkeypatch):
    monkeypatch.setattr(engines, "quickest", lambda runs, batch: {name: 0.1 * len(name) for name in runs})
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "openvino" else name)
    found = choose_engine(digits, "auto", batch_size=2)
    assert found.engine == "jax"
    assert found.told() == (
        "engine jax: jax 6.7 images/s; onnxruntime 1.8 images/s, equal to 0e+00; "
        "openvino needs openvino; pip install 'crosscale[openvino]' (batches of 2)"
    )
    monkeypatch.setattr(engines, "quickest", lambda runs, batch: {name: 1 / len(name) for name in runs})
    found = choose_engine(digits, "auto", batch_size=2)
    assert found.engine == found.predictor.engine == "onnxruntime"
    assert isinstance(found.predictor.outputs(pictures(1)), np.ndarray)  # not JAX's
    assert len(written.files) == 1


def test_a_trial_takes_turns():
    turns = []

    def run(name):
        return lambda batch: turns.append(name)

    seconds = quickest({"a": run("a"), "b": run("b")}, pictures(1), seconds=0.0)
    assert turns == ["a", "b"] * 4
    assert all(0 <= value < 1 for value in seconds.values())


def test_what_cannot_be(digits, monkeypatch):
    with pytest.raises(RequestError, match="one of jax, onnxruntime, openvino, auto"):
        choose_engine(digits, "tensorrt")
    monkeypatch.setattr(digits, "output_shape", (4, 6))
    with pytest.raises(RequestError, match="classification gives more than a row of numbers for an image"):
        choose_engine(digits, "onnxruntime")
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"needs jax2onnx; pip install 'crosscale\[onnx\]'"):
        choose_engine(digits, "onnxruntime")


def test_predict_takes_it(written, tiny_run, tmp_path, capsys):
    photo = tmp_path / "photo.png"
    Image.fromarray(pictures(1)[0, :, :, 0]).save(photo)
    words = ["predict", "--run", str(tiny_run), str(photo), "--top-k", "1"]
    assert main(words) == 0
    expected = capsys.readouterr().out
    assert main([*words, "--engine", "openvino"]) == 0
    said = capsys.readouterr()
    assert said.out == expected
    assert "crosscale predict: engine openvino: equal to 0e+00" in said.err
    assert len(written.files) == 1
    assert main([*words, "--engine", "tensorrt"]) == 2
    assert "invalid choice: 'tensorrt'" in capsys.readouterr().err


@pytest.mark.slow
def test_real_engines_give_the_same_results(digits, cache):
    """One program for both, made once; OpenVINO where it is installed."""
    pytest.importorskip("jax2onnx")
    expected = {count: list(digits.predict(pictures(count), batch_size=2)) for count in (1, 3)}
    for name, package in (("onnxruntime", "onnxruntime"), ("openvino", "openvino")):
        if importlib.util.find_spec(package) is None:
            continue
        found = choose_engine(digits, name, batch_size=2)
        assert found.trials[0].deviation < 1e-5
        for count, wanted in expected.items():
            given = list(found.predictor.predict(pictures(count), batch_size=2))
            for own, other in zip(wanted, given, strict=True):
                assert own.classes == other.classes
                np.testing.assert_allclose(own.probabilities, other.probabilities, atol=1e-6)
        assert len(list(cache.glob("*.onnx"))) == 1
