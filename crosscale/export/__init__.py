"""Trained models as files that run without this package: StableHLO under jax, ONNX under onnxruntime."""

from crosscale.export.export import Exported as Exported
from crosscale.export.export import export as export
