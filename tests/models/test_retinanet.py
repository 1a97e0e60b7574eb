"""RetinaNet on CrossFormer: the reference's numbers, fixed shapes, names, and what cannot be built."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.cli.main import main
from crosscale.contracts import InputSpec
from crosscale.engine.forward import normalize
from crosscale.errors import RequestError
from crosscale.models.registry import create_model
from crosscale.predictor import Predictor
from crosscale.pretrained import from_variables, parameter_shapes, to_variables
from crosscale.pretrained.naming import variables_of
from tests.golden.segmentation.segmentation_seeded import BACKBONE, deviation, normalised, read, weights
from tests.seeded import seeded_variables

GOLDEN = dict(np.load(Path(__file__).parents[1] / "golden" / "detection" / "retinanet_224.npz"))


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """The models are too small to gain from optimised code."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


SMALL = {"img_size": (64, 96), "embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "group_size": 4,
         "interval": (2, 2, 1, 1), "mlp_ratio": 1.0, "num_classes": 3, "neck_channels": 8}  # fmt: skip


def reference_model(**changes):
    """The golden file's model with the reference's weights, and these by its names."""
    options = BACKBONE | {"num_classes": 5, "neck_channels": 16, "img_size": 224}
    model = create_model("retinanet_crossformer", **options | changes)
    zeros = variables_of({name: np.zeros(shape) for name, shape in parameter_shapes(model).items()}, model)
    shapes = {name: value.shape for name, value in from_variables(zeros, model, "mmdet").items()}
    given = {key.removeprefix("weights/"): value for key, value in GOLDEN.items() if key.startswith("weights/")}
    assert given.keys() <= shapes.keys()
    flat = weights(shapes, given)
    return model, to_variables(flat, model, "mmdet", "the reference"), flat


@pytest.fixture(scope="module")
def reference():
    return reference_model()


def test_every_stage_is_the_references(reference):
    model, variables, _ = reference
    images = jnp.asarray(normalised(read("backbone_224")["image"]))[None]

    def stages(variables, images):
        pyramid = model.apply(variables, images, method=lambda m, x: m.neck(m.backbone(x, False), False))
        outputs = model.apply(variables, pyramid, method=lambda m, x: m.head(x, False))
        return pyramid, outputs, model.apply(variables, images, method="detect")

    pyramid, outputs, found = jax.jit(stages)(variables, images)
    assert pyramid.strides == (8, 16, 32, 64, 128)
    for level in range(5):
        assert deviation(pyramid.maps[level], GOLDEN[f"neck_{level}"]) < 1e-5
        assert deviation(outputs.logits[level], GOLDEN[f"cls_{level}"]) < 1e-5
        assert deviation(outputs.deltas[level], GOLDEN[f"reg_{level}"]) < 1e-5
    assert int(found.count[0]) == 100
    np.testing.assert_array_equal(found.labels[0], GOLDEN["labels_input_scale"])
    np.testing.assert_allclose(found.scores[0], GOLDEN["scores_input_scale"], atol=1e-5)
    np.testing.assert_allclose(found.boxes[0], GOLDEN["boxes_input_scale"], atol=2e-3)


def test_names_go_both_ways(reference):
    model, variables, flat = reference
    back = from_variables(variables, model, "mmdet")
    assert back.keys() == flat.keys()
    for name, values in flat.items():
        np.testing.assert_array_equal(back[name], values, err_msg=name)


@pytest.mark.slow
def test_parameters_are_those_published():
    """40.8 M on CrossFormer-S, counted to the last one on the released code."""
    model = create_model("retinanet_crossformer", img_size=224)
    assert sum(int(np.prod(shape)) for shape in parameter_shapes(model).values()) == 40_824_958


