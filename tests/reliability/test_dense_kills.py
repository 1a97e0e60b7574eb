"""Segmentation and detection, killed while they train: the numbers at the end are those of an undisturbed run."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.reliability.runs import assert_same_run, checkpoints, records, start, train
from tests.reliability.test_kills import until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")]

COUNTS = {"train": 16, "val": 4}
SHARED = [
    "--model.options.img_size", "64", "--model.options.embed_dim", "16", "--model.options.group_size", "4",
    "--model.options.neck_channels", "16", "--task.scale", "[64, 64]", "--train.epochs", "6",
    "--train.batch_size", "4", "--train.eval_every", "1", "--train.log_every", "1", "--train.checkpoint_every", "3",
    "--schedule.warmup_epochs", "0", "--validate.batch_size", "2",
]  # fmt: skip
WORDS = {
    "segmentation": [
        "--config", "scenes", *SHARED, "--model.options.depths", "[1, 1]", "--model.options.num_heads", "[1, 2]",
        "--model.options.interval", "[2, 1]", "--model.options.merge_size", "[[2, 4]]",
        "--model.options.head_channels", "16",
    ],
    "detection": [
        "--config", "objects", *SHARED, "--model.options.depths", "[1, 1, 1]", "--model.options.num_heads",
        "[1, 2, 4]", "--model.options.interval", "[4, 2, 1]", "--model.options.merge_size", "[[2, 4], [2, 4]]",
    ],
}  # fmt: skip


@pytest.fixture(scope="module", params=WORDS)
def recipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command line's words for a small training, its data made."""
    root = tmp_path_factory.mktemp(request.param)
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        pictures = root / "images" / split if request.param == "segmentation" else root / split
        masks = root / "masks" / split
        for folder in (pictures, *([masks] if request.param == "segmentation" else [])):
            folder.mkdir(parents=True)
        annotations = []
        for number in range(count):
            picture = rng.integers(90, 160, (64, 64, 3)).astype(np.uint8)
            top, left = (int(value) for value in rng.integers(0, 40, 2))
            picture[top : top + 24, left : left + 20] = (220, 30, 30)
            Image.fromarray(picture).save(pictures / f"{number}.png")
            mask = np.zeros((64, 64), np.uint8)
            mask[top : top + 24, left : left + 20] = 1
            if request.param == "segmentation":
                Image.fromarray(mask).save(masks / f"{number}.png")
            annotations.append({"id": number + 1, "image_id": number, "category_id": 1, "bbox": [left, top, 20, 24],
                                "area": 480, "iscrowd": 0})  # fmt: skip
        if request.param == "detection":
            images = [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 64} for n in range(count)]
            found = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
            (root / f"{split}.json").write_text(json.dumps(found))
    if request.param == "segmentation":
        (root / "classes.csv").write_text("name,r,g,b\nground,90,90,90\nsquare,255,0,0\n")
    return [*WORDS[request.param], "--data-dir", str(root)]


def test_killed_it_ends_with_the_same_numbers(recipe: list[str], tmp_path: Path) -> None:
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "run"
    done = train(*recipe, "--output-dir", str(undisturbed), timeout=600)
    assert done.returncode == 0, done.stderr
    for kill, words in enumerate((recipe, ["--resume"])):
        process = start(*words, "--output-dir", str(folder))
        try:  # at a step beyond a checkpoint, of which more are there each time
            until(lambda wanted=5 + 8 * kill: any(r["step"] >= wanted for r in records(folder)), process, 600)
        finally:
            process.kill()
            process.communicate()
        assert checkpoints(folder)
    done = train("--output-dir", str(folder), "--resume", timeout=600)
    assert done.returncode == 0, done.stderr
    assert_same_run(folder, undisturbed)
