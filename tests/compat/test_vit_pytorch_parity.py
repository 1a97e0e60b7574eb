"""The compat models against the package itself, live: logits, gradients, state dicts that it takes back."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crosscale.compat import vit_pytorch as compat
from crosscale.pretrained import from_variables, to_variables

pytestmark = pytest.mark.parity

NARROW_VIT = {
    "image_size": 24, "num_classes": 5, "depth": 2, "sm_dim": 16, "sm_patch_size": 4, "sm_enc_heads": 2,
    "sm_enc_mlp_dim": 24, "sm_enc_dim_head": 6, "lg_dim": 20, "lg_patch_size": 12, "lg_enc_depth": 2,
    "lg_enc_heads": 3, "lg_enc_mlp_dim": 32, "lg_enc_dim_head": 8,
    "cross_attn_heads": 3, "cross_attn_dim_head": 4,
}  # fmt: skip
NARROW_FORMER = {
    "dim": (32, 48, 64, 64), "depth": (1, 2, 1, 1), "local_window_size": (4, 2, 1, 1), "num_classes": 5,
    "global_window_size": (2, 4, 2, 1), "cross_embed_kernel_sizes": ((4, 8, 16), (2, 4), (2, 4), (2, 4)),
}  # fmt: skip
DOCUMENTED_VIT = {
    "image_size": 256, "num_classes": 1000, "depth": 4, "sm_dim": 192, "sm_patch_size": 16, "sm_enc_depth": 2,
    "sm_enc_heads": 8, "sm_enc_mlp_dim": 2048, "lg_dim": 384, "lg_patch_size": 64, "lg_enc_depth": 3,
    "lg_enc_heads": 8, "lg_enc_mlp_dim": 2048, "cross_attn_depth": 2, "cross_attn_heads": 8, "dropout": 0.1,
    "emb_dropout": 0.1,
}  # fmt: skip
CASES = {
    "cross_vit_narrow": ("CrossViT", NARROW_VIT, (2, 24, 24, 3)),
    "cross_vit_one_width": ("CrossViT", {**NARROW_VIT, "sm_dim": 20, "channels": 1}, (2, 24, 24, 1)),
    "cross_vit_documented": ("CrossViT", DOCUMENTED_VIT, (1, 256, 256, 3)),
    "cross_vit_defaults": (
        "CrossViT", {"image_size": 96, "num_classes": 10, "sm_dim": 64, "lg_dim": 128}, (2, 96, 96, 3)
    ),
    "crossformer_narrow": ("CrossFormer", NARROW_FORMER, (2, 32, 64, 3)),
    "crossformer_defaults": ("CrossFormer", {}, (1, 224, 224, 3)),
    "crossformer_wide": ("CrossFormer", {"depth": 1, "dim": (64, 64, 64, 96)}, (1, 224, 448, 3)),
}  # fmt: skip


def reference(kind, fields):
    """The package's seeded model in evaluation mode, its biases and norms away from 0 and 1."""
    torch = pytest.importorskip("torch")
    # it imports torchvision, whose operators may be missing beside another build of torch; none is used
    sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))
    pytest.importorskip("vit_pytorch")
    from vit_pytorch.cross_vit import CrossViT
    from vit_pytorch.crossformer import CrossFormer

    torch.manual_seed(0)
    model = {"CrossViT": CrossViT, "CrossFormer": CrossFormer}[kind](**fields).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return torch, model


def ours(kind, fields, theirs):
    model = getattr(compat, kind)(**fields)
    weights = {k: v.numpy() for k, v in theirs.state_dict().items()}
    return model, weights, to_variables(weights, model, None, kind)


def images_for(shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def deviation(got, expected):
    return float(np.abs(np.asarray(got) - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("case", CASES)
def test_logits_and_state_dict(case):
    kind, fields, shape = CASES[case]
    torch, theirs = reference(kind, fields)
    model, weights, variables = ours(kind, fields, theirs)
    images = images_for(shape)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    got = deviation(jax.jit(model.apply)(variables, images), expected)
    print(f"{case}: largest deviation {got:.2e}")
    assert got < 1e-4

    back = from_variables(variables, model, "vit_pytorch")
    assert all(back[k].tobytes() == v.tobytes() for k, v in weights.items())
    # the package takes what we would write, complete, and nothing it does not know
    theirs.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in back.items()}, strict=True)


@pytest.mark.parametrize("case", ["cross_vit_narrow", "crossformer_narrow"])
def test_gradients(case):
    kind, fields, shape = CASES[case]
    torch, theirs = reference(kind, fields)
    model, _, variables = ours(kind, fields, theirs)
    images, labels = images_for(shape), np.arange(shape[0])
    logits = theirs(torch.from_numpy(images).permute(0, 3, 1, 2))
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()

    def loss(variables):
        logits = model.apply(variables, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels)).mean()

    gradients = from_variables(jax.jit(jax.grad(loss))(variables), model, "vit_pytorch")
    expected = {k: p.grad.numpy() for k, p in theirs.named_parameters()}
    assert set(gradients) == set(expected)
    largest = max(np.abs(g).max() for g in expected.values())
    errors = {}
    for key, value in expected.items():
        size, error = np.abs(value).max(), np.abs(gradients[key] - value).max()
        if key.endswith("dpb.9.bias") or size == 0:  # shifts all scores of a row alike: no effect on the softmax
            assert max(size, error) < 1e-6 * largest, key
        else:
            errors[key] = float(error / size)
    worst = max(errors, key=errors.get)
    print(f"{case}: largest deviation of a gradient {errors[worst]:.2e} ({worst})")
    assert errors[worst] < 1e-3


def test_first_weights_are_distributed_as_the_packages():
    _, theirs = reference("CrossViT", NARROW_VIT)
    model, _, _ = ours("CrossViT", NARROW_VIT, theirs)
    from vit_pytorch.cross_vit import CrossViT

    fresh = {k: v.numpy() for k, v in CrossViT(**NARROW_VIT).state_dict().items()}
    first = from_variables(jax.jit(model.init)(jax.random.key(0), images_for((1, 24, 24, 3))), model, "vit_pytorch")
    for key, value in fresh.items():
        if "norm" in key or ".to_patch_embedding.1." in key or ".to_patch_embedding.3." in key:
            assert np.array_equal(first[key], value), key
        elif value.size >= 300:
            assert first[key].std() == pytest.approx(value.std(), rel=0.15), key
