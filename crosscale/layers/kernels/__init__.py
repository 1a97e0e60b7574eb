"""All that depends on the backend: which form of a computation runs where. Layers call these plain signatures."""

from crosscale.layers.kernels.attention import attention, attention_weights, carried_tokens
from crosscale.layers.kernels.choice import use_kernels
from crosscale.layers.kernels.elementwise import gelu, layer_norm, squared_norms
from crosscale.layers.kernels.products import dense, dense_parts, strided_conv
from crosscale.layers.kernels.resampling import resample, rounded_once
from crosscale.layers.kernels.rows import each

__all__ = [
    "attention",
    "attention_weights",
    "carried_tokens",
    "dense",
    "dense_parts",
    "each",
    "gelu",
    "layer_norm",
    "resample",
    "rounded_once",
    "squared_norms",
    "strided_conv",
    "use_kernels",
]
