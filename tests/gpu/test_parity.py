"""Every kernel and a narrow model of each family on the accelerator, against float64 or the processor.

`pytest -m gpu tests/gpu` with JAX_PLATFORMS=cuda,cpu (benchmarks/accelerator.sh runs it). On a machine without an
accelerator the same tests compare the accelerator's forms on the processor.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.contracts import InputSpec
from crosscale.engine.forward import forward
from crosscale.layers.kernels import attention, gelu, layer_norm, strided_conv, use_kernels
from crosscale.models.registry import create_model
from tests.seeded import seeded_variables

pytestmark = pytest.mark.gpu

ON_GPU = jax.default_backend() == "gpu"
# Largest difference relative to the reference, by norms. "tf32" is what JAX's products take by default on a GPU; on a
# processor it is float32. Gradients get GRADIENT times as much.
BOUNDS = {"float32": 2e-6, "tf32": 2e-3, "float16": 2e-3, "bfloat16": 1.2e-2}
GRADIENT = 3
PRECISION = {"float32": "highest", "tf32": "tensorfloat32", "float16": None, "bfloat16": None}
MODES = list(BOUNDS)


def dtype_of(mode):
    return {"float16": jnp.float16, "bfloat16": jnp.bfloat16}.get(mode, jnp.float32)


def draw(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape) for shape in shapes]


def difference(found, expected):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def near(found, expected, mode, factor=1.0):
    """`found` and `expected` are lists: a value, then gradients."""
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        bound = factor * BOUNDS[mode] * (GRADIENT if i else 1)
        name = f"gradient {i}" if i else "value"
        assert difference(a, b) <= bound, f"{name}: {difference(a, b):.2g} > {bound:.2g}"


def on_device(function, given, cotangent, mode):
    """Value and gradients in the mode's type, jitted on the default device."""
    halves = [jnp.asarray(x, dtype_of(mode)) for x in given]

    def run(given, cotangent):
        value, pull = jax.vjp(lambda *given: function(*given), *given)
        return [value, *pull(cotangent.astype(value.dtype))]

    with jax.default_matmul_precision(PRECISION[mode] or "default"):
        return jax.jit(run)(halves, jnp.asarray(cotangent, dtype_of(mode)))


def exact(function, given, cotangent, mode):
    """The same from the same rounded numbers, in float64 on the processor."""
    with jax.experimental.enable_x64() if hasattr(jax.experimental, "enable_x64") else jax.enable_x64(True):
        rounded = [np.asarray(jnp.asarray(x, dtype_of(mode)), np.float64) for x in given]
        with jax.default_device(jax.devices("cpu")[0]):
            value, pull = jax.vjp(function, *[jnp.asarray(x) for x in rounded])
            back = jnp.asarray(np.asarray(jnp.asarray(cotangent, dtype_of(mode)), np.float64))
            return [np.asarray(x) for x in (value, *pull(back))]


def plain_attention(q, k, v, bias=None):
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores if bias is None else scores + bias, -1), v)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", [None, "plain", "whole", "padded", "cudnn", "cudnn_padded"])
@pytest.mark.parametrize(
    ("tokens", "heads", "width", "bias"), [(401, 2, 32, 0), (197, 2, 64, 0), (56, 2, 32, 0), (49, 3, 32, 1)]
)
def test_attention(mode, form, tokens, heads, width, bias):
    half = mode in ("float16", "bfloat16")
    if form in ("cudnn", "cudnn_padded") and not (ON_GPU and half and not bias):
        pytest.skip("cuDNN's kernel is for half precision on a GPU; with a bias the library does not ask for it")
    if form == "cudnn" and tokens % 2:
        pytest.skip("JAX refuses cuDNN's gradient of an odd number of tokens")
    *given, cotangent = draw(*[(2, tokens, heads, width)] * 4)
    given[0] = given[0] * width**-0.5
    if bias:
        given += draw((1, heads, tokens, tokens))
    with use_kernels(attention=form, platforms=() if ON_GPU else ("gpu",) if not half else ("tpu",)):
        found = on_device(attention, given, cotangent, mode)
    near(found, exact(plain_attention, given, cotangent, mode), mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["written", "derived"])
