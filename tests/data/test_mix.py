import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.data import Augment
from crosscale.data.mix import erase, mix

B, H, W, CLASSES = 6, 12, 10, 7


@pytest.fixture(scope="module")
def batch():
    # Each picture holds its own number, so that shares can be read off the pixels.
    images = jnp.broadcast_to(jnp.arange(1.0, B + 1)[:, None, None, None], (B, H, W, 3))
    return images, jnp.arange(B)


def mixer(smoothing=0.0, **changes):
    augment = Augment(**changes)
    function = jax.jit(functools.partial(mix, num_classes=CLASSES, label_smoothing=smoothing, augment=augment))

    def run(batch, seed, weight=None):
        return tuple(np.asarray(part) for part in function(jax.random.key(seed), *batch, weight=weight))

    return run


def mixed(batch, seed, smoothing=0.0, weight=None, **changes):
    return mixer(smoothing, **changes)(batch, seed, weight)


def own_share(targets):
    return targets[np.arange(B), np.arange(B)]


def test_off_is_one_hot_with_smoothing(batch):
    images, targets = mixed(batch, 0, 0.1, mixup=0.0, cutmix=0.0)
    np.testing.assert_array_equal(images, batch[0])
    expected = np.full((B, CLASSES), 0.1 / CLASSES)
    expected[np.arange(B), np.arange(B)] += 0.9
    np.testing.assert_allclose(targets, expected, rtol=1e-6)
    images, _ = mixed(batch, 0, mix_prob=0.0)
    np.testing.assert_array_equal(images, batch[0])


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize(
    "kind", [{"mixup": 0.8, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}]
)
def test_targets_are_the_shares_of_the_pixels(batch, mode, kind):
    mix_batch = mixer(mix_mode=mode, **kind)
    for seed in range(4):
        images, targets = mix_batch(batch, seed)
        np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-5)
        own, partner = np.arange(1, B + 1), np.arange(B, 0, -1)
        share = own_share(targets)
        expected = own * share + partner * (1 - share)
        np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), expected, rtol=1e-4)


@pytest.mark.slow
def test_modes_share_their_draws(batch):
    for mode, groups in (("batch", 1), ("pair", 3), ("elem", 6)):
        _, targets = mixed(batch, 1, mixup=0.8, cutmix=0.0, mix_mode=mode)
        assert len(np.unique(np.round(own_share(targets), 6))) == groups, mode
    share = own_share(mixed(batch, 1, mixup=0.8, cutmix=0.0, mix_mode="pair")[1])
    np.testing.assert_allclose(share, share[::-1])


def test_cutmix_pastes_one_rectangle(batch):
    cut_some = False
    cut = mixer(mixup=0.0, cutmix=1.0)
    for seed in range(8):
        images, targets = cut(batch, seed)
        foreign = images[0, :, :, 0] == B
        rows, columns = foreign.any(axis=1), foreign.any(axis=0)
        assert foreign.sum() == rows.sum() * columns.sum()
        assert np.isclose(1 - targets[0, 0], foreign.mean(), atol=1e-6)
        cut_some |= 0 < foreign.sum() < H * W
    assert cut_some


def test_how_often(batch):
    augment = Augment(mixup=0.8, cutmix=1.0, mix_prob=0.6, mix_switch_prob=0.25, mix_mode="elem")
    function = functools.partial(mix, num_classes=CLASSES, label_smoothing=0.0, augment=augment)
    images, labels = batch
    found, _ = jax.jit(jax.vmap(lambda key: function(key, images, labels)))(jax.random.split(jax.random.key(0), 500))
    blended = np.asarray((found != jnp.round(found)).any(axis=(2, 3, 4))).mean()
    assert abs(blended - 0.6 * 0.75) < 0.04


@pytest.mark.slow
def test_odd_batches_mix(batch):
    images, labels = batch[0][:5], batch[1][:5]
    for mode in ("batch", "pair"):
        augment = Augment(mix_mode=mode)
        function = functools.partial(mix, num_classes=CLASSES, label_smoothing=0.0, augment=augment)
        found, targets = jax.jit(function)(jax.random.key(0), images, labels)
        assert found.shape == images.shape
        np.testing.assert_allclose(found[2], images[2], rtol=1e-6)  # the middle one is its own partner
        np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-5)


def test_a_missing_partner_is_not_mixed_in(batch):
    weight = jnp.ones(B).at[5].set(0.0)
    for kind in ({"mixup": 0.8, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}):
        images, targets = mixed(batch, 3, weight=weight, **kind)
        np.testing.assert_array_equal(images[0], batch[0][0])
        assert targets[0, 0] == 1
        assert targets[1, 1] < 1


def test_precision_is_kept(batch):
    images, labels = batch
    found, targets = jax.jit(mix, static_argnames=("num_classes", "label_smoothing", "augment"))(
        jax.random.key(0),
        images.astype(jnp.bfloat16),
        labels,
        num_classes=7,
        label_smoothing=0.1,
        augment=Augment(),
    )
    assert (found.dtype, targets.dtype) == (jnp.bfloat16, jnp.float32)


def test_erase_off_is_identity(batch):
    assert erase(jax.random.key(0), batch[0], 0.0) is batch[0]


def test_what_fills_an_erased_rectangle():
    images = jnp.full((8, 40, 40, 3), 9.0)
    kinds = {mode: np.asarray(erase(jax.random.key(0), images, 1.0, mode=mode)) for mode in ("pixel", "rand", "const")}
    colours = {
        mode: [np.unique(found[i][(found[i] != 9.0).any(axis=-1)], axis=0) for i in range(len(images))]
        for mode, found in kinds.items()
    }
    assert all(len(each) > 25 for each in colours["pixel"])
    assert [len(each) for each in colours["rand"]] == [1] * 8
    assert len(np.unique(np.concatenate(colours["rand"]), axis=0)) == 8  # another colour for each picture
    assert all((each == 0).all() for each in colours["const"])


def test_erase_statistics():
    images = jnp.full((400, 40, 40, 3), 9.0)
    found = np.asarray(jax.jit(erase, static_argnums=2)(jax.random.key(0), images, 0.25))
    erased = (found != 9.0).any(axis=-1)
    touched = erased.any(axis=(1, 2))
    assert abs(touched.mean() - 0.25) < 0.08
    shares, logs = [], []
    for picture in erased[touched]:
        rows, columns = picture.any(axis=1).sum(), picture.any(axis=0).sum()
        assert picture.sum() == rows * columns  # one full rectangle
        shares.append(picture.mean())
        logs.append(np.log(rows / columns))
    assert 0.015 <= min(shares) < max(shares) <= 0.35
    assert abs(np.mean(shares) - (0.02 + 1 / 3) / 2) < 0.04
    assert max(np.abs(logs)) < np.log(1 / 0.3) + 0.3
    noise = found[erased]
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
