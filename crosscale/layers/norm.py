"""Layer normalisation with the references' accuracy."""

from flax import linen as nn


class LayerNorm(nn.LayerNorm):
    """Linen's LayerNorm (epsilon 1e-6) with the two-pass variance, as PyTorch computes it.

    The one-pass E[x^2] - E[x]^2 of Linen's default loses digits where the mean is large.
    """

    use_fast_variance: bool = False
