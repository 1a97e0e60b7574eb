"""The models of this package as compiled programs: the engine's training step, and the forward."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator.common import TOYS, timed, told
from crosscale.contracts import InputSpec
from crosscale.data.augment import Augment
from crosscale.engine.compiler import compiler_options
from crosscale.engine.forward import forward
from crosscale.engine.optimizer import make_optimizer
from crosscale.engine.settings import OptimizerSettings
from crosscale.engine.sharding import data_mesh
from crosscale.engine.state import TrainState
from crosscale.engine.step import make_train_step
from crosscale.layers.kernels import use_kernels
from crosscale.measure import count_costs
from crosscale.models.registry import create_model, input_spec
from crosscale.pretrained import parameter_shapes
from crosscale.tasks.classification import Classification
from crosscale.trees import unflatten

CLASSES = 1000
# On the device: what recipes/crossvit_ibm.yaml has there. The rest of a recipe's augmentation is the loader's.
RECIPE = Augment(erase_prob=0.25, mixup=0.8, cutmix=1.0)


@dataclass(frozen=True)
class Case:
    """One program to measure.

    Attributes:
      label: how it is called in the results.
      model: preset, or family at toy size.
      batch: pictures.
      train: the training step; the forward otherwise.
      recipe: with erasing, mixup, CutMix, label smoothing and stochastic depth of 0.1; none of them otherwise.
      options: the model's.
      kernels: what `use_kernels` is asked for.
      compiler: XLA's options of this program, beside those that the engine gives a training step.
    """

    label: str
    model: str
    batch: int
    train: bool = True
    recipe: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    kernels: dict[str, Any] = field(default_factory=dict)
    compiler: dict[str, Any] = field(default_factory=dict)

    def build(self) -> tuple[Any, InputSpec]:
        """The model in bfloat16, and its input."""
        options = {**TOYS.get(self.model, {}), "dtype": jnp.bfloat16, **self.options}
        model = create_model(
            self.model, num_classes=CLASSES, drop_path_rate=0.1 if self.train and self.recipe else 0.0, **options
        )
        return model, input_spec(self.model, model)


def trees(model: Any, train: bool) -> Any:
    """Seeded parameters, or the state of a training that starts from them, on the device."""
    rng = np.random.default_rng(0)
    values = {}
    for name, shape in parameter_shapes(model).items():
        noise = rng.standard_normal(shape, np.float32)
        values[name] = jax.device_put(1 + 0.02 * noise if name.endswith("/scale") else 0.02 * noise)
    params = unflatten(values)
    if not train:
        return {"params": params}
    return TrainState.create(params, make_optimizer(OptimizerSettings(), params), ema=False)


def pictures(case: Case, spec: InputSpec) -> Any:
    """A random batch on the device: uint8 pictures, and for training their labels and weights."""
    rng = np.random.default_rng(1)
    images = jax.device_put(rng.integers(0, 256, (case.batch, *spec.size, spec.channels), np.uint8))
    if not case.train:
        return images
    labels = jax.device_put(rng.integers(0, CLASSES, case.batch).astype(np.int32))
    return {"image": images, "label": labels, "weight": jnp.ones(case.batch, jnp.float32)}


def _function(case: Case, model: Any, spec: InputSpec, given: Any) -> Any:
    if not case.train:
        return jax.jit(lambda variables, images: forward(model, variables, images, spec))
    task = Classification(CLASSES, 0.1, RECIPE) if case.recipe else Classification(CLASSES)
    optimizer = make_optimizer(OptimizerSettings(), given.params)
    return make_train_step(model, spec, task, optimizer, lambda step: jnp.float32(1e-4), data_mesh(), seed=0)


def lower(case: Case) -> Callable[[], tuple[Any, float]]:
    """Traces a case. What it returns compiles it, in any thread, and gives the program and the seconds that took."""
    model, spec = case.build()
    given = jax.eval_shape(lambda: trees(model, case.train))
    batch = jax.eval_shape(lambda: pictures(case, spec))
    with use_kernels(**case.kernels):
        lowered = _function(case, model, spec, given).lower(given, batch)

    options = (compiler_options(model, data_mesh()) or {}) if case.train else {}

    def compiled() -> tuple[Any, float]:
        began = time.perf_counter()
        program = lowered.compile(compiler_options={**options, **case.compiler} or None)
        return program, time.perf_counter() - began

    return compiled


def compile_all(cases: Iterable[Case], seconds: float, workers: int = 8) -> list[tuple[Case, Any, float, str]]:
    """(case, program or None, its seconds, error) of all cases, compiled side by side, in the order given.

    Args:
      seconds: after which a program that is not there yet is given up.
    """
    pool, futures = ThreadPoolExecutor(workers), list[tuple[Case, Future]]()
    end = time.perf_counter() + seconds
    for case in cases:
        try:
            futures.append((case, pool.submit(lower(case))))
        except Exception as error:  # a form that refuses these shapes is a result
            failed: Future = Future()
            failed.set_exception(error)
            futures.append((case, failed))
    wait([future for _, future in futures], timeout=max(min(end - time.perf_counter(), 3600.0), 1.0))
    pool.shutdown(wait=False, cancel_futures=True)
    found = []
    for case, future in futures:
        if not future.done() or future.cancelled():
            found.append((case, None, 0.0, "not compiled in time"))
        elif (error := future.exception()) is not None:
            found.append((case, None, 0.0, told(error)))
        else:
            found.append((case, *future.result(), ""))
    return found


class Running:
    """A compiled case with what it runs on. A training's state is handed on from step to step."""

    def __init__(self, program: Any, given: Any, batch: Any, train: bool) -> None:
        self.program, self.given, self.batch, self.train, self.last = program, given, batch, train, None

    def step(self) -> None:
        result = self.program(self.given, self.batch)
        if self.train:
            self.given, result = result
        self.last = result

    def wait(self) -> None:
        jax.block_until_ready((self.last, self.given))

    def timed(self, smoke: bool) -> dict[str, float]:
        return timed(self.step, self.wait, smoke)


