"""Every shipped recipe: what a dry run prints is kept, and the published schedules are what is run.

`CROSSCALE_UPDATE_GOLDENS=1 pytest -m "slow or not slow" tests/test_shipped_recipes.py` writes the kept files anew.
"""

import math
import os
import re
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.cli.main import main
from crosscale.data.declared import DeclaredSource
from crosscale.engine.optimizer import make_optimizer, make_schedule
from crosscale.engine.settings import OptimizerSettings, ScheduleSettings
from crosscale.errors import RequestError
from crosscale.recipe import SHIPPED, Recipe, dump, load, override, shipped_recipes
from crosscale.runs.experiment import build
from tests.variants import variants

GOLDEN = Path(__file__).parent / "golden" / "recipes"
STEPS = 10  # an epoch's, in the schedules below


# Traced in the default run; the others' traces take minutes together.
QUICK = ("smoke",)
LARGE = {"scenes", "segment", "segment_fpn_ade20k", "segment_upernet_ade20k"}
LARGE |= {"objects", "objects_masks", "detect", "detect_retinanet_coco", "mask_rcnn_coco"}


DECLARED = {"data.train_images": "1200", "data.val_images": "200", "data.num_classes": "11"}


def own_data(name):
    """What stands for the user's data: the digits, or numbers of pictures with masks or boxes; {} for published."""
    recipe = load(name)
    if recipe.data.dir is not None or recipe.data.train_images is not None:
        return {}
    return DECLARED if recipe.task.name in ("segmentation", "detection", "instances") else {"data.dir": "digits"}


def words(name):
    """The command of a dry run."""
    given = [word for key, value in own_data(name).items() for word in (f"--{key}", value)]
    return ["train", "--config", name, "--dry-run", *given]


@pytest.mark.parametrize("name", variants(shipped_recipes(), QUICK))
def test_dry_run(name, capsys):
    assert main(words(name)) == 0
    shown = capsys.readouterr()
    # What the machine is expected to hold begins with what this process holds.
    text = shown.out + "---\n" + re.sub(r"memory of this machine, about: .*\n", "", shown.err)
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("CROSSCALE_UPDATE_GOLDENS") == "1":
        file.write_text(text, encoding="utf-8")
    kept, activations = without_activations(file.read_text(encoding="utf-8"))
    found, now = without_activations(text)
    assert found == kept
    assert now == pytest.approx(activations, rel=0.25)  # follows what jax's derivatives keep


@pytest.mark.parametrize("name", variants(shipped_recipes(), {*shipped_recipes()} - LARGE))
def test_resolved_recipe_and_steps(name):
    recipe = load(name, own_data(name))
    experiment = build(recipe, without_data=True)
    resolved, _, plan = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8").partition("---\n")
    assert dump(experiment.recipe) == resolved
    per_epoch = experiment.steps_per_epoch
    steps = recipe.train.steps or recipe.train.epochs * per_epoch
    epochs = round(steps / per_epoch, 2) if recipe.train.steps else recipe.train.epochs
    assert f"{epochs} epochs of {per_epoch} steps: {steps} steps, " in plan


def without_activations(text):
    size = float(re.search(r"activations ([\d,]+)", text)[1].replace(",", ""))
    return re.sub(r"about: [\d.,]+ GiB|activations [\d,]+", "", text), size


def test_every_recipe_has_its_golden():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(shipped_recipes())


@pytest.mark.parametrize("name", shipped_recipes())
def test_header_carries_command_source_and_result(name):
    text = (SHIPPED / f"{name}.yaml").read_text(encoding="utf-8")
    header = re.match(r"(?:#.*\n)+", text)[0]
    if own_data(name):  # nothing was published
        assert re.search(r"crosscale train .*--data-dir \w+", header)
        assert "Published" not in header
        return
    assert f"crosscale train --config {name}" in header
    assert re.search(r"Source: |Data: ", header)
    if name not in ("digits", "smoke"):
        assert re.search(r"Published (top-1|mIoU|AP).*\d\d\.\d", header, re.S)