@pytest.mark.slow
def test_boxes_lie_in_their_own_picture_and_batches_change_nothing():
    model = create_model("retinanet_crossformer", **SMALL)
    variables = seeded_variables(model)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64, 96, 3)), jnp.float32)
    sizes = jnp.array([[64, 96], [40, 50]])
    detect = jax.jit(lambda v, x, s: model.apply(v, x, s, score_threshold=0.01, count=20, method="detect"))
    found = detect(variables, images, sizes)
    assert found.boxes.shape == (2, 20, 4)
    assert found.masks is None
    for i, (height, width) in enumerate(np.asarray(sizes)):
        count = int(found.count[i])
        assert count > 0
        boxes, scores = np.asarray(found.boxes[i]), np.asarray(found.scores[i])
        assert (boxes >= 0).all()
        assert (boxes <= [width, height, width, height]).all()
        assert (np.diff(scores[:count]) <= 0).all()
        assert (boxes[count:] == 0).all()
    swapped = detect(variables, images[::-1], sizes[::-1])
    np.testing.assert_allclose(swapped.boxes[::-1], found.boxes, atol=1e-3)


@pytest.mark.slow
def test_nothing_above_the_threshold_and_no_picture():
    model = create_model("retinanet_crossformer", **SMALL)
    variables = seeded_variables(model)
    images = jnp.zeros((1, 64, 96, 3))
    detect = jax.jit(lambda v, x: model.apply(v, x, score_threshold=1.0, method="detect"))
    found = detect(variables, images)
    assert int(found.count[0]) == 0
    assert float(jnp.abs(found.boxes).max()) == 0
    none = jax.eval_shape(lambda v, x: model.apply(v, x, count=7, method="detect"), variables, images[:0])
    assert none.boxes.shape == (0, 7, 4)


TWO_STAGES = {"depths": (1, 1), "num_heads": (1, 1), "group_size": 4, "interval": 1, "merge_size": ((2,),)}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_classes": 0}, "num_classes=0: a detector has one class or more"),
        ({"neck_channels": 0}, "neck_channels=0 must be 1 or more"),
        (
            {"depths": (1, 1), "num_heads": (1, 1), "group_size": 4, "interval": 1, "merge_size": ((2,),)},
            "reads 3 stages",
        ),
        ({"neck_chanels": 8}, "did you mean 'neck_channels'"),
    ],
)
def test_what_cannot_be_built_is_one_line(options, told):
    with pytest.raises(RequestError, match=told):
        create_model("retinanet_crossformer", **SMALL | options)


def test_a_task_of_other_outputs_is_refused(tmp_path, capsys):
    words = ["--config", "smoke", "--model", "retinanet_crossformer", "--output-dir", str(tmp_path / "run")]
    dropped = ["--model.options", "{}"]
    assert main(["train", *words, *dropped]) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert len(shown) == 1
    assert "retinanet_crossformer is a model of the task detection, and task.name=classification" in shown[0]


@pytest.mark.slow
def test_a_predictor_of_a_detector_gives_boxes():
    model = create_model("retinanet_crossformer", **SMALL)
    spec = InputSpec(size=(64, 96))
    predictor = Predictor(model, seeded_variables(model), spec, classes=["cat", "dog", "cow"])
    assert predictor.task.name == "detection"
    picture = np.random.default_rng(0).integers(0, 256, (90, 60, 3), np.uint8)
    image, size = predictor.read(picture, "a picture")
    outputs = predictor.outputs(image[None], [size])
    (found,) = predictor.results(outputs, ["a picture"], [size], min_score=0, max_boxes=7)
    assert found.size == (90, 60)
    assert len(found.boxes) == len(found.scores) == 7
    assert set(found.classes) <= {"cat", "dog", "cow"}
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [60, 90, 60, 90]).all()
    # The same as by hand: resized to 64 x 43 pixels, within 64 x 64 of which the rest is filled up.
    assert image.shape == (64, 64, 3)
    normal = normalize(jnp.asarray(image)[None], spec)
    detect = jax.jit(lambda v, x, s: model.apply(v, x, s, method="detect"))
    boxes = detect(predictor.variables, normal, jnp.array([[64, 43]])).boxes[0, :7]
    np.testing.assert_allclose(found.boxes, boxes * np.array([60 / 43, 90 / 64, 60 / 43, 90 / 64]), atol=1e-3)
