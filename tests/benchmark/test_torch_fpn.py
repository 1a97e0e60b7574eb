"""The peer of a segmentation's timings computes what our model computes."""

import jax
import numpy as np
import pytest

from crosscale.pretrained import from_variables
from tests.golden.segmentation import segmentation_seeded as seeded

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("train", [False, True])
def test_the_torch_head_equals_ours(train):
    import torch

    from crosscale.benchmark.torch_fpn import SemanticFPN

    model, variables = seeded.narrow("semfpn", head_drop_rate=0.0, drop_path_rate=0.0)
    images = seeded.array("images", (2, 64, 96, 3))
    features = model.apply(variables, images, method="features")
    maps = [torch.from_numpy(np.asarray(level).transpose(0, 3, 1, 2).copy()) for level in features.maps]

    class Maps(torch.nn.Module):
        def forward(self, _):
            return list(maps)

    theirs = SemanticFPN(Maps(), [level.shape[1] for level in maps], 16, 12, 6).train(train)
    weights = {
        name: torch.from_numpy(np.array(value)) for name, value in from_variables(variables, model, "mmseg").items()
    }
    loaded = theirs.load_state_dict(weights, strict=False)
    assert not loaded.missing_keys
    assert all(name.startswith("backbone.") for name in loaded.unexpected_keys)
    with torch.no_grad():
        expected = theirs(torch.zeros(2, 3, 64, 96)).numpy().transpose(0, 2, 3, 1)
    found = jax.jit(lambda variables: model.apply(variables, images, train=train, mutable=["batch_stats"]))(variables)[
        0
    ]
    assert seeded.deviation(found, expected) < 1e-5
