"""StableHLO through jax.export: one zip of the program, its weights, a description, and how to run it.

The weights are an argument of the program, not constants in it: it stays small, and compiles as fast as
the model itself.
"""

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from crosscale.contracts import Array
from crosscale.errors import RequestError
from crosscale.export.program import Program
from crosscale.layers.kernels import use_kernels
from crosscale.trees import flatten, unflatten

PLATFORMS = ("cpu", "cuda", "tpu")

README = """\
A model as StableHLO. Running it needs jax, with the flatbuffers package that jax.export reads its files
with (`pip install jax flatbuffers`), and nothing else:

```python
import io, json, zipfile
import numpy as np
from jax import export

with zipfile.ZipFile(path) as artifact:
    config = json.loads(artifact.read("config.json"))
    program = export.deserialize(artifact.read("program.stablehlo"))
    weights = dict(np.load(io.BytesIO(artifact.read("weights.npz"))))
outputs = np.asarray(program.call(weights, images))  # images: see config["input"]
```

config["classes"] names the columns of the outputs; config["input_spec"] says how a picture is resized.
"""


def write_stablehlo(program: Program, file: Path, platforms: Sequence[str] = PLATFORMS) -> dict[str, Any]:
    """Writes the artifact and returns its description.

    Raises:
      RequestError: the model cannot leave the axes open that it was asked to.
    """
    spec = program.predictor.spec
    weights = {name: np.ascontiguousarray(value) for name, value in flatten(program.predictor.variables).items()}

    def run(weights: dict[str, Array], images: Array) -> Array:
        return program(unflatten(weights), images)

    if program.any_size:
        shape = f"batch, {program.step}*height, {program.step}*width"
        least = program.smallest // program.step
        dims = jax.export.symbolic_shape(shape, constraints=[f"height >= {least}", f"width >= {least}"])
    else:
        dims = (*jax.export.symbolic_shape("batch"), *spec.size)
    images = jax.ShapeDtypeStruct((*dims, spec.channels), program.input_dtype)
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in weights.items()}
    try:
        # No gradient is wanted, and without one the normalisation is the same everywhere.
        with use_kernels(platforms=tuple(platforms), vendor="none", layer_norm="derived"):
            exported = jax.export.export(jax.jit(run), platforms=tuple(platforms))(shapes, images)
    except (jax.core.InconclusiveDimensionOperation, TypeError, RequestError) as error:
        axes = "its batch, height and width" if program.any_size else "its batch axis"
        reason = str(error).split("\n", 1)[0]
        raise RequestError(
            f"{type(program.predictor.model).__name__} cannot leave {axes} open ({reason}); "
            + ("leave --any-size out" if program.any_size else "another --format may do")
        ) from None
    config = program.describe(
        format="stablehlo",
        platforms=list(exported.platforms),
        calling_convention_version=exported.calling_convention_version,
        jax=jax.__version__,
    )
    packed = io.BytesIO()
    np.savez(packed, **weights)  # type: ignore[arg-type]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as artifact:
        artifact.writestr("config.json", json.dumps(config, indent=2, ensure_ascii=False))
        artifact.writestr("README.md", README)
        artifact.writestr("program.stablehlo", exported.serialize(), zipfile.ZIP_DEFLATED)
        artifact.writestr("weights.npz", packed.getbuffer().tobytes())
    return config


def open_stablehlo(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The written artifact as a function of a batch, by the steps of its own README; compiled once a shape."""
    with zipfile.ZipFile(file) as artifact:
        program = jax.export.deserialize(bytearray(artifact.read("program.stablehlo")))
        weights = dict(np.load(io.BytesIO(artifact.read("weights.npz"))))
    run = jax.jit(program.call)
    return lambda images: np.asarray(run(weights, images))
