"""What every family and every task holds to. `test_contracts.py` checks it of all that are registered.

A new family or task adds one row there, a small model or a few outputs, and inherits the rest.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crosscale import explain
from crosscale.artifact import Artifact, read_artifact, write_artifact
from crosscale.contracts import InputSpec, Record, SizedExamples, Variables
from crosscale.data.augment import Augment
from crosscale.export.export import TOLERANCE, export
from crosscale.models.detection import Detector
from crosscale.models.model import ImageModel
from crosscale.predictor import Predictor
from crosscale.pretrained import from_variables, load_weights, parameter_shapes, save_weights, to_variables
from crosscale.tasks.registry import stored_task, task_kind
from crosscale.tasks.task import Task
from crosscale.trees import flatten
from crosscale.weights.rules import unplaced

# ---- families ----


def dense(model: ImageModel) -> bool:
    """Whether the model says something of every pixel."""
    return model.dense


def detects(model: ImageModel) -> bool:
    """Whether the model says something of anchors and boxes."""
    return isinstance(model, Detector)


def pictures(model: ImageModel, count: int = 2) -> np.ndarray:
    """(count, H, W, channels) uint8 at the model's own size."""
    shape = (count, *model.input_size, model.in_channels)
    return np.random.default_rng(3).integers(0, 256, shape).astype(np.uint8)


def normalised(model: ImageModel) -> jax.Array:
    """The same pictures as the model takes them."""
    return jnp.asarray(pictures(model), jnp.float32) / 127.5 - 1


def assert_equal(found: Variables, wanted: Variables) -> None:
    """Equal to the last bit."""
    ours, theirs = flatten(found), flatten(wanted)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def check_init(model: ImageModel) -> None:
    """Parameters, and running statistics at most besides, in float32, below the backbone and the parts that can be made
    anew, each at a depth that decay can use."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), normalised(model))
    assert set(shapes) in ({"params"}, {"params", "batch_stats"})
    parts = {f"{part}/" for part in shapes["params"]} - {"backbone/"}
    assert "head/" in parts <= set(model.new_parts())
    assert any(name.startswith(model.classifiers()) for name in flatten(shapes["params"]))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes)} == {"float32"}
    names = parameter_shapes(model)
    assert names == {name: leaf.shape for tree in shapes.values() for name, leaf in flatten(tree).items()}
    depths = {name: model.layer_of(name) for name in names}
    assert max(depths.values()) == max(depth for name, depth in depths.items() if name.startswith("head/"))
    assert len(set(depths.values())) > 2


def check_apply(model: ImageModel, variables: Variables) -> None:
    """(B, H, W, C) -> (B, num_classes), or that for every pixel or anchor: finite, and of each picture alone."""
    images, run = normalised(model), jax.jit(model.apply)
    outputs, swapped = run(variables, images), run(variables, images[::-1])
    if not detects(model):
        assert outputs.shape == (2, *(model.input_size if dense(model) else ()), model.num_classes)
    for found, other in zip(jax.tree.leaves(outputs), jax.tree.leaves(swapped), strict=True):
        assert np.isfinite(found).all()
        np.testing.assert_allclose(other[::-1], found, rtol=1e-4, atol=1e-5)
        assert np.abs(found[0] - found[1]).max() > 1e-4


def check_features(model: ImageModel, variables: Variables) -> None:
    """What the head reads: vectors and maps with their strides, from which the head makes the logits."""
    images = normalised(model)

    @jax.jit
    def both(variables: Variables, images: jax.Array) -> Any:
        features = model.apply(variables, images, method="features")
        return features, model.apply(variables, features, method="decode")

    features, logits = both(variables, images)
    whole = partial(model.apply, method="cells" if dense(model) else None)
    for found, wanted in zip(jax.tree.leaves(logits), jax.tree.leaves(jax.jit(whole)(variables, images)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert len(features.pooled) > 0
    assert all(vector.ndim == 2 and vector.shape[0] == 2 for vector in features.pooled)
    assert len(features.strides) == len(features.maps) > 0
    for found, stride in zip(features.maps, features.strides, strict=True):
        assert found.shape[:3] == (2, *(side // stride for side in model.input_size))


def check_attention_maps(model: ImageModel, variables: Variables) -> None:
    """As described: of the pictures' size, nowhere negative, and not even; the outputs are those of the forward."""
    spec = InputSpec(size=model.input_size, channels=model.in_channels)
    described = [found.name for found in explain.describe_maps(model)]
    assert len(set(described)) == len(described) > 0
    result = explain.explain(model, variables, pictures(model), spec=spec)
    assert set(result.maps) == set(described)
    for name, values in result.maps.items():
        assert values.shape == (2, *model.input_size), name
        assert values.min() >= 0, name
        assert values.std() > 0, name


