"""Boxes beside the reference's recorded answers, and the same rules written out plainly."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.layers import boxes as ours

GOLDEN = dict(np.load(Path(__file__).parents[1] / "golden" / "detection" / "operations.npz"))
SCALES = {"retina": tuple(4 * 2 ** (i / 3) for i in range(3)), "rpn": (8.0,)}
GRIDS = [(3, 5), (2, 3), (1, 2), (1, 1), (1, 1)]


@pytest.mark.parametrize(("name", "finest"), [("retina", 8), ("rpn", 4)])
def test_anchors_are_the_references(name, finest):
    for level, cells in enumerate(GRIDS):
        stride = finest * 2**level
        base = ours.base_anchors(stride, SCALES[name], (0.5, 1.0, 2.0))
        np.testing.assert_allclose(base, GOLDEN[f"anchors/{name}/base_{level}"], rtol=1e-6)
        np.testing.assert_allclose(
            ours.grid_anchors(cells, stride, base), GOLDEN[f"anchors/{name}/grid_{level}"], rtol=1e-6
        )


def test_overlaps_are_the_references():
    np.testing.assert_allclose(ours.box_iou(GOLDEN["iou/a"], GOLDEN["iou/b"]), GOLDEN["iou/iou"], atol=1e-6)


def test_generalised_overlap_of_apart_touching_and_equal_boxes():
    a = jnp.array([[0.0, 0, 2, 2], [0, 0, 1, 1], [1, 1, 3, 3], [0, 0, 0, 0]])
    b = jnp.array([[0.0, 0, 2, 2], [1, 0, 2, 1], [5, 1, 7, 3], [0, 0, 0, 0]])
    # Apart: nothing in common, and 4 of the 12 pixels around both belong to neither.
    np.testing.assert_allclose(ours.generalized_box_iou(a, b), [1, 0, -4 / 12, 0], atol=1e-6)


@pytest.mark.parametrize(("name", "std"), [("unit", (1.0,) * 4), ("rcnn", (0.1, 0.1, 0.2, 0.2))])
def test_coding_is_the_references(name, std):
    boxes, deltas = jnp.asarray(GOLDEN["coder/boxes"]), jnp.asarray(GOLDEN["coder/deltas"])
    some = len(GOLDEN[f"coder/{name}/encoded"])  # the others have no area
    encoded = ours.encode_boxes(jnp.asarray(GOLDEN["coder/targets"])[:some], boxes[:some], std)
    np.testing.assert_allclose(encoded, GOLDEN[f"coder/{name}/encoded"], rtol=1e-5, atol=1e-5)
    decoded = ours.decode_boxes(deltas, boxes, std)
    np.testing.assert_allclose(decoded, GOLDEN[f"coder/{name}/decoded"], rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(ours.decode_boxes(encoded, boxes[:some], std), GOLDEN["coder/targets"][:some], atol=1e-3)


def test_clipped_to_a_picture():
    box = jnp.array([[-5.0, -3, 50, 60], [10, 10, 20, 20]])
    np.testing.assert_array_equal(ours.clip_boxes(box, jnp.array([30, 40])), [[0, 0, 40, 30], [10, 10, 20, 20]])


SETTINGS = {
    "retina": (0.5, 0.4, 0.0, True),
    "rpn": (0.7, 0.3, 0.3, True),
    "rcnn": (0.5, 0.5, 0.5, True),
    "rcnn_no_low_quality": (0.5, 0.5, 0.5, False),
}


def matched(name, overlaps, real):
    positive, negative, lowest, low_quality = SETTINGS[name]
    return jax.jit(
        lambda overlaps, real: ours.match_boxes(
            overlaps, real, positive=positive, negative=negative, lowest=lowest, low_quality=low_quality
        )
    )(overlaps, real)


@pytest.mark.parametrize("name", SETTINGS)
def test_matches_are_the_references(name):
    overlaps = GOLDEN["assign/iou"]
    filled = np.concatenate([overlaps, np.full((3, overlaps.shape[1]), 0.99, np.float32)])
    real = np.arange(len(filled)) < len(overlaps)
    np.testing.assert_array_equal(matched(name, filled, real), GOLDEN[f"assign/{name}"])
    assert (matched(name, filled, np.zeros(len(filled), bool)) == 0).all()


def test_a_box_that_overlaps_nothing_takes_everything_only_where_it_is_there():
    """The reference's rule with a lowest overlap of 0, as RetinaNet has it."""
    overlaps = GOLDEN["assign/iou"]
    first_four = matched("retina", overlaps, np.arange(5) < 4)
    np.testing.assert_array_equal(first_four, GOLDEN["assign/retina_first_4_boxes"])
    assert (GOLDEN["assign/retina"] == 5).sum() == 79


def test_candidates_that_take_no_part_count_for_nothing():
    overlaps = jnp.array([[0.9, 0.8, 0.1]])
    taking = jnp.array([False, True, True])
    found = ours.match_boxes(overlaps, jnp.array([True]), positive=0.7, negative=0.3, lowest=0.3, candidates=taking)
    np.testing.assert_array_equal(found, [-1, 1, 0])


@pytest.mark.parametrize(("positives", "background"), [(100, 400), (3, 400), (0, 5), (0, 0), (400, 2)])
def test_a_sample_has_the_wanted_share(positives, background):
    kinds = np.full(600, -1)
    kinds[:positives], kinds[positives : positives + background] = 2, 0
    kinds = np.random.default_rng(0).permutation(kinds)
    sample = jax.jit(lambda key: ours.sample_boxes(key, jnp.asarray(kinds), 64, 0.25))
    indices, real = map(np.asarray, sample(jax.random.key(0)))
    assert (indices.shape, real.shape) == ((64,), (64,))
    chosen = indices[real]
    assert len(set(chosen)) == len(chosen)
    wanted = min(positives, 16)
    assert (kinds[chosen] == 2).sum() == wanted
    assert (kinds[chosen] == 0).sum() == min(background, 64 - wanted)
    if background > 64:
        assert set(chosen) != set(np.asarray(sample(jax.random.key(1))[0]))
