"""COCO's masks: run lengths and polygons become the pixels that COCO's own tools count."""

import sys

import numpy as np
import pytest

from crosscale.data.coco_masks import bitmap, compressed, run_lengths, sound_polygons
from crosscale.errors import RequestError


def test_run_lengths_go_down_the_columns_and_begin_with_zeros():
    mask = np.array([[1, 0, 0], [1, 1, 0]], bool)
    assert run_lengths(mask) == {"size": [2, 3], "counts": [0, 2, 1, 1, 2]}
    assert run_lengths(~mask) == {"size": [2, 3], "counts": [2, 1, 1, 2]}
    assert run_lengths(np.zeros((2, 2), bool)) == {"size": [2, 2], "counts": [4]}


def test_polygons_need_three_corners():
    square = [1.0, 1, 5, 1, 5, 5]
    assert sound_polygons([[1, 1, 5, 5], square, [1, 2, 3, 4, 5, 6, 7], [], [1, 1, 5, 5, float("nan"), 2]]) == [square]


@pytest.mark.parametrize("counts", [[2, 3], [2, 30], [2, -1, 11], [1.5, 10.5], ["12"], [[12]], []])
def test_run_lengths_that_do_not_add_up(counts):
    with pytest.raises(ValueError, match="run lengths that do not add up to 4 x 3 pixels"):
        bitmap({"size": [3, 4], "counts": counts}, (3, 4))


def test_run_lengths_as_a_list_need_no_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval.core", None)
    mask = np.random.default_rng(0).random((5, 7)) < 0.5
    np.testing.assert_array_equal(bitmap(run_lengths(mask), (5, 7)), mask)
    with pytest.raises(ValueError, match="run lengths of 4 x 3 pixels"):
        bitmap({"size": [3, 4], "counts": [12]}, (4, 3))
    with pytest.raises(RequestError, match="pip install 'crosscale"):
        bitmap([[0, 0, 4, 0, 4, 4]], (5, 7))


class TestWithTheLibrary:
    @pytest.fixture(autouse=True)
    def library(self):
        return pytest.importorskip("faster_coco_eval.core.mask")

    @pytest.mark.parametrize("seed", range(5))
    def test_run_lengths_there_and_back(self, seed, library):
        rng = np.random.default_rng(seed)
        mask = rng.random(rng.integers(1, 30, 2)) < rng.random()
        stored = run_lengths(mask)
        np.testing.assert_array_equal(bitmap(stored, mask.shape), mask)
        packed = library.encode(np.asfortranarray(mask.astype(np.uint8)))
        for counts in (packed["counts"], packed["counts"].decode()):
            np.testing.assert_array_equal(bitmap({"size": list(mask.shape), "counts": counts}, mask.shape), mask)

    def test_a_polygon_covers_its_pixels(self):
        square = [2.0, 3, 7, 3, 7, 5, 2, 5]
        expected = np.zeros((8, 10), bool)
        expected[3:5, 2:7] = True
        np.testing.assert_array_equal(bitmap([square], (8, 10)), expected)

    def test_a_polygon_of_two_points_covers_nothing(self):
        assert not bitmap([[1.0, 1, 5, 5]], (8, 10)).any()  # COCO's own functions take four numbers for a box

    @pytest.mark.parametrize("counts", ["zzz", "06", "\u00e9", ""])
    def test_damaged_run_lengths_are_refused(self, counts):
        with pytest.raises(ValueError, match=r"RLE|run lengths"):
            bitmap({"size": [3, 4], "counts": counts}, (3, 4))


def test_compressed_run_lengths_are_the_library_s():
    """Of random bitmaps, full ones and empty ones, whole and as parts of a picture, whose columns touch or not."""
    library, rng = pytest.importorskip("faster_coco_eval.core.mask"), np.random.default_rng(0)
    for number in range(200):
        size = int(rng.integers(1, 9)), int(rng.integers(1, 9))
        whole = np.zeros(size, bool)
        top, left = (int(rng.integers(0, side)) for side in size)
        part = rng.random((size[0] - top, size[1] - left)) < (0, 0.3, 0.9, 1.1)[number % 4]
        whole[top:, left:] = part
        wanted = library.encode(np.asfortranarray(whole, np.uint8))
        assert compressed(part, size, (top, left)) == compressed(whole)
        assert compressed(whole) == {"size": list(size), "counts": wanted["counts"].decode()}
    assert compressed(np.zeros((0, 0), bool), (3, 4)) == compressed(np.zeros((3, 4), bool))
