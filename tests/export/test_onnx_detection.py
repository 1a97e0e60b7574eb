"""ONNX files of detectors, with suppression inside: onnxruntime's boxes beside the predictor's."""

import jax
import numpy as np
import pytest

from crosscale.artifact import WEIGHTS, Artifact, write_artifact
from crosscale.cli.main import main
from crosscale.contracts import InputSpec
from crosscale.export.onnx import open_onnx
from crosscale.export.photographs import load_pictures
from crosscale.export.program import Program
from crosscale.models.registry import create_model
from crosscale.predictor import Predictor
from crosscale.pretrained import parameter_shapes, save_weights
from crosscale.trees import unflatten

pytest.importorskip("jax2onnx")

pytestmark = pytest.mark.slow  # a conversion takes ten seconds

SIZE = (64, 96)
OPTIONS = {
    "img_size": SIZE, "embed_dim": 16, "group_size": 4, "mlp_ratio": 1.0, "neck_channels": 8,
}  # fmt: skip
THREE = {"depths": (1, 1, 1), "num_heads": (1, 1, 2), "interval": (2, 2, 1), "merge_size": ((2,), (2,))}
TWO = {"depths": (1, 1), "num_heads": (1, 1), "interval": (2, 1), "merge_size": ((2,),)}
LIMITS = {"score_threshold": 0.05, "nms_threshold": 0.5, "max_detections": 12}


def write_run(folder, family, task, options):
    """A run's best weights: random ones, whose scores lie apart."""
    best = folder / "best"
    best.mkdir()
    options = OPTIONS | options
    model = create_model(family, **options, num_classes=3)
    rng = np.random.default_rng(3)
    values = {name: rng.normal(0, 0.15, shape).astype(np.float32) for name, shape in parameter_shapes(model).items()}
    save_weights(best / WEIGHTS, {"params": unflatten(values)}, model)
    how = {"labels": ("cat", "cup", "dog"), "num_outputs": 3, "input_spec": InputSpec(size=SIZE)}
    told = {"scale": None, "max_objects": 8, "category_ids": [1, 2, 5], "limits": LIMITS}
    write_artifact(best, Artifact(model=family, options=options, task=task, task_options=told, **how))
    return folder


def test_boxes(tmp_path):
    run = write_run(tmp_path, "retinanet_crossformer", "detection", THREE)
    compare(run, tmp_path / "boxes.onnx", columns=6)


def test_masks(tmp_path):
    small = {"fc_channels": 8, "mask_channels": 8, "proposals": 20, "proposals_before_nms": 30}
    run = write_run(tmp_path, "mask_rcnn_crossformer", "instances", TWO | small)
    compare(run, tmp_path / "masks.onnx", columns=6 + 28 * 28)


def compare(run, file, columns):
    """Exports by the command, and compares what onnxruntime finds in photographs, in batches of one and three."""
    assert main(["export", "--run", str(run), "--format", "onnx", str(file)]) == 0
    predictor = Predictor.from_run(run)
    pictures = load_pictures(predictor.spec)
    wanted = np.asarray(jax.jit(Program(predictor))(predictor.variables, pictures))
    assert wanted.shape == (4, LIMITS["max_detections"], columns)
    found = np.concatenate([open_onnx(file)(pictures[:1]), open_onnx(file)(pictures[1:])])
    count = (wanted[..., 4] > 0).sum(1)
    assert count.min() > 3
    np.testing.assert_array_equal((found[..., 4] > 0).sum(1), count)
    np.testing.assert_array_equal(found[..., 5], wanted[..., 5])  # labels, in the order of the scores
    np.testing.assert_allclose(np.delete(found, 5, -1), np.delete(wanted, 5, -1), atol=1e-4)