def check_weights(model: ImageModel, variables: Variables, folder: Path) -> None:
    """Written and read in each scheme that the family knows, to the last bit; a scheme that is read alone is that of
    another task's files, and lacks nothing but what is made anew."""
    read_alone = {
        scheme: names
        for scheme, rules in model.weight_rules().items()
        if (names := unplaced(rules, parameter_shapes(model)))
    }
    assert all(name.startswith(model.new_parts()) for names in read_alone.values() for name in names)
    for scheme in {"crosscale", *model.weight_rules()} - read_alone.keys():
        flat = from_variables(variables, model, scheme)
        assert_equal(to_variables(flat, model, scheme, "the file"), variables)
    save_weights(folder / "w.safetensors", variables, model)
    assert_equal(load_weights(folder / "w.safetensors", model), variables)


def check_export(model: ImageModel, variables: Variables, folder: Path) -> None:
    """The exported program gives what the predictor gives, for each picture size that the family opens."""
    spec = InputSpec(size=model.input_size, channels=model.in_channels)
    labels = [f"class {label}" for label in range(model.num_classes)]
    task = task_kind(model.usual_task).from_artifact(labels, {})
    predictor = Predictor(model, variables, spec, task=task)
    # Boxes are exponentials of what a head says, those of two stages twice; seeded heads say large numbers.
    tolerance, most = (5e-4, 5e-4) if detects(model) else (TOLERANCE, 1e-5)
    done = export(predictor, folder / "m.zip", format="stablehlo", platforms=("cpu",), tolerance=tolerance)
    assert done.deviation < most
    assert done.config["classes"] == labels


# ---- tasks ----


@dataclass(frozen=True)
class Case:
    """A small task, and twelve examples of it of which the last three are padding.

    Attributes:
      task: as training has it.
      outputs: of a model, (12, ...).
      arrays: the targets' arrays of a batch, (12, ...) by name.
      target: of a record.
      learnt: the arrays of a training batch, where they are others than a validation's.
      wrapped: the outputs as the loss reads them.
      units: what an example counts for in the loss.
    """

    task: Task
    outputs: np.ndarray
    arrays: Mapping[str, np.ndarray]
    target: Any
    learnt: Mapping[str, np.ndarray] | None = None
    wrapped: Callable[[Any], Any] = lambda outputs: outputs
    units: int = 1

    WEIGHT = np.array([1.0] * 9 + [0.0] * 3, np.float32)

    def batch(self, rows: Any = slice(None)) -> dict[str, np.ndarray]:
        return {**{name: values[rows] for name, values in self.arrays.items()}, "weight": self.WEIGHT[rows]}

    def training_batch(self, rows: Any = slice(None)) -> dict[str, np.ndarray]:
        arrays = self.arrays if self.learnt is None else self.learnt
        return {**{name: values[rows] for name, values in arrays.items()}, "weight": self.WEIGHT[rows]}


def check_loss(case: Case) -> None:
    """Padding counts in neither the loss nor its gradient, whatever stands there; the parts add up over batches."""
    task, weight = case.task, case.WEIGHT
    images = jnp.zeros((12, 4, 4, 1))

    def total(outputs: Any, rows: Any = slice(None)) -> Any:
        _, targets = task.augment(jax.random.key(0), images[rows], case.training_batch(rows))
        parts, count = task.loss(case.wrapped(outputs), targets, weight[rows])
        return sum(parts.values()), count

    slope_of = jax.jit(jax.value_and_grad(total, has_aux=True))
    (clean, count), slope = slope_of(jnp.asarray(case.outputs))
    assert float(count) == 9 * case.units
    assert np.abs(slope[:9]).max() > 0
    assert not np.any(slope[9:])
    (padded, _), slope_there = slope_of(jnp.asarray(case.outputs).at[9:].set(jnp.nan))
    np.testing.assert_allclose(padded, clean, rtol=1e-6)
    np.testing.assert_allclose(slope_there[:9], slope[:9], rtol=1e-6)
    parts = slice(0, 5), slice(5, 12)
    halves = [jax.jit(partial(total, rows=rows))(jnp.asarray(case.outputs[rows]))[0] for rows in parts]
    np.testing.assert_allclose(sum(halves), clean, rtol=1e-5)


