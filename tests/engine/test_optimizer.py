"""Learning rates at hand-computed points; decay, freezing and scaling by parameter name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.engine.optimizer import make_optimizer, make_schedule
from crosscale.engine.settings import OptimizerSettings, ScheduleSettings
from crosscale.errors import RequestError
from crosscale.trees import flatten

PARAMS = {
    "block": {"dense": {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full((2,), 2.0)}},
    "embed": {"cls": jnp.full((1, 1, 2), 2.0), "position": jnp.full((1, 3, 2), 2.0)},
    "head": {"kernel": jnp.full((2, 2), 2.0)},
}
ZEROS = jax.tree.map(jnp.zeros_like, PARAMS)
ONES = jax.tree.map(jnp.ones_like, PARAMS)


def directions(settings: OptimizerSettings, grads: object) -> dict[str, np.ndarray]:
    optimizer = make_optimizer(settings, PARAMS)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(PARAMS), PARAMS)
    return {name: np.asarray(value) for name, value in flatten(updates).items()}


def rates(schedule: ScheduleSettings, steps: list[int], **optimizer: object) -> list[float]:
    rate = make_schedule(schedule, OptimizerSettings(**optimizer), batch_size=64, steps_per_epoch=10, epochs=10)
    return [float(rate(jnp.int32(step))) for step in steps]


def test_cosine_with_warm_up_at_known_points() -> None:
    schedule = ScheduleSettings(warmup_epochs=2, warmup_lr=1e-4, min_lr=1e-3)
    got = rates(schedule, [0, 10, 20, 60, 100], lr=1e-2)
    np.testing.assert_allclose(got, [1e-4, (1e-4 + 1e-2) / 2, 1e-2, (1e-2 + 1e-3) / 2, 1e-3], rtol=1e-5)


def test_per_epoch_holds_the_rate_within_an_epoch() -> None:
    schedule = ScheduleSettings(warmup_epochs=0, per="epoch")
    got = rates(schedule, [30, 35, 39, 40], lr=1e-2)
    assert got[0] == got[1] == got[2] > got[3]


def test_constant_stays_after_the_warm_up() -> None:
    got = rates(ScheduleSettings("constant", warmup_epochs=1, warmup_lr=0.0, min_lr=0.0), [0, 10, 99], lr=1e-2)
    np.testing.assert_allclose(got, [0.0, 1e-2, 1e-2], rtol=1e-6)


def test_learning_rate_scales_with_the_batch() -> None:
    got = rates(ScheduleSettings("constant", warmup_epochs=0), [0], lr=1e-2, lr_base_batch=32)
    np.testing.assert_allclose(got, [2e-2], rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (ScheduleSettings(warmup_epochs=11), "warmup_epochs=11 is longer than train.epochs=10"),
        (ScheduleSettings(warmup_lr=1.0), "schedule.warmup_lr=1.0 is above"),
        (ScheduleSettings(min_lr=1.0), "schedule.min_lr=1.0 is above"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(schedule: ScheduleSettings, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        rates(schedule, [0])


def test_decay_spares_biases_class_tokens_and_positions() -> None:
    got = directions(OptimizerSettings(weight_decay=0.1), ZEROS)
    decayed = {name for name, value in got.items() if np.any(value != 0)}
    assert decayed == {"block/dense/kernel", "head/kernel"}
    np.testing.assert_allclose(got["head/kernel"], 0.2, rtol=1e-6)


def test_the_first_step_of_adam_is_the_sign_of_the_gradient() -> None:
    got = directions(OptimizerSettings(weight_decay=0.0), jax.tree.map(lambda x: -3 * x, ONES))
    for value in got.values():
        np.testing.assert_allclose(value, -1.0, rtol=1e-5)


def test_sgd_adds_the_decay_to_the_gradient_before_the_momentum() -> None:
    optimizer = make_optimizer(OptimizerSettings("sgd", weight_decay=0.1, momentum=0.5), PARAMS)
    state = optimizer.init(PARAMS)
    first, state = optimizer.update(ONES, state, PARAMS)
    second, _ = optimizer.update(ONES, state, PARAMS)
    np.testing.assert_allclose(first["head"]["kernel"], 1.2, rtol=1e-6)
    np.testing.assert_allclose(second["head"]["kernel"], 1.2 + 0.5 * 1.2, rtol=1e-6)


def test_lamb_gives_every_tensor_its_own_norm() -> None:
    got = directions(OptimizerSettings("lamb", weight_decay=0.0, no_decay=()), ONES)
    for name, value in got.items():
        assert np.linalg.norm(value) == pytest.approx(np.linalg.norm(flatten(PARAMS)[name]), rel=1e-4)


def test_clipping_bounds_the_global_norm() -> None:
    got = directions(OptimizerSettings("sgd", weight_decay=0.0, momentum=0.0, clip_norm=0.5), ONES)
    assert np.sqrt(sum((value**2).sum() for value in got.values())) == pytest.approx(0.5, rel=1e-5)


def test_frozen_parameters_stay_and_do_not_count_in_the_norm() -> None:
    settings = OptimizerSettings("sgd", momentum=0.0, clip_norm=1.0, weight_decay=0.0, frozen=("(block|embed)/.*",))
    got = directions(settings, ONES)
    assert not any(np.any(got[name]) for name in got if name != "head/kernel")
    assert np.linalg.norm(got["head/kernel"]) == pytest.approx(1.0, rel=1e-5)


def test_frozen_works_with_decay_and_scales() -> None:
    settings = OptimizerSettings(weight_decay=0.1, frozen=("head/.*",), lr_scales=(("block/.*", 0.5),))
    got = directions(settings, ZEROS)
    assert not np.any(got["head/kernel"])
    np.testing.assert_allclose(got["block/dense/kernel"], 0.5 * 0.2, rtol=1e-6)


def test_the_first_matching_scale_counts() -> None:
    settings = OptimizerSettings("sgd", momentum=0.0, weight_decay=0.0, lr_scales=((".*/bias", 3.0), ("block/.*", 0.5)))
    got = directions(settings, ONES)
    assert got["block/dense/bias"].tolist() == [3.0, 3.0]
    assert np.all(got["block/dense/kernel"] == 0.5)
    assert np.all(got["head/kernel"] == 1.0)


@pytest.mark.parametrize("key", ["frozen", "lr_scales"])
def test_a_pattern_that_matches_nothing_is_refused(key: str) -> None:
    rule = ("stem/.*",) if key == "frozen" else (("stem/.*", 0.1),)
    with pytest.raises(RequestError, match=rf"optimizer.{key}: 'stem/\.\*' matches no parameter"):
        make_optimizer(OptimizerSettings(**{key: rule}), PARAMS)


@pytest.mark.parametrize(("power", "warmup", "ratio"), [(0.9, 0, 1.0), (1.0, 15, 1e-6), (0.9, 20, 0.001)])
def test_poly_is_the_released_segmentation_schedule(power: float, warmup: int, ratio: float) -> None:
    """mmcv's PolyLrUpdaterHook and its linear warm-up, which multiplies the rate of the iteration."""
    peak, total = 6e-5, 200
    settings = ScheduleSettings("poly", warmup_epochs=warmup / 10, warmup_lr=peak * ratio, min_lr=0.0, power=power)
    rate = make_schedule(settings, OptimizerSettings(lr=peak), batch_size=16, steps_per_epoch=10, epochs=20)
    for step in (0, 1, 7, 14, 15, 19, 20, 100, 199):
        regular = peak * (1 - step / total) ** power
        factor = 1 - (1 - step / warmup) * (1 - ratio) if step < warmup else 1.0
        np.testing.assert_allclose(float(rate(jnp.int32(step))), regular * factor, rtol=2e-5)


