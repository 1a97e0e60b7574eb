"""How large pictures are drawn that carry labels or a legend."""

from PIL import Image

READABLE = 384  # pixels of a drawn picture's shorter side, from which labels and a legend have room
LARGEST = 1600  # pixels of its longer side, beyond which nothing is enlarged: a strip would become gigabytes


def enlargement(size: tuple[int, int]) -> int:
    """The whole factor by which a picture of these sides is enlarged; 1 for a large one."""
    return max(1, min(READABLE // min(size), LARGEST // max(size)))


def readable(picture: Image.Image) -> tuple[Image.Image, int]:
    """A small picture enlarged, pixel by pixel, and the factor; a large one is given back as it is."""
    factor = enlargement(picture.size)
    if factor == 1:
        return picture, 1
    return picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST), factor
