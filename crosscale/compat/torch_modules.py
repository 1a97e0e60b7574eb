"""Blocks that both vit-pytorch models are built of, with torch's default initialisation and epsilon."""

from typing import Any

from flax import linen as nn

from crosscale.contracts import Array, Features
from crosscale.errors import RequestError
from crosscale.layers.initializers import torch_uniform
from crosscale.layers.kernels import gelu
from crosscale.layers.norm import LayerNorm
from crosscale.models.checks import is_whole

EPSILON = 1e-5  # torch.nn.LayerNorm's default; Linen's is 1e-6


def layer_norm(dtype: Any, name: str) -> LayerNorm:
    return LayerNorm(epsilon=EPSILON, dtype=dtype, name=name)


class Linear(nn.Module):
    """y = x W + b over the last axis; W and b ~ uniform +-1/sqrt(input width), as torch.nn.Linear."""

    features: int
    use_bias: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = torch_uniform(x.shape[-1])
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        bias = self.param("bias", init, (self.features,)) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        # flattened, so that the weight gradient is one plain matmul
        y = x.reshape(-1, x.shape[-1]) @ kernel
        if bias is not None:
            y = y + bias
        return y.reshape(*x.shape[:-1], self.features)


class FeedForward(nn.Module):
    """norm -> linear -> exact GELU -> dropout -> linear -> dropout on (..., C); no residual.

    Attributes:
      hidden_dim: hidden width.
      drop_rate: dropout after the GELU.
      out_drop_rate: dropout on the output.
      dtype: compute type.
    """

    hidden_dim: int
    drop_rate: float = 0.0
    out_drop_rate: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        y = layer_norm(self.dtype, "norm")(x)
        y = gelu(Linear(self.hidden_dim, dtype=self.dtype, name="expand")(y))
        y = nn.Dropout(self.drop_rate)(y, deterministic=not train)
        y = Linear(x.shape[-1], dtype=self.dtype, name="contract")(y)
        return nn.Dropout(self.out_drop_rate)(y, deterministic=not train)


class SummedLinears(nn.Module):
    """One linear classifier per pooled vector, their logits added: Features -> (B, num_classes)."""

    num_classes: int
    dtype: Any = None

    @nn.compact
    def __call__(self, features: Features, train: bool = False) -> Array:
        logits = [
            Linear(self.num_classes, dtype=self.dtype, name=f"branch_{b}")(vector)
            for b, vector in enumerate(features.pooled)
        ]
        return sum(logits[1:], start=logits[0])


def check_rates(where: str, **rates: Any) -> None:
    """Raises RequestError unless every dropout rate is in [0, 1)."""
    for name, rate in rates.items():
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
            raise RequestError(f"{where}: {name}={rate!r} is not a dropout rate; expected 0 <= {name} < 1")


def check_whole(where: str, least: int, **sizes: Any) -> None:
    """Raises RequestError unless every value is a whole number of at least `least`."""
    for name, size in sizes.items():
        if not is_whole(size) or size < least:
            raise RequestError(f"{where}: {name}={size!r}; expected a whole number of at least {least}")
