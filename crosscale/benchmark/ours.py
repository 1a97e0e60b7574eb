"""Runs as a program of its own: one measurement of one of this package's models, through its public parts.

    python -m crosscale.benchmark.ours '{"mode": "infer", "model": "crossvit_9_240", "batch_size": 8, ...}'

Answers with one JSON line, as `torch_models.py` does for the other side.
"""

import time

BEGAN = time.perf_counter()

import json  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import fields  # noqa: E402
from typing import Any  # noqa: E402

import flax.linen as nn  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from crosscale.benchmark import stopwatch  # noqa: E402
from crosscale.contracts import Batch, InputSpec, Variables  # noqa: E402
from crosscale.measure import count_costs, count_function_macs  # noqa: E402
from crosscale.models.crossvit.config import CrossViTConfig  # noqa: E402
from crosscale.models.crossvit.fusion import FUSIONS, FusionSettings  # noqa: E402
from crosscale.models.model import ImageModel  # noqa: E402
from crosscale.models.registry import create_model, input_spec  # noqa: E402
from crosscale.pretrained import parameter_shapes, variables_of  # noqa: E402
from crosscale.runtime import prepare_jax  # noqa: E402

Step = Callable[[], None]


def seeded_variables(model: ImageModel) -> Variables:
    """Small random values for every parameter; how long a model runs does not depend on them."""
    rng = np.random.default_rng(0)
    values = {}
    for name, shape in parameter_shapes(model).items():
        ones = name.endswith(("/scale", "/var"))
        values[name] = np.ones(shape, np.float32) if ones else 0.02 * rng.standard_normal(shape, np.float32)
    placed: Variables = jax.device_put(variables_of(values, model))
    return placed


def build(request: dict[str, Any]) -> tuple[ImageModel, InputSpec]:
    """The preset, or the family with the request's fields, with no drop rates and in the request's precision."""
    options = dict(request["options"])
    if request["dtype"] == "bfloat16":
        options["dtype"] = jnp.bfloat16
    model = create_model(request["model"], drop_path_rate=0.0, **options)
    if hasattr(model, "head_drop_rate"):
        model = model.clone(head_drop_rate=0.0)
    return model, input_spec(request["model"], model)


def compiled(parts: dict[str, float], function: Any, *arguments: Any) -> Any:
    """The program of a jitted function; `parts` gets the seconds of "trace", "lower" and "compile".

    The last of them loads the program where an earlier process left it on disc.
    """
    began = time.perf_counter()
    traced = function.trace(*arguments)
    parts["trace"] = (now := time.perf_counter()) - began
    began, lowered = now, traced.lower()
    parts["lower"] = (now := time.perf_counter()) - began
    began, program = now, lowered.compile()
    parts["compile"] = time.perf_counter() - began
    return program


def inference(model: ImageModel, spec: InputSpec, request: dict[str, Any]) -> tuple[Step, dict[str, Any]]:
    """A jitted `model.apply` on a resident float32 batch, and what the compiler says of its memory."""
    variables = seeded_variables(model)
    pixels = np.random.default_rng(1).normal(0, 1, (request["batch_size"], *spec.size, spec.channels))
    images = jax.device_put(pixels.astype(np.float32))
    apply = jax.jit(lambda variables, images: model.apply(variables, images))
    program: list[Any] = []
    parts: dict[str, float] = {}

    def step() -> None:
        if not program:
            program.append(compiled(parts, apply, variables, images))
        jax.block_until_ready(program[0](variables, images))

    return step, {"program": program, "parts": parts}


class FusionAlone(nn.Module):
    """The fusion of a model's first stage, without the model."""

    config: CrossViTConfig

    @nn.compact
    def __call__(self, tokens: Any) -> Any:
        c = self.config
        settings = FusionSettings(
            depth=c.depth[0][-1], num_heads=c.num_heads, grids=c.grids, qkv_bias=c.qkv_bias, qk_scale=c.qk_scale,
            drop_rate=0.0, attn_drop_rate=0.0, drop_path_rate=0.0, norm_layer=c.norm_layer, dtype=c.dtype,
        )  # fmt: skip
        return FUSIONS[c.fusion](tokens, settings, False)


def fusion_alone(model: Any, request: dict[str, Any]) -> tuple[Step, dict[str, Any]]:
    """The fusion on tokens as the model's branches would give them."""
    config = CrossViTConfig(**{field.name: getattr(model, field.name) for field in fields(CrossViTConfig)})
    shapes = [(1 + rows * columns, dim) for (rows, columns), dim in zip(config.grids, config.embed_dim, strict=True)]
    keys = jax.random.split(jax.random.key(0), len(shapes))
    tokens = tuple(
        jax.random.normal(key, (request["batch_size"], *shape)) for key, shape in zip(keys, shapes, strict=True)
    )
    module = FusionAlone(config)
    variables = jax.jit(module.init)(jax.random.key(1), tokens)
    program: list[Any] = []

    def step() -> None:
        if not program:
            program.append(jax.jit(module.apply).lower(variables, tokens).compile())
        jax.block_until_ready(program[0](variables, tokens))

    macs = count_function_macs(module.apply, variables, tokens)
    return step, {"program": program, "macs": {"macs": macs, "formula_macs": macs}}


