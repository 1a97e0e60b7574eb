"""The last layer of a segmentation head: dropout of whole channels, then each cell's logits."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from crosscale.contracts import Array
from crosscale.layers.initializers import normal

NORMAL = normal(0.01)


class CellClassifier(nn.Module):
    """Dropout of whole channels, then a 1 x 1 convolution whose logits are float32 whatever the compute type.

    Attributes:
      num_classes: logits of each cell.
      drop_rate: share of a picture's channels that training sets to zero (Tompson et al., 2015).
      dtype: compute type of the product.
    """

    num_classes: int
    drop_rate: float = 0.1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """(B, h, w, C) -> (B, h, w, num_classes) float32."""
        x = nn.Dropout(self.drop_rate, broadcast_dims=(1, 2))(x, deterministic=not train)
        kernel = self.param("kernel", NORMAL, (1, 1, x.shape[-1], self.num_classes), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,), jnp.float32)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        y: Array = jnp.matmul(x.reshape(-1, x.shape[-1]), kernel[0, 0], preferred_element_type=jnp.float32) + bias
        return y.reshape(*x.shape[:-1], self.num_classes)
