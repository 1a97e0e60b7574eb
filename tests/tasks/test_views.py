"""Sliding windows, mirror images and scales against plain formulas."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.cli.main import main
from crosscale.errors import RequestError
from crosscale.tasks.registry import TASKS
from crosscale.tasks.segmentation import Segmentation
from crosscale.tasks.segmentation.options import SegmentationOptions
from crosscale.tasks.segmentation.views import Views, looked_at

CLASSES = 3
IMAGES = np.random.default_rng(0).normal(size=(2, 96, 160, 2)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).normal(size=(2, CLASSES)).astype(np.float32)


def apply(images: Any) -> Any:
    """A model of four pixels a cell whose answer depends on what else it sees, and on left and right."""
    batch, height, width, channels = images.shape
    cells = images.reshape(batch, height // 4, 4, width // 4, 4, channels).mean((2, 4))
    cells = cells - images.mean((1, 2), keepdims=True) + 0.5 * jnp.roll(cells, 1, 2)
    return 3 * cells @ WEIGHTS


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def slid(images: np.ndarray, window: int, stride: int) -> np.ndarray:
    """As mmsegmentation's slide_inference places the windows: the last one ends with the picture."""
    total, count = np.zeros((2, 24, 40, CLASSES)), np.zeros((24, 40, 1))
    for row in range(max(96 - window + stride - 1, 0) // stride + 1):
        for column in range(max(160 - window + stride - 1, 0) // stride + 1):
            bottom, right = min(row * stride + window, 96), min(column * stride + window, 160)
            top, left = max(bottom - window, 0), max(right - window, 0)
            area = (slice(top // 4, bottom // 4), slice(left // 4, right // 4))
            total[:, *area] += np.asarray(apply(images[:, top:bottom, left:right]))
            count[area] += 1
    assert count.min() >= 1
    return total / count


def test_one_view_is_the_model_s_own_answer() -> None:
    np.testing.assert_array_equal(looked_at(apply, IMAGES, Views()), apply(IMAGES))
    np.testing.assert_array_equal(looked_at(apply, IMAGES, Views(window=(512, 512))), apply(IMAGES))


@pytest.mark.parametrize(("window", "stride"), [(64, 32), (64, 64), (32, 32), (128, 96)])
def test_windows_that_overlap_are_averaged(window: int, stride: int) -> None:
    views = Views(window=(window, window), window_stride=(stride, stride))
    found = jax.jit(lambda images: looked_at(apply, images, views))(IMAGES)
    np.testing.assert_allclose(found, slid(IMAGES, window, stride), atol=1e-5)


def test_a_step_of_two_thirds_is_the_default() -> None:
    assert Views(window=(512, 256)).stride == (352, 160)
    default, given = (Views(window=(64, 64), window_stride=stride) for stride in (None, (32, 32)))
    np.testing.assert_array_equal(looked_at(apply, IMAGES, default), looked_at(apply, IMAGES, given))


def test_flips_are_the_mean_of_probabilities() -> None:
    mirrored = np.asarray(apply(IMAGES[:, :, ::-1]))[:, :, ::-1]
    wanted = (softmax(np.asarray(apply(IMAGES))) + softmax(mirrored)) / 2
    found = looked_at(apply, IMAGES, Views(test_flip=True))
    np.testing.assert_allclose(np.exp(found), wanted, atol=1e-5)


def test_scales_flips_and_windows_together() -> None:
    views = Views(window=(64, 64), window_stride=(32, 32), test_flip=True, test_scales=(0.5, 1.0, 1.4))
    total = np.zeros((2, 24, 40, CLASSES))
    plain = Views(window=(64, 64), window_stride=(32, 32))
    for height, width in ((64, 96), (96, 160), (160, 224)):  # 48, 80 and 134.4, 224 raised
        x = jax.image.resize(IMAGES, (2, height, width, 2), "linear")
        for turn in (slice(None), slice(None, None, -1)):
            cells = looked_at(apply, x[:, :, turn], plain)[:, :, turn]
            total += softmax(np.asarray(jax.image.resize(cells, total.shape, "linear", antialias=False)))
    np.testing.assert_allclose(np.exp(looked_at(apply, IMAGES, views)), total / 6, atol=1e-5)


def test_windows_are_computed_one_after_the_other() -> None:
    """The program holds one window's forward, whatever their number, so that memory does not grow with it."""
    views = Views(window=(32, 32), window_stride=(32, 32), test_flip=False)
    large = np.zeros((1, 320, 320, 2), np.float32)
    text = str(jax.make_jaxpr(lambda images: looked_at(apply, images, views))(large))
    assert text.count("dot_general") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": (100, 128)}, r"task\.window=\[100, 128\]: both sides must be multiples of 32"),
        ({"window": (64, 64), "window_stride": (32, 30)}, r"task\.window_stride=\[32, 30\]: both sides"),
        ({"window_stride": (32, 32)}, r"task\.window_stride=\[32, 32\] goes with task\.window"),
        ({"window": (64, 64), "window_stride": (96, 64)}, r"would leave gaps"),
        ({"test_scales": ()}, r"task\.test_scales is empty"),
        ({"test_scales": (0.0,)}, r"task\.test_scales=.*must be positive"),
    ],
)
def test_views_that_cannot_be_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        SegmentationOptions(**options)


def test_the_artifact_keeps_the_views_and_a_trained_model_takes_others() -> None:
    options = SegmentationOptions(window=(64, 64), test_scales=(1.0, 1.25))
    task = Segmentation(("a", "b"), ((0, 0, 0), (9, 9, 9)), options=options)
    again = Segmentation.from_artifact(task.labels, task.artifact_options())
    assert again.options.views == options.views
    other = again.with_options({"test_flip": True, "window": None})
    assert (other.options.window, other.options.test_flip, other.options.test_scales) == (None, True, (1.0, 1.25))
    assert "views" not in Segmentation(("a", "b"), ((0, 0, 0), (9, 9, 9))).artifact_options()
    with pytest.raises(RequestError, match=r"task\.dice does not go with a trained model of the task segmentation"):
        again.with_options({"dice": 1.0})
    plain = TASKS["classification"].from_artifact(["a", "b"], {})
    with pytest.raises(RequestError, match=r"task\.window does not go with a trained model of the task classification"):
        plain.with_options({"window": (64, 64)})


def test_views_without_a_run_or_of_the_wrong_kind_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["validate", "--model", "crossvit_9_240", "--weights", "w.safetensors", "--data-dir", "photos"]
    assert main([*words, "--task.window", "[64, 64]"]) == 2
    assert capsys.readouterr().err.strip().endswith("--task.window goes with --run")
    assert main(["validate", "--run", "nowhere", "--task.test_flip", "perhaps"]) == 2
    assert "task.test_flip: expected true or false, got 'perhaps'" in capsys.readouterr().err
