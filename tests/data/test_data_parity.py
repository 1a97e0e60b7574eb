"""Pixels against timm's own transforms; needs torch and timm."""

import sys
import types

import numpy as np
import pytest
from PIL import Image, ImageOps

from crosscale.contracts import InputSpec
from crosscale.data.auto_augment import MIXED, TABLES, AugMix
from crosscale.data.picture_operations import RAND_AUGMENT, Applied
from crosscale.data.policies import AutoAugmentPolicy, RandAugmentPolicy, parse_policy
from crosscale.data.rand_augment import RandAugment
from crosscale.data.transforms import eval_transform

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def timm_data():
    pytest.importorskip("torch")
    # torchvision's registrations need compiled operators that CPU-only builds may lack.
    sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))
    return pytest.importorskip("timm.data")


@pytest.mark.parametrize(
    ("size", "crop_pct"),
    [((240, 240), 0.875), ((408, 408), 1.0), ((224, 224), 0.9), ((192, 640), 0.875), ((64, 33), 0.875)],
)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
def test_evaluation_is_bit_equal(timm_data, size, crop_pct, interpolation):
    theirs = timm_data.create_transform(
        (3, *size), is_training=False, crop_pct=crop_pct, interpolation=interpolation, normalize=False
    )
    ours = eval_transform(InputSpec(size=size, crop_pct=crop_pct, interpolation=interpolation))
    rng = np.random.default_rng(0)
    shapes = [(375, 500), (500, 333), (240, 240), (274, 274), (1, 1), (17, 400), (408, 612), (5, 3)]
    for height, width in shapes:
        img = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        np.testing.assert_array_equal(ours(img), theirs(img).numpy().transpose(1, 2, 0))


@pytest.mark.parametrize(("ours_mode", "theirs_mode"), [("pad", "border"), ("squash", "squash")])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
def test_the_other_crop_modes_are_bit_equal(timm_data, ours_mode, theirs_mode, crop_pct):
    rng = np.random.default_rng(0)
    for size in ((224, 224), (192, 640), (64, 33)):
        options = {"crop_pct": crop_pct, "interpolation": "bicubic"}
        theirs = timm_data.create_transform((3, *size), crop_mode=theirs_mode, normalize=False, **options)
        ours = eval_transform(InputSpec(size=size, crop_mode=ours_mode, **options))
        for height, width in [(375, 500), (500, 333), (240, 240), (17, 400), (408, 611), (5, 3)]:
            img = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
            np.testing.assert_array_equal(ours(img), theirs(img).numpy().transpose(1, 2, 0))


WITH_INCREASING = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")


@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("name", RAND_AUGMENT)
def test_rand_augment_operations_are_bit_equal(timm_data, monkeypatch, photo, name, increasing):
    from timm.data import auto_augment

    theirs_name = {"TranslateX": "TranslateXRel", "TranslateY": "TranslateYRel"}.get(name, name)
    if increasing and name in WITH_INCREASING:
        theirs_name += "Increasing"
    fill, resample = (124, 116, 104), Image.Resampling.BICUBIC
    ours = RandAugment(RandAugmentPolicy(increasing=increasing), fill, (resample,))
    for level in (0.0, 1.3, 2.6, 5.0, 7.7, 9.0, 9.9, 10.0):
        hparams = {"translate_const": 100, "img_mean": fill, "interpolation": resample}
        operation = auto_augment.AugmentOp(theirs_name, prob=1.0, magnitude=level, hparams=hparams)
        expected = set()
        for draw in (0.1, 0.9):  # either sign
            monkeypatch.setattr(auto_augment.random, "random", lambda draw=draw: draw)
            try:
                expected.add(operation(photo).tobytes())
            except ValueError:  # zero bits left: refused by current Pillow, one bit here
                expected.add(ImageOps.posterize(photo, 1).tobytes())
        found = {ours.apply(name, photo, level, np.random.default_rng(seed)).tobytes() for seed in range(12)}
        assert found == expected, level


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_timms(timm_data, name):
    from timm.data import auto_augment

    renamed = {"TranslateYRel": "TranslateY"}
    for text, std in ((name, 0), (f"{name}-mstd0.5", 0.5)):
        theirs = auto_augment.auto_augment_transform(text, {})
        rows = [tuple((renamed.get(op.name, op.name), op.prob, op.magnitude) for op in row) for row in theirs.policy]
        assert rows == list(TABLES[name])
        assert {op.magnitude_std for row in theirs.policy for op in row} == {std}
        assert parse_policy(text) == AutoAugmentPolicy(name, std)


@pytest.mark.parametrize("name", ["PosterizeOriginal", "Desaturate", "GaussianBlurRand"])
def test_operations_of_the_tables_are_bit_equal(timm_data, monkeypatch, photo, name):
    from timm.data import auto_augment

    applied = Applied((124, 116, 104), (Image.Resampling.BICUBIC,))
    for level in (0.0, 1.3, 5.0, 7.7, 10.0):
        operation = auto_augment.AugmentOp(name, prob=1.0, magnitude=level)
        for seed in range(4):
            draw = np.random.default_rng(seed).random()  # the one that ours takes
            monkeypatch.setattr(auto_augment.random, "uniform", lambda a, b, draw=draw: a + (b - a) * draw)
            found = applied(name, photo, level, np.random.default_rng(seed))
            np.testing.assert_array_equal(np.asarray(found), np.asarray(operation(photo)))


class Scripted:
    """A generator that gives what AugMix asks for, in the place of NumPy's, and the same to timm."""

    def __init__(self, weights, share, chains):
        self.weights, self.share, self.chains = weights, share, iter(chains)

    def dirichlet(self, alpha):
        return np.asarray(self.weights)

    def beta(self, a, b):
        return self.share

    def integers(self, low, high=None, size=None):
        return np.array(next(self.chains)) if size is not None else 2

    def random(self):
        return 0.1  # no sign is turned


@pytest.mark.parametrize("chains", [[(0, 5), (1, 8)], [(6, 9), (11, 12)], [(2, 3), (4, 7)], [(10, 10), (8, 0)]])
def test_augmix_is_bit_equal(timm_data, monkeypatch, photo, chains):
    from timm.data import auto_augment

    weights, share, text = [0.3, 0.7], 0.6, "augmix-m7-w2-d2-mstd0"
    fill, resample = (124, 116, 104), Image.Resampling.BICUBIC
    hparams = {"img_mean": fill, "interpolation": resample, "translate_pct": 0.3}
    theirs = auto_augment.augment_and_mix_transform(text, dict(hparams))
    assert [op.name.replace("Rel", "") for op in theirs.ops] == list(MIXED)
    drawn = iter(chains)
    monkeypatch.setattr(np.random, "dirichlet", lambda alpha: np.asarray(weights))
    monkeypatch.setattr(np.random, "beta", lambda a, b: share)
    monkeypatch.setattr(np.random, "choice", lambda ops, depth, replace: [ops[place] for place in next(drawn)])
    monkeypatch.setattr(auto_augment.random, "random", lambda: 0.1)
    expected = theirs(photo)
    found = AugMix(parse_policy(text), fill, (resample,))(photo, Scripted(weights, share, chains))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    default = auto_augment.augment_and_mix_transform("augmix", dict(hparams))
    ours = parse_policy("augmix")
    assert (default.width, default.depth, default.alpha) == (ours.width, -1, ours.alpha)
    assert {(op.magnitude, op.magnitude_std) for op in default.ops} == {(ours.magnitude, ours.magnitude_std)}
