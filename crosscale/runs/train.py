"""A training run as a whole: its folder, its parts, its log and its end."""

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import optax

from crosscale.artifact import read_artifact
from crosscale.cluster.hosts import from_first, is_first, wait_for_all, wait_for_file
from crosscale.contracts import Variables
from crosscale.data import eval_batches, train_batches
from crosscale.engine.checkpoint import Checkpoints
from crosscale.engine.environment import git_state, record_environment
from crosscale.engine.log import CollectedLog, QuietLog, RunLog
from crosscale.engine.loop import Loop, Parts, Progress, restore_state
from crosscale.engine.run_folder import (
    BEST,
    CHECKPOINTS,
    METRICS,
    RECIPE,
    disc_is_full,
    holds_run,
    repair,
    started,
    whole_checkpoints,
    write_text,
)
from crosscale.engine.sharding import split_parameters
from crosscale.engine.state import TrainState
from crosscale.engine.step import make_eval_step
from crosscale.engine.trackers import check_trackers
from crosscale.errors import RequestError, WorkError
from crosscale.predictor import Predictor
from crosscale.recipe import Recipe, dump
from crosscale.runs.agreement import check_processes, check_same, record_data
from crosscale.runs.batch_size import with_batch_size
from crosscale.runs.calibrate import calibrate_best
from crosscale.runs.experiment import Experiment, Splits, build, describe, save_best
from crosscale.runs.partners import check_partners, check_validated
from crosscale.runs.state import abstract_state, compiled_step, initial_state
from crosscale.runtime import package_version, shown_duration
from crosscale.tasks.measure import score
from crosscale.tasks.task import Task
from crosscale.typed import to_plain


def run_training(
    recipe: Recipe,
    output_dir: Path,
    *,
    resume: bool = False,
    extend: int = 0,
    on_epoch: Callable[[Path], None] | None = None,
    splits: Splits | None = None,
) -> dict[str, Any]:
    """Trains into `output_dir`, or goes on with the run that is there.

    Where several processes train together, each calls this; the first one writes, into its `output_dir`.

    Args:
      extend: epochs to train beyond those that the run in `output_dir` was begun with, which `resume` goes on with. The
        learning rate goes on as in a run meant to be this long from the start.
      on_epoch: called with the run folder after each epoch; the training waits for it.
      splits: the recipe's data, where it has been opened; see `open_splits`.

    Returns:
      The task's measures and "examples" of the best validation (null where there was none), "images_per_second" of
      training, "seconds" since this process began to train, "steps", "epochs", "best_step", "best_epoch",
      "skipped_images", "skipped_steps", "rollbacks", "stopped" (a signal's name or None) and "output_dir".

    Raises:
      RequestError: the recipe cannot be run, or the folder holds another run.
      WorkError: the run failed.
    """
    output_dir = Path(from_first(str(output_dir.expanduser().resolve())))
    if is_first() and not resume and holds_run(output_dir):
        raise RequestError(
            f"{output_dir}: already holds a run; --resume goes on with it, or choose another --output-dir"
        )
    if recipe.data.folds is not None and recipe.data.fold is None:
        raise RequestError("data.folds asks for a run of each fold: data.fold says which of them this is")
    goes_on = resume and whole_checkpoints(output_dir)
    if is_first():
        check_trackers(recipe.train.trackers)
        if not goes_on:
            check_partners(recipe)
    if extend:
        recipe = _extended(recipe, output_dir, extend)
    recipe, splits = with_batch_size(recipe, splits, folder=output_dir if resume else None)
    experiment = build(recipe, splits=splits)
    if is_first() and not goes_on:
        check_validated(experiment)
    check_processes(experiment)
    with _claimed(output_dir, experiment, resume=resume, extend=extend > 0):
        try:
            called = (lambda: on_epoch(output_dir)) if on_epoch else lambda: None
            return _train(experiment, output_dir, called, extend=extend > 0)
        except Exception as error:
            if disc_is_full(error):
                raise WorkError(_full_disc(output_dir)) from error
            raise


def _extended(recipe: Recipe, folder: Path, epochs: int) -> Recipe:
    """The recipe of a run that is so many epochs longer. Raises RequestError where none can go on."""
    if recipe.train.steps is not None:
        raise RequestError(f"--extend counts epochs, and this run is of train.steps={recipe.train.steps}")
    if is_first() and not whole_checkpoints(folder):  # or it would begin from nothing, without a word
        raise RequestError(
            f"--extend: {folder} has no checkpoint to go on from; to train from its weights: --config finetune "
            f"--pretrained {folder} --output-dir ANOTHER"
        )
    return replace(recipe, train=replace(recipe.train, epochs=recipe.train.epochs + epochs))


