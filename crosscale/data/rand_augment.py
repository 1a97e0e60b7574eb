"""RandAugment on Pillow images (Cubuk et al., 2020), with the operations and strengths that timm gives it."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from crosscale.data.picture_operations import RAND_AUGMENT, Policied, drawn_level
from crosscale.data.policies import RandAugmentPolicy

_NAMES = tuple(RAND_AUGMENT)


@dataclass(frozen=True)
class RandAugment(Policied):
    """Applies randomly drawn operations to a mode "L" or "RGB" image.

    Attributes:
      policy: how many operations, how likely and how strong.
      jitters: whether colour jitter comes after it.
    """

    jitters: ClassVar[bool] = False
    policy: RandAugmentPolicy

    def __call__(self, img: Image.Image, rng: np.random.Generator) -> Image.Image:
        for choice in rng.integers(len(_NAMES), size=self.policy.num_layers):
            if rng.random() <= self.policy.prob:
                img = self.apply(_NAMES[choice], img, self.level(rng), rng)
        return img

    def apply(self, name: str, img: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
        """One operation at a level in 0..10."""
        return self.applied(name, img, level, rng, increasing=self.policy.increasing)

    def level(self, rng: np.random.Generator) -> float:
        """The strength of one operation."""
        policy = self.policy
        return drawn_level(rng, policy.magnitude, policy.magnitude_std, policy.magnitude_max)
