import math
import pickle

import numpy as np
import pytest
from PIL import Image

from crosscale.contracts import InputSpec
from crosscale.data import Augment, eval_transform, train_transform
from crosscale.data.transforms import random_crop_box
from crosscale.errors import RequestError


def picture(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def test_eval_is_resize_then_centre_crop():
    img = picture(300, 401)
    found = eval_transform(InputSpec(size=(240, 240), crop_pct=0.875))(img)
    resized = np.asarray(img.resize((int(274 * 401 / 300), 274), Image.Resampling.BICUBIC))
    left = round((resized.shape[1] - 240) / 2)
    np.testing.assert_array_equal(found, resized[17:257, left : left + 240])


def test_eval_keeps_pixels_when_nothing_is_to_do():
    img = picture(32, 32)
    np.testing.assert_array_equal(eval_transform(InputSpec(size=(32, 32), crop_pct=1.0))(img), np.asarray(img))


@pytest.mark.parametrize("size", [(240, 240), (96, 320), (33, 64)])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (375, 500), (20, 300)])
@pytest.mark.parametrize("channels", [1, 3])
def test_eval_gives_the_size_asked_for(size, shape, channels):
    img = picture(*shape).convert("L" if channels == 1 else "RGB")
    found = eval_transform(InputSpec(size=size, channels=channels))(img)
    assert found.shape == (*size, channels)
    assert found.dtype == np.uint8


def test_eval_of_a_sliver_needs_little_memory_and_equals_the_whole():
    """A 2 x 20,000 picture would become 274 x 2.7 million when resized whole."""
    img = picture(2, 20_000)
    transform = eval_transform(InputSpec(size=(240, 240)))
    found = transform(img).astype(int)
    # The centre is the same when the far ends, which no filter reaches, are cut off.
    short = transform(img.crop((9_900, 0, 10_100, 2))).astype(int)
    assert abs(found - short).max() <= 1


def test_eval_interpolation():
    img = picture(50, 50)
    found = {
        name: eval_transform(InputSpec(size=(20, 20), interpolation=name))(img).tobytes()
        for name in ("nearest", "bilinear", "bicubic", "lanczos")
    }
    assert len(set(found.values())) == 4


def test_wrong_specs():
    with pytest.raises(RequestError, match="one of nearest, bilinear"):
        eval_transform(InputSpec(interpolation="cubic"))
    with pytest.raises(RequestError, match="crop_pct"):
        eval_transform(InputSpec(crop_pct=1.5))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (64, 48)])
def test_train_gives_the_size_asked_for(shape, channels):
    img = picture(*shape).convert("L" if channels == 1 else "RGB")
    spec = InputSpec(size=(24, 40), channels=channels, mean=(0.5,) * channels, std=(0.5,) * channels)
    transform = train_transform(spec, Augment(interpolation="random", vflip=0.5))
    for seed in range(30):
        found = transform(img, np.random.default_rng(seed))
        assert found.shape == (24, 40, channels)
        assert found.dtype == np.uint8


def test_train_depends_on_the_generator_alone():
    transform = train_transform(InputSpec(size=(24, 24)), Augment())
    copy = pickle.loads(pickle.dumps(transform))
    img = picture(64, 48)
    found = [transform(img, np.random.default_rng(seed)) for seed in range(8)]
    for seed in range(8):
        np.testing.assert_array_equal(found[seed], copy(img, np.random.default_rng(seed)))
    assert len({array.tobytes() for array in found}) == 8


def test_no_augmentation_is_the_resized_picture():
    img = picture(64, 48)
    found = train_transform(InputSpec(size=(24, 24)), Augment.none())(img, np.random.default_rng(0))
    np.testing.assert_array_equal(found, np.asarray(img.resize((24, 24), Image.Resampling.BICUBIC)))


def plain(**changes):
    return Augment(scale=(1.0, 1.0), ratio=(1.0, 1.0), auto_augment=None, color_jitter=0.0, **changes)


