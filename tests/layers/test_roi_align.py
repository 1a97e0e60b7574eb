"""RoIAlign and pasted masks beside the reference's recorded answers."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.layers.kernels import use_kernels
from crosscale.layers.roi_align import paste_masks, pyramid_levels, roi_align
from tests.layers.test_boxes import GOLDEN

ROIS = GOLDEN["roi/rois"]
# One of the boxes is longer than the map several times over, which a picture's clipped boxes never are.
WITHIN = np.flatnonzero((ROIS[:, 3:] - ROIS[:, 1:3]).max(1) <= 28 * 8)


@pytest.mark.slow
@pytest.mark.parametrize("size", [7, 14])
def test_values_and_gradients_are_the_references(size):
    (outside,) = np.setdiff1d(np.arange(len(ROIS)), WITHIN)
    batch, boxes = jnp.asarray(ROIS[WITHIN, 0], jnp.int32), jnp.asarray(ROIS[WITHIN, 1:])
    align = jax.jit(lambda features: roi_align([features], boxes, batch, strides=[8], size=size))
    found, back = jax.vjp(align, jnp.asarray(GOLDEN["roi/features"]))
    np.testing.assert_allclose(found, GOLDEN[f"roi/out_{size}_ratio_0"][WITHIN], atol=1e-5)
    probe = np.random.RandomState(zlib.crc32(f"roi/cotangent_{size}_0".encode()))
    cotangent = probe.standard_normal((len(ROIS), 3, size, size)).astype(np.float32).transpose(0, 2, 3, 1)
    (gradient,) = back(jnp.asarray(cotangent[WITHIN]))
    image = 1 - int(ROIS[outside, 0])  # the box that is left out reads the other image alone
    np.testing.assert_allclose(gradient[image], GOLDEN[f"roi/grad_{size}_ratio_0"][image], atol=1e-4)


@pytest.mark.slow
def test_each_box_reads_its_own_level():
    rng = np.random.default_rng(0)
    maps = [jnp.asarray(rng.normal(size=(2, 16 >> level, 24 >> level, 4)), jnp.float32) for level in range(3)]
    corners = rng.uniform(0, 30, (70, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + rng.uniform(1, 33, (70, 2)).astype(np.float32)], 1)
    batch, levels = rng.integers(0, 2, 70), rng.integers(0, 3, 70)
    strides = [4, 8, 16]
    found = jax.jit(lambda *args: roi_align(maps, *args[:2], strides=strides, size=3, levels=args[2]))(
        boxes, batch, levels
    )
    for level in range(3):
        own = levels == level
        alone = roi_align([maps[level]], boxes[own], batch[own], strides=strides[level : level + 1], size=3)
        np.testing.assert_allclose(found[own], alone, atol=1e-6)


@pytest.mark.slow
def test_a_constant_map_gives_the_constant_inside():
    features = jnp.full((1, 40, 40, 1), 3.0)
    boxes = jnp.array([[8.0, 8, 300, 20], [16, 16, 17, 300], [100, 100, 101, 101]])
    found = roi_align([features], boxes, jnp.zeros(3, jnp.int32), strides=[8], size=2)
    np.testing.assert_allclose(found, 3.0, rtol=1e-6)


def test_levels_are_the_references():
    rois = GOLDEN["levels/rois"]
    np.testing.assert_array_equal(pyramid_levels(jnp.asarray(rois[:, 1:]), 4), GOLDEN["levels/level"])


@pytest.mark.slow
def test_targets_of_masks_are_the_references():
    """Cut-outs of bitmaps: RoIAlign at the bitmap's own size, and what is at least one half."""
    masks = jnp.asarray(GOLDEN["mask_target/masks"], jnp.float32)[..., None]
    index = jnp.asarray(GOLDEN["mask_target/index"])
    height, width = masks.shape[1:3]
    boxes = np.clip(GOLDEN["mask_target/boxes"], 0, [width, height, width, height]).astype(np.float32)
    soft = np.asarray(roi_align([masks], jnp.asarray(boxes), index, strides=[1], size=28))[..., 0]
    np.testing.assert_allclose(soft[:6], GOLDEN["mask_target/soft"], atol=1e-5)
    wrong = (soft >= 0.5) != GOLDEN["mask_target/target"].astype(bool)
    assert (np.abs(soft[wrong] - 0.5) < 1e-4).all()
    assert wrong.sum() <= GOLDEN["mask_target/near_half"][0]


def test_pasted_masks_are_the_references():
    masks, boxes = jnp.asarray(GOLDEN["paste/masks"]), jnp.asarray(GOLDEN["paste/boxes"])
    soft = np.asarray(paste_masks(masks, boxes, (50, 70)))
    np.testing.assert_allclose(soft, GOLDEN["paste/soft"], atol=1e-5)
    wrong = (soft >= 0.5) != GOLDEN["paste/hard"].astype(bool)
    assert (np.abs(soft[wrong] - 0.5) < 1e-4).all()


def test_nothing_is_drawn_into_a_box_without_area():
    boxes = jnp.array([[2.0, 3, 2, 9], [2, 3, 8, 3], [0, 0, 0, 0]])
    assert not np.asarray(paste_masks(jnp.ones((3, 4, 4)), boxes, (10, 12))).any()


@pytest.mark.slow
def test_one_box_after_another_gives_the_same():
    """The form that an ONNX file holds, in all windows that a map has."""
    rng = np.random.default_rng(0)
    maps = [jnp.asarray(rng.normal(size=(1, 24, 32, 2)), jnp.float32), jnp.asarray(rng.normal(size=(1, 12, 16, 2)))]
    boxes = jnp.array([[1, 2, 20, 30], [0, 0, 128, 96], [5, 5, 5, 9], [10, 3, 70, 20], [90, 80, 127, 95]], jnp.float32)
    batch, levels = jnp.zeros(5, jnp.int32), jnp.array([0, 1, 0, 0, 1])

    def read():
        return jax.jit(lambda m, b: roi_align(m, b, batch, strides=(4, 8), size=3, levels=levels))(maps, boxes)

    together = read()
    with use_kernels(rows="loop"):
        np.testing.assert_allclose(read(), together, atol=1e-6)
    assert np.abs(together).max(axis=(1, 2, 3)).tolist().count(0) == 1  # that of the box without width
