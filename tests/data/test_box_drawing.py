"""Boxes over pictures: where they are, in which colours, and labels that stay within."""

from itertools import pairwise

import numpy as np
from PIL import Image

from crosscale.data.box_drawing import class_colours, draw_boxes

GREY = Image.new("RGB", (120, 90), (128, 128, 128))
RED = (255, 0, 0)


def drawn(*boxes, texts=None, **options):
    texts = texts or [""] * len(boxes)
    return np.asarray(draw_boxes(GREY, np.array(boxes, float).reshape(-1, 4), texts, [RED] * len(boxes), **options))


def test_colours_are_bright_and_all_different():
    colours = class_colours(200)
    assert len({*colours}) == 200
    assert all(max(colour) >= 190 for colour in colours)
    near = [np.abs(np.subtract(a, b)).sum() for a, b in pairwise(colours)]
    assert min(near) > 60


def test_a_box_is_its_outline():
    red = (drawn((10, 20, 60, 70)) == RED).all(-1)
    expected = np.zeros((90, 120), bool)
    expected[20:70, 10:60] = True
    expected[21:69, 11:59] = False
    np.testing.assert_array_equal(red, expected)


def test_a_label_stays_in_the_picture():
    for box in ((0, 0, 30, 30), (100, 80, 119, 89), (60, 0, 119, 10), (-50, -50, 500, 500)):
        changed = (drawn(box, texts=["a long name of a class"]) != 128).any(-1)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert rows[-1] - rows[0] >= 10
        assert columns[-1] - columns[0] >= 60


def test_a_crowds_line_is_broken():
    whole, broken = ((drawn((10, 20, 60, 70), dashed=[d]) == RED).all(-1) for d in (False, True))
    assert 0.3 < broken.sum() / whole.sum() < 0.8
    rows, columns = np.flatnonzero(broken.any(1)), np.flatnonzero(broken.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (20, 69, 10, 59)


def test_masks_are_mixed_with_the_picture():
    mask = np.zeros((90, 120), bool)
    mask[30:40, 30:50] = True
    found = drawn((10, 20, 60, 70), masks=[mask])
    np.testing.assert_array_equal(found[35, 35], [185, 70, 70])
    np.testing.assert_array_equal(found[45, 35], [128, 128, 128])


def test_boxes_that_no_number_holds_are_drawn_to_the_edge():
    assert drawn((1e300, -1e300, 1e300, 1e300)).shape == (90, 120, 3)
