"""Attention alone, in every form: how near to float32 it is, and how long it takes, forward and with its gradient.

python -m benchmarks.accelerator.attention --timing 0 --out forms.json   # the differences only
python -m benchmarks.accelerator.attention --forms carried,cudnn_padded --shapes crossvit_9 --out forms.json
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator.common import Results, arguments, left, timed, told
from benchmarks.accelerator.ours import about
from crosscale.layers.kernels import attention, use_kernels
from crosscale.layers.kernels.attention import TILE

FORMS = ("carried", "cudnn", "cudnn_padded", "whole", "plain", "padded", "chunked")
# (batch at 256 pictures, tokens, heads, width of a head, with CrossFormer's position bias)
SHAPES = {
    "crossvit_9 small patches": (256, 401, 4, 32, False),
    "crossvit_9 large patches": (256, 197, 4, 64, False),
    "crossvit_15 small patches": (256, 401, 6, 32, False),
    "crossvit_15 large patches": (256, 197, 6, 64, False),
    "crossformer_small stage 1": (256 * 64, 49, 3, 32, True),
    "crossformer_small stage 3": (256 * 4, 49, 12, 32, True),
}


def draw(batch: int, tokens: int, heads: int, width: int, bias: bool) -> list[Any]:
    """q, k, v, the output's gradient, and the bias or None."""
    keys = jax.random.split(jax.random.key(0), 5)
    shape = (batch, tokens, heads, width)
    given: list[Any] = [jax.random.normal(key, shape, jnp.bfloat16) for key in keys[:4]]
    given[0] = given[0] * width**-0.5
    given.append(jax.random.normal(keys[4], (1, heads, tokens, tokens)) if bias else None)
    return given


def forward(form: str) -> Callable[..., Any]:
    def run(q: Any, k: Any, v: Any, grad: Any, bias: Any) -> Any:
        del grad
        with use_kernels(attention=form):
            return attention(q, k, v, bias)

    return run


def carried(x: Any) -> Any:
    """(B, N, H, D) with ones behind its tokens, up to a multiple of 8."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % TILE), (0, 0), (0, 0)), constant_values=1)


def gradient(form: str) -> Callable[..., Any]:
    """The output and the gradients to q, k, v and the bias. "carried": of tokens that are padded before."""

    def run(q: Any, k: Any, v: Any, grad: Any, bias: Any) -> Any:
        if form == "carried":
            keys = k.shape[1]
            out, pull = jax.vjp(lambda *given: attention(*given, keys=keys), carried(q), carried(k), carried(v))
            return out, *pull(jnp.pad(grad, ((0, 0), (0, out.shape[1] - keys), (0, 0), (0, 0))))
        with use_kernels(attention=form):
            if bias is None:
                out, pull = jax.vjp(lambda *given: attention(*given, None), q, k, v)
            else:
                out, pull = jax.vjp(attention, q, k, v, bias)
        return out, *pull(grad)

    return run


def compiled(form: str, shape: tuple[Any, ...], batch: int) -> tuple[Any, Any]:
    """What computes the form's output and gradients, and what computes float32's with products at full precision."""
    given = draw(batch, *shape[1:])
    found = jax.jit(gradient(form)).lower(*given).compile()
    with jax.default_matmul_precision("highest"):
        wide = [None if x is None else x.astype(jnp.float32) for x in given]
        expected = jax.jit(gradient("plain")).lower(*wide).compile()
    return partial(found, *given), partial(expected, *wide)


def differences(form: str, tokens: int, found: Any, expected: Any) -> dict[str, float]:
    """Of the output and each gradient, relative to float32's, by their norms."""
    found, expected = found(), expected()
    names = ("out", "dq", "dk", "dv", "dbias")
    errors = {}
    if form == "carried":
        # What comes out behind the keys goes on through the blocks' products, and must be nothing.
        errors["padding"] = max(float(np.abs(np.asarray(x[:, tokens:], np.float64)).max()) for x in found[1:])
        found = [x[:, :tokens] for x in found]
    for name, a, b in zip(names, found, expected, strict=False):
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        errors[name] = float(np.linalg.norm(a - b) / np.linalg.norm(b))
    return errors


def milliseconds(form: str, shape: tuple[Any, ...], smoke: bool) -> dict[str, float]:
    given = draw(*shape)
    found = {}
    for name, function in (("forward", forward(form)), ("with_gradient", gradient(form))):
        program, last = jax.jit(function).lower(*given).compile(), [None]

        def step(program: Any = program, last: list[Any] = last) -> None:
            last[0] = program(*given)

        found[name] = 1e3 * timed(step, lambda last=last: jax.block_until_ready(last[0]), smoke)["best"]
    return found


def compare(results: Results, forms: list[str], shapes: str, smoke: bool) -> list[tuple[str, str]]:
    """Adds the differences of every form and shape (whose name holds `shapes`); those that ran."""

    def one(pair: tuple[str, str]) -> Any:
        try:
            return compiled(pair[0], SHAPES[pair[1]], 2 if smoke else 8)
        except Exception as error:  # a form that refuses a shape is a result
            return told(error)

    names = list(SHAPES)[3:5] if smoke else [name for name in SHAPES if shapes in name]
    pairs = [(form, name) for name in names for form in forms if form != "carried" or not SHAPES[name][4]]
    # They compile side by side and run one after the other. Run side by side on a card, one failed as it recorded a
    # CUDA graph, and what another gave had nothing to do with its inputs.
    with ThreadPoolExecutor(8) as pool:
        for (form, name), programs in zip(pairs, list(pool.map(one, pairs)), strict=True):
            found = {"error": programs} if isinstance(programs, str) else differences(form, SHAPES[name][1], *programs)
            results.add(shape=name, form=form, **found)
    return [pair for pair, row in zip(pairs, results.rows, strict=True) if "error" not in row]


def main() -> None:
    given = arguments(__doc__ or "", (), timing=1, forms=",".join(FORMS), shapes="")
    results = Results(given.out, **about())
    forms = [form for form in given.forms.split(",") if results.about["platform"] == "gpu" or "cudnn" not in form]
    ran = compare(results, forms, given.shapes, given.smoke)
    results.table("shape", "form", "out", "dq", "dk", "dv", "dbias", "padding")
    if not given.timing:
        return
    results = Results(given.out.with_name(f"{given.out.stem}-time.json"), **about())
    for form, name in [pair for pair in ran if pair[0] != "carried"]:
        if left(given) < 5:
            results.add(shape=name, form=form, error="no time left")
            continue
        shape = (2, *SHAPES[name][1:]) if given.smoke else SHAPES[name]
        try:
            results.add(shape=name, form=form, **milliseconds(form, shape, given.smoke))
        except Exception as error:
            results.add(shape=name, form=form, error=told(error))
    results.table("shape", "form", "forward", "with_gradient")
    os._exit(0)


if __name__ == "__main__":
    main()
