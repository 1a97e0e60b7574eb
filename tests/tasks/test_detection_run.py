"""A folder of pictures and boxes, from the training to the exported program, by the commands that people type."""

import csv
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from crosscale.cli.main import main
from crosscale.predictor import Predictor
from tests.printed import printed
from tests.tasks.shapes import write_coco

pytestmark = pytest.mark.slow  # the programs take most of a minute to compile

CLASSES = ("square", "disc")
TRAIN = [
    "train", "--config", "objects", "--task.scale", "[64, 64]", "--task.ratio", "[1, 1]",
    "--model.options.img_size", "64", "--model.options.embed_dim", "16", "--model.options.depths", "[1, 1, 1]",
    "--model.options.num_heads", "[1, 2, 4]", "--model.options.group_size", "4",
    "--model.options.interval", "[4, 2, 1]", "--model.options.merge_size", "[[2, 4], [2, 4]]",
    "--model.options.neck_channels", "16", "--train.epochs", "2", "--schedule.warmup_epochs", "0",
    "--train.eval_every", "1", "--train.batch_size", "4", "--train.log_every", "2", "--validate.batch_size", "2",
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """The model is too small to gain from optimised code."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 + 6 pictures as COCO, with ids that have a gap; the held-out ones have three sizes."""
    root, rng = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    sizes = {"train": [(64, 64)] * 16, "val": [(64, 64)] * 3 + [(50, 90)] * 2 + [(130, 70)]}

    def told(label: int, box: list[int], size: tuple[int, int]) -> dict[str, Any]:
        return {"area": box[2] * box[3]}

    return write_coco(root, rng, sizes, told)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "shapes"
    assert main([*TRAIN, "--data-dir", str(data), "--output-dir", str(folder)]) == 0
    return folder


def test_the_log_has_both_losses_and_coco_s_numbers(run: Path) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    validated = [record for record in records if record["kind"] == "validate"]
    assert len(validated) == 2
    assert validated[-1]["examples"] == 6
    assert {"map", "ap50", "ar100", "ap/square", "ap/disc"} <= validated[-1].keys()
    trained = [record for record in records if record["kind"] == "train"]
    for record in trained:
        assert record["loss"] == pytest.approx(record["loss_classes"] + record["loss_boxes"], rel=1e-5)
    assert "a batch has room for 8 objects of each" in (run / "log.txt").read_text()
    config = json.loads((run / "best" / "config.json").read_text())
    assert config["task"] == "detection"
    assert config["task_options"]["category_ids"] == [3, 90]


def test_validate_counts_as_the_training_did_whatever_the_batches(run: Path, capsys: Any) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = max((record for record in records if record["kind"] == "validate"), key=lambda record: record["map"])
    found = printed(capsys, "validate", "--run", str(run), "--batch-size", "1")
    assert found["map"] == pytest.approx(best["map"], abs=1e-6)
    assert found["ar100"] == pytest.approx(best["ar100"], abs=1e-6)


def test_predict_writes_drawings_a_table_and_coco_s_format(run: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    words = ["predict", "--run", str(run), str(data / "val"), "--output", str(out), "--min-score", "0"]
    found = printed(capsys, *words, "--max-boxes", "5")
    assert found["failed"] == 0
    coco = json.loads((out / "coco_results.json").read_text())
    assert {item["image_id"] for item in coco} <= set(range(1, 7))
    assert {item["category_id"] for item in coco} <= {3, 90}
    for item in found["predictions"]:
        height, width = item["size"]
        assert len(item["boxes"]) <= 5
        for x0, y0, x1, y1 in item["boxes"]:
            assert 0 <= x0 < x1 <= width + 1e-3
            assert 0 <= y0 < y1 <= height + 1e-3
        (drawn,) = item["files"]
        assert Image.open(drawn).size[0] % width == 0
    with (out / "results.csv").open(newline="") as stream:
        assert {row["class"] for row in csv.DictReader(stream)} <= {*CLASSES, "nothing found"}


def test_explain_gives_the_boxes_that_predict_gives(run: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    picture = str(data / "val" / "000000000004.png")  # 50 x 90: filled up
    drawn = printed(capsys, "explain", "--run", str(run), picture, "--output", str(tmp_path), "--min-score", "0")
    (wanted,) = Predictor.from_run(run).predict([picture], min_score=0)
    np.testing.assert_allclose(drawn["explanations"][0]["boxes"], wanted.json()["boxes"], atol=0.01)


def test_report_and_export(run: Path, tmp_path: Path) -> None:
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    for word in ("Average precision per class", "Least agreement", "Most agreement", "mAP"):
        assert word in page
    assert main(["export", "--run", str(run), "--format", "stablehlo", str(tmp_path / "m.zip")]) == 0
    assert main(["train", "--output-dir", str(run), "--resume"]) == 0


def test_the_wrong_model_or_data_is_one_line(run: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["train", "--data-dir", str(data), "--output-dir", str(tmp_path / "r")]
    assert main([*words, "--config", "detect", "--model.name", "crossformer_tiny_224"]) == 2
    assert "such as retinanet_crossformer_small" in capsys.readouterr().err
    assert main([*words, "--config", "detect", "--augment.hflip", "0.1"]) == 2
    assert "leave the section augment" in capsys.readouterr().err
    assert main(["train", "--config", "objects", "--data-dir", "digits", "--output-dir", str(tmp_path / "r")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
