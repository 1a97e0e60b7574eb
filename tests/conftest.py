"""What every test shares: a quiet CPU backend, and a cache of compiled programs kept between runs."""

import gc
import os
import tempfile
from pathlib import Path

import pytest

# jax reads these once, when it is first imported; processes that tests start inherit them.
_cache = Path(tempfile.gettempdir()) / f"crosscale-tests-{os.getuid() if hasattr(os, 'getuid') else 0}" / "jax"
_cache.mkdir(mode=0o700, parents=True, exist_ok=True)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_cache))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # hundreds of small ones add up
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Traced programs are large and stay: looking through them again and again took 7 % of the processor's time.
gc.set_threshold(20_000, 20, 20)

TINY_CROSSVIT = {
    "img_size": [16, 16],
    "patch_size": [4, 8],
    "embed_dim": [8, 16],
    "depth": [[1, 1, 1]],
    "num_heads": [2, 2],
    "mlp_ratio": [1.0, 1.0, 1.0],
}


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A folder with the best weights of a run: a seeded, untrained CrossViT for the ten grey digits."""
    import numpy as np

    from crosscale.artifact import WEIGHTS, Artifact, write_artifact
    from crosscale.contracts import InputSpec
    from crosscale.models.registry import create_model
    from crosscale.pretrained import parameter_shapes, save_weights
    from crosscale.trees import unflatten

    best = tmp_path_factory.mktemp("tiny_run") / "best"
    best.mkdir()
    options = {**TINY_CROSSVIT, "in_channels": 1}
    spec = InputSpec(size=(16, 16), channels=1, mean=(0.3,), std=(0.4,), crop_pct=1.0)
    model = create_model("crossvit", **options, num_classes=10)
    rng = np.random.default_rng(1)
    values = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in parameter_shapes(model).items()}
    variables = {"params": unflatten(values)}
    save_weights(best / WEIGHTS, variables, model)
    labels = tuple(str(digit) for digit in range(10))
    artifact = Artifact(model="crossvit", options=options, labels=labels, num_outputs=10, input_spec=spec)
    write_artifact(best, artifact)
    return best.parent
