"""What every segmentation model is: a backbone's pyramid, perhaps a neck, and a head that classifies every cell."""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn

from crosscale.contracts import Array, Features
from crosscale.layers.resize import resize_bilinear
from crosscale.models.model import ImageModel, one_blank


class SegmentationModel(ImageModel):
    """Base of the segmentation families: `__call__` gives a class's logit for every pixel, `cells` for every cell.

    A family builds its backbone, and its neck, head and auxiliary head where it has them. Parameters live under
    "backbone/...", "neck/...", "head/..." and "auxiliary_head/...". With batch normalisation the running statistics
    are a second collection, "batch_stats", of the same names; training returns the new ones with
    `mutable=["batch_stats"]`.

    Attributes:
      task_head: a module that takes (Features, train) of the neck, in place of the family's head; its maps have the
        finest map's size.
    """

    dense: ClassVar[bool] = True
    usual_task: ClassVar[str] = "segmentation"

    def setup(self) -> None:
        super().setup()
        self.neck = self.make_neck()
        self.auxiliary_head = self.make_auxiliary_head()

    @nn.nowrap
    def make_neck(self) -> nn.Module | None:
        """(Features, train) -> Features, what the head reads; None where that is the backbone's own."""
        return None

    @nn.nowrap
    def make_auxiliary_head(self) -> nn.Module | None:
        """(Features, train) -> (B, h, w, num_classes), of the backbone's maps, for training alone; None without."""
        return None

    @nn.nowrap
    def new_parts(self) -> tuple[str, ...]:
        return "neck/", "head/", "auxiliary_head/"

    @nn.nowrap
    def classifiers(self) -> tuple[str, ...]:
        return "head/classifier/", "auxiliary_head/classifier/"

    @nn.nowrap
    def covered(self, size: tuple[Any, ...]) -> tuple[Any, ...]:
        """Rows and columns of pictures of `size` pixels that the cells lie on, from the top left; fractions too."""
        return size

    def __call__(self, images: Array, train: bool = False) -> Array:
        """(B, H, W, channels) normalised images -> (B, H, W, num_classes) float32 logits.

        The cells' logits, bilinearly enlarged to what they cover of the pictures, with half-pixel centres.

        Args:
          images: float, NHWC, normalised with the mean and deviation that belong to the weights.
          train: turns dropout, stochastic depth and the batch's own statistics on; needs `rngs={"dropout": key}`.

        Raises:
          RequestError: the images' shape does not fit the model.
        """
        return self._enlarged(self.cells(images, train), images)

    def cells(self, images: Array, train: bool = False) -> Array:
        """(B, H, W, channels) -> (B, h, w, num_classes) float32 logits at the first map's stride."""
        if images.shape[:1] == (0,):
            return self.cells(one_blank(images), train)[:0]
        return self.decode(self.backbone(images, train), train)

    def decode(self, features: Features, train: bool = False) -> Array:
        """What `features` gave -> (B, h, w, num_classes) float32 logits of the cells of the first map."""
        if self.is_initializing() and self.auxiliary_head is not None:
            self.auxiliary_head(features, train)
        read = features if self.neck is None else self.neck(features, train)
        return self.head(read, train).astype(jnp.float32)

    def training_outputs(self, images: Array, train: bool = True) -> dict[str, Array]:
        """(B, H, W, channels) -> {"logits": (B, H, W, num_classes)}, all that a loss is taken from.

        With an auxiliary head, "auxiliary" too, of the same shape.
        """
        features = self.backbone(images, train)
        outputs = {"logits": self.decode(features, train)}
        if self.auxiliary_head is not None:
            outputs["auxiliary"] = self.auxiliary_head(features, train)
        return {name: self._enlarged(cells, images) for name, cells in outputs.items()}

    @nn.nowrap
    def _enlarged(self, cells: Array, images: Array) -> Array:
        size = images.shape[1:3]
        logits: Array = resize_bilinear(cells, size, self.covered(size))
        return logits
