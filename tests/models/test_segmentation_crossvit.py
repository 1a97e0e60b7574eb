"""Semantic FPN on CrossViT: the pyramid of one map, a training step, a classifier's weights, refusals."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.contracts import Features, InputSpec
from crosscale.engine.optimizer import make_optimizer
from crosscale.engine.settings import OptimizerSettings
from crosscale.engine.sharding import data_mesh
from crosscale.engine.state import TrainState
from crosscale.engine.step import make_train_step
from crosscale.errors import RequestError
from crosscale.models.crossvit.segmentation import SemanticFPNCrossViT
from crosscale.models.heads.simple_pyramid import Doubled, SimplePyramid
from crosscale.models.registry import create_model
from crosscale.pretrained import load_weights, save_weights
from crosscale.tasks.segmentation import Segmentation
from crosscale.trees import flatten
from tests.seeded import seeded_variables

BRANCHES = {"img_size": (32, 32), "patch_size": (8, 16), "embed_dim": (8, 16), "depth": [[1, 1, 1]],
            "num_heads": (2, 2), "mlp_ratio": 1.0}  # fmt: skip


def small(**options: Any) -> Any:
    given = {**BRANCHES, "neck_channels": 8, "head_channels": 8, "num_classes": 3, **options}
    return create_model("semantic_fpn_crossvit", **given)


@pytest.fixture(autouse=True, scope="module")
def quick_compilation() -> Any:
    """The models are too small to gain from optimised code."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.slow
def test_a_map_becomes_four_of_doubling_strides() -> None:
    """Made of the level that is named; the largest by two transposed convolutions, as ViTDet's."""
    rng = np.random.default_rng(0)
    maps = tuple(rng.normal(size=(2, side, side + 1, 8)).astype(np.float32) for side in (4, 6))
    features = Features((), maps, (32, 16))
    neck = SimplePyramid(5, level=1, patch=16)
    variables = jax.jit(neck.init)(jax.random.key(0), features)
    found = neck.apply(variables, features)
    assert [x.shape for x in found.maps] == [(2, 24, 28, 5), (2, 12, 14, 5), (2, 6, 7, 5), (2, 3, 3, 5)]
    assert found.strides == (4, 8, 16, 32)
    assert neck.apply(variables, features._replace(strides=(5, 5))).strides == (4, 8, 16, 32)  # not whole: the patch's


def test_doubling_is_a_transposed_convolution() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 8)).astype(np.float32)
    variables = Doubled(5).init(jax.random.key(0), x)
    kernel = variables["params"]["cells"]["kernel"].reshape(8, 2, 2, 5).transpose(1, 2, 0, 3)
    # JAX's transposed convolution does not turn the kernel, as PyTorch's does.
    wanted = jax.lax.conv_transpose(x, kernel[::-1, ::-1], (2, 2), "VALID")
    np.testing.assert_allclose(Doubled(5).apply(variables, x), wanted, atol=1e-5)


@pytest.mark.slow
def test_shapes_at_any_size_of_picture() -> None:
    model = small()
    variables = seeded_variables(model)
    for size in ((32, 32), (40, 56)):
        images = jnp.ones((2, *size, 3))
        assert jax.eval_shape(model.apply, variables, images).shape == (2, *size, 3)
        cells = jax.eval_shape(lambda x: model.apply(variables, x, method="cells"), images)
        assert cells.shape == (2, 16, 16, 3)  # four times the finest branch's 4 x 4


@pytest.mark.slow  # the step takes half a minute to compile
def test_a_training_step_learns_and_moves_the_statistics() -> None:
    model, spec = small(), InputSpec((32, 32))
    task = Segmentation(("a", "b", "c"), ((0, 0, 0), (9, 9, 9), (90, 9, 9)))
    variables = seeded_variables(model)
    optimizer = make_optimizer(OptimizerSettings(lr=1e-2), variables["params"])
    state = TrainState.create(variables["params"], optimizer, ema=False, batch_stats=variables["batch_stats"])
    step = make_train_step(model, spec, task, optimizer, lambda step: jnp.float32(1e-2), data_mesh(), seed=0)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (8, 32, 32, 3)).astype(np.uint8),
        "mask": np.tile(np.arange(32)[:, None] // 11, (8, 1, 32)).astype(np.uint8),
        "weight": np.ones(8, np.float32),
    }
    before = flatten(jax.tree.map(np.array, state.batch_stats))
    losses = []
    for _ in range(4):
        state, report = step(state, batch)
        assert report["finite"]
        losses.append(float(report["loss"]))
    assert losses[-1] < losses[0]
    assert any(np.abs(value - before[name]).max() > 1e-3 for name, value in flatten(state.batch_stats).items())


@pytest.mark.slow
def test_a_classifier_s_weights_are_the_backbone_s(tmp_path: Path) -> None:
    classifier = create_model("crossvit", **BRANCHES, num_classes=5)
    weights = seeded_variables(classifier)
    for names in ("crosscale", "timm"):
        file = tmp_path / f"{names}.safetensors"
        save_weights(file, weights, classifier, names=names)
        found = flatten(load_weights(file, small(), adapt=True)["params"])
        for name, value in flatten(weights["params"]).items():
            if not name.startswith("head/"):
                np.testing.assert_array_equal(found[name], value, err_msg=name)


class Ramp(SemanticFPNCrossViT):
    """Its cells' logits are their own centres, in pixels of the picture: y, x and nothing."""

    def cells(self, images: Any, train: bool = False) -> Any:
        place = self.attention_maps(images.shape[1:3]).placements[f"cls/{self.finest}"]
        rows, columns = (
            (jnp.arange(4 * count) + 0.5) * side / 4 for count, side in zip(place.grid, place.cell, strict=True)
        )
        y, x = jnp.meshgrid(rows, columns, indexing="ij")
        return jnp.stack([y, x, 0 * x], axis=-1)[None]


@pytest.mark.parametrize(
    ("seen", "patch", "size"),
    [((224, 240), 12, (224, 240)), ((40, 44), 12, (40, 44)), ((40, 32), 12, (50, 71)), ((32, 32), 8, (32, 48))],
)
def test_logits_lie_where_the_patches_do(seen: Any, patch: int, size: tuple[int, int]) -> None:
    """A pixel between the centres of cells gets its own place back; those beyond the last centre get that one's."""
    model = Ramp(**{**BRANCHES, "img_size": (seen, (32, 32)), "patch_size": (patch, 16), "num_classes": 3})
    found = model.apply({}, jnp.ones((1, *size, 3)))[0]
    for axis, (pixels, whole) in enumerate(zip(size, seen, strict=True)):
        line = found[:, 0, 0] if axis == 0 else found[0, :, 1]
        cell = patch * pixels / whole / 4
        wanted = np.clip(np.arange(pixels) + 0.5, cell / 2, cell * (4 * (whole // patch) - 0.5))
        np.testing.assert_allclose(line, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"patch_size": (6, 16), "img_size": (36, 32)},
            r"branch 0: .* a multiple of 4, .* not 6, 6 x 6",
        ),
        ({"img_size": (8, 32), "patch_size": (8, 32)}, r"two patches a side"),
        ({"num_classes": 256}, r"num_classes=256: a segmentation has 1 to 255 classes"),
        ({"neck_channels": 0}, r"neck_channels=0 must be 1 or more"),
        ({"rescale": "center_crop"}, r"rescale='center_crop': .* rescale='bicubic' works"),
        ({"norm": "layer"}, r"norm='layer' is not one of batch, group"),
    ],
)
def test_what_cannot_be_built_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        small(**options)
