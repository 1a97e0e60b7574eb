"""A folder of pictures and masks, from the check to the exported program, by the commands that people type."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crosscale.cli.main import main
from crosscale.predictor import Predictor
from tests.printed import printed

pytestmark = pytest.mark.slow  # the training step takes a minute to compile

CLASSES = ("ground", "square", "disc")
TRAIN = [
    "train", "--config", "scenes",
    "--task.scale", "[64, 64]", "--task.ratio", "[1, 1]", "--task.photometric", "false",
    "--task.class_weights", "auto", "--train.ema_decay", "0.98", "--model.options.img_size", "64",
    "--model.options.embed_dim", "16", "--model.options.depths", "[1, 1]", "--model.options.num_heads", "[1, 2]",
    "--model.options.group_size", "8", "--model.options.interval", "[2, 1]", "--model.options.patch_size", "[4, 8]",
    "--model.options.merge_size", "[[2, 4]]", "--model.options.neck_channels", "16",
    "--model.options.head_channels", "16", "--train.epochs", "24", "--train.batch_size", "8", "--optimizer.lr", "5e-3",
    "--validate.batch_size", "4",
]  # fmt: skip


def scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A grey ground with a red square and a green disc."""
    picture = rng.integers(90, 160, (height, width, 3)).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    y, x = np.mgrid[:height, :width]
    top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
    square = (y >= top) & (y < top + height // 3) & (x >= left) & (x < left + width // 3)
    disc = (y - rng.integers(height)) ** 2 + (x - rng.integers(width)) ** 2 < (height // 4) ** 2
    for label, (shape, colour) in enumerate(((square, (220, 30, 30)), (disc, (30, 200, 60))), 1):
        picture[shape], mask[shape] = colour, label
    mask[0] = 255  # a row that does not count
    return picture, mask


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 + 6 pictures; the held-out ones have three sizes."""
    root = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    sizes = {"train": [(64, 64)] * 32, "val": [(64, 64)] * 3 + [(50, 90)] * 2 + [(130, 70)]}
    for split, shapes in sizes.items():
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for number, size in enumerate(shapes):
            picture, mask = scene(rng, *size)
            Image.fromarray(picture).save(root / "images" / split / f"{number}.png")
            Image.fromarray(mask).save(root / "masks" / split / f"{number}.png")
    (root / "classes.csv").write_text("name,r,g,b\nground,90,90,90\nsquare,255,0,0\ndisc,0,255,0\n")
    return root


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "shapes"
    assert main([*TRAIN, "--data-dir", str(data), "--output-dir", str(folder)]) == 0
    return folder


def test_it_learns_and_the_log_says_what_was_chosen(run: Path) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [record for record in records if record["kind"] == "validate"]
    assert found[-1]["miou"] > 0.6  # all ground would be 0.28
    assert found[-1]["examples"] == 6
    assert {f"iou/{name}" for name in CLASSES} <= found[-1].keys()
    text = (run / "log.txt").read_text()
    assert "3 classes" in text
    assert "pictures are resized to fit 64 x 64" in text
    config = json.loads((run / "best" / "config.json").read_text())
    assert config["task"] == "segmentation"
    assert config["task_options"]["scale"] == [64, 64]


def test_validate_counts_as_the_training_did_whatever_the_batches(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = max((record for record in records if record["kind"] == "validate"), key=lambda record: record["miou"])
    for batch in ("1", "4"):
        found = printed(capsys, "validate", "--run", str(run), "--batch-size", batch)
        assert found["miou"] == pytest.approx(best["miou"], abs=1e-4)
        assert found["examples"] == 6
    # The same from the masks that predict writes, counted here.
    predictor = Predictor.from_run(run)
    counts = np.zeros((3, 3))
    for file in sorted((data / "images" / "val").iterdir()):
        (result,) = predictor.predict([file])
        truth = np.asarray(Image.open(data / "masks" / "val" / file.name))
        assert result.mask is not None
        assert result.mask.shape == truth.shape
        real = truth < 3
        np.add.at(counts, (truth[real], result.mask[real]), 1)
    iou = counts.diagonal() / (counts.sum(0) + counts.sum(1) - counts.diagonal())
    assert best["miou"] == pytest.approx(iou.mean(), abs=1e-4)


def test_validate_and_predict_look_several_times_where_they_are_asked_to(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = printed(capsys, "validate", "--run", str(run))
    views = ["--task.window", "[32, 32]", "--task.test_flip", "true", "--task.test_scales", "[1.0, 1.5]"]
    found = printed(capsys, "validate", "--run", str(run), *views)
    assert found["examples"] == 6
    assert found["miou"] != plain["miou"]
    assert found["miou"] > 0.3
    picture = str(data / "images" / "val" / "5.png")
    assert printed(capsys, "predict", "--run", str(run), picture, *views)["predictions"][0]["size"] == [130, 70]


def test_predict_writes_masks_overlays_and_a_table(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = data / "images" / "val"
    (tmp_path / "broken.png").write_bytes(b"no picture")
    capsys.readouterr()
    assert main(["predict", "--run", str(run), str(pictures), str(tmp_path / "broken.png"), "--output",
                 str(tmp_path / "out"), "--json"]) == 1  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert found["failed"] == 1
    assert len(found["predictions"]) == 7
    for item in found["predictions"][:6]:
        mask, overlay = (Path(file) for file in item["files"])
        labels = np.asarray(Image.open(mask))
        assert list(labels.shape) == item["size"]
        assert item["pixels"] == sorted(np.bincount(labels.ravel())[np.unique(labels)].tolist(), reverse=True)
        assert Image.open(overlay).size[0] == labels.shape[1] * (384 // min(labels.shape))  # enlarged: small ones
    with (tmp_path / "out" / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["class"] for row in rows} <= {*CLASSES, ""}
    assert rows[-1]["error"] != ""


def test_a_run_goes_on(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The running statistics come back with the parameters: nothing is left to do, and the best stays."""
    assert main(["train", "--output-dir", str(run), "--resume"]) == 0


def test_explain_report_and_export(run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, square = (str(data / "images" / "val" / name) for name in ("3.png", "0.png"))
    drawn = printed(capsys, "explain", "--run", str(run), picture, "--output", str(tmp_path / "maps"))
    assert len(list((tmp_path / "maps").iterdir())) == 1
    assert json.dumps(drawn).count("3.png") >= 1
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    for word in ("Confusion matrix", "Intersection over union per class", "Least overlap", "Most overlap", "mIoU"):
        assert word in page
    for format, file in (("stablehlo", "m.zip"), ("onnx", "m.onnx")):
        words = ["export", "--run", str(run), "--format", format, str(tmp_path / file), "--images", square]
        assert main(words) == 0
        assert (tmp_path / file).stat().st_size > 1000


def test_the_wrong_model_or_task_is_one_line(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--data-dir", str(data), "--output-dir", str(tmp_path / "r")]
    assert main([*words, "--config", "segment", "--model.name", "crossformer_tiny_224"]) == 2
    assert "semantic_fpn_crossformer" in capsys.readouterr().err
    assert main([*words, "--config", "smoke", "--task.name", "segmentation"]) == 2
    assert "leave the section augment" in capsys.readouterr().err
    assert main([*words, "--config", "smoke"]) == 2
    assert "holds pictures with masks" in capsys.readouterr().err
    assert main(["train", "--config", "scenes", "--data-dir", "digits", "--output-dir", str(tmp_path / "r")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_embed_takes_pictures_of_several_shapes(run: Path, data: Path, tmp_path: Path) -> None:
    pictures = data / "images" / "val"
    assert main(["embed", "--run", str(run), str(pictures), "--output", str(tmp_path / "f.npz")]) == 0
    with np.load(tmp_path / "f.npz") as found:
        assert found["paths"].tolist() == sorted(map(str, pictures.iterdir()))
        assert found["joined"].shape[0] == 6


def test_masks_are_not_written_where_the_next_prediction_would_find_them(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = data / "images" / "val"
    assert main(["predict", "--run", str(run), str(pictures), "--output", str(pictures / "masks")]) == 2
    assert f"lies in {pictures}, where what is drawn would be taken for further pictures" in capsys.readouterr().err
    assert not (pictures / "masks").exists()
