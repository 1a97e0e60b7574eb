"""How many strangers a digits model with a threshold calls unknown: printed letters, and parts of photographs.

    python -m benchmarks.strangers

It trains the recipe `digits` with three seeds, calibrates each run for a share of the held-out digits that is to be
answered, and shows it what it has never seen: the 52 letters in the typefaces of matplotlib, drawn as the digits are
(light on dark, 8 x 8 pixels), and square parts of the photographs of scikit-image. It prints a table for
docs/metrics.md, and keeps the numbers in benchmarks/results. Some twenty minutes on two busy processor cores.
"""

import json
import string
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.seeds import table
from crosscale.predictor import Predictor
from crosscale.recipe import load
from crosscale.runs.calibrate import calibrate_run
from crosscale.runs.train import run_training
from crosscale.runs.validate import HeldOut

SEEDS, COVERAGES = (0, 1, 2), (0.95, 0.9, 0.8)
PHOTOGRAPHS = (
    "astronaut",
    "camera",
    "chelsea",
    "coffee",
    "rocket",
    "coins",
    "moon",
    "grass",
    "brick",
    "gravel",
    "clock",
    "hubble_deep_field",
    "retina",
    "immunohistochemistry",
)
PARTS = 4  # along each side of a photograph
RESULT = Path(__file__).parent / "results" / "2026-11-27-strangers.json"


def typefaces() -> list[Path]:
    """Those of matplotlib that have plain letters."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return sorted(file for file in folder.glob("DejaVu*.ttf") if "Display" not in file.name)


def letters(files: list[Path]) -> Iterator[np.ndarray]:
    """(8, 8) uint8 each: drawn large, cut to their outline, and fitted into the square as the digits are."""
    for file in files:
        font = ImageFont.truetype(str(file), 96)
        for letter in string.ascii_letters:
            sheet = Image.new("L", (256, 256))
            ImageDraw.Draw(sheet).text((64, 64), letter, 255, font)
            drawn = sheet.crop(sheet.getbbox())
            side = max(drawn.size)
            square = Image.new("L", (side, side))
            square.paste(drawn, ((side - drawn.width) // 2, 0))
            yield np.asarray(square.resize((8, 8), Image.Resampling.BOX))


def photographs() -> Iterator[np.ndarray]:
    """(side, side) grey uint8 each: a photograph's parts, side by side."""
    from skimage import data

    for name in PHOTOGRAPHS:
        grey = np.asarray(Image.fromarray(getattr(data, name)()).convert("L"))
        side = min(grey.shape) // PARTS
        for row in range(PARTS):
            for column in range(PARTS):
                yield np.ascontiguousarray(grey[row * side : (row + 1) * side, column * side : (column + 1) * side])


def unknown(predictor: Predictor, pictures: list[np.ndarray]) -> float:
    """The share of the pictures that is not answered."""
    return float(np.mean([result.rejected for result in predictor.predict(pictures, batch_size=128)]))


def measured() -> list[dict]:
    """A row for each seed and coverage."""
    shown = {"letters": list(letters(typefaces())), "photographs": list(photographs())}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            run = Path(folder) / str(seed)
            top1 = run_training(load("digits", {"train.seed": str(seed)}), run)["top1"]
            for coverage in COVERAGES:
                found = calibrate_run(run, HeldOut(), coverage=coverage)
                predictor = Predictor.from_run(run)
                shares = {name: unknown(predictor, pictures) for name, pictures in shown.items()}
                numbers = {name: found[name] for name in ("temperature", "threshold", "precision")}
                counts = {f"{name}_shown": len(pictures) for name, pictures in shown.items()}
                rows.append({"seed": seed, "coverage": coverage, "top1": top1, **numbers, **shares, **counts})
                print(json.dumps(rows[-1]), flush=True)
    return rows


def shown(rows: list[dict]) -> str:
    """Mean and range over the seeds, in percent, as Markdown."""
    columns = ("of the held-out digits answered", "of these right, %", "letters unknown, %", "photographs unknown, %")
    groups = {f"{100 * share:.0f} %": [row for row in rows if row["coverage"] == share] for share in COVERAGES}
    return table(columns, groups, ("precision", "letters", "photographs"), first="---:")


if __name__ == "__main__":
    found = measured()
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(shown(found))
