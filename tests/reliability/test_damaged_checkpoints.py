"""The newest checkpoint of a real run, damaged in several ways: the one before is taken, and nothing is lost."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from crosscale.recipe import load
from crosscale.runs.train import run_training
from tests.reliability.record import trying
from tests.reliability.runs import SMALL, assert_same_run, checkpoints

pytestmark = pytest.mark.slow

RECIPE = {**SMALL, "train.epochs": "3", "train.log_every": "2", "train.checkpoint_every": "11"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_training(load("smoke", RECIPE), folder)
    return folder


def largest(folder: Path) -> Path:
    """The largest file of the arrays."""
    files = [path for path in (folder / "state").rglob("*") if path.is_file() and path.parent.name == "d"]
    return max(files, key=lambda path: path.stat().st_size)


def truncate(folder: Path) -> None:
    path = largest(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_bits(folder: Path) -> None:
    rng = random.Random(3)
    for path in sorted((folder / "state").rglob("d/*")):
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 0xFF
        path.write_bytes(bytes(data))


def flip_one_bit(folder: Path) -> None:
    path = largest(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def remove_array_file(folder: Path) -> None:
    largest(folder).unlink()


def remove_manifest(folder: Path) -> None:
    (folder / "state" / "manifest.ocdbt").unlink()


def remove_progress(folder: Path) -> None:
    shutil.rmtree(folder / "progress")


def garble_progress(folder: Path) -> None:
    for path in (folder / "progress").iterdir():
        path.write_text('{"epoch": 1, "win')


def garble_metadata(folder: Path) -> None:
    (folder / "state" / "_METADATA").write_text("\0\0\0")


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("what", "damage"),
    [
        ("a cut-off array file", truncate),
        ("flipped bits in the array files", flip_bits),
        ("one flipped bit in the largest array file", flip_one_bit),
        ("a missing array file", remove_array_file),
        ("a missing manifest", remove_manifest),
        ("a missing progress record", remove_progress),
        ("garbage for the progress record", garble_progress),
        ("garbage for the array metadata", garble_metadata),
        ("an empty folder", empty),
    ],
)
def test_the_checkpoint_before_is_taken(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str, damage: Callable[[Path], None]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    before, newest = checkpoints(folder)[-2:]
    damage(folder / "checkpoints" / str(newest))
    with trying(f"newest checkpoint with {what}", lost="nothing: equal to the last bit"):
        result = run_training(load(folder / "recipe.yaml"), folder, resume=True)
        assert f"checkpoint {newest} cannot be read" in caplog.text
        assert f"going on from checkpoint {before} instead" in caplog.text
        assert result["steps"] == newest
        assert_same_run(folder, whole)
