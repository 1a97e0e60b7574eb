"""A folder of pictures and masks, from the training to the exported program, by the commands that people type."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from crosscale.cli.main import main
from crosscale.data.coco_masks import bitmap, run_lengths
from tests.printed import printed
from tests.tasks.shapes import write_coco

pytestmark = pytest.mark.slow  # the programs take most of a minute to compile

TRAIN = [
    "train", "--config", "objects_masks", "--task.scale", "[64, 64]", "--task.ratio", "[1, 1]", "--task.regions", "16",
    "--model.options.img_size", "64", "--model.options.embed_dim", "16", "--model.options.depths", "[1, 1]",
    "--model.options.num_heads", "[1, 2]", "--model.options.group_size", "4", "--model.options.interval", "[4, 2]",
    "--model.options.merge_size", "[[2, 4]]", "--model.options.neck_channels", "16",
    "--model.options.fc_channels", "16", "--model.options.mask_channels", "8", "--model.options.proposals", "20",
    "--model.options.proposals_before_nms", "30", "--train.epochs", "1", "--schedule.warmup_epochs", "0",
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
    """8 + 4 pictures as COCO; masks are polygons of squares, and run lengths of discs."""
    root, rng = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    sizes = {"train": [(64, 64)] * 8, "val": [(64, 64)] * 4}

    def told(label: int, box: list[int], size: tuple[int, int]) -> dict[str, Any]:
        x, y, side, _ = box
        rows, columns = np.mgrid[: size[0], : size[1]]
        disc = np.hypot(rows + 0.5 - y - side / 2, columns + 0.5 - x - side / 2) < side / 2
        corners = [[x, y, x + side, y, x + side, y + side, x, y + side]]
        return {"segmentation": run_lengths(disc) if label else corners}

    return write_coco(root, rng, sizes, told)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "shapes"
    assert main([*TRAIN, "--data-dir", str(data), "--output-dir", str(folder)]) == 0
    return folder


def test_the_log_has_five_losses_and_numbers_of_boxes_and_masks(run: Path) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    validated = [record for record in records if record["kind"] == "validate"]
    assert {"map", "ap50", "ap/square", "mask_map", "mask_ar100", "mask_ap/disc"} <= validated[-1].keys()
    parts = ("proposal_objects", "proposal_boxes", "classes", "boxes", "masks")
    for record in (record for record in records if record["kind"] == "train"):
        assert record["loss"] == pytest.approx(sum(record[f"loss_{part}"] for part in parts), rel=1e-5)
    config = json.loads((run / "best" / "config.json").read_text())
    assert (config["task"], config["task_options"]["category_ids"]) == ("instances", [3, 90])


def test_validate_counts_as_the_training_did_whatever_the_batches(run: Path, capsys: Any) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = max((record for record in records if record["kind"] == "validate"), key=lambda record: record["mask_map"])
    found = printed(capsys, "validate", "--run", str(run), "--batch-size", "1")
    for name in ("map", "mask_map", "mask_ar100"):
        assert found[name] == pytest.approx(best[name], abs=1e-6)


def test_predict_writes_boxes_masks_and_drawings(run: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    words = ["predict", "--run", str(run), str(data / "val"), "--output", str(out), "--min-score", "0"]
    found = printed(capsys, *words, "--max-boxes", "5")
    boxes, masks = (json.loads((out / f"coco_{name}.json").read_text()) for name in ("results", "masks"))
    assert len(boxes) == len(masks) > 0
    assert {tuple(item["segmentation"]["size"]) for item in masks} == {(64, 64)}
    for item in found["predictions"]:
        for (x0, y0, x1, y1), mask in zip(item["boxes"], item["masks"], strict=True):
            ys, xs = np.nonzero(bitmap(mask, tuple(item["size"])))
            assert ((xs + 1 > x0) & (xs < x1) & (ys + 1 > y0) & (ys < y1)).all()
        (drawn,) = item["files"]
        assert Image.open(drawn).size[0] % item["size"][1] == 0


def test_report_and_export(run: Path, tmp_path: Path) -> None:
    page = (run / "report.html").read_text()
    for word in ("Average precision of masks per class", "mask mAP", "Least agreement"):
        assert word in page
    assert main(["export", "--run", str(run), "--format", "stablehlo", str(tmp_path / "m.zip")]) == 0


def test_a_dry_run_counts_the_regions_that_are_learnt(data: Path, capsys: Any) -> None:
    place = TRAIN.index("--task.regions") + 1
    few, many = (
        printed(capsys, *TRAIN[:place], str(count), *TRAIN[place + 1 :], "--data-dir", str(data), "--dry-run")
        for count in (16, 64)
    )
    cut_out = 7 * 7 * 16 * 4  # bytes of what the box head reads of a region, which the backward pass keeps
    grown = many["memory"]["activations"] - few["memory"]["activations"]
    assert grown > 4 * 48 * cut_out


def test_the_wrong_task_model_or_data_is_one_line(data: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["train", "--data-dir", str(data), "--output-dir", str(tmp_path / "r")]
    assert main([*words, "--config", "detect", "--model.name", "mask_rcnn_crossformer_small"]) == 2
    told = "mask_rcnn_crossformer_small is a model of the task instances, and task.name=detection"
    assert told in capsys.readouterr().err
    assert main([*words, "--config", "detect", "--task.name", "instances"]) == 2
    assert "is a model of the task detection" in capsys.readouterr().err
    for split in ("train", "val"):
        (path,) = data.glob(f"{split}.json")
        plain = json.loads(path.read_text())
        for item in plain["annotations"]:
            del item["segmentation"]
        (tmp_path / f"{split}.json").write_text(json.dumps(plain))
        (tmp_path / split).symlink_to(data / split)
    assert main([*TRAIN, "--data-dir", str(tmp_path), "--output-dir", str(tmp_path / "r")]) == 2
    assert "its objects have no masks" in capsys.readouterr().err
