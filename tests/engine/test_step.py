"""The compiled steps: they learn, they repeat, they leave out what is not finite, and layout is no matter."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.data.augment import Augment
from crosscale.engine.ema import update_ema
from crosscale.engine.forward import forward, normalize
from crosscale.engine.optimizer import make_optimizer
from crosscale.engine.settings import OptimizerSettings
from crosscale.engine.sharding import check_divides, data_mesh
from crosscale.engine.state import TrainState
from crosscale.engine.step import make_eval_step, make_train_step, parameter_names
from crosscale.errors import RequestError
from crosscale.tasks.classification import Classification
from crosscale.trees import flatten


def make(make_tiny: Any, spec: Any, *, drop_rate: float = 0.0, ema: float | None = None, **options: Any) -> Any:
    """A train step and a fresh state of the tiny model, at learning rate 0.05."""
    model, params = make_tiny(drop_rate)
    task = options.pop("task", Classification(4))
    settings = OptimizerSettings("sgd", momentum=0.9, weight_decay=0.0)
    optimizer = make_optimizer(settings, params)
    step = make_train_step(
        model,
        spec,
        task,
        optimizer,
        lambda step: jnp.float32(options.get("lr", 0.05)),
        data_mesh(),
        seed=0,
        accumulate=options.get("accumulate", 1),
        ema_decay=ema,
    )
    # Copies, because the step gives its input's buffers up.
    return step, TrainState.create(jax.tree.map(jnp.copy, params), optimizer, ema=ema is not None)


def test_normalize_is_the_formula_in_float32(spec: Any) -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    want = (images.astype(np.float64) / 255 - 0.4) / 0.3
    np.testing.assert_allclose(normalize(images, spec), want, atol=1e-6)
    assert normalize(images, spec, jnp.bfloat16).dtype == jnp.bfloat16


def test_forward_takes_bytes_or_normalised_images(make_tiny: Any, spec: Any, device_batch: Any) -> None:
    model, params = make_tiny()
    raw = forward(model, {"params": params}, device_batch["image"], spec)
    ready = forward(model, {"params": params}, normalize(device_batch["image"], spec), spec)
    np.testing.assert_array_equal(raw, ready)
    assert raw.shape == (16, 4)


def test_dropout_needs_train_and_follows_the_key(make_tiny: Any, spec: Any, device_batch: Any) -> None:
    model, params = make_tiny(0.5)
    call = lambda **kw: np.asarray(forward(model, {"params": params}, device_batch["image"], spec, **kw))  # noqa: E731
    one = call(train=True, rng=jax.random.key(1))
    np.testing.assert_array_equal(one, call(train=True, rng=jax.random.key(1)))
    assert np.any(one != call(train=True, rng=jax.random.key(2)))
    assert np.any(one != call())


def test_the_loss_falls_on_one_batch(make_tiny: Any, spec: Any, device_batch: Any) -> None:
    step, state = make(make_tiny, spec, lr=0.3)
    losses = []
    for _ in range(60):
        state, report = step(state, device_batch)
        losses.append(float(report["loss"]))
    assert losses[-1] < 0.8 * losses[0]
    assert int(state.step) == 60


def test_a_step_repeats_and_the_next_differs(make_tiny: Any, spec: Any, device_batch: Any) -> None:
    def losses(count: int) -> list[float]:
        # With learning rate 0 only the step's own key can change the loss.
        step, state = make(make_tiny, spec, drop_rate=0.5, lr=0.0)
        result = []
        for _ in range(count):
            state, report = step(state, device_batch)
            result.append(float(report["loss"]))
        return result

    first = losses(3)
    assert first == losses(3)
    assert len(set(first)) == 3


@pytest.mark.slow
def test_mixing_draws_from_the_step(make_tiny: Any, spec: Any, device_batch: Any) -> None:
    task = Classification(4, 0.1, Augment(mixup=0.8, cutmix=1.0, erase_prob=0.5))
    step, state = make(make_tiny, spec, task=task, lr=0.0)
    state, one = step(state, device_batch)
    state, two = step(state, device_batch)
    assert float(one["loss"]) != float(two["loss"])
    assert np.isfinite(float(one["loss"]))


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_gives_the_whole_batch_s_update(make_tiny: Any, spec: Any, device_batch: Any, parts: int) -> None:
    batch = {**device_batch, "weight": jnp.asarray([1.0, 0.0, 1.0, 1.0] * 4)}
    whole_step, whole = make(make_tiny, spec)
    parts_step, split = make(make_tiny, spec, accumulate=parts)
    whole, report = whole_step(whole, batch)
    split, parts_report = parts_step(split, batch)
    assert float(report["loss"]) == pytest.approx(float(parts_report["loss"]), rel=1e-6)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(split.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_examples_of_weight_0_teach_nothing(make_tiny: Any, spec: Any, device_batch: Any) -> None:
    weight = jnp.asarray([1.0] * 12 + [0.0] * 4)
    other = {**device_batch, "image": device_batch["image"].at[12:].set(255), "weight": weight}
    step, one = make(make_tiny, spec)
    _, two = make(make_tiny, spec)
    one, report = step(one, {**device_batch, "weight": weight})
    two, _ = step(two, other)
    assert float(report["weight"]) == 12
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_batch_of_weight_0_changes_nothing(make_tiny: Any, spec: Any, device_batch: Any) -> None:
    _, params = make_tiny()
    step, state = make(make_tiny, spec)
    state, report = step(state, {**device_batch, "weight": jnp.zeros(16)})
    assert bool(report["finite"])
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_gradient_that_is_not_finite_leaves_the_state_and_is_named(
    make_tiny: Any, spec: Any, device_batch: Any
) -> None:
    _, params = make_tiny()
    params["head"]["kernel"] = params["head"]["kernel"].at[0, 0].set(jnp.nan)
    step, state = make(make_tiny, spec, ema=0.9)
    state = state.replace(params=jax.tree.map(jnp.copy, params), ema_params=jax.tree.map(jnp.copy, params))
    names = parameter_names(state.params)
    state, report = step(state, device_batch)
    assert not bool(report["finite"])
    assert int(state.step) == 1
    bad = [name for name, is_bad in zip(names, report["bad"], strict=True) if is_bad]
    assert set(bad) == {"conv/bias", "conv/kernel", "head/bias", "head/kernel"}
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_average_follows_its_formula() -> None:
    ema, params = {"w": jnp.float32(0.0)}, {"w": jnp.float32(1.0)}
    assert float(update_ema(ema, params, jnp.int32(0), 0.99)["w"]) == pytest.approx(0.9)
    assert float(update_ema(ema, params, jnp.int32(10**6), 0.99)["w"]) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("ramp", "step", "rate"),
    [("none", 0, 0.99), ("none", 10**6, 0.99), ("exponential", 0, 0.99 * (1 - np.exp(-1 / 2000))),
     ("exponential", 1999, 0.99 * (1 - np.exp(-1))), ("exponential", 10**6, 0.99), ("ratio", 10, 11 / 20)],
)  # fmt: skip
def test_the_averages_decay_begins_as_asked(ramp: Any, step: int, rate: float) -> None:
    found = update_ema({"w": jnp.float32(0)}, {"w": jnp.float32(1)}, jnp.int32(step), 0.99, ramp)
    assert float(found["w"]) == pytest.approx(1 - rate, rel=1e-4)


@pytest.mark.parametrize("frozen", ["conv/.*", ".*kernel", ".*"])
def test_no_gradient_is_computed_for_what_is_frozen(frozen: str, make_tiny: Any, spec: Any, device_batch: Any) -> None:
    model, params = make_tiny(0.0)
    names = flatten(params)
    optimizer = make_optimizer(OptimizerSettings(frozen=(frozen,)), params)

    def products(patterns: tuple[str, ...]) -> tuple[int, Any, TrainState]:
        step = make_train_step(
            model, spec, Classification(4), optimizer, lambda step: jnp.float32(0.1), data_mesh(), seed=0,
            frozen=patterns,
        )  # fmt: skip
        state = TrainState.create(jax.tree.map(jnp.copy, params), optimizer, ema=False)
        traced = str(jax.make_jaxpr(step)(state, device_batch))
        count = sum(traced.count(name) for name in ("dot_general[", "conv_general_dilated["))
        return (count, *reversed(step(state, device_batch)))

    whole, _, same = products(())
    fewer, report, state = products((frozen,))
    assert fewer < whole
    assert bool(report["finite"])
    assert (float(report["grad_norm"]) == 0) == (frozen == ".*")
    for name, value in flatten(state.params).items():
        np.testing.assert_allclose(value, flatten(same.params)[name], rtol=1e-6)
        assert np.array_equal(value, names[name]) == (re.fullmatch(frozen, name) is not None), name


def test_the_state_keeps_an_average_only_where_asked(make_tiny: Any, spec: Any, device_batch: Any) -> None:
    step, state = make(make_tiny, spec)
    assert state.ema_params is None
    step, state = make(make_tiny, spec, ema=0.9)
    start = jax.device_get(state.params)["head"]["kernel"]
    state, _ = step(state, device_batch)
    new, average = (jax.device_get(tree)["head"]["kernel"] for tree in (state.params, state.ema_params))
    np.testing.assert_allclose(average, start + 0.9 * (new - start), rtol=1e-5)  # decay 1/10 at first


class TwoParts(Classification):
    """A loss of two parts: the usual one, and a third of it."""

    def loss(self, outputs: Any, targets: Any, weight: Any) -> Any:
        parts, count = super().loss(outputs, targets, weight)
        return {"whole": parts["labels"], "third": parts["labels"] / 3}, count


def test_each_part_of_a_loss_is_reported(make_tiny: Any, spec: Any, device_batch: Any) -> None:
    step, state = make(make_tiny, spec)
    _, one = step(state, device_batch)
    step, state = make(make_tiny, spec, task=TwoParts(4))
    _, two = step(state, device_batch)
    assert not [name for name in one if name.startswith("loss_")]
    np.testing.assert_allclose([two["loss_whole"], two["loss_third"]], [one["loss"], one["loss"] / 3], rtol=1e-6)
    np.testing.assert_allclose(two["loss"], one["loss"] * 4 / 3, rtol=1e-6)


def test_evaluation_ignores_padding(make_tiny: Any, spec: Any, device_batch: Any) -> None:
    model, params = make_tiny()
    step = make_eval_step(model, spec, Classification(4), data_mesh(), collect=True)
    weight = jnp.asarray([1.0] * 10 + [0.0] * 6)
    got, rows = step({"params": params}, {**device_batch, "weight": weight})
    logits = np.asarray(forward(model, {"params": params}, device_batch["image"], spec))[:10]
    right = (logits.argmax(-1) == np.asarray(device_batch["label"])[:10]).sum()
    assert (float(got["top1"][0]), float(got["top1"][1])) == (right, 10)
    np.testing.assert_array_equal(rows["predicted"][:10], logits.argmax(-1))
    assert float(got["top5"][0]) == 10  # four classes: top-5 is clipped to top-4


def test_a_batch_that_does_not_divide_is_refused_with_one_that_does() -> None:
    class Mesh:
        size = 8

    with pytest.raises(RequestError, match=r"train.batch_size=20 .* 8 devices; 16 would work"):
        check_divides("train.batch_size", 20, 1, Mesh())  # type: ignore[arg-type]
    check_divides("train.batch_size", 32, 4, Mesh())  # type: ignore[arg-type]