@contextmanager
def _claimed(folder: Path, experiment: Experiment, *, resume: bool, extend: bool) -> Iterator[None]:
    """The folder locked by the process that writes, and with the recipe in it; the others wait for that."""
    if not is_first():
        wait_for_all("folder")
        wait_for_file(folder / RECIPE, "the run folder must lie on a file system that all processes share")
        yield
        return
    if resume:
        check_same(folder, experiment, extend=extend)
    with started(folder, (folder / METRICS).exists):
        if not resume and holds_run(folder):
            raise RequestError(f"{folder}: another process has just begun a run here; choose another --output-dir")
        repair(folder / BEST)
        write_text(folder / RECIPE, dump(experiment.recipe))
        record_data(folder, experiment)
        wait_for_all("folder")
        yield


def _full_disc(folder: Path) -> str:
    steps = whole_checkpoints(folder)
    kept = f"the checkpoint of step {steps[-1]} is whole" if steps else "there was no checkpoint yet"
    return (
        f"{folder}: no space left on the disc; {kept}. "
        f"When there is space again: crosscale train --output-dir {folder} --resume"
    )


def _train(experiment: Experiment, folder: Path, on_epoch: Callable[[], None], *, extend: bool) -> dict[str, Any]:
    recipe = experiment.recipe
    target, optimizer = abstract_state(experiment)
    layout = split_parameters(target, experiment.mesh)
    checkpoints = Checkpoints(folder / CHECKPOINTS, keep=recipe.train.keep_checkpoints)
    try:
        restore = partial(restore_state, checkpoints, target, layout)
        restored = restore()
        if restored is not None:
            state, progress = restored[0], Progress(**restored[1])
        else:
            with CollectedLog() as loaded:
                state, progress = initial_state(experiment, optimizer, layout), Progress()
        with _open_log(folder, int(state.step), progress.epoch, experiment) as log:
            if is_first():
                record_environment(folder, seed=recipe.train.seed)
            _announce(log, experiment, folder, int(state.step))
            for line in loaded.lines if restored is None else []:
                log.line(line)
            parts = replace(_parts(experiment, optimizer, layout, folder), on_epoch=on_epoch, restore=restore)
            if extend:  # whoever asks for more epochs gets them, also where the patience was at its end
                progress.patience_from = int(state.step)
                log.record("extend", int(state.step), {"epoch": experiment.length.epochs(int(state.step))})
            loop = Loop(parts, state, progress, checkpoints, log)
            loop.run()
            _calibrate(loop, experiment, folder, log)
            result = _summary(loop, experiment, folder)
            log.line(_closing(result, experiment))
        return result
    finally:
        checkpoints.close()


def _open_log(folder: Path, step: int, spans: int, experiment: Experiment) -> RunLog:
    if not is_first():
        return QuietLog(jax.process_index())
    length, recipe = experiment.length, experiment.recipe
    return RunLog(
        folder,
        start_step=step,
        start_epoch=length.epochs(length.end(spans)),
        total_steps=length.total,
        trackers=recipe.train.trackers,
        recipe=to_plain(asdict(recipe)),
    )


def _parts(experiment: Experiment, optimizer: optax.GradientTransformation, layout: TrainState, folder: Path) -> Parts:
    recipe, model, spec, mesh = experiment.recipe, experiment.model, experiment.spec, experiment.mesh
    task = experiment.task
    trained = task.examples(spec, recipe.augment, recipe.data.decode)
    validated = task.examples(spec)
    groups = task.groups(experiment.train_source)
    loading = {name: getattr(recipe.data, name) for name in ("workers", "threads", "on_bad_image")}
    loading |= {"host_index": jax.process_index(), "host_count": jax.process_count()}

    def keep_best(variables: Variables, record: Mapping[str, Any]) -> None:
        if is_first():
            save_best(folder / BEST, experiment, variables, record)

    return Parts(
        train_step=compiled_step(experiment, optimizer, layout),
        eval_step=make_eval_step(model, spec, task, mesh, layout.variables()),
        metric=task.metric,
        mesh=mesh,
        open_train=lambda step: train_batches(
            experiment.train_source,
            trained,
            batch_size=recipe.train.images_per_step,
            seed=recipe.train.seed,
            start_step=step,
            repeats=recipe.augment.repeats,
            groups=groups,
            **loading,
        ),
        open_eval=lambda: eval_batches(
            experiment.val_source, validated, batch_size=recipe.validate.batch_size, **loading
        ),
        score=lambda metrics: score(metrics, task.measures, experiment.best),
        save_best=keep_best,
        steps_per_epoch=experiment.steps_per_epoch,
        settings=recipe.train,
        use_ema=recipe.validate.use_ema,
        shown=lambda name, value: _shown(task, name, value),
        validates=len(experiment.val_source) > 0,
    )