def test_gelu_and_layer_norm(mode, form):
    x, scale, shift, cotangent = draw((4, 50, 96), (96,), (96,), (4, 50, 96))

    def exact_gelu(x):
        return 0.5 * x * (1 + jax.lax.erf(x / 2**0.5))

    def exact_norm(x, scale, shift):
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6) * scale + shift

    with use_kernels(gelu=form, layer_norm=form):
        near(on_device(gelu, [x], cotangent, mode), exact(exact_gelu, [x], cotangent, mode), mode)
        given = [x, scale, shift]
        found = on_device(lambda *g: layer_norm(*g, 1e-6, dtype_of(mode)), given, cotangent, mode)
        near(found, exact(exact_norm, given, cotangent, mode), mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["convolution", "products"])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(8, 4, 2), (4, 4, 0), (7, 4, 3), (3, 2, 1)])
def test_strided_convolution(mode, form, kernel, stride, padding):
    x, weights = draw((2, 40, 40, 8), (kernel, kernel, 8, 16))
    weights = weights / (kernel * 8**0.5)
    rows = (40 + 2 * padding - kernel) // stride + 1
    (cotangent,) = draw((2, rows, rows, 16))

    def run(x, w):
        return strided_conv(x, w, stride, padding)

    with use_kernels(convolution=form):
        found = on_device(run, [x, weights], cotangent, mode)
    with use_kernels(convolution="convolution", platforms=("cpu",)):
        near(found, exact(run, [x, weights], cotangent, mode), mode)


FAMILIES = {
    "crossvit": {
        "img_size": [48, 48], "patch_size": [4, 8], "embed_dim": [32, 64], "depth": [[1, 2, 1]], "num_heads": [2, 2],
        "mlp_ratio": [2.0, 2.0, 1.0],
    },
    "crossvit dagger": {
        "img_size": [96, 96], "patch_size": [12, 16], "embed_dim": [32, 64], "depth": [[1, 1, 1]], "num_heads": [2, 2],
        "mlp_ratio": [2.0, 2.0, 1.0], "multi_conv": True,
    },
    "crossformer": {
        "img_size": 64, "embed_dim": 32, "depths": [1, 1, 2, 1], "num_heads": [2, 2, 4, 4], "group_size": [4, 4, 2, 2],
        "interval": [2, 2, 1, 1],
    },
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_model_and_its_gradient(mode, family):
    options = FAMILIES[family]
    build = {"num_classes": 10, "drop_path_rate": 0.0, **options}
    variables = jax.tree.map(np.asarray, seeded_variables(create_model(family.split()[0], **build)))
    size = options["img_size"] if isinstance(options["img_size"], list) else [options["img_size"]] * 2
    spec = InputSpec(size=tuple(size), channels=3, mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0)
    images = np.random.default_rng(1).integers(0, 256, (4, *size, 3), np.uint8)

    def run(dtype):
        model = create_model(family.split()[0], dtype=dtype, **build)

        def loss(variables):
            logits = forward(model, variables, images, spec).astype(jnp.float32)
            return (logits * jnp.cos(jnp.arange(10.0))).sum(), logits

        (_, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)
        flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grads)])
        return np.asarray(logits), flat

    with jax.default_matmul_precision(PRECISION[mode] or "default"):
        found = run(dtype_of(mode) if mode in ("float16", "bfloat16") else None)
    cpu = jax.devices("cpu")[0]
    with jax.default_device(cpu), jax.default_matmul_precision("highest"), use_kernels(platforms=("cpu",)):
        expected = run(None)
    near(found, expected, mode, factor=4)  # some twenty layers, each of which rounds
