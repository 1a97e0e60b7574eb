"""Dynamic position bias: a small network from the offset between two tokens to a bias per head.

CrossFormer (Wang et al., ICLR 2022), section 3.3. As in the released code the network's width is C / 16 and
it has no residual connections. Its weights know nothing of the group's size, so any group may be asked for.
"""

from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from crosscale.contracts import Array
from crosscale.layers.dense import Dense
from crosscale.layers.norm import LayerNorm

_HIDDEN_LAYERS = 3


class DynamicPositionBias(nn.Module):
    """Linear(2 -> hidden), then three times LayerNorm -> ReLU -> Linear; the last one ends at `num_heads`.

    Runs in float32 whatever the model's compute type: the offsets are small integers, the table is small, and
    the biases are added to float32 scores.

    Attributes:
      num_heads: one bias per head.
      hidden_dim: width of the network.
      norm_epsilon: of the layer normalisations.
    """

    num_heads: int
    hidden_dim: int
    norm_epsilon: float = 1e-5

    @nn.compact
    def __call__(self, size: tuple[Any, Any]) -> Array:
        """(num_heads, N, N) float32 biases of a group of `size` = (rows, columns), N = rows * columns.

        Entry [h, i, j] belongs to query i and key j, both counted row by row, and depends on their offset i -
        j only. The size may be symbolic.
        """
        offsets, index = relative_offsets(size) if all(isinstance(side, int) for side in size) else _open_offsets(size)
        x = Dense(self.hidden_dim, name="dense_0")(jnp.asarray(offsets))
        for i in range(1, _HIDDEN_LAYERS + 1):
            features = self.num_heads if i == _HIDDEN_LAYERS else self.hidden_dim
            x = nn.relu(LayerNorm(epsilon=self.norm_epsilon, name=f"norm_{i}")(x))
            x = Dense(features, name=f"dense_{i}")(x)
        return x.T[:, index]


@lru_cache(maxsize=64)
def relative_offsets(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The distinct offsets in a group of `size`, and which one each pair of tokens has.

    Returns:
      offsets: ((2 rows - 1) * (2 columns - 1), 2) float32, (dy, dx), dy slowest, both rising from 1 - side.
      index: (N, N) int32 into `offsets`, [query, key].
    """
    rows, columns = size
    dy, dx = np.meshgrid(np.arange(1 - rows, rows), np.arange(1 - columns, columns), indexing="ij")
    offsets = np.stack([dy.ravel(), dx.ravel()], axis=-1).astype(np.float32)
    y, x = (axis.ravel() for axis in np.indices(size))
    index = (y[:, None] - y + rows - 1) * (2 * columns - 1) + (x[:, None] - x + columns - 1)
    return offsets, index.astype(np.int32)


def _open_offsets(size: tuple[Any, Any]) -> tuple[Array, Array]:
    """`relative_offsets` computed by the program, whose sizes are not known while it is traced.

    One offset more in each direction, to which no pair belongs: JAX cannot tell that (2 rows - 1) (2 columns - 1) is
    above zero.
    """
    rows, columns = size
    down, across = 2 * rows, 2 * columns
    dy, dx = jnp.arange(down) - (rows - 1), jnp.arange(across) - (columns - 1)
    grid = jnp.stack(
        [jnp.broadcast_to(dy[:, None], (down, across)), jnp.broadcast_to(dx[None], (down, across))], axis=-1
    )
    y = jnp.broadcast_to(jnp.arange(rows)[:, None], (rows, columns)).reshape(rows * columns)
    x = jnp.broadcast_to(jnp.arange(columns)[None], (rows, columns)).reshape(rows * columns)
    index = (y[:, None] - y + rows - 1) * across + (x[:, None] - x + columns - 1)
    return grid.reshape(down * across, 2).astype(jnp.float32), index