def check_metric(case: Case) -> None:
    """The numbers depend neither on how the examples are split nor on their order, nor on padding."""
    metric, update = case.task.metric, jax.jit(case.task.metric.update)

    def numbers(parts: Any, outputs: Any = case.outputs) -> dict[str, float]:
        total, rows = metric.init(), []
        for part in parts:
            total = metric.merge(total, update(metric.init(), outputs[part], case.batch(part)))
            collected = {"index": part, **metric.collect(outputs[part], case.batch(part))}
            rows.append({name: np.asarray(value)[case.WEIGHT[part] > 0] for name, value in collected.items()})
        joined = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]} if metric.collects else {}
        return metric.compute(total, joined)

    whole = numbers([np.arange(12)])
    assert set(case.task.measures) <= set(whole)
    assert all(np.isfinite(value) for value in whole.values())
    order = np.random.default_rng(0).permutation(12)
    spoilt = case.outputs.copy()
    spoilt[9:] = np.nan
    for parts, outputs in (
        ([np.arange(5), np.arange(5, 12)], case.outputs),
        ([np.array([i]) for i in range(12)], case.outputs),
        ([order] if not metric.collects else [np.arange(12)], case.outputs),
        ([np.arange(12)], spoilt),
    ):
        found = numbers(parts, outputs)
        assert found.keys() == whole.keys()
        for name, value in whole.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)
    assert case.task.headline(whole) != case.task.headline(dict.fromkeys(whole))
    assert case.task.best in case.task.measures


def check_artifact(case: Case, folder: Path) -> None:
    """What is stored makes a task again that reads outputs in the same way."""
    task = case.task
    stored = Artifact(
        model="crossvit", options={}, labels=task.labels, num_outputs=len(task.labels), input_spec=InputSpec(),
        task=task.name, task_options=task.artifact_options(),
    )  # fmt: skip
    write_artifact(folder, stored)
    again = stored_task(read_artifact(folder))
    assert type(again) is type(task)
    assert again.labels == task.labels
    assert again.artifact_options() == task.artifact_options()
    sources = [f"{row}.png" for row in range(12)]
    found, wanted = again.results(case.outputs, sources), task.results(case.outputs, sources)
    assert [item.json() for item in found] == [item.json() for item in wanted]
    again.check_outputs(case.outputs.shape[1:])


def check_results(case: Case) -> None:
    """A result and a failure have the same keys, those of the schema; what people see is there for a result alone."""
    (found,) = case.task.results(case.outputs[:1], ["a.png"])
    failed = case.task.failure("b.png", "the file is empty")
    assert set(found.json()) == set(failed.json()) == {"source", "error", *case.task.schema}
    assert (found.json()["source"], found.json()["error"]) == ("a.png", None)
    assert (failed.json()["source"], failed.json()["error"]) == ("b.png", "the file is empty")
    assert json.loads(json.dumps([found.json(), failed.json()])) == [found.json(), failed.json()]
    assert {len(row) for row in found.rows()} == {len(case.task.columns)}
    assert set(case.task.numeric) <= set(case.task.columns)
    assert len(found.caption()) > 0
    assert (failed.rows(), failed.caption()) == ([], [])


def check_examples(case: Case) -> None:
    """A picture in training, in validation, and what stands for none: the same names, shapes and types."""
    spec = InputSpec(size=(8, 12), channels=1, mean=(0.5,), std=(0.2,))
    record = Record("a", np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8), case.target)
    for augment in (None, Augment.none()):
        examples = case.task.examples(spec, augment)
        if isinstance(examples, SizedExamples):
            check_sized_examples(case, record, examples)
            continue
        found = [examples.validation(record), examples.blank()]
        if augment is not None:
            found.append(examples.train(record, np.random.default_rng(0)))
        shapes = [{name: (value.shape, value.dtype) for name, value in arrays.items()} for arrays in found]
        assert all(shape == shapes[0] for shape in shapes)
        assert shapes[0]["image"] == ((8, 12, 1), np.uint8)
        for name, values in case.arrays.items():
            assert shapes[0][name] == (values.shape[1:], values.dtype)


def check_sized_examples(case: Case, record: Record, examples: Any) -> None:
    """In validation the shapes are those of the key, for what stands for none too; in training all are equal."""

    def shapes(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return {name: (value.shape, value.dtype) for name, value in arrays.items()}

    key = examples.shape_key(record.image.shape[:2])
    found = shapes(examples.validation(record))
    assert found == shapes(examples.blank(key))
    assert found.keys() == case.arrays.keys()
    blank = shapes(examples.blank())
    assert blank.keys() == {"image", *(case.learnt or {})}
    if examples.trains:
        assert shapes(examples.train(record, np.random.default_rng(0))) == blank
