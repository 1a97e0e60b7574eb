import dataclasses
import math

import numpy as np
import pytest
from PIL import Image

from crosscale.data import Augment
from crosscale.data.augment import RandAugmentPolicy
from crosscale.data.rand_augment import OPERATIONS, RandAugment
from crosscale.errors import RequestError


def test_policy_of_the_recipes():
    policy = RandAugmentPolicy.parse("rand-m9-mstd0.5-inc1")
    assert policy == RandAugmentPolicy(magnitude=9, num_layers=2, prob=0.5, magnitude_std=0.5, increasing=True)


def test_policy_parts():
    found = RandAugmentPolicy.parse("rand-p0.25-n3-mmax20-m15-mstd101-inc0")
    assert found == RandAugmentPolicy(15, 3, 0.25, math.inf, 20, False)


@pytest.mark.parametrize(
    "text",
    [
        "rand-m9-w0",
        "rand-m9-m8",
        "rand-m99",
        "rand-m9.5",
        "rand-n0",
        "rand-p2",
        "rand-",
        "v0",
        "augmix-m3-w3",
        "rand-tweights",
        "",
        "rand-inc2",
        "rand-minf",
    ],
)
def test_policy_that_is_not_supported_is_refused(text):
    with pytest.raises(RequestError, match="auto_augment="):
        Augment(auto_augment=text)


@pytest.mark.parametrize(
    "field",
    [
        {"hflip": 1.5},
        {"erase_prob": -0.1},
        {"mixup": -1.0},
        {"color_jitter": -0.1},
        {"scale": (0.5, 0.1)},
        {"scale": (0.0, 1.0)},
        {"ratio": (2.0, 1.0)},
        {"interpolation": "cubic"},
        {"mix_mode": "half"},
    ],
)
def test_values_that_cannot_work_are_named(field):
    with pytest.raises(RequestError, match=f"augment.{next(iter(field))}="):
        Augment(**field)


def test_none_switches_everything_off():
    assert not Augment.none().mixes
    assert Augment().mixes
    assert dataclasses.asdict(Augment.none())["auto_augment"] is None


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_operations_work_at_every_level(name, increasing, mode, photo):
    fill = 128 if mode == "L" else (124, 116, 104)
    policy = RandAugmentPolicy(increasing=increasing)
    augment = RandAugment(policy, fill, (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC))
    img = photo.convert(mode)
    rng = np.random.default_rng(0)
    for level in (0.0, 0.1, 5.0, 9.0, 10.0):
        found = augment.apply(name, img, level, rng)
        assert (found.mode, found.size) == (img.mode, img.size)


def test_increasing_operations_change_nothing_at_zero_and_much_at_ten(photo):
    augment = RandAugment(RandAugmentPolicy(increasing=True), (0, 0, 0), (Image.Resampling.BICUBIC,))
    rng = np.random.default_rng(0)
    original = np.asarray(photo).astype(int)

    def change(name, level):
        return abs(np.asarray(augment.apply(name, photo, level, rng)).astype(int) - original).mean()

    for name in (
        "Rotate",
        "ShearX",
        "ShearY",
        "TranslateX",
        "TranslateY",
        "Color",
        "Contrast",
        "Brightness",
        "Sharpness",
        "Solarize",
        "SolarizeAdd",
    ):
        assert change(name, 0.0) < 1.0, name
        assert change(name, 10.0) > (0.2 if name == "Sharpness" else 2.0), name  # it leaves flat areas alone


def test_fill_shows_where_a_picture_was_moved_away(photo):
    augment = RandAugment(RandAugmentPolicy(), (1, 2, 3), (Image.Resampling.NEAREST,))
    moved = np.asarray(augment.apply("TranslateX", photo, 10.0, np.random.default_rng(0)))
    columns = (moved == (1, 2, 3)).all(axis=(0, 2))
    assert columns.sum() in (28, 29)  # 0.45 x 64 pixels


def test_how_often_and_how_strongly(photo):
    policy = RandAugmentPolicy.parse("rand-m9-n2-p0.5-mstd0.5-inc1")
    augment = RandAugment(policy, (0, 0, 0), (Image.Resampling.BICUBIC,))
    rng = np.random.default_rng(0)
    levels = np.array([augment._level(rng) for _ in range(4000)])
    assert levels.max() == 10.0
    assert abs(np.median(levels) - 9) < 0.05
    small = photo.resize((8, 8))
    untouched = sum(augment(small, rng) is small for _ in range(1000))
    assert abs(untouched / 1000 - 0.25) < 0.05
