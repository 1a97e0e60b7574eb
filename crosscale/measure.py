"""What a model costs: parameters, multiply-accumulates and memory, without running it."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from itertools import compress
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend import core

from crosscale.contracts import InputSpec, Variables
from crosscale.errors import RequestError
from crosscale.layers.attention import ClassAttention, class_attention_saving
from crosscale.layers.conv import Conv
from crosscale.layers.groups import GroupAttention
from crosscale.layers.kernels.choice import Kernels, asked
from crosscale.models.registry import create_model, get_preset
from crosscale.models.shapes import remembered, variable_shapes


@dataclass(frozen=True)
class Memory:
    """What one compiled forward needs on the device, in bytes.

    Attributes:
      arguments: the variables and the batch of images.
      activations: the largest set of intermediate values alive at once, as the compiler laid them out.
      outputs: the logits.
    """

    arguments: int
    activations: int
    outputs: int


@dataclass(frozen=True)
class Costs:
    """What a model costs, whatever it runs on.

    Attributes:
      parameters: trained scalars (the `params` collection).
      macs: multiply-accumulates of one deterministic forward, as it runs.
      formula_macs: the same with every layer as its paper writes it; published figures count these. It differs
        where a layer reaches the same result with less, as `ClassAttention`, which projects no keys and values, and
        `GroupAttention`, which projects no padding, or sooner with more, as a strided `Conv` on a processor.
      activations: bytes of the intermediate values alive at once at the worst moment of that forward, in program
        order and before the compiler fuses: `measure_memory` asks the compiler.
    """

    parameters: int
    macs: int
    formula_macs: int
    activations: int


def count_costs(model: nn.Module, spec: InputSpec, batch: int = 1) -> Costs:
    """Counts parameters, and multiply-accumulates of `batch` images, from abstract traces.

    Counts the matrix products and convolutions of the traced model, as published figures do: normalisation,
    activation functions and additions are left out, and so are interpolations: RoIAlign, and products with a constant
    matrix, which is how the branches' fixed bicubic rescale runs. FLOPs are about twice this number.

    Raises:
      RequestError: a matrix product is in a loop whose length only the running program knows.
    """
    return _count_costs(model, spec, batch, asked())


# Tracing a large model takes a second, and the table of models, a report and a measurement ask for the same ones.
@remembered(128)
def _count_costs(model: nn.Module, spec: InputSpec, batch: int, kernels: Kernels) -> Costs:
    """`kernels` is what `use_kernels` asks for around the call: the program depends on it."""
    saved = 0

    def note_savings(next_call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        nonlocal saved
        if isinstance(context.module, ClassAttention) and context.method_name == "__call__":
            batch_size, tokens, dim = args[0].shape
            saved += class_attention_saving(batch_size, tokens, dim, context.module.num_heads)
        elif isinstance(context.module, GroupAttention) and context.method_name == "__call__":
            saved += context.module.saved_macs(args[0])
        elif isinstance(context.module, Conv) and context.method_name == "__call__":
            saved -= context.module.additional_macs(args[0])
        return next_call(*args, **kwargs)

    variables = variable_shapes(model, spec.size, spec.channels)
    with nn.intercept_methods(note_savings):
        forward = jax.make_jaxpr(partial(_forward, model))(variables, _images(spec, batch)).jaxpr
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables.get("params", {})))
    macs = _macs(forward)
    return Costs(parameters, macs, macs + saved, _peak_bytes(forward))


def preset_costs(name: str) -> Costs:
    """The costs of a preset at its own input, as `count_costs` gives them for one image.

    For a processor they are kept in `models/costs.json`, because tracing every preset takes minutes; a test counts them
    again. Elsewhere, and for presets that are not in it, they are counted.
    """
    row = _kept_costs().get(name) if jax.default_backend() == "cpu" and asked() == Kernels() else None
    return Costs(**row) if row else count_costs(create_model(name), get_preset(name).input_spec)


@cache
def _kept_costs() -> dict[str, dict[str, int]]:
    return dict(json.loads(files("crosscale.models").joinpath("costs.json").read_text(encoding="utf-8")))


def count_parameters(model: nn.Module, spec: InputSpec) -> int:
    """The number of trained scalars (the `params` collection), from shapes alone."""
    return count_costs(model, spec).parameters


def count_macs(model: nn.Module, spec: InputSpec, batch: int = 1) -> int:
    """Multiply-accumulates of one deterministic forward of `batch` images: see `count_costs`."""
    return count_costs(model, spec, batch).macs


def count_function_macs(function: Callable[..., Any], *arguments: Any) -> int:
    """Multiply-accumulates of `function(*arguments)`; the arguments may be `jax.ShapeDtypeStruct`s.

    Weights have to be among the arguments: an array that the function closes over is a constant.
    """
    return _macs(jax.make_jaxpr(function)(*arguments).jaxpr)


def measure_memory(model: nn.Module, spec: InputSpec, batch: int = 1) -> Memory | None:
    """Compiles one deterministic forward of `batch` images for the default device and asks what it needs.

    Slow (it compiles), but nothing is computed. None where the backend does not say.
    """
    lowered = jax.jit(partial(_forward, model)).lower(
        variable_shapes(model, spec.size, spec.channels), _images(spec, batch)
    )
    analysis = lowered.compile().memory_analysis()
    if analysis is None:
        return None
    return Memory(
        arguments=analysis.argument_size_in_bytes,
        activations=analysis.temp_size_in_bytes,
        outputs=analysis.output_size_in_bytes,
    )


def _forward(model: nn.Module, variables: Variables, images: jax.Array) -> Any:
    return model.apply(variables, images)


def _images(spec: InputSpec, batch: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((batch, *spec.size, spec.channels), jnp.float32)


def _macs(jaxpr: core.Jaxpr, constant_inputs: Sequence[bool] = ()) -> int:
    """Multiply-accumulates of a program whose marked inputs are known to be constant arrays."""
    constants = {*jaxpr.constvars, *compress(jaxpr.invars, constant_inputs)}
    total = 0
    for equation in jaxpr.eqns:
        literal = [isinstance(item, core.Literal) for item in equation.invars]
        constant = [not lit and item in constants for lit, item in zip(literal, equation.invars, strict=True)]
        total += _equation_macs(equation, constant)
        # What comes from numbers alone, such as a kernel that starts at zero, is no constant array.
        if any(constant) and sum(constant) + sum(literal) == len(equation.invars):
            constants.update(equation.outvars)
    return total


def _equation_macs(equation: core.JaxprEqn, constant: Sequence[bool]) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        return 0 if any(constant) else _dot_general_macs(equation)
    if name == "conv_general_dilated":
        return 0 if any(constant) else _convolution_macs(equation)
    if name in ("scan", "cond", "while"):
        return _control_flow_macs(equation)
    return sum(_macs(jaxpr, constant) for jaxpr in _inner_jaxprs(equation.params))


def _control_flow_macs(equation: core.JaxprEqn) -> int:
    inner = [_macs(jaxpr) for jaxpr in _inner_jaxprs(equation.params)]
    if equation.primitive.name == "scan":
        return int(equation.params["length"]) * sum(inner)
    if equation.primitive.name == "cond":  # one branch runs; the dearest is the bound
        return max(inner)
    if any(inner):
        raise RequestError(
            "the model multiplies matrices in a while loop of unknown length, whose multiply-accumulates "
            "cannot be counted; a scan of fixed length can"
        )
    return 0


def _dot_general_macs(equation: core.JaxprEqn) -> int:
    """Every element of the output is a sum over the contracted dimensions."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    left: tuple[int, ...] = _shape(equation.invars[0])
    return math.prod(_shape(equation.outvars[0])) * math.prod(left[int(axis)] for axis in contracted)


