"""All that depends on the backend: which form of a computation runs where. Layers call these plain signatures."""

from crosscale.layers.kernels.attention import attention, attention_weights
from crosscale.layers.kernels.choice import use_kernels
from crosscale.layers.kernels.elementwise import gelu, layer_norm
from crosscale.layers.kernels.products import dense, strided_conv

__all__ = ["attention", "attention_weights", "dense", "gelu", "layer_norm", "strided_conv", "use_kernels"]
