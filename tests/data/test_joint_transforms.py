"""Pictures and labels changed together: which pixel goes where, which ranges are drawn, and what is the same twice."""

import colorsys
import pickle

import numpy as np
import pytest
from PIL import Image

from crosscale.contracts import InputSpec, Record
from crosscale.data.decode import BadImage
from crosscale.data.joint_augment import JointAugment
from crosscale.data.joint_transforms import (
    distorted,
    fitted,
    joint_transform,
    nearest,
    resize_labels,
)
from crosscale.data.mask_examples import SegmentationExamples
from crosscale.errors import RequestError

SPEC = InputSpec(size=(32, 48))


def noise(height, width, channels=3):
    shape = (height, width, channels) if channels == 3 else (height, width)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def plain(**changes):
    return JointAugment(**{"ratio": (1.0, 1.0), "max_class_share": 1.0, "hflip": 0.0, "photometric": False, **changes})


def drawn(transform, img, labels, count=40):
    return [transform(img, labels, np.random.default_rng(seed)) for seed in range(count)]


def test_sizes_are_those_of_the_released_evaluation():
    examples = SegmentationExamples(SPEC)
    # 640 x 480 -> 683 x 512 -> 704 x 512; height first here.
    assert fitted((480, 640), (2048, 512)) == (512, 683)
    assert examples.network_size((480, 640)) == (512, 704)
    assert examples.network_size((512, 683)) == (512, 704)
    assert examples.network_size((300, 4000)) == (160, 2048)  # the longest side binds: 154 -> 160
    assert examples.canvas((480, 640)) == (512, 640)
    assert examples.canvas((1, 129)) == (128, 256)
    assert fitted((100, 3), (50, 50)) == (50, 2)
    assert fitted((10_000, 1), (50, 50)) == (50, 1)


