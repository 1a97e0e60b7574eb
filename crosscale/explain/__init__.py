"""Attention of both scales over the picture: the weights that were computed, in picture coordinates, and drawn.

    maps = crosscale.explain.attention(model, variables, images, spec=spec)
    maps["cross/0_to_1"]   # (B, H, W): what the CLS token of branch 0 looks at among the patches of branch 1

Nothing is hooked or patched: the layers put their weights into a Linen collection when it is asked for, and
trace nothing otherwise.
"""

from crosscale.explain.maps import Explained as Explained
from crosscale.explain.maps import attention as attention
from crosscale.explain.maps import describe_attention as describe_attention
from crosscale.explain.maps import describe_maps as describe_maps
from crosscale.explain.maps import explain as explain
from crosscale.explain.maps import weights as weights
from crosscale.models.description import Map as Map
