"""`crosscale predict` on real files, with an untrained model whose answers the library also gives."""

import argparse
import json
import subprocess
import sys

import pytest
from PIL import Image

from crosscale.cli.arguments import read_classes
from crosscale.cli.main import main
from crosscale.cli.output import check_outside
from crosscale.cli.predict import find_images, has_pictures
from crosscale.data import open_source
from crosscale.errors import RequestError
from crosscale.predictor import Predictor
from crosscale.tasks.classification import Classification
from crosscale.tasks.segmentation import Segmentation
from crosscale.tasks.segmentation.options import SegmentationOptions


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three digits: two in a folder, one in a folder of that folder."""
    root = tmp_path_factory.mktemp("pictures")
    source = open_source("digits", "val")
    (root / "deep" / "er").mkdir(parents=True)
    for index, name in enumerate(["a.png", "b.PNG", "deep/er/c.png"]):
        Image.fromarray(source[index].image).save(root / name)
    (root / "notes.txt").write_text("no picture, and not meant to be one")
    (root / ".hidden.png").write_text("left alone")
    return root


def predict(capsys, *words, status=0):
    assert main(["predict", *map(str, words)]) == status
    return capsys.readouterr()


def test_json_equals_the_library(capsys, tiny_run, pictures):
    captured = predict(capsys, "--run", tiny_run, pictures, "--top-k", 3, "--json")
    result = json.loads(captured.out)
    files = [pictures / "a.png", pictures / "b.PNG", pictures / "deep" / "er" / "c.png"]
    expected = list(Predictor.from_run(tiny_run).predict(files, top_k=3, batch_size=3))
    assert result["failed"] == 0
    assert [item["source"] for item in result["predictions"]] == [str(file) for file in files]
    for item, prediction in zip(result["predictions"], expected, strict=True):
        assert tuple(item["classes"]) == prediction.classes
        assert tuple(item["probabilities"]) == prediction.probabilities
        assert len(item["classes"]) == 3
        assert item["error"] is None


def test_table(capsys, tiny_run, pictures):
    captured = predict(capsys, pictures / "a.png", "--top-k", 2, "--run", tiny_run / "best")
    lines = [line for line in captured.out.splitlines() if line.strip()]
    assert lines[0].split() == ["image", "class", "probability"]
    assert lines[2].split()[0] == str(pictures / "a.png")
    assert lines[2].rstrip().endswith("%")
    assert len(lines) == 4  # heading, rule, two classes


@pytest.mark.parametrize("as_json", [False, True])
def test_bad_files_are_named_and_the_rest_printed(capsys, tiny_run, pictures, tmp_path, as_json):
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    flag = ["--json"] if as_json else []
    captured = predict(capsys, "--run", tiny_run, text, pictures / "a.png", tmp_path / "gone.png", *flag, status=1)
    lines = captured.err.splitlines()
    assert lines[0].startswith(f"crosscale predict: {text}: not an image")
    assert lines[1] == f"crosscale predict: {tmp_path / 'gone.png'}: no such file"
    assert lines[2] == "crosscale predict: 2 of 3 files could not be used"
    assert "Traceback" not in captured.err
    if as_json:
        result = json.loads(captured.out)
        assert result["failed"] == 2
        assert [item["error"] is None for item in result["predictions"]] == [False, True, False]
        assert result["predictions"][0]["classes"] == []
    else:
        assert str(pictures / "a.png") in captured.out
        assert str(text) not in captured.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run", "RUN"], "the following arguments are required: IMAGE"),
        (["IMAGE"], "one of the arguments --run --model is required"),
        (["IMAGE", "--run", "RUN", "--model", "crossvit_9_240"], "not allowed with argument"),
        (["IMAGE", "--model", "crossvit_9_240"], "--model needs --weights FILE"),
        (["IMAGE", "--run", "RUN", "--weights", "F"], "--weights goes with --model"),
        (["IMAGE", "--run", "RUN", "--classes", "F"], "--classes goes with --model"),
        (["gone.png", "--run", "RUN"], "gone.png: no such file or folder"),
        (["IMAGE", "--run", "gone"], "--run gone: no such folder"),
        (["IMAGE", "--run", "EMPTY"], "not a run folder"),
        (["EMPTY", "--run", "RUN"], "holds no images"),
        (
            ["IMAGE", "--run", "RUN", "--top-k", "0"],
            "argument --top-k: expected a whole number of at least 1",
        ),
        (["IMAGE", "--run", "RUN", "--topk", "3"], "unknown option '--topk'; did you mean '--top-k'?"),
        (["IMAGE", "--model", "crossvit_9_24", "--weights", "F"], "did you mean 'crossvit_9_240'?"),
        (["IMAGE", "--model", "crossvit_9_240", "--weights", "gone.safetensors"], "gone.safetensors"),
        (
            ["IMAGE", "--model", "crossvit_9_240", "--weights", "F", "--classes", "gone.txt"],
            "--classes gone.txt",
        ),
    ],
)
def test_wrong_requests_are_one_line(capsys, tiny_run, pictures, tmp_path, words, message):
    places = {"RUN": str(tiny_run), "IMAGE": str(pictures / "a.png"), "EMPTY": str(tmp_path)}
    captured = predict(capsys, *(places.get(word, word) for word in words), status=2)
    assert captured.out == ""
    assert captured.err.startswith("crosscale predict: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.slow
def test_class_names_from_a_file_must_fit_the_weights(capsys, pictures, tmp_path, tiny_run):
    names = tmp_path / "names.txt"
    names.write_text("zero\none\n")
    weights = tiny_run / "best" / "model.safetensors"
    captured = predict(
        capsys, pictures, "--model", "crossvit_9_240", "--weights", weights, "--classes", names, status=2
    )
    assert "model.safetensors" in captured.err
    names.write_text("\n \n")
    captured = predict(
        capsys, pictures, "--model", "crossvit_9_240", "--weights", weights, "--classes", names, status=2
    )
    assert "holds no names" in captured.err


def test_as_a_process(tiny_run, pictures):
    done = subprocess.run(
        [sys.executable, "-m", "crosscale", "predict", "--run", tiny_run, pictures / "a.png", "--json"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert len(json.loads(done.stdout)["predictions"]) == 1


def test_linked_folders_are_followed_once(pictures, tmp_path):
    (tmp_path / "own").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "own" / "a.png")
    (tmp_path / "own" / "linked").symlink_to(pictures)
    (tmp_path / "own" / "again").symlink_to(tmp_path / "own")  # would go on for ever
    (tmp_path / "own" / "@eaDir").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "own" / "@eaDir" / "thumbnail.png")
    found = [str(file.relative_to(tmp_path / "own")) for file in find_images([str(tmp_path / "own")])]
    assert found == ["a.png", "linked/a.png", "linked/b.PNG", "linked/deep/er/c.png"]


def test_class_names_saved_by_other_editors(capsys, pictures, tmp_path, tiny_run):
    names = [f"the {digit}" for digit in range(10)]
    file = tmp_path / "names.txt"
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(f'"{name}" ' for name in names).encode() + b"\r\n")
    options = argparse.Namespace(classes=str(file))
    assert read_classes(options) == names
    file.write_text("\n".join([*names[:9], names[0]]))
    with pytest.raises(RequestError, match=r"--classes \S+names\.txt: the class 'the 0' appears twice"):
        read_classes(options)


def test_what_is_drawn_must_not_lie_where_the_next_prediction_looks(tmp_path):
    assert has_pictures(Segmentation(("a", "b"), ((0, 0, 0), (9, 9, 9)), (64, 64), SegmentationOptions()))
    assert not has_pictures(Classification(2))
    with pytest.raises(RequestError, match=r"--output .*: lies in .*, where what is drawn would be taken for further"):
        check_outside("--output", tmp_path / "pics" / "masks", [str(tmp_path)], "what is drawn")
    check_outside("--output", tmp_path / "masks", [str(tmp_path / "pics"), "-", "x" * 300], "what is drawn")
