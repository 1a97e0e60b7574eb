"""Necks and heads against the references' formulas written out in NumPy, on maps that do not halve evenly.

The resizing and pooling here is that which `tests/layers/test_resize.py` holds to PyTorch's; the weights are read by
the references' names.
"""

import jax
import numpy as np
import pytest

from crosscale.contracts import Features
from crosscale.layers.pooling import pooling_matrix
from crosscale.layers.resize import bilinear_matrix
from tests.golden.segmentation import segmentation_seeded as seeded
from tests.variants import variants

WIDTHS, STRIDES = (16, 32, 64, 128), (4, 8, 16, 32)
# as of 224 x 320, of 100 x 130 (a side may be odd), and of a picture no larger than the largest patch
SIZES = {
    "even": ((56, 80), (28, 40), (14, 20), (7, 10)),
    "odd": ((25, 32), (13, 16), (7, 8), (4, 4)),
    "tiny": ((8, 9), (4, 5), (2, 3), (1, 2)),
}


def conv(x, kernel, bias=0.0):
    """(B, C, H, W) with OIHW: the sum of shifted products."""
    side = kernel.shape[-1]
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (side // 2, side // 2), (side // 2, side // 2)))
    shifted = [
        np.einsum("bchw,oc->bohw", padded[:, :, i : i + height, j : j + width], kernel[:, :, i, j])
        for i in range(side)
        for j in range(side)
    ]
    return sum(shifted) + np.reshape(bias, (1, -1, 1, 1))


def conv_norm(w, name, x):
    bn = {key: w[f"{name}.bn.{key}"].reshape(1, -1, 1, 1) for key in ("weight", "bias", "running_mean", "running_var")}
    y = conv(x, w[f"{name}.conv.weight"])
    return np.maximum((y - bn["running_mean"]) / np.sqrt(bn["running_var"] + 1e-5) * bn["weight"] + bn["bias"], 0)


def through(matrix, x, size):
    rows, columns = (matrix(a, b).astype(np.float64) for a, b in zip(x.shape[2:], size, strict=True))
    return np.einsum("ph,bchw,qw->bcpq", rows, x, columns)


def bilinear(x, size):
    return through(bilinear_matrix, x, size)


def nearest(x, size):
    rows, columns = (np.arange(b) * a // b for a, b in zip(x.shape[2:], size, strict=True))
    return x[:, :, rows][:, :, :, columns]


def semfpn(w, maps):
    sums = [
        conv(x, w[f"neck.lateral_convs.{i}.conv.weight"], w[f"neck.lateral_convs.{i}.conv.bias"])
        for i, x in enumerate(maps)
    ]
    for i in (3, 2, 1):
        sums[i - 1] = sums[i - 1] + nearest(sums[i], sums[i - 1].shape[2:])
    total = 0
    for i, x in enumerate(sums):
        x = conv(x, w[f"neck.fpn_convs.{i}.conv.weight"], w[f"neck.fpn_convs.{i}.conv.bias"])
        for k in range(max(i, 1)):
            x = conv_norm(w, f"decode_head.scale_heads.{i}.{2 * k}", x)
            if i:
                x = bilinear(x, (2 * x.shape[2], 2 * x.shape[3]))
        total = total + bilinear(x, maps[0].shape[2:])
    return conv(total, w["decode_head.conv_seg.weight"], w["decode_head.conv_seg.bias"])


def upernet(w, maps):
    head, top = "decode_head", maps[-1]
    parts = [top]
    for i, bins in enumerate((1, 2, 3, 6)):
        pooled = conv_norm(
            w, f"{head}.psp_modules.{i}.1", through(lambda a, b: pooling_matrix(a, b), top, (bins, bins))
        )
        parts.append(bilinear(pooled, top.shape[2:]))
    sums = [conv_norm(w, f"{head}.lateral_convs.{i}", x) for i, x in enumerate(maps[:-1])]
    sums.append(conv_norm(w, f"{head}.bottleneck", np.concatenate(parts, 1)))
    for i in (3, 2, 1):
        sums[i - 1] = sums[i - 1] + bilinear(sums[i], sums[i - 1].shape[2:])
    outputs = [conv_norm(w, f"{head}.fpn_convs.{i}", x) for i, x in enumerate(sums[:-1])] + sums[-1:]
    joined = np.concatenate([bilinear(x, maps[0].shape[2:]) for x in outputs], 1)
    fused = conv_norm(w, f"{head}.fpn_bottleneck", joined)
    return conv(fused, w[f"{head}.conv_seg.weight"], w[f"{head}.conv_seg.bias"])


@pytest.mark.parametrize("sizes", variants(SIZES, ["odd", "tiny"]))
@pytest.mark.parametrize("formula", [semfpn, upernet])
def test_cells_are_those_of_the_formulas(formula, sizes):
    model, variables = seeded.narrow(formula.__name__)
    maps = tuple(
        seeded.array(f"map_{i}", (2, *size, width))
        for i, (size, width) in enumerate(zip(SIZES[sizes], WIDTHS, strict=True))
    )
    features = Features((maps[-1].mean((1, 2)),), maps, STRIDES)
    found = jax.jit(lambda v, f: model.apply(v, f, method="decode"))(variables, features)
    wanted = formula(seeded.reference_weights(model), [x.transpose(0, 3, 1, 2).astype(np.float64) for x in maps])
    assert seeded.deviation(found, wanted.transpose(0, 2, 3, 1)) < 1e-5
