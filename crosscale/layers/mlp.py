"""The transformer's two-layer perceptron."""

from typing import Any

from flax import linen as nn

from crosscale.contracts import Array
from crosscale.layers.dense import Dense
from crosscale.layers.kernels import gelu


class Mlp(nn.Module):
    """Dense -> GELU -> dropout -> Dense -> dropout on (..., C), hidden width `hidden_dim`, output width C."""

    hidden_dim: int
    drop_rate: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        shape, dim = x.shape, x.shape[-1]
        # On maps XLA:CPU fuses the activation into a product of more dimensions, and holds its constants at full size.
        x = gelu(Dense(self.hidden_dim, dtype=self.dtype, name="expand")(x.reshape(-1, dim)))
        x = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        x = Dense(dim, dtype=self.dtype, name="contract")(x).reshape(shape)
        return nn.Dropout(self.drop_rate)(x, deterministic=not train)