def _calibrate(loop: Loop, experiment: Experiment, folder: Path, log: RunLog) -> None:
    """Calibrates at the end of a run that asks for it, as `crosscale calibrate` does; the first process, for all.

    A calibration made since then, perhaps with a threshold, stays.
    """
    recipe, best = experiment.recipe, loop.progress.best
    if not recipe.validate.calibrate or loop.stopped is not None or best is None:
        return
    place, chosen = folder / BEST, experiment.task.validated(best["metrics"]).artifact_options()
    if is_first() and read_artifact(place).task_options == to_plain(chosen):
        try:
            found = calibrate_best(
                Predictor.from_run(place),
                place,
                experiment.val_source,
                recipe.data.dir,
                batch_size=recipe.validate.batch_size,
                on_bad_image=recipe.data.on_bad_image,
            )
        except (RequestError, WorkError) as error:  # the training has succeeded, and its weights are whole
            log.line(f"not calibrated: {error}")
        else:
            log.line("calibrated: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items() if value))
    wait_for_all("calibrated")


def _shown(task: Task, name: str, value: float) -> str:
    """A number of a validation as everything else shows it: one unit everywhere."""
    measure = task.measures.get(name)
    return f"{name} {value:.4f}" if measure is None else f"{measure.label} {measure.shown(value)}"


def _announce(log: RunLog, experiment: Experiment, folder: Path, step: int) -> None:
    device = jax.devices()[0]
    facts = describe(experiment)
    log.line(
        f"crosscale {package_version()}, jax {jax.__version__}, Python {platform.python_version()}, "
        f"{experiment.mesh.size} x {device.device_kind}, seed {experiment.recipe.train.seed}{_git_text()}"
    )
    log.line(
        f"{facts['model']}: {facts['parameters']:,} parameters; {facts['train_images']} images to train on, "
        f"{facts['val_images']} held out, {len(experiment.task.labels)} {experiment.task.noun}; {facts['steps']} steps"
    )
    if (share := experiment.recipe.data.subset) is not None:
        log.line(f"trained on only a share of the pictures: data.subset={share:g}")
    for note in experiment.task.notes:
        log.line(note)
    log.line(f"{'going on from' if step else 'from'} step {step}, into {folder}")


def _git_text() -> str:
    state = git_state()
    return f", git {state['commit'][:12]}{' and changes' if state['dirty'] else ''}" if state else ""


def _summary(loop: Loop, experiment: Experiment, folder: Path) -> dict[str, Any]:
    best = loop.progress.best
    metrics = best["metrics"] if best else {}
    return {
        **{name: metrics.get(name) for name in (*experiment.task.measures, "examples")},
        "images_per_second": loop.meter.rate,
        "seconds": time.monotonic() - loop.began,
        "steps": loop.step,
        "epochs": round(loop.length.epochs(loop.length.end(loop.progress.epoch)), 2),
        "best_step": best["step"] if best else None,
        "best_epoch": best["epoch"] if best else None,
        "skipped_images": loop.progress.skipped_images,
        "skipped_steps": loop.progress.skipped_steps,
        "rollbacks": loop.progress.rollbacks,
        "stopped": loop.stopped,
        "output_dir": str(folder),
    }


def _closing(result: Mapping[str, Any], experiment: Experiment) -> str:
    if result["stopped"] is not None:
        return (
            f"stopped by {result['stopped']} at step {result['steps']} of {experiment.length.total}; "
            f"all is saved. To go on: crosscale train --output-dir {result['output_dir']} --resume"
        )
    if result["best_step"] is None:
        return f"done: {result['steps']} steps, no validation; {result['output_dir']}"
    skipped = f", {result['skipped_images']} pictures skipped" if result["skipped_images"] else ""
    if not len(experiment.val_source):
        return f"done: trained on every picture, so nothing was measured{skipped}; {result['output_dir']}"
    when = f"epoch {result['best_epoch']}" if experiment.length.counts_epochs else f"step {result['best_step']}"
    return (
        f"done: best {experiment.task.headline(result)} ({when}){skipped}, "
        f"in {shown_duration(result['seconds'])}; {result['output_dir']}"
    )
