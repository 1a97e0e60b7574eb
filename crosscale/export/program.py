"""What is exported: one function of a batch of pictures, and the description that travels with it."""

from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crosscale.contracts import Array, InputSpec, Variables
from crosscale.engine.forward import forward, inferred, normalize
from crosscale.predictor import Predictor

VERSION = 1  # of the description's keys


@dataclass(frozen=True)
class Program:
    """A predictor's forward as a pure function, with or without its pre- and postprocessing.

    Attributes:
      predictor: the model, weights, input spec and class names.
      preprocessing: True takes prepared pictures (of `InputSpec.dtype`) and gives what the task makes of the outputs,
        such as probabilities;
        False takes normalised float32 pictures and gives the outputs themselves, such as logits.
      activated: whether a program that takes uint8 gives what the task makes of the outputs; False gives what
        `Predictor.outputs` does.
      any_size: the pictures' height and width are left open, in multiples of `step` pixels.
      step: what height and width are multiples of where they are open.
      smallest: the smallest side in pixels where they are open.
    """

    predictor: Predictor
    preprocessing: bool = True
    any_size: bool = False
    step: int = 1
    smallest: int = 1
    activated: bool = True

    @property
    def input_dtype(self) -> Any:
        return self.predictor.spec.dtype if self.preprocessing else np.dtype(np.float32)

    @property
    def output_name(self) -> str:
        task = self.predictor.task
        return task.activation if (self.preprocessing and self.activated) or task.exports_inferred else "logits"

    def __call__(self, variables: Variables, images: Array) -> Array:
        """(B, H, W, C) of `input_dtype` -> the outputs, such as (B, classes) float32; of a segmentation (B, H, W), of a
        detection (B, boxes, 6), of instances with each mask behind."""
        model, spec, task = self.predictor.model, self.predictor.spec, self.predictor.task
        if task.exports_inferred or not self.activated:
            outputs = inferred(model, variables, images, spec, task)
        else:
            outputs = forward(model, variables, images, spec)
        outputs = outputs.astype(jnp.float32)
        return task.activate(outputs) if self.preprocessing and self.activated else outputs

    def _output(self) -> dict[str, Any]:
        """Shape and type of the outputs of pictures of the spec's size."""
        spec = self.predictor.spec
        images = jax.ShapeDtypeStruct((1, *spec.size, spec.channels), self.input_dtype)
        found = jax.eval_shape(self, self.predictor.variables, images)
        shape: list[Any] = ["batch", *found.shape[1:]]
        if self.any_size and len(shape) > 2:  # a map of the pictures' own size
            shape[1:3] = ["height", "width"]
        return {"shape": shape, "dtype": found.dtype.name}

    def prepare(self, pictures: np.ndarray) -> np.ndarray:
        """(B, H, W, C) prepared -> the function's input."""
        if self.preprocessing:
            return pictures
        return np.asarray(normalize(jnp.asarray(pictures), self.predictor.spec))

    def describe(self, **extra: Any) -> dict[str, Any]:
        """The description that the artifact carries, in JSON's types."""
        spec = self.predictor.spec
        height, width = (f"multiple of {self.step}, at least {self.smallest}",) * 2 if self.any_size else spec.size
        return {
            "format_version": VERSION,
            "input": {
                "name": "images",
                "shape": ["batch", height, width, spec.channels],
                "layout": "NHWC",
                "dtype": np.dtype(self.input_dtype).name,
                "values": "0..255"
                if self.input_dtype == np.uint8
                else "(pixel / 255 - mean) / std"
                if spec.pixels == "uint8"
                else "(pixel - mean) / std",
                "channels": _channels(spec),
            },
            "output": {"name": self.output_name, **self._output()},
            # How a picture becomes `size`: what crop_mode names to floor(size / crop_pct), centre cut out.
            "input_spec": asdict(spec),
            "classes": list(self.predictor.classes),
            "task": self.predictor.task.name,
            "model": type(self.predictor.model).__name__,
            **extra,
        }


def _channels(spec: InputSpec) -> str:
    own = spec.channels // spec.pictures
    named = {1: "grey", 3: "RGB"}.get(own, f"{own} channels")
    return named if spec.pictures == 1 else f"{spec.pictures} pictures, one after another: {named}"


def deviation(found: Array, expected: Array) -> float:
    """The largest difference, as a share of the largest expected magnitude; infinite where one is not finite.

    For labels, which are whole numbers, it is the share of those that differ.
    """
    if np.issubdtype(np.asarray(expected).dtype, np.integer):
        same_shape = np.shape(found) == np.shape(expected)
        return float(np.mean(np.asarray(found) != np.asarray(expected))) if same_shape else float("inf")
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape or not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return float("inf")
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))