def _convolution_macs(equation: core.JaxprEqn) -> int:
    """Every element of the output is a sum over the kernel's window and its input channels.

    The kernel's input-channel dimension already holds the channels of one group only.
    """
    numbers = equation.params["dimension_numbers"]
    kernel = _shape(equation.invars[1])
    window = math.prod(kernel[axis] for axis in numbers.rhs_spec[2:])
    per_output: int = kernel[numbers.rhs_spec[1]] * window
    return math.prod(_shape(equation.outvars[0])) * per_output


def _peak_bytes(jaxpr: core.Jaxpr) -> int:
    """The most bytes of a program's own values that are alive together; its inputs are not counted."""
    last_use: dict[Any, int] = {}
    for at, equation in enumerate(jaxpr.eqns):
        last_use.update((item, at) for item in equation.invars if not isinstance(item, core.Literal))
    last_use.update((item, len(jaxpr.eqns)) for item in jaxpr.outvars if not isinstance(item, core.Literal))
    alive: dict[Any, int] = {}
    peak = 0
    for at, equation in enumerate(jaxpr.eqns):
        made = {item: _bytes(item) for item in equation.outvars}
        inner = max((_peak_bytes(program) for program in _inner_jaxprs(equation.params)), default=0)
        peak = max(peak, sum(alive.values()) + max(sum(made.values()), inner))
        alive |= made
        alive = {item: size for item, size in alive.items() if last_use.get(item, -1) > at}
    return peak


def _bytes(variable: Any) -> int:
    return math.prod(_shape(variable)) * int(variable.aval.dtype.itemsize)


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(variable.aval.shape)


def _inner_jaxprs(parameters: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """The programs inside an equation: of jit, remat, custom derivatives, scan, while and cond."""
    for value in parameters.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item
