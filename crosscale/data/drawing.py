"""How large pictures are drawn on which labels or a legend stand."""

from PIL import Image

READABLE = 384  # pixels of a drawn picture's shorter side, from which labels and a legend have room


def readable(picture: Image.Image) -> tuple[Image.Image, int]:
    """A small picture enlarged by a whole factor, pixel by pixel, and the factor; 1 leaves a large one as it is."""
    factor = max(1, READABLE // min(picture.size))
    return picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST), factor
