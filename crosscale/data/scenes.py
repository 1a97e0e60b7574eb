"""Scenes without a download: handwritten digits over photographs, with exact masks of the classes or of each digit.

The digits ship with scikit-learn, the photographs with scikit-learn and with this package. Nothing of a held-out scene
is in a training scene: neither its digits nor its photograph.
"""

import csv
import json
from collections.abc import Callable, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from crosscale.data.arrays import open_digits
from crosscale.data.coco_masks import run_lengths
from crosscale.data.mask_sets import distinct_colours
from crosscale.errors import RequestError

COUNTS = {"train": 4800, "val": 200}
SIDE = 96  # of a scene, in pixels
DIGITS = (2, 3)  # in a scene, least and most
SIZES = (44, 52)  # side of a digit's square
MARGIN = 1  # cells of the digit's eight around it in its square, so that turning cuts nothing off
TURN = 15.0  # degrees to either side
INK = 0.3  # share of the darkest from which a pixel belongs to the digit
OVERLAP = 0.1  # of the smaller square with its margin, at most
TRIES = 30  # of sizes and places, before a scene's squares are laid anew
HELD_OUT = 0.2  # of the digits
DIMMED = 0.5  # of a photograph's brightness, so that a narrow network finds the digits within minutes
BRIGHT = (170, 255)  # of a digit's colours
CLASSES = ("background", *(str(digit) for digit in range(10)))
_OURS = {"train": ("astronaut.jpg", "coffee.jpg", "hubble_deep_field.jpg"), "val": ("chelsea.jpg",)}
_THEIRS = {"train": ("china.jpg",), "val": ("flower.jpg",)}

Split = Literal["train", "val"]
Kind = Literal["masks", "objects"]


class Scene(NamedTuple):
    """Digits over a photograph.

    Attributes:
      picture: (SIDE, SIDE, 3) uint8.
      instances: (SIDE, SIDE) uint8, which digit of `digits` is seen at each pixel, counted from 1; 0 is the photograph.
      digits: 0..9, in the order in which they were laid, later ones over earlier ones.
    """

    picture: np.ndarray
    instances: np.ndarray
    digits: tuple[int, ...]

    @property
    def mask(self) -> np.ndarray:
        """(SIDE, SIDE) uint8, positions in `CLASSES`."""
        return np.array([0, *(digit + 1 for digit in self.digits)], np.uint8)[self.instances]


def write_scenes(
    out: Path,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    kind: Kind = "masks",
) -> int:
    """Writes images/{train,val}/*.jpg and what is to be learnt of them; returns the number of scenes.

    Args:
      out: a folder, made where it does not exist.
      seed: of the composition.
      progress: told (scenes done, all scenes).
      kind: "masks" are masks/{train,val}/*.png and classes.csv; "objects" are annotations/instances_{train,val}.json,
        as COCO has them, with the mask of what is seen of each digit.

    Raises:
      RequestError: scikit-learn is not installed, or the folder cannot be written.
    """
    total, done = sum(COUNTS.values()), 0
    splits: tuple[Split, ...] = ("train", "val")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if kind == "masks":
            _write_classes(out / "classes.csv")
        for split in splits:
            digits, photographs = open_digits(split, HELD_OUT, 0), _photographs(split)
            for folder in ("images", kind) if kind == "masks" else ("images",):
                (out / folder / split).mkdir(parents=True, exist_ok=True)
            scenes: list[Scene] = []
            for number in range(COUNTS[split]):
                rng = np.random.default_rng((seed, splits.index(split), number))
                scene = compose(rng, digits.images, digits.labels, photographs)
                Image.fromarray(scene.picture).save(out / "images" / split / f"{number:04d}.jpg", quality=92)
                if kind == "masks":
                    Image.fromarray(scene.mask).save(out / "masks" / split / f"{number:04d}.png")
                scenes.append(scene)
                done += 1
                progress(done, total)
            if kind == "objects":
                (out / "annotations").mkdir(exist_ok=True)
                (out / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco_of(scenes)))
    except OSError as error:
        raise RequestError(f"{out}: cannot be written ({error.strerror or error})") from None
    return total