def speed(case: Case, times: dict[str, float], macs: int, peak: float) -> dict[str, Any]:
    """Images a second and FLOP/s; a training step counts as three forwards, by the papers' formulas."""
    flops = (6 if case.train else 2) * macs * case.batch
    return {
        "images_per_second": case.batch / times["best"],
        "median_images_per_second": case.batch / times["median"],
        "milliseconds": 1e3 * times["best"],
        "tflops": flops / times["best"] / 1e12,
        "of_peak": flops / times["best"] / peak,
        "steps": int(times["steps"]),
    }


def formula_macs(case: Case) -> int:
    """Multiply-accumulates of one picture's forward."""
    return count_costs(*case.build()).formula_macs


def memory(program: Any) -> int | None:
    """Bytes that a program holds at its worst moment, arguments and results included."""
    analysis = program.memory_analysis()
    if analysis is None:
        return None
    sizes = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes + analysis.output_size_in_bytes
    return int(sizes - analysis.alias_size_in_bytes)


def matmul_peak(smoke: bool, side: int = 8192) -> float:
    """FLOP/s of a large bfloat16 product."""
    side = 256 if smoke else side
    a, b = (jax.random.normal(jax.random.key(seed), (side, side), jnp.bfloat16) for seed in (0, 1))
    product = jax.jit(lambda a, b: a @ b)
    last: list[Any] = [None]

    def step() -> None:
        last[0] = product(a, b)

    return 2 * side**3 / timed(step, lambda: jax.block_until_ready(last[0]), smoke)["best"]


def about() -> dict[str, Any]:
    """What the numbers come from."""
    device = jax.devices()[0]
    return {"device": device.device_kind, "platform": device.platform, "jax": jax.__version__}
