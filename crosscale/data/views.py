"""Several views of a picture, whose answers are averaged: mirror images, crops and scales."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from PIL import Image

from crosscale.contracts import InputSpec
from crosscale.data.transforms import CENTRE, eval_transform
from crosscale.errors import RequestError, did_you_mean

SETS = ("flips", "crops", "scales")
CORNERS = (CENTRE, (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))
CROP = 0.875  # the side's share that a crop keeps at most: 224 of 256, as in Krizhevsky et al., NIPS 2012
SCALES = (1.0, 8 / 7, 7 / 8)  # of what the centre crop keeps


@dataclass(frozen=True)
class View:
    """How a picture is looked at.

    Attributes:
      crop_pct: in place of the `InputSpec`'s.
      place: of the crop, (top, left) in 0..1.
      mirrored: left and right change sides.
    """

    crop_pct: float
    place: tuple[float, float] = CENTRE
    mirrored: bool = False

    def of(self, img: Image.Image, spec: InputSpec) -> np.ndarray:
        """(H, W, C) uint8, made as validation makes it except for the view."""
        seen = eval_transform(replace(spec, crop_pct=self.crop_pct), self.place)(img)
        return np.ascontiguousarray(seen[:, ::-1]) if self.mirrored else np.asarray(seen)


def views(names: Sequence[str], spec: InputSpec) -> tuple[View, ...]:
    """The distinct combinations of the sets' views, one from each set; without names validation's own view.

    "flips" is the picture and its mirror image, "crops" the centre and the corners, "scales" three sizes.

    Raises RequestError for an unknown set.
    """
    for name in names:
        if name not in SETS:
            raise RequestError(f"--tta {name}: one or several of {', '.join(SETS)}{did_you_mean(name, SETS)}")
    shares = [min(1.0, spec.crop_pct * scale) for scale in (SCALES if "scales" in names else (1.0,))]
    if "crops" in names:
        shares = [min(share, CROP) for share in shares]
    places = CORNERS if "crops" in names else (CENTRE,)
    mirrored = (False, True) if "flips" in names else (False,)
    return tuple(View(*made) for made in product(dict.fromkeys(shares), places, mirrored))