def test_page_names_every_recipe():
    page = (Path(__file__).parent.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert [name for name in shipped_recipes() if f"`{name}`" not in page] == []


def rates(name):
    """Learning rates at the first step of each epoch, with `STEPS` steps an epoch."""
    recipe = load(name)
    schedule = make_schedule(
        recipe.schedule,
        recipe.optimizer,
        batch_size=recipe.train.batch_size,
        steps_per_epoch=STEPS,
        epochs=recipe.train.epochs,
    )
    return np.asarray(schedule(jnp.arange(recipe.train.epochs) * STEPS))


# t_initial, warmup_t and the rates, as the released programs hand them to timm's scheduler.
TIMM = {
    "crossvit_ibm": (300, 30, 4e-3, 1e-6, 1e-5),
    "crossformer_official": (300, 20, 1e-3, 1e-6, 1e-5),
    "crossvit_finetune_384": (30, 5, 5e-6, 1e-6, 5e-6),
    "transfer": (1000, 5, 1e-2, 1e-6, 1e-5),
}


@pytest.mark.parity
@pytest.mark.parametrize("name", TIMM)
def test_learning_rates_are_those_of_timm(name):
    torch = pytest.importorskip("torch")
    sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))
    scheduler = pytest.importorskip("timm.scheduler.cosine_lr")
    epochs, warmup, peak, first, last = TIMM[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    theirs = scheduler.CosineLRScheduler(
        optimizer, t_initial=epochs, lr_min=last, warmup_t=warmup, warmup_lr_init=first, cycle_limit=1
    )
    np.testing.assert_allclose(rates(name), [theirs._get_lr(epoch)[0] for epoch in range(epochs)], rtol=1e-4, atol=1e-8)


def cosine(high, low, t):
    return low + (high - low) * 0.5 * (1 + math.cos(math.pi * t))


def test_learning_rates_of_the_paper():
    found = rates("crossvit_ibm")
    assert found[0] == pytest.approx(1e-6)
    assert found[15] == pytest.approx((1e-6 + 4e-3) / 2, rel=1e-4)  # up to 5e-4 * 4096 / 512
    assert found[30] == pytest.approx(cosine(4e-3, 1e-5, 0.1), rel=1e-4)  # the cosine began with the run
    assert found[150] == pytest.approx(cosine(4e-3, 1e-5, 0.5), rel=1e-4)
    assert found[299] == pytest.approx(cosine(4e-3, 1e-5, 299 / 300), rel=1e-3)


def test_learning_rates_of_crossformer():
    found = rates("crossformer_official")
    assert (found[0], found[20]) == (pytest.approx(1e-6), pytest.approx(cosine(1e-3, 1e-5, 1 / 15)))
    assert found[150] == pytest.approx(cosine(1e-3, 1e-5, 0.5), rel=1e-4)


def test_learning_rates_of_mindcv():
    for name, peak, epochs in (("9", 1.1e-3, 300), ("15", 9e-4, 600), ("18", 1.5e-3, 300)):
        found = rates(f"crossvit_{name}_mindcv")
        assert len(found) == epochs
        assert (found[0], found[30]) == (0, pytest.approx(peak))
        assert found[165] == pytest.approx(cosine(peak, 1e-5, 0.5), rel=1e-4)
    found = rates("crossvit_15_mindcv")
    assert found[299] < 1.1e-5
    assert found[300] == pytest.approx(9e-4)  # the second cosine begins
    assert found[435] == pytest.approx(cosine(9e-4, 1e-5, 0.5), rel=1e-4)
    assert found[570:] == pytest.approx(1e-5)


@pytest.mark.parametrize("name", ["crossvit_9_mindcv", "crossvit_15_mindcv", "crossvit_18_mindcv"])
def test_mindcv_decays_every_parameter(name):
    settings = load(name).optimizer
    params = {"backbone": {"norm": {"scale": np.ones(3), "bias": np.ones(3)}, "cls": np.ones((1, 1, 3))}}
    optimizer = make_optimizer(settings, params, lambda name: (0, 0))
    updates, _ = optimizer.update(jax.tree.map(np.zeros_like, params), optimizer.init(params), params)
    for update in jax.tree.leaves(updates):  # without a gradient only decay moves a parameter
        assert (np.asarray(update) != 0).all()


def test_cycles_share_what_the_warm_up_leaves():
    settings = ScheduleSettings(warmup_epochs=2, warmup_lr=0.0, min_lr=0.0, cycles=2)
    rate = make_schedule(settings, OptimizerSettings(lr=1.0), batch_size=8, steps_per_epoch=STEPS, epochs=10)
    found = [float(rate(jnp.int32(epoch * STEPS))) for epoch in (2, 4, 6, 8, 10)]
    assert found == pytest.approx([1.0, 0.5, 1.0, 0.5, 0.0], abs=1e-6)


def test_schedules_that_cannot_be():
    for settings, before in (
        (ScheduleSettings(warmup_epochs=2, decay_epochs=9), "a warm-up of 2 epochs and 1 x decay_epochs=9"),
        (ScheduleSettings(warmup_epochs=2, decay_epochs=11, warmup_prefix=False), "schedule: 1 x decay_epochs=11"),
    ):
        with pytest.raises(RequestError, match=rf"{before} are longer than train\.epochs=10"):
            make_schedule(settings, OptimizerSettings(), batch_size=8, steps_per_epoch=STEPS, epochs=10)
    with pytest.raises(RequestError, match=r"schedule\.cycles=0"):
        ScheduleSettings(cycles=0)


def test_recipe_without_data_trains_nothing():
    with pytest.raises(RequestError, match=r"data\.dir is not set"):
        build(load("crossvit_ibm"))
    with pytest.raises(RequestError, match=r"data\.train_images"):
        build(Recipe(), without_data=True)
    with pytest.raises(RequestError, match=r"data\.dir is not set"):
        DeclaredSource(["a"], 5)[0]


def test_values_that_cannot_be():
    for key, value in (("data.train_images", "0"), ("data.size", "[0, 5]")):
        with pytest.raises(RequestError, match=key.replace(".", r"\.")):
            override(Recipe(), {key: value})
