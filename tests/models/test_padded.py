"""A picture of 200 x 312, filled up to 224 x 320: every dense model answers as the reference (tests/golden/dense)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_mask_rcnn import reference_model as mask_rcnn
from test_retinanet import reference_model as retinanet

from tests.golden.segmentation import segmentation_seeded as seeded

GOLDENS = Path(__file__).parents[1] / "golden"
GOLDEN = dict(np.load(GOLDENS / "dense" / "padded.npz"))
HEIGHT, WIDTH = 200, 312

pytestmark = pytest.mark.slow  # each model takes some seconds to compile


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """The models are too small to gain from optimised code."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def images():
    picture = dict(np.load(GOLDENS / "detection" / "retinanet_train.npz"))["images_0"]
    assert picture.shape == (HEIGHT, WIDTH, 3)
    return jnp.zeros((1, 224, 320, 3)).at[0, :HEIGHT, :WIDTH].set(seeded.normalised(picture))


@pytest.mark.parametrize(("name", "grouping"), [("semfpn", "regions"), ("upernet", "whole")])
def test_a_segmentation(images, name, grouping):
    model, variables = seeded.narrow(name, grouping=grouping)
    logits = np.asarray(jax.jit(model.apply)(variables, images))[0, :HEIGHT, :WIDTH]
    assert seeded.deviation(logits[::7, ::9], GOLDEN[f"{name}/logits"]) < 1e-5
    first, second = np.sort(logits, axis=-1)[..., :-3:-1].T
    clear = (first - second > 1e-4).T
    assert clear.mean() > 0.999
    np.testing.assert_array_equal(logits.argmax(-1)[clear], GOLDEN[f"{name}/labels"][clear])


def found(model, variables, images):
    """One image's detections, as NumPy's arrays."""
    sizes = jnp.array([[HEIGHT, WIDTH]])
    result = jax.jit(lambda v, x: model.apply(v, x, sizes, method="detect"))(variables, images)
    assert int(result.count[0]) == 100
    return jax.tree.map(lambda part: np.asarray(part[0]), result)


def test_boxes(images):
    model, variables, _ = retinanet(grouping="whole")
    result = found(model, variables, images)
    np.testing.assert_array_equal(result.labels, GOLDEN["retinanet/labels"])
    np.testing.assert_allclose(result.scores, GOLDEN["retinanet/boxes"][:, 4], atol=1e-5)
    np.testing.assert_allclose(result.boxes, GOLDEN["retinanet/boxes"][:, :4], atol=1e-3)


def test_masks(images):
    model, variables, _ = mask_rcnn(grouping="regions")
    result = found(model, variables, images)
    np.testing.assert_array_equal(result.labels, GOLDEN["maskrcnn/labels"])
    np.testing.assert_allclose(result.scores, GOLDEN["maskrcnn/boxes"][:, 4], atol=1e-5)
    np.testing.assert_allclose(result.boxes, GOLDEN["maskrcnn/boxes"][:, :4], atol=1e-3)
    np.testing.assert_allclose(result.masks[:12], GOLDEN["maskrcnn/masks"], atol=1e-4)