def test_drops_are_the_released_detection_schedule() -> None:
    """mmcv's StepLrUpdaterHook at epochs 8 and 11, and its linear warm-up over 500 iterations from a thousandth."""
    peak, per_epoch = 1e-4, 100
    settings = ScheduleSettings("steps", warmup_steps=500, warmup_lr=peak / 1000, drop_epochs=(8.0, 11.0))
    optimizer = OptimizerSettings(lr=peak)
    rate = make_schedule(settings, optimizer, batch_size=16, steps_per_epoch=per_epoch, epochs=12)
    for step in (0, 1, 499, 500, 799, 800, 1099, 1100, 1199):
        regular = peak * 0.1 ** sum(step // per_epoch >= epoch for epoch in (8, 11))
        factor = 1 - (1 - step / 500) * (1 - 0.001) if step < 500 else 1.0
        np.testing.assert_allclose(float(rate(jnp.int32(step))), regular * factor, rtol=2e-5)
    curve = rate(jnp.arange(1200))
    assert curve.shape == (1200,)
    for wrong in ({"name": "steps"}, {"drop_epochs": (3.0,)}):
        with pytest.raises(RequestError, match="the schedule steps drops at some epochs"):
            ScheduleSettings(**wrong)


def test_lambs_trust_ratio_is_for_what_decays() -> None:
    """As timm's LAMB: parameters without decay keep Adam's step, the others are scaled to their own norm."""
    found = directions(OptimizerSettings("lamb", weight_decay=0.0, no_decay=(".*/bias", "embed/.*")), ONES)
    for name in ("block/dense/bias", "embed/cls", "embed/position"):
        np.testing.assert_allclose(found[name], 1.0, rtol=1e-5)
    for name in ("block/dense/kernel", "head/kernel"):
        np.testing.assert_allclose(found[name], 2.0, rtol=1e-5)
    every = directions(OptimizerSettings("lamb", weight_decay=0.0, no_decay=()), ONES)
    np.testing.assert_allclose(every["block/dense/bias"], 2.0, rtol=1e-5)
