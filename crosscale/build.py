"""Training runs and validations as a whole: the only place that knows every part at once."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax

from crosscale.contracts import InputSpec, Source
from crosscale.data import eval_batches, open_source, train_batches
from crosscale.data.pipeline import OnBadImage
from crosscale.engine.checkpoint import Checkpoints
from crosscale.engine.evaluate import evaluate
from crosscale.engine.log import CollectedLog, RunLog
from crosscale.engine.loop import Loop, Parts, Progress
from crosscale.engine.run_folder import (
    BEST,
    CHECKPOINTS,
    RECIPE,
    holds_run,
    locked,
    repair,
    write_text,
)
from crosscale.engine.sharding import check_divides, data_mesh, replicated
from crosscale.engine.step import make_eval_step, make_train_step
from crosscale.errors import RequestError
from crosscale.experiment import (
    Experiment,
    abstract_state,
    build,
    describe,
    initial_state,
    package_version,
    save_best,
)
from crosscale.predictor import Predictor, best_folder, read_config
from crosscale.recipe import Recipe, differences, dump, load
from crosscale.tasks.classification import Classification

# May differ when a run goes on: they change where it reads and how fast, not what it computes.
FREE_KEYS = frozenset({"data.dir", "data.workers", "data.threads", "train.checkpoint_every", "train.keep_checkpoints"})


def run_training(
    recipe: Recipe, output_dir: Path, *, resume: bool = False, on_epoch: Callable[[Path], None] | None = None
) -> dict[str, Any]:
    """Trains into `output_dir`, or goes on with the run that is there.

    Args:
      on_epoch: called with the run folder after each epoch; the training waits for it.

    Returns:
      "top1", "top5", "loss" and "examples" of the best validation (null where there was none),
      "images_per_second" of training, "steps", "epochs", "best_step", "best_epoch", "skipped_images",
      "skipped_steps", "stopped" (a signal's name or None) and "output_dir".

    Raises:
      RequestError: the recipe cannot be run, or the folder holds another run.
      WorkError: the run failed.
    """
    output_dir = output_dir.expanduser().resolve()
    if not resume and holds_run(output_dir):
        raise RequestError(
            f"{output_dir}: already holds a run; --resume goes on with it, or choose another --output-dir"
        )
    experiment = build(recipe)
    if resume:
        _check_same(output_dir, experiment)
    with locked(output_dir):
        if not resume and holds_run(output_dir):
            raise RequestError(f"{output_dir}: another process has just begun a run here; choose another --output-dir")
        repair(output_dir / BEST)
        write_text(output_dir / RECIPE, dump(experiment.recipe))
        return _train(experiment, output_dir, (lambda: on_epoch(output_dir)) if on_epoch else lambda: None)


def _train(experiment: Experiment, folder: Path, on_epoch: Callable[[], None]) -> dict[str, Any]:
    recipe = experiment.recipe
    target, optimizer = abstract_state(experiment)
    checkpoints = Checkpoints(folder / CHECKPOINTS, keep=recipe.train.keep_checkpoints)
    try:
        restored = checkpoints.restore(target, replicated(experiment.mesh))
        if restored is not None:
            state, progress = restored[0], Progress(**restored[1])
        else:
            with CollectedLog() as loaded:
                state, progress = initial_state(experiment, optimizer), Progress()
        with RunLog(
            folder,
            start_step=int(state.step),
            start_epoch=progress.epoch,
            total_steps=experiment.total_steps,
        ) as log:
            _announce(log, experiment, folder, int(state.step))
            for line in loaded.lines if restored is None else []:
                log.line(line)
            parts = replace(_parts(experiment, optimizer, folder), on_epoch=on_epoch)
            loop = Loop(parts, state, progress, checkpoints, log)
            loop.run()
            result = _summary(loop, folder)
            log.line(_closing(result, experiment))
        return result
    finally:
        checkpoints.close()


def _parts(experiment: Experiment, optimizer: optax.GradientTransformation, folder: Path) -> Parts:
    recipe, model, spec, mesh = experiment.recipe, experiment.model, experiment.spec, experiment.mesh
    loading = {name: getattr(recipe.data, name) for name in ("workers", "threads", "on_bad_image")}
    return Parts(
        train_step=make_train_step(
            model,
            spec,
            experiment.task,
            optimizer,
            experiment.schedule,
            mesh,
            seed=recipe.train.seed,
            accumulate=recipe.optimizer.accumulate,
            ema_decay=recipe.train.ema_decay,
        ),
        eval_step=make_eval_step(model, spec, experiment.task, mesh),
        mesh=mesh,
        open_train=lambda step: train_batches(
            experiment.train_source,
            spec,
            recipe.augment,
            batch_size=recipe.train.batch_size,
            seed=recipe.train.seed,
            start_step=step,
            decode=recipe.data.decode,
            **loading,
        ),
        open_eval=lambda: eval_batches(experiment.val_source, spec, batch_size=recipe.validate.batch_size, **loading),
        score=experiment.task.score,
        save_best=lambda params, record: save_best(folder / BEST, experiment, params, record),
        steps_per_epoch=experiment.steps_per_epoch,
        settings=recipe.train,
        use_ema=recipe.validate.use_ema,
    )


def evaluate_run(
    *,
    run: str | Path | None = None,
    model: str | None = None,
    weights: str | Path | None = None,
    data_dir: str | Path | None = None,
    split: Literal["train", "val", "all"] = "val",
    val_fraction: float | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    crop_pct: float | None = None,
    workers: int = 0,
    on_bad_image: OnBadImage = "error",
    **options: Any,
) -> dict[str, Any]:
    """Validates a run's best weights, or a model with a weight file.

    Args:
      run: a run folder, or its best/ alone.
      model: a preset, with `weights` and `data_dir`.
      data_dir: None is the run's own.
      split: "val", "train", or "all" of data that comes as one part.
      val_fraction: None is the run's own, or 0.2; counts where the data comes as one part.
      seed: of that split; None is the run's own, or 0.
      batch_size: None is the run's own, or 256.
      crop_pct: None is the weights' own.
      **options: the model's fields, with `model`.

    Returns:
      "top1", "top5" (fractions), "loss", "examples", "skipped", "images_per_second", "classes" (their
      number), "data_dir" and "split".

    Raises:
      RequestError: the run, the weights or the data are missing or do not fit together.
      WorkError: a picture does not decode and `on_bad_image` is "error".
    """
    if (run is None) == (model is None) or (model is not None and (weights is None or data_dir is None)):
        raise RequestError("give either a run, or a model with its weights and a data folder")
    stored: dict[str, Any] = read_config(best_folder(run)).get("data", {}) if run is not None else {}
    place = stored.get("dir") if data_dir is None else data_dir
    if place is None:
        raise RequestError(f"{run}: does not say what it was trained on; give --data-dir")
    source = open_source(
        place,
        split,
        val_fraction=stored.get("val_fraction", 0.2) if val_fraction is None else val_fraction,
        seed=stored.get("seed", 0) if seed is None else seed,
    )
    if run is not None:
        predictor = Predictor.from_run(run)
    else:
        predictor = Predictor.from_weights(str(model), str(weights), classes=source.classes, **options)
    batch_size = batch_size or stored.get("batch_size", 256)
    spec = predictor.spec if crop_pct is None else replace(predictor.spec, crop_pct=crop_pct)
    result = _evaluate(predictor, spec, source, place, batch_size, workers, on_bad_image)
    return {**result, "classes": len(predictor.classes), "data_dir": str(place), "split": split}


def _evaluate(
    predictor: Predictor,
    spec: InputSpec,
    source: Source,
    place: str | Path,
    batch_size: int,
    workers: int,
    on_bad_image: OnBadImage,
) -> dict[str, float]:
    labels = _labels_by_name(source.classes, predictor.classes, place)
    mesh = data_mesh()
    check_divides("batch_size", batch_size, 1, mesh)
    step = make_eval_step(predictor.model, spec, Classification(len(predictor.classes)), mesh)
    params = jax.device_put(predictor.variables["params"], replicated(mesh))
    loading: dict[str, Any] = {"workers": workers, "on_bad_image": on_bad_image}
    with eval_batches(source, spec, batch_size=batch_size, **loading) as batches:
        relabelled = (batch._replace(label=labels[batch.label]) for batch in batches)
        return evaluate(step, params, relabelled, mesh)


def _labels_by_name(found: Sequence[str], known: Sequence[str], place: str | Path) -> np.ndarray:
    """The data's labels -> the model's, by class name; the data may lack classes, but have no others."""
    positions = {name: index for index, name in enumerate(known)}
    for name in found:
        if name not in positions:
            raise RequestError(
                f"{place}: the class '{name}' is none of the {len(known)} that the model was trained for"
            )
    return np.array([positions[name] for name in found], np.int32)


def _check_same(folder: Path, experiment: Experiment) -> None:
    if not (folder / RECIPE).exists():
        return
    for key, (old, new) in differences(load(folder / RECIPE), experiment.recipe).items():
        if key not in FREE_KEYS:
            raise RequestError(
                f"--resume: {folder} was begun with {key}={old}, not {new}; "
                "go on with the same, or choose another --output-dir"
            )


def _announce(log: RunLog, experiment: Experiment, folder: Path, step: int) -> None:
    device = jax.devices()[0]
    facts = describe(experiment)
    log.line(
        f"crosscale {package_version()}, jax {jax.__version__}, Python {platform.python_version()}, "
        f"{experiment.mesh.size} x {device.device_kind}, seed {experiment.recipe.train.seed}"
    )
    log.line(
        f"{facts['model']}: {facts['parameters']:,} parameters; {facts['train_images']} images to train on, "
        f"{facts['val_images']} held out, {facts['classes']} classes; {facts['steps']} steps"
    )
    log.line(f"{'going on from' if step else 'from'} step {step}, into {folder}")


def _summary(loop: Loop, folder: Path) -> dict[str, Any]:
    best = loop.progress.best
    metrics = best["metrics"] if best else {}
    return {
        **{name: metrics.get(name) for name in ("top1", "top5", "loss", "examples")},
        "images_per_second": loop.meter.rate,
        "steps": loop.step,
        "epochs": loop.progress.epoch,
        "best_step": best["step"] if best else None,
        "best_epoch": best["epoch"] if best else None,
        "skipped_images": loop.progress.skipped_images,
        "skipped_steps": loop.progress.skipped_steps,
        "stopped": loop.stopped,
        "output_dir": str(folder),
    }


def _closing(result: Mapping[str, Any], experiment: Experiment) -> str:
    if result["stopped"] is not None:
        return (
            f"stopped by {result['stopped']} at step {result['steps']} of {experiment.total_steps}; "
            f"all is saved. To go on: crosscale train --output-dir {result['output_dir']} --resume"
        )
    if result["top1"] is None:
        return f"done: {result['steps']} steps, no validation; {result['output_dir']}"
    skipped = f", {result['skipped_images']} pictures skipped" if result["skipped_images"] else ""
    return (
        f"done: best top-1 {result['top1']:.2%}, top-5 {result['top5']:.2%}, loss {result['loss']:.4f} "
        f"(epoch {result['best_epoch']}){skipped}; {result['output_dir']}"
    )
