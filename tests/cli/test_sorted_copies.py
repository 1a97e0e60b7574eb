"""`crosscale predict --sort-into`: pictures in the folders of their classes, and no file is ever written over."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from crosscale.cli.main import main
from crosscale.cli.sorted_copies import SortedCopies
from crosscale.data import open_source
from crosscale.errors import RequestError
from crosscale.tasks.classification import Classification
from crosscale.tasks.registry import task_kind


@pytest.fixture
def pictures(tmp_path):
    """Digits of which two have the same name, and a file that is no picture."""
    root, source = tmp_path / "pictures", open_source("digits", "val")
    (root / "more").mkdir(parents=True)
    for place, name in enumerate(["a.png", "b.png", "more/A.png", "more/c.png"]):
        Image.fromarray(source[place].image).save(root / name)
    (root / "d.png").write_text("no picture")
    return root


def tree(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_the_command_sorts_and_never_writes_over(capsys, tiny_run, pictures, tmp_path):
    into = tmp_path / "sorted"
    words = ["predict", "--run", str(tiny_run), str(pictures), "--sort-into", str(into), "--json"]
    assert main(words) == 1
    captured = capsys.readouterr()
    assert f"4 pictures are in the folders of their classes in {into}" in captured.err
    found = json.loads(captured.out)["predictions"]
    names = {"a.png": "a.png", "b.png": "b.png", "more/A.png": "A-2.png", "more/c.png": "c.png"}
    expected = {
        f"{item['classes'][0]}/{names[item['source'].removeprefix(f'{pictures}/')]}": Path(item["source"]).read_bytes()
        for item in found
        if item["error"] is None
    }
    assert tree(into) == expected
    # Again, into a file of results: what is there already is not copied twice, and what is other is left alone.
    first = next(iter(expected))
    (into / first).write_text("somebody's")
    assert main([*words, "--output", str(tmp_path / "r.csv")]) == 1
    changed = {**expected, first: b"somebody's", first.replace(".png", "-2.png"): expected[first]}
    assert tree(into) == dict(sorted(changed.items()))


def made(folder, labels, files, reject=None):
    task = Classification(len(labels), classes=labels, reject=reject)
    return SortedCopies(folder, task, [], files)


def answer(name, **more):
    return {"source": "x", "classes": [name], "probabilities": [0.5], "error": None, **more}


def test_names_of_classes_become_folders(pictures, tmp_path):
    """Classes that differ in case, that are no names of folders, and one that is called unknown."""
    file, labels = pictures / "a.png", ("Cat", "cat", "a/b", "..", "unknown")
    copies = made(tmp_path / "s", labels, [file], reject=0.9)
    for name in labels:
        copies.add(file, answer(name, answer=name))
    copies.add(file, answer("cat", answer="unknown"))
    copies.add(file, {**answer("cat"), "error": "damaged"})
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [
        "Cat", "_", "a_b", "cat-2", "unknown", "unknown-2"
    ]  # fmt: skip
    assert copies.count == 6
    assert made(tmp_path / "t", ("a", "b"), [file]).add(file, answer("b")) is None
    assert list(tree(tmp_path / "t")) == ["b/a.png"]


def test_a_torn_copy_does_not_stay(pictures, tmp_path, monkeypatch):
    def torn(source, target):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    copies = made(tmp_path / "s", ("a", "b"), [pictures / "a.png"])
    monkeypatch.setattr(shutil, "copy2", torn)
    with pytest.raises(Exception, match="No space left on device"):
        copies.add(pictures / "a.png", answer("a"))
    assert tree(tmp_path / "s") == {}


def test_what_cannot_be_sorted(pictures, tmp_path):
    with pytest.raises(RequestError, match=r"lies in .*, where the copies would be taken for further pictures"):
        SortedCopies(pictures / "sorted", Classification(2), [str(pictures)], [])
    tags = task_kind("multilabel").from_artifact(["a", "b"], {})
    with pytest.raises(RequestError, match="a result of the task multilabel is not one class"):
        SortedCopies(tmp_path / "s", tags, [], [])


def test_what_cannot_be_copied_is_refused_before_the_work(pictures, tmp_path):
    pair = Path(f"{pictures / 'a.png'}::{pictures / 'b.png'}")
    with pytest.raises(RequestError, match=r"a\.png::.*b\.png is several pictures, and copies are of one"):
        made(tmp_path / "s", ("a", "b"), [pictures / "a.png", pair])
    with pytest.raises(RequestError, match=r"the class 'x{30}'\.\.\. has too long a name for a folder; give shorter"):
        made(tmp_path / "s", ("a", "x" * 256), [])
    assert not (tmp_path / "s").exists()


def test_long_names_are_copied(pictures, tmp_path):
    files = [pictures / f"{'ü' * 122}{end}.png" for end in ("abcdefg", "ABCDEFG", "b")]  # 255 bytes at most
    for number, file in enumerate(files):
        Image.new("L", (8, 8), number).save(file)
    copies = made(tmp_path / "s", ("a", "c" * 255), files)
    for file in files:
        copies.add(file, answer("a"))
    copies.add(files[0], answer("c" * 255))
    assert {path.name for path in (tmp_path / "s" / "a").iterdir()} == {
        f"{'ü' * 111}{end}.png" for end in ("", "-2", "-3")
    }
    assert (tmp_path / "s" / ("c" * 255)).is_dir()


def test_what_a_killed_copy_left_is_written_over(capsys, monkeypatch, tiny_run, pictures, tmp_path):
    def killed(*paths):
        raise SystemExit(9)

    into = tmp_path / "sorted"
    words = ["predict", "--run", str(tiny_run), str(pictures), "--sort-into", str(into), "--json"]
    with monkeypatch.context() as patched:
        patched.setattr("crosscale.cli.sorted_copies.os.replace", killed)
        assert main(words) == 9
    (left,) = tree(into)
    assert Path(left).name.startswith(".")
    assert main(words) == 1
    assert len(tree(into)) == 4
    assert not [name for name in tree(into) if Path(name).name.startswith(".")]
