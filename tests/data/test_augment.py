import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from crosscale.contracts import InputSpec
from crosscale.data import Augment
from crosscale.data.auto_augment import TABLES, AugMix, AutoAugment
from crosscale.data.picture_operations import OPERATIONS
from crosscale.data.policies import AugMixPolicy, AutoAugmentPolicy, RandAugmentPolicy, parse_policy
from crosscale.data.rand_augment import RandAugment
from crosscale.data.transforms import train_transform
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
        "v1",
        "v0-m9",
        "3a-mstd101",
        "originalr-mstd1-mstd2",
        "augmix-m3-w0",
        "augmix-m3-d2.5",
        "augmix-b1",
        "augmix-a0",
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
    levels = np.array([augment.level(rng) for _ in range(4000)])
    assert levels.max() == 10.0
    assert abs(np.median(levels) - 9) < 0.05
    small = photo.resize((8, 8))
    untouched = sum(augment(small, rng) is small for _ in range(1000))
    assert abs(untouched / 1000 - 0.25) < 0.05


def test_policies_beside_rand_augment():
    assert parse_policy("original-mstd0.5") == AutoAugmentPolicy("original", 0.5)
    assert parse_policy("3a") == AutoAugmentPolicy("3a")
    assert parse_policy("augmix-m5-w4-d2") == AugMixPolicy(5, 4, 2)
    assert parse_policy("augmix-mstd0-a0.5") == AugMixPolicy(alpha=0.5, magnitude_std=0.0)


@pytest.mark.parametrize("text", [*TABLES, "original-mstd2", "augmix", "augmix-m8-w2-d3-mstd1"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_policy_is_a_whole_training_transform(text, channels, photo):
    spec = InputSpec((24, 24), channels, (0.5,) * channels, (0.2,) * channels)
    transform = train_transform(spec, Augment(auto_augment=text, interpolation="random"))
    img = photo.convert("L" if channels == 1 else "RGB")
    found = [transform(img, np.random.default_rng(seed)) for seed in range(30)]
    assert {(array.shape, array.dtype.name) for array in found} == {((24, 24, channels), "uint8")}
    np.testing.assert_array_equal(found[3], transform(img, np.random.default_rng(3)))
    assert len({array.tobytes() for array in found}) == 30


@pytest.fixture
def applied(monkeypatch):
    """Names of the operations as they are applied, which then do nothing; with their levels."""
    seen = []
    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, lambda img, level, draw, name=name: seen.append((name, level)) or img)
    return seen


def test_rows_of_a_table_are_drawn_evenly_and_their_parts_by_their_chances(applied):
    augment = AutoAugment(AutoAugmentPolicy("v0"), (0, 0, 0), (Image.Resampling.BICUBIC,))
    rng, img = np.random.default_rng(0), Image.new("RGB", (2, 2))
    for _ in range(5000):
        augment(img, rng)
    counts = Counter(name for name, _ in applied)
    expected = Counter()
    for name, chance, _ in (part for row in TABLES["v0"] for part in row):
        expected[name] += 5000 / 25 * chance
    for name, times in expected.items():
        assert abs(counts[name] - times) < 4 * math.sqrt(times) + 1, name
    assert {level for name, level in applied if name == "TranslateY"} == {9}


def test_chains_of_augmix_have_one_to_three_operations_of_uniform_levels(applied):
    augment = AugMix(parse_policy("augmix-m6"), (0, 0, 0), (Image.Resampling.BICUBIC,))
    rng, img = np.random.default_rng(0), Image.new("RGB", (2, 2), (90, 20, 200))
    lengths = Counter()
    for _ in range(300):
        before = len(applied)
        found = np.asarray(augment(img, rng))
        lengths[len(applied) - before] += 1
        assert abs(found.astype(int) - (90, 20, 200)).max() <= 1  # weights of sum 1, cut to whole levels
    assert min(lengths) == 3
    assert max(lengths) == 9
    levels = np.array([level for _, level in applied])
    assert abs(levels.mean() - 3) < 0.2
    assert 5.8 < levels.max() <= 6


def test_colour_jitter_follows_3_augment_alone(photo):
    def seen(text, jitter):
        augment = Augment((1.0, 1.0), (1e-6, 1e6), hflip=0.0, color_jitter=jitter, auto_augment=text)
        return {
            train_transform(InputSpec((8, 8)), augment)(photo, np.random.default_rng(s)).tobytes() for s in range(9)
        }

    assert seen("3a", 0.3).isdisjoint(seen("3a", 0.0))
    assert seen("v0", 0.3) == seen("v0", 0.0)
