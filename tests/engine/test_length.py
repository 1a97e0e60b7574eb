"""Runs counted in steps: where they end, validate and save, and that they resume to the same."""

from typing import Any

import numpy as np
import pytest

from crosscale.engine.length import check_total, run_length
from crosscale.engine.optimizer import make_schedule
from crosscale.engine.settings import OptimizerSettings, ScheduleSettings, TrainSettings
from crosscale.errors import RequestError
from crosscale.recipe import load, parse


def test_epochs_are_the_spans_of_a_run_counted_in_epochs() -> None:
    length = run_length(TrainSettings(epochs=7, eval_every=3), 10)
    assert (length.total, length.spans, length.end(2), length.shown(2)) == (70, 7, 20, "epoch 2")
    assert [done for done in range(1, 8) if length.validates(done)] == [3, 6, 7]
    assert [length.epochs(step) for step in (0, 15, 20)] == [0, 1.5, 2]
    assert isinstance(length.epochs(20), int)


@pytest.mark.parametrize(
    ("steps", "eval_steps", "ends"),
    [(25, 10, [10, 20, 25]), (20, None, list(range(2, 21, 2))), (5, None, [1, 2, 3, 4, 5]), (5, 100, [5])],
)
def test_a_run_counted_in_steps_ends_and_validates_there(steps: int, eval_steps: int | None, ends: list[int]) -> None:
    length = run_length(TrainSettings(steps=steps, eval_steps=eval_steps), 1000)
    assert [length.end(done) for done in range(1, length.spans + 1)] == ends
    assert all(length.validates(done) for done in range(1, length.spans + 1))
    assert length.shown(1) == f"step {ends[0]}"


@pytest.mark.parametrize("name", ["segment_fpn_ade20k", "segment_upernet_ade20k"])
def test_the_released_schedules_are_exact(name: str) -> None:
    """mmcv's rate of an iteration: poly of the run's steps, times a linear warm-up of 1,500 (UPerNet)."""
    recipe = load(name)
    upernet = "upernet" in name
    total, peak, power, warmup = (160_000, 6e-5, 1.0, 1500) if upernet else (80_000, 1e-4, 0.9, 0)
    sizes = {"batch_size": 16, "steps_per_epoch": 1263, "epochs": recipe.train.epochs, "steps": recipe.train.steps}
    rate = make_schedule(recipe.schedule, recipe.optimizer, **sizes)
    for step in (0, 1, 700, 1499, 1500, 12_345, total // 2, total - 1):
        factor = 1 - (1 - step / warmup) * (1 - 1e-6) if step < warmup else 1.0
        np.testing.assert_allclose(
            float(rate(np.int32(step))), peak * (1 - step / total) ** power * factor, rtol=1e-5, atol=1e-10
        )
    assert run_length(recipe.train, 1263).spans == 10


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"train": {"steps": 0}}, r"train\.steps=0: must be positive, and at most 2,147,483,647, or null"),
        ({"train": {"steps": 2.5}}, r"train\.steps: expected a whole number or null, got 2\.5"),
        ({"train": {"eval_steps": 10}}, r"train\.eval_steps=10 goes with train\.steps"),
        (
            {"schedule": {"warmup_steps": -1}},
            r"schedule\.warmup_steps=-1: must not be negative, and at most 2,147,483,647, or be null",
        ),
    ],
)
def test_what_cannot_be_is_one_line(section: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse(section)


@pytest.mark.parametrize(
    ("key", "other"),
    [("train.epochs", "train.steps"), ("train.eval_every", "train.steps"),
     ("schedule.warmup_epochs", "schedule.warmup_steps")],
)  # fmt: skip
def test_epochs_given_to_a_recipe_of_steps_are_refused(key: str, other: str) -> None:
    with pytest.raises(RequestError, match=rf"{key}=5 means nothing with {other}=\d+; give --{other} null"):
        load("segment_upernet_ade20k", {key: "5"})
    null = {"train.steps": "null", "train.eval_steps": "null", "schedule.warmup_steps": "null"}
    assert load("segment_upernet_ade20k", {key: "5", **null}) is not None


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    settings = ScheduleSettings(warmup_steps=30)
    with pytest.raises(RequestError, match=r"schedule\.warmup_steps=30 is longer than train\.steps=20"):
        make_schedule(settings, OptimizerSettings(), batch_size=8, steps_per_epoch=100, epochs=1, steps=20)


def test_a_run_of_more_steps_than_32_bits_count_is_refused() -> None:
    check_total(TrainSettings(epochs=2**31 - 1), 1)
    message = (
        r"train\.epochs=1000000000: 23,000,000,000 steps, and a run has at most 2,147,483,647; .* 93,368,854 epochs"
    )
    with pytest.raises(RequestError, match=message):
        check_total(TrainSettings(epochs=10**9), 23)
