"""Models under other projects' constructor names, for code and weights that were made for them."""

from crosscale.compat import vit_pytorch

__all__ = ["vit_pytorch"]
