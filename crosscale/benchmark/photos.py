"""JPEG files of ImageNet's size distribution, cut from the photographs that ship with scikit-image and scikit-learn."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from crosscale.errors import RequestError

# Width, height and share: the common sizes of ImageNet-1K's training pictures, of which most come from one
# photo service's 500-pixel rendering; the rest stands for its long tail on both sides.
SIZES = (
    (500, 375, 0.40),
    (500, 333, 0.17),
    (375, 500, 0.11),
    (333, 500, 0.07),
    (500, 500, 0.04),
    (500, 400, 0.04),
    (640, 480, 0.05),
    (400, 300, 0.03),
    (250, 200, 0.03),
    (1024, 768, 0.03),
    (1600, 1200, 0.02),
    (128, 128, 0.01),
)
QUALITIES = (85, 97)


def write_jpegs(folder: Path, count: int, seed: int = 0, report: Callable[[int, int], None] | None = None) -> int:
    """Writes `count` JPEG files into train/ and val/ of two class folders; returns their mean size in bytes.

    Raises:
      RequestError: scikit-image or scikit-learn is missing.
    """
    photos = photographs()
    rng = np.random.default_rng(seed)
    shares = np.array([share for _, _, share in SIZES])
    total = 0
    for index in range(count):
        width, height, _ = SIZES[rng.choice(len(SIZES), p=shares / shares.sum())]
        img = cut(photos[int(rng.integers(len(photos)))], width, height, rng)
        split = "val" if index < 4 else "train"
        path = folder / split / f"class{index % 2}" / f"{index:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        img.save(path, quality=int(rng.integers(*QUALITIES)), subsampling=2 if rng.random() < 0.7 else 0)
        total += path.stat().st_size
        if report is not None:
            report(index + 1, count)
    return total // count


def photographs() -> list[Image.Image]:
    """The photographs, RGB. Raises RequestError where scikit-image or scikit-learn is missing."""
    try:
        from skimage import data
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise RequestError(
            f"the photographs ship with scikit-image and scikit-learn, but {error.name} is not installed: "
            "pip install 'crosscale[bench]'"
        ) from None
    arrays = [*load_sample_images().images, data.astronaut(), data.chelsea(), data.coffee()]
    return [Image.fromarray(array) for array in arrays]


def cut(photo: Image.Image, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """A random part of the size's shape, scaled to the size: as little enlarged as the photograph allows."""
    scale = min(photo.width / width, photo.height / height, 1.0 + rng.random())
    part = min(int(width * scale), photo.width), min(int(height * scale), photo.height)
    left = int(rng.integers(photo.width - part[0] + 1))
    top = int(rng.integers(photo.height - part[1] + 1))
    img = photo.crop((left, top, left + part[0], top + part[1]))
    return img.resize((width, height), Image.Resampling.LANCZOS)
