"""Overlays and figures, by their pixels."""

import numpy as np
import pytest

from crosscale.errors import RequestError
from crosscale.explain.coordinates import place
from crosscale.explain.draw import brightest, colours, figure, overlay, peak
from crosscale.models.description import Map, Placement
from crosscale.tasks.task import CaptionLine

LUMINANCE = np.array([0.299, 0.587, 0.114])


def test_colours_rise_in_lightness():
    ramp = colours(np.linspace(0, 1, 101))
    assert ramp.dtype == np.uint8
    assert (np.diff(ramp @ LUMINANCE) > 0).all()


def test_overlay_mixes_grey_and_colour():
    picture = np.full((4, 6, 3), (200, 10, 10), np.uint8)
    values = np.zeros((4, 6))
    values[1, 2] = 0.5
    grey = overlay(picture, values, 0.0)
    assert (grey == round(200 * 0.299 + 10 * 0.701)).all()
    alone = overlay(picture, values, 1.0)
    np.testing.assert_array_equal(alone[1, 2], colours(np.float64(1)))
    np.testing.assert_array_equal(alone[0, 0], colours(np.float64(0)))
    half = overlay(picture, values, 1.0, brightest=1.0)
    np.testing.assert_array_equal(half[1, 2], colours(np.float64(0.5)))


def test_overlay_of_an_empty_map_is_dark():
    assert overlay(np.zeros((2, 2, 1), np.uint8), np.zeros((2, 2)), 1.0).max() < 40


def test_overlay_refuses():
    with pytest.raises(RequestError, match="does not lie over"):
        overlay(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5)))
    with pytest.raises(RequestError, match=r"must lie in 0\.\.1"):
        overlay(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4)), 1.5)


def test_the_brightest_colour_is_the_peak_or_three_times_the_average():
    peaked = np.zeros((4, 4))
    peaked[1, 2] = 0.5
    assert brightest(peaked) == 0.5
    assert brightest(np.full((4, 4), 0.25)) == 0.75
    assert brightest(np.zeros((4, 4))) == 0


def test_an_even_map_does_not_look_like_attention():
    picture = np.zeros((224, 224, 3), np.uint8)
    drawn = np.asarray(figure(picture, [Map("a", "row", "scale", 4)], {"a": np.ones((224, 224))}, strength=1.0))
    panel = drawn[60:200, 14 + 224 + 14 + 10 : 14 + 224 + 14 + 200]
    assert (panel == 0).all()  # the grey of the picture, without a colour
    below = drawn[14 + 22 + 4 + 224 :, 14 + 224 + 14 :]
    assert (below < 200).any()  # a line says that it is almost even


def test_peak():
    assert peak(np.ones((3, 3))) == 1
    assert peak(np.zeros((3, 3))) == 0
    assert peak(np.diag([2.0, 0, 0, 0])) == 16


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_figure_has_a_column_per_scale_and_a_row_per_kind(channels):
    maps = [Map("a", "row 1", "small", 4), Map("b", "row 1", "large", 4), Map("c", "row 2", "large", 4)]
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, channels)).astype(np.uint8)
    values = {m.name: np.random.default_rng(i).random((32, 48)) for i, m in enumerate(maps)}
    name = "a very long name of a class that has to be cut " * 3
    lines = [CaptionLine(name, "75.0 %", 0.75), CaptionLine("b", "25.0 %", 0.25), CaptionLine("c", "3 g")]
    image = figure(picture, maps, values, lines)
    height, width = 32 * 7, 48 * 7  # the shorter side is at least 224 pixels, in whole multiples
    assert image.width > 3 * width
    assert image.height > 2 * height
    pixels = np.asarray(image)
    assert (pixels[:, :14] == 255).all()
    # the picture's own pixels, seven times as large, stand in the first column
    rgb = np.repeat(picture[..., :1], 3, -1) if channels == 1 else picture[..., :3]
    enlarged = rgb.repeat(7, 0).repeat(7, 1)
    first_column = pixels[:, 14 : 14 + width]
    tops = [y for y in range(60) if (first_column[y, :] == enlarged[0]).all()]
    assert tops
    np.testing.assert_array_equal(first_column[tops[0] : tops[0] + height], enlarged)
    small_column = pixels[-height // 2 :, 14 + width + 14 : 14 + 2 * width]
    assert (small_column == 255).all()  # the small scale has no second row
    assert (pixels[-height // 2 :, 14 + 2 * (width + 14) : 14 + 3 * width] < 255).any()


def test_a_position_is_marked_on_every_panel():
    maps = [Map("a", "row", "scale", 4)]
    picture = np.full((224, 224, 3), 128, np.uint8)
    plain, marked = (
        np.asarray(figure(picture, maps, {"a": np.ones((224, 224))}, position=position)).astype(int)
        for position in (None, (0.25, 0.75))
    )
    changed = np.argwhere((plain != marked).any(-1))
    in_picture = changed[changed[:, 1] < 14 + 224]
    assert len(in_picture) * 2 == len(changed)
    np.testing.assert_allclose(in_picture.mean(0), [38 + 56, 14 + 168], atol=2)


def test_place_takes_the_cell_over_each_pixels_centre():
    values = np.arange(6, dtype=np.float32).reshape(1, 2, 3) + 1
    placed = np.asarray(place(values, Placement((2, 3), (1, 0), (2, 1.5)), (6, 5)))[0]
    assert placed[0].tolist() == [0] * 5  # above the first row
    assert placed[1].tolist() == placed[2].tolist() == [1, 2, 2, 3, 0]
    assert placed[3].tolist() == placed[4].tolist() == [4, 5, 5, 6, 0]
    assert placed[5].tolist() == [0] * 5


def test_what_is_folded_is_drawn_only_where_all_is_asked_for():
    maps = [Map("a", "row 1", "small", 4), Map("b", "row 2", "small", 4, folded=True)]
    picture, values = np.zeros((224, 224, 3), np.uint8), {"a": np.eye(224), "b": np.eye(224)}
    plain, whole = figure(picture, maps, values), figure(picture, maps, values, folded=True)
    assert whole.height > plain.height
    assert figure(picture, maps[:1], values) == plain


def test_a_dark_sheet_differs_in_its_paper_and_text_alone():
    maps = [Map("a", "row", "small", 4)]
    picture, values = np.full((224, 224, 3), 90, np.uint8), {"a": np.eye(224)}
    light, dark = (np.asarray(figure(picture, maps, values, dark=dark)) for dark in (False, True))
    assert light.shape == dark.shape
    assert (light[0, 0] == 255).all()
    assert dark[0, 0].max() < 40
    panels = np.s_[40:264, 14 : 14 + 2 * 238 - 14]
    assert np.array_equal(light[panels][:, :224], dark[panels][:, :224])
    assert np.array_equal(light[panels][:, 238:], dark[panels][:, 238:])


def test_the_key_has_all_colours_in_order():
    drawn = np.asarray(figure(np.zeros((224, 224, 3), np.uint8), [Map("a", "row", "s", 4)], {"a": np.eye(224)}))
    ramp = colours(np.linspace(0, 1, 224))
    assert any(np.array_equal(row, ramp) for row in drawn[:, 14 : 14 + 224])
