"""Operations of detection beside torchvision's own, on thousands of random boxes with ties and without areas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.layers import boxes as ours
from crosscale.layers.nms import best_nms, nms
from crosscale.layers.roi_align import pyramid_levels, roi_align

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def torchvision():
    """The peer; timm brings it, built for another torch at times, which its operators then refuse."""
    pytest.importorskip("torch")
    try:
        import torchvision.ops as peer
    except RuntimeError as error:
        pytest.skip(f"torchvision does not fit torch: {error}")
    return peer


def given(values):
    import torch

    return torch.from_numpy(np.asarray(values))


def boxes(rng, count, whole=False):
    """Boxes within 100 pixels; on whole pixels many are equal, and some have no area."""
    corners = np.sort(rng.uniform(0, 100, (count, 2, 2)), 1).reshape(count, 4).astype(np.float32)
    return np.round(corners / 10) * 10 if whole else corners


@pytest.mark.parametrize("whole", [False, True])
def test_overlaps(torchvision, whole):
    a, b = (boxes(np.random.default_rng(seed), 2000, whole) for seed in (0, 1))
    real = (a[:, 2:] > a[:, :2]).all(1) & (b[:, 2:] > b[:, :2]).all(1)  # theirs divides by nothing for two without area
    found = jax.jit(ours.box_iou)(a, b)
    wanted = np.nan_to_num(torchvision.box_iou(given(a), given(b)).numpy())
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    paired = np.diag(torchvision.generalized_box_iou(given(a[real]), given(b[real])).numpy())
    np.testing.assert_allclose(jax.jit(ours.generalized_box_iou)(a[real], b[real]), paired, atol=1e-5)


@pytest.mark.parametrize("whole", [False, True])
def test_suppression(torchvision, whole):
    """Equal scores go by the lower index in both; 0 / 0 suppresses nothing in both."""
    import torchvision.extension

    # NMS is compiled, without a form in Python beside it, and a build for another torch imports without it.
    if not torchvision.extension._has_ops():
        pytest.skip("torchvision's compiled operators do not fit this torch")
    all_of_them, the_best = jax.jit(nms), jax.jit(best_nms, static_argnums=3)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        given_boxes, scores = boxes(rng, 200, whole), np.round(rng.random(200), 1 if whole else 7).astype(np.float32)
        order = np.argsort(-scores, kind="stable")  # theirs leaves open in which order equal scores come
        sorted_boxes, sorted_scores = given_boxes[order], np.linspace(1, 0.5, 200, dtype=np.float32)
        wanted = torchvision.nms(given(sorted_boxes), given(sorted_scores), 0.5).numpy()
        found = np.asarray(all_of_them(given_boxes, scores, 0.5))
        np.testing.assert_array_equal(np.flatnonzero(found[order]), wanted)
        chosen, real = the_best(given_boxes, scores, 0.5, 200)
        np.testing.assert_array_equal(np.asarray(chosen)[np.asarray(real)], order[wanted])


@pytest.mark.parametrize("size", [7, 14])
def test_roi_align(torchvision, size):
    rng = np.random.default_rng(size)
    maps = [rng.standard_normal((2, 48 >> level, 64 >> level, 3)).astype(np.float32) for level in range(3)]
    found_boxes = boxes(rng, 1000) * np.float32(1.9)
    found_boxes[:50, 2] = found_boxes[:50, 0]  # without width
    batch = rng.integers(0, 2, 1000)
    levels = np.asarray(pyramid_levels(jnp.asarray(found_boxes), 3, 20.0))
    align = jax.jit(lambda *args: roi_align(args[:3], *args[3:5], strides=(4, 8, 16), size=size, levels=args[5]))
    found = align(*maps, found_boxes, batch, levels)
    rois = np.concatenate([batch[:, None].astype(np.float32), found_boxes], 1)
    for level, stride in enumerate((4, 8, 16)):
        own = levels == level
        assert own.sum() > 50
        features = given(maps[level].transpose(0, 3, 1, 2).copy())
        wanted = torchvision.roi_align(features, given(rois[own]), size, 1 / stride, 0, True).numpy()
        np.testing.assert_allclose(found[own], wanted.transpose(0, 2, 3, 1), atol=1e-4)
