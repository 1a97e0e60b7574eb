"""What `--resume` asks of a run's data and length, and what a start leaves behind that fails."""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from crosscale.artifact import file_digest, read_artifact, write_artifact
from crosscale.cli.main import main
from crosscale.data.class_map import map_classes
from crosscale.data.label_table import open_label_table
from crosscale.data.listing import listing, same
from crosscale.data.object_source import open_objects
from crosscale.data.sources import open_source
from crosscale.data.table import open_table
from crosscale.data.tag_table import open_tag_table
from crosscale.engine.run_folder import claim_next
from crosscale.recipe import load
from crosscale.runs.places import with_whole_paths
from tests.reliability.runs import SMALL

MODEL = [f"--{key}={value}" for key, value in SMALL.items()]


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(str(path))).integers(0, 255, (16, 16), np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two epochs, and its data."""
    place = tmp_path_factory.mktemp("resuming")
    for name in "ab":
        for index in range(5):
            picture(place / "photos" / name / f"{index}.png")
    words = ["train", "--config=smoke", "--data-dir", str(place / "photos"), "--output-dir", str(place / "run"), *MODEL]
    sizes = ["--train.batch_size=4", "--validate.batch_size=2", "--train.epochs=2", "--schedule.warmup_epochs=0"]
    assert main([*words, *sizes]) == 0
    return place


def resume(run, *words):
    return main(["train", "--output-dir", str(run / "run"), "--resume", *words])


@pytest.mark.slow
def test_pictures_that_came_or_went_are_told(run, capsys):
    added, gone = run / "photos" / "a" / "new.png", run / "photos" / "b" / "3.png"
    picture(added)
    assert resume(run) == 2
    assert "was begun with 8 images to train on, now there are 9;" in capsys.readouterr().err
    gone.rename(run / "3.png")
    assert resume(run) == 2
    assert re.search(r"was begun with (other images|. images) (to train on|held out)", capsys.readouterr().err)
    added.unlink()
    (run / "3.png").rename(gone)
    assert resume(run) == 0


def test_a_picture_of_another_name_or_class_is_told(run, capsys):
    old = run / "photos" / "a" / "2.png"
    for new in (run / "photos" / "a" / "2b.png", run / "photos" / "b" / "2.jpg"):
        old.rename(new)
        assert resume(run) == 2
        assert "--pretrained" in capsys.readouterr().err
        new.rename(old)


def test_a_finished_run_is_extended_by_a_flag(run, capsys):
    assert resume(run, "--train.epochs=3") == 2
    assert "train.epochs=2, not 3; --extend N trains N more epochs" in capsys.readouterr().err
    assert resume(run, "--extend=1", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["epochs"], result["steps"]) == (3, 6)
    records = [json.loads(line) for line in (run / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records if record["kind"] == "validate"] == [1, 2, 3]
    assert load(run / "run" / "recipe.yaml").train.epochs == 3
    assert main(["train", "--data-dir", str(run / "photos"), "--extend", "2"]) == 2
    assert "--extend N goes with --resume" in capsys.readouterr().err
    kept = (run / "run" / "checkpoints").rename(run / "kept")
    assert resume(run, "--extend=1") == 2
    assert f"--extend: {run / 'run'} has no checkpoint to go on from" in capsys.readouterr().err
    kept.rename(run / "run" / "checkpoints")


@pytest.mark.slow
def test_an_extended_run_is_waited_for_anew(run, tmp_path, capsys):
    folder = tmp_path / "run"
    words = ["train", "--config=smoke", "--data-dir", str(run / "photos"), "--output-dir", str(folder), *MODEL]
    words += ["--train.batch_size=4", "--validate.batch_size=2", "--schedule.warmup_epochs=0"]
    assert main([*words, "--train.epochs=9", "--train.early_stop_epochs=1", "--optimizer.frozen=['.*']"]) == 0
    assert "no better validation for 1 epoch: stopped" in capsys.readouterr().err
    assert main(["train", "--output-dir", str(folder), "--resume", "--extend=5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == 3


def test_patience_without_a_held_out_part_is_refused(run, tmp_path, capsys):
    words = ["train", "--config=smoke", "--data-dir", str(run / "photos"), *MODEL, "--train.batch_size=4"]
    words += ["--data.val_fraction=0", "--train.early_stop_epochs=1", "--validate.batch_size=2"]
    for more in (["--dry-run"], ["--output-dir", str(tmp_path / "new")]):
        assert main([*words, *more]) == 2
        assert "train.early_stop_epochs=1: nothing is held out" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_run_too_long_to_count_is_refused_before_it_has_a_folder(run, tmp_path, capsys):
    words = ["train", "--config=smoke", "--data-dir", str(run / "photos"), *MODEL, "--train.batch_size=4"]
    assert main([*words, "--train.epochs=2000000000", "--output-dir", str(tmp_path / "new")]) == 2
    assert "4,000,000,000 steps, and a run has at most 2,147,483,647" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("given", ["new", "deep/er/new", "there", None])
def test_a_start_that_fails_leaves_nothing(run, tmp_path, monkeypatch, capsys, given):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    words = ["train", "--config=smoke", "--data-dir", str(run / "photos"), "--pretrained=bad.safetensors", *MODEL]
    sizes = ["--train.batch_size=4", "--validate.batch_size=2"]
    assert main([*words, *sizes, *(["--output-dir", given] if given else [])]) != 0
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["bad.safetensors", "there"]


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_is_a_wrong_request(run, tmp_path, capsys, place):
    (tmp_path / "file").touch()
    words = ["train", "--config=smoke", "--data-dir", str(run / "photos"), *MODEL, "--train.batch_size=4"]
    assert main([*words, "--validate.batch_size=2", "--output-dir", str(tmp_path / place)]) == 2
    assert "not a folder; choose another --output-dir" in capsys.readouterr().err


def test_another_teacher_is_told(run, tmp_path, capsys):
    folder, teacher = tmp_path / "taught", tmp_path / "teacher"
    shutil.copytree(run / "run" / "best", teacher)
    words = ["train", "--config=smoke", "--data-dir", str(run / "photos"), "--output-dir", str(folder), *MODEL]
    sizes = ["--train.batch_size=4", "--validate.batch_size=2", "--train.epochs=1", "--schedule.warmup_epochs=0"]
    assert main([*words, *sizes, "--distill.teacher", str(teacher)]) == 0
    assert main(["train", "--output-dir", str(folder), "--resume"]) == 0
    file = teacher / "model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file)
    artifact = read_artifact(teacher)
    write_artifact(teacher, replace(artifact, weights_digest=file_digest(file)))
    capsys.readouterr()
    assert main(["train", "--output-dir", str(folder), "--resume"]) == 2
    assert f"was begun with another teacher: {teacher} has other weights now" in capsys.readouterr().err
    shutil.rmtree(teacher)
    assert main(["train", "--output-dir", str(folder), "--resume"]) == 2
    assert f"distill.teacher: {teacher}: no such run folder" in capsys.readouterr().err


def test_runs_that_begin_at_once_get_a_number_each(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: claim_next(tmp_path / "runs", "digits"), range(8)))
    assert {path.name for path in made} == {f"digits-{n}" for n in range(1, 9)}


def test_paths_hold_wherever_a_run_goes_on_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.safetensors").touch()
    (tmp_path / "teacher").mkdir()
    given = {"model.pretrained": "w.safetensors", "distill.teacher": "teacher", "distill.weights": "gone.pth"}
    recipe = with_whole_paths(load("smoke", given))
    assert recipe.model.pretrained == str(tmp_path / "w.safetensors")
    assert recipe.distill.teacher == str(tmp_path / "teacher")
    assert recipe.distill.weights == "gone.pth"
    named = load("smoke", {"model.pretrained": "true", "distill.teacher": "crossvit_9_240"})
    assert with_whole_paths(named) == named


def test_listings_of_other_sources(run, tmp_path):
    rows = [f"a/{index}.png,{index}" for index in range(4)]
    for place, text in (("t.csv", rows), ("u.csv", [*rows[:3], "a/3.png,9"])):
        (run / "photos" / place).write_text("\n".join(["path,y", *text]) + "\n")
    tables = [open_table(run / "photos" / name, "all", val_fraction=0, seed=0) for name in ("t.csv", "t.csv", "u.csv")]
    digests = [listing(table)["digest"] for table in tables]
    assert digests[0] == digests[1] != digests[2]
    (run / "photos" / "t.csv").unlink()
    (run / "photos" / "u.csv").unlink()
    arrays = {"images": np.zeros((4, 8, 8), np.uint8), "labels": np.array([0, 1, 0, 1])}
    np.savez(tmp_path / "a.npz", **arrays)
    np.savez(tmp_path / "b.npz", **{**arrays, "labels": np.array([0, 1, 1, 0])})
    first, second = (listing(open_source(tmp_path / name, "all")) for name in ("a.npz", "b.npz"))
    assert first["images"] == second["images"] == 4
    assert first["digest"] != second["digest"]
    assert listing(range(3)) == {"images": 3, "digest": "", "objects": ""}  # no ids to say


@pytest.mark.parametrize("reader", [open_label_table, open_tag_table])
def test_listings_of_labels_and_tags(run, reader):
    labels = {"t.csv": "abab", "u.csv": "abba"}
    for place, said in labels.items():
        rows = [f"a/{index}.png,{label}" for index, label in enumerate(said)]
        (run / "photos" / place).write_text("\n".join(["path,label", *rows]) + "\n")
    first, second = (reader(run / "photos" / name, "all", val_fraction=0, seed=0) for name in labels)
    assert listing(first)["digest"] != listing(second)["digest"]
    for name in labels:
        (run / "photos" / name).unlink()


def test_listings_of_mapped_classes(run):
    source = open_source(run / "photos", "all")
    first, second = (listing(map_classes(source, {"a": name}, "photos")) for name in ("a", "b"))
    assert first["images"] == second["images"]
    assert first["digest"] != second["digest"] != ""


def test_listings_of_boxes(tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "images" / "0.png")
    found = []
    for left in (4, 4, 5):
        box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [left, 4, 8, 8], "area": 64, "iscrowd": 0}
        images = [{"id": 1, "file_name": "0.png", "width": 32, "height": 32}]
        said = {"images": images, "annotations": [box], "categories": [{"id": 1, "name": "a"}]}
        (tmp_path / "instances.json").write_text(json.dumps(said))
        found.append(listing(open_objects(tmp_path, "all", val_fraction=0, seed=0)))
    assert found[0] == found[1]
    assert same({"images": 1, "digest": found[0]["digest"]}, found[2])  # of an older version
    assert not same(found[0], found[2])
