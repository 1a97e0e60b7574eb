"""`crosscale demo`: the commands that a first look at crosscale takes, shown and run one after the other."""

import shlex
import subprocess
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from crosscale.cli.arguments import EXIT_STATUS, Parser
from crosscale.cli.output import note, print_json
from crosscale.errors import RequestError

HELP = """\
Trains, validates and predicts with data that needs no download, in a few minutes on two processor cores: each
command is shown before it runs, so that it can be typed again with data of your own.

digits:  a CrossViT learns 1,797 handwritten digits (they ship with scikit-learn: pip install 'crosscale[digits]')
segment: a CrossFormer with a Semantic FPN learns to label the pixels of digits drawn over photographs
detect:  a CrossFormer with RetinaNet learns to find these digits (pip install 'crosscale[detect]'); with --masks one
         with Mask R-CNN, which finds the pixels of each too"""

EPILOG = f"""\
examples:
  crosscale demo
  crosscale demo segment --open
  crosscale demo detect --masks
  crosscale demo --epochs 5 --output-dir runs/quick

{EXIT_STATUS}"""

PICTURES = 6  # that the demo predicts


class Plan(NamedTuple):
    """What a demo runs: the commands before there are pictures, those pictures, and what to try next."""

    before: list[list[str]]
    pictures: str  # a pattern below the run's folder of pictures
    predict: list[str]
    next: list[str]


def run(argv: Sequence[str], *, as_json: bool) -> int:
    """Runs the demo's commands. Raises RequestError."""
    parser = Parser("demo", description=HELP, epilog=EPILOG)
    parser.add_argument(
        "what",
        nargs="?",
        choices=("digits", "segment", "detect"),
        default="digits",
        help="what is learnt (default digits)",
    )
    parser.add_argument("--masks", action="store_true", help="detect: with a mask for each box")
    parser.add_argument("--output-dir", metavar="RUN", help="the run folder; default runs/demo-<n>")
    parser.add_argument("--epochs", metavar="N", type=int, help="of the training; default the recipe's")
    parser.add_argument("--open", action="store_true", help="open the run's page in a browser at the end")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse(argv)
    folder = Path(options.output_dir).expanduser() if options.output_dir else _free_folder()
    pictures = folder.with_name(f"{folder.name}-images")
    for place in (folder, pictures):
        if place.exists():
            raise RequestError(f"{place}: is there already; choose another --output-dir")
    epochs = [] if options.epochs is None else _shortened(options.epochs)
    if options.masks and options.what != "detect":
        raise RequestError("--masks goes with crosscale demo detect")
    detect = _instances if options.masks else _detect
    plan = {"digits": _digits, "segment": _segment, "detect": detect}[options.what](folder, pictures, epochs)
    for words in plan.before:
        if status := _step(words, quiet=as_json):
            return status
    found = sorted(pictures.glob(plan.pictures))
    chosen = [str(path) for path in found[:: max(len(found) // PICTURES, 1)][:PICTURES]]
    if status := _step([*plan.predict, *chosen], quiet=as_json):
        return status
    page = folder / "report.html"
    if as_json:
        print_json({"output_dir": str(folder), "pictures": str(pictures), "page": str(page), "next": plan.next})
    else:
        note(f"\nThe run's page: {page}\nNext:")
        for line in plan.next:
            note(f"  {line}")
    if options.open:
        webbrowser.open(page.resolve().as_uri())
    return 0


def _shortened(epochs: int) -> list[str]:
    """A training of so many epochs, with a warm-up that fits into them."""
    warmup = min(max(epochs // 2, 0), 3)
    return ["--train.epochs", str(epochs), "--schedule.warmup_epochs", str(warmup)]


def _digits(folder: Path, pictures: Path, epochs: list[str]) -> Plan:
    return Plan(
        before=[
            ["train", "--config", "digits", *epochs, "--output-dir", str(folder)],
            ["validate", "--run", str(folder)],
            ["data", "digits", "--write", str(pictures)],
        ],
        pictures="val/*/*.png",
        predict=["predict", "--run", str(folder), "--top-k", "3"],
        next=[
            f"crosscale explain --run {folder} {pictures}/val/7 --output {folder}/attention",
            f"crosscale serve --run {folder}",
            "crosscale train --data-dir my-photos    # a folder with a folder of photos for each class",
        ],
    )


def _segment(folder: Path, pictures: Path, epochs: list[str]) -> Plan:
    masks = folder.with_name(f"{folder.name}-masks")
    return Plan(
        before=[
            ["data", "scenes", "--write", str(pictures)],
            ["train", "--config", "scenes", "--data-dir", str(pictures), *epochs, "--output-dir", str(folder)],
            ["validate", "--run", str(folder)],
        ],
        pictures="images/val/*.jpg",
        predict=["predict", "--run", str(folder), "--output", str(masks)],
        next=[
            f"look at the masks in {masks}",
            f"crosscale serve --run {folder}",
            "crosscale train --config segment --data-dir my-photos    # images/ and masks/ side by side",
        ],
    )


def _detect(folder: Path, pictures: Path, epochs: list[str], recipe: str = "objects") -> Plan:
    boxes = folder.with_name(f"{folder.name}-boxes")
    return Plan(
        before=[
            ["data", "scenes", "--boxes", "--write", str(pictures)],
            ["train", "--config", recipe, "--data-dir", str(pictures), *epochs, "--output-dir", str(folder)],
            ["validate", "--run", str(folder)],
        ],
        pictures="images/val/*.jpg",
        predict=["predict", "--run", str(folder), "--output", str(boxes)],
        next=[
            f"look at the boxes in {boxes}",
            f"crosscale serve --run {folder}",
            "crosscale train --config detect --data-dir my-photos    # pictures with boxes: COCO, YOLO or Pascal VOC",
        ],
    )


def _instances(folder: Path, pictures: Path, epochs: list[str]) -> Plan:
    return _detect(folder, pictures, epochs, "objects_masks")


def _step(words: list[str], *, quiet: bool) -> int:
    """Shows a command and runs it as a process of its own, as a user's would be; returns its exit status."""
    note(f"\n$ crosscale {shlex.join(words)}")
    output = subprocess.DEVNULL if quiet else None
    return subprocess.run([sys.executable, "-m", "crosscale", *words], stdout=output, check=False).returncode


def _free_folder() -> Path:
    """runs/demo-1, or the next number whose folder is free."""
    number = 1
    while any(Path("runs", f"demo-{number}{end}").exists() for end in ("", "-images", "-masks", "-boxes")):
        number += 1
    return Path("runs", f"demo-{number}")