def coco_of(scenes: Sequence[Scene]) -> dict[str, Any]:
    """What COCO's file says of scenes, whose pictures are 0000.jpg, 0001.jpg, ...; categories are 1..10.

    A digit's box and mask are of the pixels that are seen; one of which nothing is seen is left out.
    """
    annotations: list[dict[str, Any]] = []
    for image_id, scene in enumerate(scenes, 1):
        for number, digit in enumerate(scene.digits, 1):
            seen = scene.instances == number
            ys, xs = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            if not ys.size:
                continue
            x, y = int(xs[0]), int(ys[0])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": digit + 1,
                    "bbox": [x, y, int(xs[-1]) + 1 - x, int(ys[-1]) + 1 - y],
                    "area": int(seen.sum()),
                    "iscrowd": 0,
                    "segmentation": run_lengths(seen),
                }
            )
    images = [
        {"id": number, "file_name": f"{number - 1:04d}.jpg", "width": width, "height": height}
        for number, (height, width) in enumerate((scene.instances.shape for scene in scenes), 1)
    ]
    categories = [{"id": label, "name": name} for label, name in enumerate(CLASSES) if label]
    return {"images": images, "annotations": annotations, "categories": categories}


def compose(
    rng: np.random.Generator, digits: np.ndarray, labels: np.ndarray, photographs: Sequence[Image.Image]
) -> Scene:
    """One scene.

    Args:
      digits: (N, 8, 8) uint8, the ink bright.
      labels: (N,) which digit each is.
      photographs: RGB, larger than a scene.
    """
    picture = _background(rng, photographs)
    instances = np.zeros((SIDE, SIDE), np.uint8)
    laid: list[int] = []
    for top, left, size in _places(rng):
        which = int(rng.integers(len(digits)))
        shape = _ink(digits[which], size, float(rng.uniform(-TURN, TURN)))
        rows, columns = slice(top, top + size), slice(left, left + size)
        colour = rng.uniform(*BRIGHT, 3)
        picture[rows, columns] = picture[rows, columns] * (1 - shape[..., None]) + colour * shape[..., None]
        laid.append(int(labels[which]))
        instances[rows, columns][shape > 0.5] = len(laid)
    return Scene(picture.round().astype(np.uint8), instances, tuple(laid))


def _background(rng: np.random.Generator, photographs: Sequence[Image.Image]) -> np.ndarray:
    photograph = photographs[int(rng.integers(len(photographs)))]
    side = int(rng.integers(SIDE, min(photograph.size) + 1))
    left, top = (int(rng.integers(0, whole - side + 1)) for whole in photograph.size)
    crop = photograph.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(crop, np.float64) * DIMMED


def _places(rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Top, left and side of squares that hardly cover one another, as many as `DIGITS` says."""
    wanted = int(rng.integers(DIGITS[0], DIGITS[1] + 1))
    taken: list[tuple[int, int, int]] = []
    tries = 0
    while len(taken) < wanted:
        if tries == TRIES:  # the first ones leave no room
            taken, tries = [], 0
        size = int(rng.integers(SIZES[0], SIZES[1] + 1))
        top, left = (int(value) for value in rng.integers(0, SIDE - size + 1, 2))
        if all(_shared((top, left, size), other) <= OVERLAP for other in taken):
            taken.append((top, left, size))
        tries += 1
    return taken


def _shared(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """How much of the smaller of two squares (top, left, side) the other covers."""
    high, wide = (max(0, min(a + one[2], b + other[2]) - max(a, b)) for a, b in zip(one[:2], other[:2], strict=True))
    return high * wide / min(one[2], other[2]) ** 2


def _ink(digit: np.ndarray, size: int, degrees: float) -> np.ndarray:
    """(size, size) how much of each pixel is ink, 0..1: 0.5 is the edge."""
    cells = np.pad(digit, MARGIN)
    large = Image.fromarray(cells).resize((size, size), Image.Resampling.BICUBIC)
    turned = np.asarray(large.rotate(degrees, Image.Resampling.BICUBIC), np.float64) / 255
    rise = len(cells) / size  # ink rises over about a cell: so much of it from one pixel to the next
    shape: np.ndarray = np.clip((turned - INK) / rise + 0.5, 0, 1)
    return shape


def _photographs(split: Split) -> list[Image.Image]:
    from sklearn import datasets

    found = []
    folder = files("crosscale.export").joinpath("pictures")
    for name in _OURS[split]:
        with as_file(folder.joinpath(name)) as path:
            found.append(Image.open(path).convert("RGB"))
    return [*found, *(Image.fromarray(datasets.load_sample_image(name)) for name in _THEIRS[split])]


def _write_classes(file: Path) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", "r", "g", "b"])
        colours = distinct_colours(len(CLASSES))
        writer.writerows([name, *map(int, colour)] for name, colour in zip(CLASSES, colours, strict=True))