def test_labels_are_taken_at_the_floor_whole_and_in_part():
    for length, new in ((7, 5), (5, 7), (64, 128), (100, 33), (683, 512)):
        places = nearest(length, new)
        assert places.tolist() == [i * length // new for i in range(new)]
        assert nearest(length, new, 2, 3).tolist() == places[2:5].tolist()
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert resize_labels(labels, (2, 6)).tolist() == [[0, 0, 1, 2, 2, 3], [4, 4, 5, 6, 6, 7]]


def test_without_randomness_the_crop_is_cut_from_the_whole():
    img, labels = noise(80, 120), np.random.default_rng(1).integers(0, 9, (80, 120), np.uint8)
    transform = joint_transform(SPEC, plain(), (120, 80))
    places = set()
    for image, mask in drawn(transform, img, labels):
        assert image.shape == (32, 48, 3)
        assert mask.shape == (32, 48)
        found = [
            (top, left)
            for top in range(49)
            for left in range(73)
            if np.array_equal(labels[top : top + 32, left : left + 48], mask)
        ]
        assert len(found) == 1
        (top, left) = found[0]
        np.testing.assert_array_equal(image, np.asarray(img)[top : top + 32, left : left + 48])
        places.add((top, left))
    assert len(places) > 30
    assert min(top for top, _ in places) < 8
    assert max(top for top, _ in places) > 40


@pytest.mark.slow
@pytest.mark.parametrize("scale", [(240, 160), (90, 60), (400, 400)])
def test_a_crop_is_a_part_of_the_resized_whole(scale):
    """Picture and labels each equal the whole one, resized, at the same place."""
    smooth = noise(9, 12).resize((120, 90), Image.Resampling.BICUBIC)
    labels = np.asarray(noise(9, 12, 1).resize((120, 90), Image.Resampling.NEAREST))
    height, width = fitted((90, 120), scale)
    whole = np.asarray(smooth.resize((width, height), Image.Resampling.BILINEAR)).astype(int)
    whole_labels = resize_labels(labels, (height, width))
    transform = joint_transform(SPEC, plain(), scale)
    for image, mask in drawn(transform, smooth, labels, 6):
        fits = [
            np.abs(whole[top : top + 32, left : left + 48] - image).max() <= 2  # two passes in single precision
            for top in range(height - 31)
            for left in range(width - 47)
            if np.array_equal(whole_labels[top : top + 32, left : left + 48], mask)
        ]
        assert any(fits)


def test_the_ratio_covers_its_range():
    """How large the picture became is read off a ramp of labels."""
    labels = np.repeat(np.arange(100, dtype=np.uint8)[None], 100, 0)
    transform = joint_transform(InputSpec(size=(8, 8)), plain(ratio=(0.5, 2.0)), (100, 100))
    steps = []
    for _, mask in drawn(transform, Image.new("RGB", (100, 100)), labels, 300):
        steps.append((int(mask[0, -1]) - int(mask[0, 0])) / 7)
    scales = 1 / np.array(steps)
    assert scales.min() < 0.6
    assert 1.7 < scales.max() < 2.5
    assert abs(np.mean(scales > 1.25) - 0.5) < 0.12  # uniform, not log-uniform


def test_what_is_smaller_than_the_crop_is_filled_up():
    spec = InputSpec(size=(32, 48), mean=(0.5, 0.0, 1.0))
    labels = np.full((16, 24), 3, np.uint8)
    image, mask = joint_transform(spec, plain(), (24, 16))(noise(16, 24), labels, np.random.default_rng(0))
    assert (mask[:16, :24] == 3).all()
    assert (mask[16:] == 255).all()
    assert (mask[:, 24:] == 255).all()
    assert (image[16:] == (128, 0, 255)).all()
    np.testing.assert_array_equal(image[:16, :24], np.asarray(noise(16, 24)))


def test_flips_turn_both():
    img = noise(32, 48)
    labels = np.asarray(img)[:, :, 0] // 2
    flipped = 0
    for image, mask in drawn(joint_transform(SPEC, plain(hflip=0.3), (48, 32)), img, labels, 300):
        np.testing.assert_array_equal(image[:, :, 0] // 2, mask)
        flipped += not np.array_equal(mask, labels)
    assert abs(flipped / 300 - 0.3) < 0.08


def test_a_crop_of_one_class_is_drawn_again():
    """Nine tenths of the picture is class 0; ignored pixels do not count."""
    labels = np.zeros((320, 320), np.uint8)
    labels[:, 288:] = 1
    labels[:32] = 255
    spec = InputSpec(size=(32, 32))
    shares = {}
    for most in (1.0, 0.75):
        transform = joint_transform(spec, plain(max_class_share=most), (320, 320))
        masks = [mask for _, mask in drawn(transform, Image.new("L", (320, 320)).convert("RGB"), labels, 200)]
        counts = [np.bincount(mask.ravel(), minlength=256)[:255] for mask in masks]
        shares[most] = np.mean([count.max() < 0.75 * count.sum() for count in counts])
    # A draw has both, none above 75 %, about once in 18 times: eleven draws find one in about 46 % of the cases.
    assert shares[1.0] < 0.15
    assert 0.3 < shares[0.75] < 0.65


def test_photometric_changes_stay_in_their_ranges():
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    levels = np.array([np.asarray(distorted(grey, np.random.default_rng(seed)))[0, 0, 0] for seed in range(600)], float)
    assert (np.abs(levels - 100) < 1).mean() == pytest.approx(0.25, abs=0.06)  # neither brightness nor contrast
    assert levels.min() >= (100 - 32) * 0.5 - 2
    assert levels.max() <= (100 + 32) * 1.5
    assert levels.min() < 50
    assert levels.max() > 160


def test_saturation_and_hue_are_those_of_hsv():
    """A picture of all kinds of colours, against the standard library, a pixel at a time."""
    from crosscale.data.joint_transforms import _colours

    pixels = np.random.default_rng(1).integers(0, 256, (24, 24, 3), np.uint8)
    pixels[:4] = pixels[:4, :, :1]  # greys
    pixels[4, :, 1] = pixels[4, :, 0]  # two channels largest or smallest
    pixels[5], pixels[6] = 0, 255
    for saturation, hue in ((1.0, 7), (1.0, -18), (1.0, 17), (1.5, 0), (0.5, 0), (1.4, -9), (0.6, 15)):
        found = np.asarray(_colours(Image.fromarray(pixels), saturation, hue)).reshape(-1, 3)
        for before, after in zip(pixels.reshape(-1, 3) / 255, found, strict=True):
            h, s, v = colorsys.rgb_to_hsv(*before)
            wanted = colorsys.hsv_to_rgb((h + hue / 180) % 1, min(1, s * saturation), v)
            assert np.abs(np.array(wanted) * 255 - after).max() < 0.51


def test_hue_turns_by_at_most_36_degrees():
    red = Image.new("RGB", (4, 4), (200, 0, 0))
    hues = []
    for seed in range(400):
        r, g, b = np.asarray(distorted(red, np.random.default_rng(seed)))[0, 0] / 255
        hues.append((colorsys.rgb_to_hsv(r, g, b)[0] + 0.5) % 1 * 360 - 180)
    assert -40 < min(hues) < -25  # a level of a dark, pale red is some degrees
    assert 25 < max(hues) < 40


def test_grey_pictures():
    spec = InputSpec(size=(16, 16), channels=1, mean=(0.5,), std=(0.5,))
    image, mask = joint_transform(spec, JointAugment(), (32, 32))(
        noise(32, 32, 1), np.zeros((32, 32), np.uint8), np.random.default_rng(0)
    )
    assert image.shape == (16, 16, 1)
    assert mask.shape == (16, 16)


@pytest.mark.parametrize("shape", [(1, 1), (3, 400), (90, 64)])
def test_examples_of_any_picture_have_one_shape_and_depend_on_the_generator_alone(shape):
    examples = SegmentationExamples(SPEC, JointAugment(), scale=(120, 60))
    copy = pickle.loads(pickle.dumps(examples))
    labels = np.random.default_rng(0).integers(0, 5, shape, np.uint8)
    record = Record("a", np.asarray(noise(*shape)), labels)
    for seed in range(20):
        found = examples.train(record, np.random.default_rng(seed))
        assert {name: (array.shape, array.dtype) for name, array in found.items()} == {
            name: (array.shape, array.dtype) for name, array in examples.blank().items()
        }
        again = copy.train(record, np.random.default_rng(seed))
        for name, array in found.items():
            np.testing.assert_array_equal(array, again[name])


@pytest.mark.parametrize("shape", [(60, 90), (128, 129), (90, 31)])
def test_validation_keeps_the_labels_own_resolution(shape):
    examples = SegmentationExamples(SPEC, scale=(256, 64), step=32)
    labels = np.random.default_rng(0).integers(0, 5, shape, np.uint8)
    found = examples.validation(Record("a", np.asarray(noise(*shape)), labels))
    key = examples.shape_key(shape)
    assert {name: (array.shape, array.dtype) for name, array in found.items()} == {
        name: (array.shape, array.dtype) for name, array in examples.blank(key).items()
    }
    height, width = shape
    assert found["size"].tolist() == [height, width]
    np.testing.assert_array_equal(found["mask"][:height, :width], labels)
    assert (found["mask"] == 255).sum() == found["mask"].size - labels.size
    size = examples.network_size(shape)
    assert not any(side % 32 for side in size)
    wanted = noise(*shape).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found["image"], np.asarray(wanted))


def test_crop_of_its_own_size():
    examples = SegmentationExamples(SPEC, JointAugment(crop=(16, 24)), scale=(48, 32))
    record = Record("a", np.asarray(noise(32, 48)), np.zeros((32, 48), np.uint8))
    assert examples.train(record, np.random.default_rng(0))["image"].shape == (16, 24, 3)
    assert examples.blank()["mask"].shape == (16, 24)


def test_what_cannot_work_is_refused():
    for changes in (
        {"ratio": (2.0, 0.5)},
        {"max_class_share": 0.0},
        {"hflip": 2.0},
        {"crop": (0, 8)},
        {"scale": (8, 9)},
    ):
        with pytest.raises(RequestError, match=next(iter(changes))):
            JointAugment(**changes)
    with pytest.raises(RequestError, match=r"scale=\[32, 64\]"):
        SegmentationExamples(SPEC, scale=(32, 64))
    record = Record("street.jpg", np.asarray(noise(8, 8)), np.zeros((8, 9), np.uint8))
    with pytest.raises(BadImage, match=r"street.jpg: 8 x 8 pixels, with labels of shape \(8, 9\)"):
        SegmentationExamples(SPEC).validation(record)