def training(model: ImageModel, spec: InputSpec, request: dict[str, Any]) -> tuple[Step, dict[str, Any]]:
    """The engine's training step on a resident batch of uint8 pictures."""
    from crosscale.engine.optimizer import make_optimizer
    from crosscale.engine.settings import OptimizerSettings
    from crosscale.engine.sharding import data_mesh, put_batch, replicated
    from crosscale.engine.state import TrainState
    from crosscale.engine.step import make_train_step

    mesh = data_mesh()
    variables = seeded_variables(model)
    params = variables["params"]
    optimizer = make_optimizer(OptimizerSettings(), params)
    created = TrainState.create(params, optimizer, ema=False, batch_stats=variables.get("batch_stats"))
    state = jax.device_put(created, replicated(mesh))
    rng, count = np.random.default_rng(1), request["batch_size"]
    task, targets = _task(model, (count, *spec.size), rng)
    train_step = make_train_step(model, spec, task, optimizer, lambda step: jnp.float32(1e-4), mesh, seed=0)
    images = rng.integers(0, 256, (count, *spec.size, spec.channels), np.uint8)
    batch = put_batch(Batch({"image": images, **targets}, np.ones(count, np.float32), np.arange(count)), mesh)
    held = [state]
    program: list[Any] = []
    parts: dict[str, float] = {}

    def step() -> None:
        if not program:
            program.append(compiled(parts, train_step, held[0], batch))
        held[0], scalars = program[0](held[0], batch)
        scalars["loss"].block_until_ready()

    return step, {"program": program, "parts": parts}


def _task(model: ImageModel, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Any, dict[str, np.ndarray]]:
    """What a model of this kind learns, and targets of it for pictures (B, H, W)."""
    from crosscale.tasks.registry import task_kind

    labels = [str(label) for label in range(model.num_classes)]
    if model.dense:
        return task_kind("segmentation").from_artifact(labels, {}), {
            "mask": rng.integers(0, len(labels), shape).astype(np.uint8)
        }
    if model.usual_task in ("detection", "instances"):
        task = task_kind(model.usual_task).from_artifact(labels, {})
        return task, _boxes(len(labels), shape, rng, masks=model.usual_task == "instances")
    targets = {"label": rng.integers(0, len(labels), shape[0]).astype(np.int32)}
    return task_kind("classification").from_artifact(labels, {}), targets


def _boxes(
    classes: int, shape: tuple[int, ...], rng: np.random.Generator, *, masks: bool, count: int = 10
) -> dict[str, np.ndarray]:
    """Targets of a detection, `count` objects for each of the pictures (B, H, W); masks fill their boxes."""
    from crosscale.data.cut_masks import SIDE, packed_width

    batch, height, width = shape
    corners = rng.uniform(0, 0.7, (batch, count, 2)), rng.uniform(0.1, 0.3, (batch, count, 2))
    shares = np.concatenate([corners[0], corners[0] + corners[1]], -1)
    boxes = (shares * np.array([width, height, width, height])).astype(np.float32)
    whole = {"masks": np.full((batch, count, SIDE, packed_width(SIDE)), 255, np.uint8), "frames": boxes}
    return {
        **(whole if masks else {}),
        "boxes": boxes,
        "labels": rng.integers(0, classes, (batch, count)).astype(np.int32),
        "crowd": np.zeros((batch, count), bool),
        "size": np.tile(np.array([height, width], np.int32), (batch, 1)),
    }


def matmul_flops(dtype: Any, side: int) -> float:
    """FLOP/s of the quickest of several products of two square matrices."""
    a, b = (jax.random.normal(jax.random.key(seed), (side, side)).astype(dtype) for seed in (0, 1))
    product = jax.jit(lambda a, b: a @ b)
    return 2 * side**3 / stopwatch.best(lambda: jax.block_until_ready(product(a, b)), 8)


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request."""
    if request["platform"] is not None:
        jax.config.update("jax_platforms", request["platform"])
    jax.config.update("jax_default_matmul_precision", "tensorfloat32" if request["tf32"] else "highest")
    model, spec = build(request)
    device = jax.devices()[0]
    imported = time.perf_counter() - BEGAN
    if request["fusion"] is not None:
        step, held = fusion_alone(model, request)
    else:
        step, held = (training if request["mode"] == "train" else inference)(model, spec, request)
    first = stopwatch.first_call(step)
    result = stopwatch.timed(step, request["seconds"])
    on_device = device.memory_stats() or {}
    peak = on_device.get("peak_bytes_in_use") if device.platform != "cpu" else stopwatch.host_peak_bytes()
    analysis = held["program"][0].memory_analysis()
    dtype = jnp.bfloat16 if request["dtype"] == "bfloat16" else jnp.float32
    return {
        **result,
        "first_call": first,
        "first_call_parts": held.get("parts"),
        "start": imported,
        "peak_bytes": peak,
        "temporary_bytes": None if analysis is None else analysis.temp_size_in_bytes,
        "device": "cpu" if device.platform == "cpu" else device.device_kind,
        "settings": {},
        "matmul_flops": matmul_flops(dtype, request["matmul"] if device.platform == "cpu" else 8192),
        "versions": {"jax": jax.__version__},
        **(held.get("macs") or (_macs(model, spec) if request["first"] else {})),
    }


def _macs(model: ImageModel, spec: InputSpec) -> dict[str, int]:
    costs = count_costs(model, spec)
    return {"macs": costs.macs, "formula_macs": costs.formula_macs}


def main() -> None:
    prepare_jax()  # as the command line does
    print(json.dumps(measure(json.loads(sys.argv[1]))), flush=True)


if __name__ == "__main__":
    main()
