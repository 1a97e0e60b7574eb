"""RandAugment on Pillow images (Cubuk et al., 2020), with the operations and strengths that timm gives it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from crosscale.data.picture_operations import RAND_AUGMENT, Affine, Applied, Fill, drawn_level, pillow_affine
from crosscale.data.policies import RandAugmentPolicy

_NAMES = tuple(RAND_AUGMENT)


@dataclass(frozen=True)
class RandAugment:
    """Applies randomly drawn operations to a mode "L" or "RGB" image.

    Attributes:
      policy: how many operations, how likely and how strong.
      fill: see `Applied`, and so for the next two.
      jitters: whether colour jitter comes after it.
    """

    jitters: ClassVar[bool] = False
    policy: RandAugmentPolicy
    fill: Fill
    filters: Sequence[Image.Resampling]
    affine: Affine = pillow_affine

    def __call__(self, img: Image.Image, rng: np.random.Generator) -> Image.Image:
        for choice in rng.integers(len(_NAMES), size=self.policy.num_layers):
            if rng.random() <= self.policy.prob:
                img = self.apply(_NAMES[choice], img, self.level(rng), rng)
        return img

    def apply(self, name: str, img: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
        """One operation at a level in 0..10."""
        applied = Applied(self.fill, self.filters, self.affine)
        return applied(name, img, level, rng, increasing=self.policy.increasing)

    def level(self, rng: np.random.Generator) -> float:
        """The strength of one operation."""
        policy = self.policy
        return drawn_level(rng, policy.magnitude, policy.magnitude_std, policy.magnitude_max)