def test_flips():
    img = picture(16, 16)
    for flip, axis in (("hflip", 1), ("vflip", 0)):
        augment = plain(**{"hflip": 0.0, "vflip": 0.0, flip: 0.3})
        transform = train_transform(InputSpec(size=(16, 16)), augment)
        flipped = 0
        for seed in range(400):
            found = transform(img, np.random.default_rng(seed))
            is_flipped = not np.array_equal(found, np.asarray(img))
            if is_flipped:
                np.testing.assert_array_equal(found, np.flip(np.asarray(img), axis))
            flipped += is_flipped
        assert abs(flipped / 400 - 0.3) < 0.08


def test_color_jitter_gives_way_to_auto_augment():
    img = picture(16, 16)
    spec = InputSpec(size=(16, 16))
    jitter = Augment(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0, auto_augment=None, color_jitter=0.4)
    found = {train_transform(spec, jitter)(img, np.random.default_rng(s)).tobytes() for s in range(20)}
    assert len(found) == 20
    never = Augment(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0, auto_augment="rand-m9-p0", color_jitter=0.4)
    for seed in range(20):
        found = train_transform(spec, never)(img, np.random.default_rng(seed))
        np.testing.assert_array_equal(found, np.asarray(img))


def test_random_crop_covers_the_ranges_uniformly():
    rng = np.random.default_rng(0)
    boxes = np.array([random_crop_box((500, 500), (0.08, 0.5), (3 / 4, 4 / 3), rng) for _ in range(4000)])
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 500).all()
    assert (left + width <= 500).all()
    area = height * width / 500**2
    # Uniform in 0.08..0.5: mean 0.29, standard deviation 0.42 / sqrt(12); four standard errors.
    assert abs(area.mean() - 0.29) < 4 * 0.1212 / math.sqrt(4000)
    assert abs(area.std() - 0.1212) < 0.005
    log_ratio = np.log(width / height)
    assert abs(log_ratio.mean()) < 0.012
    assert abs(log_ratio.std() - math.log(16 / 9) / math.sqrt(12)) < 0.006


def test_crop_that_never_fits_falls_back_to_the_centre():
    rng = np.random.default_rng(0)
    assert random_crop_box((1000, 10), (1.0, 1.0), (3 / 4, 4 / 3), rng) == (0, 493, 10, 13)
    assert random_crop_box((10, 1000), (1.0, 1.0), (3 / 4, 4 / 3), rng) == (493, 0, 13, 10)


WIDE = np.concatenate([np.full((20, 40, 3), 200, np.uint8), np.full((20, 40, 3), 50, np.uint8)], 1)  # 20 x 80


def test_pad_shows_the_whole_picture_with_the_mean_colour_around():
    spec = InputSpec(size=(40, 40), crop_pct=1.0, crop_mode="pad", interpolation="nearest")
    found = eval_transform(spec)(Image.fromarray(WIDE))
    np.testing.assert_array_equal(found[15:25, :20], np.full((10, 20, 3), 200))
    np.testing.assert_array_equal(found[15:25, 20:], np.full((10, 20, 3), 50))
    assert (found[:15] == (124, 116, 104)).all()
    assert (found[25:] == (124, 116, 104)).all()


def test_squash_gives_the_ratio_up():
    found = eval_transform(InputSpec(size=(40, 30), crop_pct=1.0, crop_mode="squash"))(Image.fromarray(WIDE))
    np.testing.assert_array_equal(found, np.asarray(Image.fromarray(WIDE).resize((30, 40), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize("mode", ["pad", "squash"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875, 0.01])
def test_the_other_modes_give_the_size_asked_for(mode, crop_pct):
    for shape in ((1, 1), (1, 900), (900, 2), (37, 53)):
        for channels, mean in ((1, (0.5,)), (3, (0.5, 0.4, 0.3))):
            img = picture(*shape).convert("L" if channels == 1 else "RGB")
            spec = InputSpec((24, 40), channels, mean, mean, crop_pct=crop_pct, crop_mode=mode)
            assert eval_transform(spec)(img).shape == (24, 40, channels)


def test_an_unknown_mode_is_refused():
    with pytest.raises(RequestError, match="crop_mode='border': one of center, pad, squash"):
        eval_transform(InputSpec(crop_mode="border"))
