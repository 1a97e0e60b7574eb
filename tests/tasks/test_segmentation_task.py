"""Segmentation's parts against the reference's numbers and plain formulas."""

import io
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from crosscale.data.augment import Augment
from crosscale.errors import RequestError
from crosscale.tasks.segmentation import Segmentation
from crosscale.tasks.segmentation.labels import label_maps
from crosscale.tasks.segmentation.losses import dice_losses, hard_pixels, pixel_losses
from crosscale.tasks.segmentation.metric import Overlaps
from crosscale.tasks.segmentation.options import SegmentationOptions
from crosscale.tasks.segmentation.result import Segmented, run_lengths
from crosscale.tasks.segmentation.source import class_weights

GOLDEN = Path(__file__).parents[1] / "golden" / "segmentation" / "seg_eval.safetensors"
# mmsegmentation 0.29.1's results on the golden's labels and predictions (None: nan, left out of the mean).
REFERENCE: dict[str, Any] = {
    "plain": {
        "aacc": 0.7612994350282486,
        "iou": [0.6076294277929155, 0.625, 0.6262295081967213, 0.6166219839142091, 0.6020151133501259],
        "miou": 0.6154992066507943,
        "macc": 0.7642738153454702,
    },
    "absent": {
        "aacc": 0.6041666666666666,
        "iou": [0.6612903225806451, 0.6218487394957983, 0.0, 0.6197183098591549, None, 0.0, None],
        "miou": 0.3805714743871197,
        "macc": 0.5631610275689223,
    },
}


def labels_of(classes: int) -> tuple[str, ...]:
    return tuple(f"c{i}" for i in range(classes))


def task(classes: int = 3, **options: Any) -> Segmentation:
    palette = tuple((40 * i, 255 - 40 * i, 9) for i in range(classes))
    return Segmentation(labels_of(classes), palette, (2048, 512), SegmentationOptions(**options))


def batch_of(labels: np.ndarray, predictions: np.ndarray, classes: int) -> tuple[jax.Array, dict[str, Any]]:
    """Cells whose largest logit is the prediction, one cell a pixel, and the batch of the masks on a larger canvas."""
    count, height, width = labels.shape
    mask = np.full((count, 32, 32), 255, np.uint8)
    mask[:, :height, :width] = labels
    batch = {
        "image": np.zeros((count, height, width, 3), np.uint8),
        "mask": mask,
        "size": np.tile(np.int32([height, width]), (count, 1)),
        "weight": np.ones(count, np.float32),
    }
    return jax.nn.one_hot(predictions, classes), batch


@pytest.mark.parametrize("case", REFERENCE)
def test_the_measures_are_the_references(case: str) -> None:
    arrays, want = load_file(GOLDEN), REFERENCE[case]
    classes = len(want["iou"])
    metric = Overlaps(labels_of(classes))
    labels, predictions = arrays[f"{case}/labels"], arrays[f"{case}/predictions"]
    state = metric.init()
    for part in range(len(labels)):  # the pictures one by one: sums over the set, not means over pictures
        cells, batch = batch_of(labels[part : part + 1], predictions[part : part + 1], classes)
        state = metric.merge(state, jax.jit(metric.update)(metric.init(), cells, batch))
    found = metric.compute(state, {})
    np.testing.assert_array_equal(state["confusion"].diagonal(), arrays[f"{case}/intersect"])
    np.testing.assert_array_equal(state["confusion"].sum(1), arrays[f"{case}/area_label"])
    assert [found[name] for name in ("miou", "macc", "aacc")] == pytest.approx(
        [want[name] for name in ("miou", "macc", "aacc")], rel=1e-12
    )
    ious = [found[f"iou/{name}"] for name in labels_of(classes)]
    assert [None if math.isnan(value) else pytest.approx(value) for value in ious] == want["iou"]


def test_rows_are_each_pictures_own_and_padding_has_none() -> None:
    arrays = load_file(GOLDEN)
    cells, batch = batch_of(arrays["plain/labels"], arrays["plain/predictions"], 5)
    metric = Overlaps(labels_of(5))
    rows = metric.collect(cells, {**batch, "weight": np.float32([1, 0, 1])})
    whole = metric.collect(cells, batch)
    assert not np.asarray(rows["true"][1]).any()
    np.testing.assert_array_equal(rows["intersect"][2], whole["intersect"][2])
    np.testing.assert_array_equal(np.asarray(whole["true"]).sum(0), arrays["plain/area_label"])
    np.testing.assert_array_equal(np.asarray(whole["predicted"]).sum(0), arrays["plain/area_pred"])


def test_logits_that_are_not_finite_are_no_hits() -> None:
    labels = np.zeros((1, 4, 4), np.uint8)
    cells, batch = batch_of(labels, labels, 2)
    metric = Overlaps(("a", "b"))
    found = metric.compute(metric.update(metric.init(), cells * np.nan, batch), {})
    assert found["aacc"] == 0
    assert found["miou"] == 0


@pytest.mark.parametrize(("cells", "network", "size"), [((8, 12), (32, 48), (70, 101)), ((8, 8), (32, 32), (17, 20))])
def test_labels_are_those_of_two_bilinear_resizes(
    cells: tuple[int, int], network: tuple[int, int], size: tuple[int, int]
) -> None:
    """Cells -> the network's input -> the picture, as the released evaluation does; larger and smaller."""
    logits = np.random.default_rng(0).normal(size=(2, *cells, 5)).astype(np.float32)
    fed = jax.image.resize(logits, (2, *network, 5), "linear", antialias=False)
    wanted = np.asarray(jax.image.resize(fed, (2, *size, 5), "linear", antialias=False))
    found = np.asarray(label_maps(logits, np.int32([size, size]), network=network, canvas=(128, 128)))
    best = np.sort(wanted, -1)
    clear = best[..., -1] - best[..., -2] > 1e-5  # elsewhere rounding decides
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found[:, : size[0], : size[1]][clear], wanted.argmax(-1)[clear])


@pytest.mark.parametrize(("regions", "noise"), [(4, 0.2), (12, 1.0), (0, 3.0)])
def test_labels_among_many_classes_are_the_largest_of_all(regions: int, noise: float) -> None:
    """Whatever number of classes a tile may show: few, more, all; and of equal logits the first class."""
    rng = np.random.default_rng(regions)
    logits = noise * rng.normal(size=(1, 24, 40, 50)).astype(np.float32)
    for region in range(regions):
        top, left = rng.integers(0, 20), rng.integers(0, 30)
        logits[0, top : top + 12, left : left + 16, 4 * region : 4 * region + 2] += 8  # two classes alike
    logits[..., 1::4] = logits[..., ::4]
    size = (171, 250)
    fed = jax.image.resize(logits, (1, 96, 160, 50), "linear", antialias=False)
    wanted = np.array(jax.image.resize(fed, (1, *size, 50), "linear", antialias=False))
    found = np.asarray(label_maps(logits, np.int32([size]), network=(96, 160), canvas=(256, 256)))
    wanted[..., 1::4] = -np.inf  # what equals the class before it
    best = np.sort(wanted, -1)
    clear = best[..., -1] - best[..., -2] > 1e-4
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found[:, : size[0], : size[1]][clear], wanted.argmax(-1)[clear])


def test_a_pass_that_collects_makes_one_map_of_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(*given: Any, **options: Any) -> Any:
        calls.append(1)
        return label_maps(*given, **options)

    monkeypatch.setattr("crosscale.tasks.segmentation.metric.label_maps", counted)
    labels = np.random.default_rng(0).integers(0, 3, (2, 8, 8)).astype(np.uint8)
    cells, batch = batch_of(labels, labels, 3)
    metric = Overlaps(labels_of(3))
    state, rows = jax.eval_shape(metric.update_and_collect, metric.init(), cells, batch)
    assert len(calls) == 1
    assert (state.keys(), rows.keys()) == (metric.init().keys(), {"intersect", "true", "predicted"})


@pytest.mark.slow
def test_ignored_pixels_count_in_neither_loss_nor_gradient() -> None:
    rng = np.random.default_rng(1)
    logits = jnp.asarray(rng.normal(size=(2, 4, 4, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 3, (2, 4, 4)), jnp.uint8).at[0, :2].set(255)
    for options in ({}, {"focal_gamma": 2.0}, {"dice": 1.0}, {"hard_pixels": 0.5}, {"average": "all"}):
        kind = task(**options)

        def mean(logits: Any, kind: Segmentation = kind) -> Any:
            losses, total = kind.loss({"logits": logits}, labels, jnp.ones(2))
            return sum(losses.values()) / total

        gradient = np.asarray(jax.grad(mean)(logits))
        assert np.isfinite(gradient).all()
        assert not gradient[0, :2].any(), options
        assert gradient[1].any()


@pytest.mark.parametrize(("average", "count"), [("counted", 24), ("all", 32)])
def test_the_mean_is_over_counted_or_all_pixels(average: str, count: int) -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(2, 4, 4, 3))
    labels = rng.integers(0, 3, (2, 4, 4)).astype(np.uint8)
    labels[0, :2] = 255
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    own = -np.take_along_axis(log_p, np.where(labels == 255, 0, labels)[..., None], -1)[..., 0]
    losses, total = task(average=average).loss({"logits": jnp.asarray(logits, jnp.float32)}, labels, jnp.ones(2))
    np.testing.assert_allclose(losses["pixels"] / total, own[labels != 255].sum() / count, rtol=1e-6)


def test_the_auxiliary_head_has_its_share_and_classes_their_weights() -> None:
    rng = np.random.default_rng(3)
    logits = jnp.asarray(rng.normal(size=(1, 4, 4, 3)), jnp.float32)
    labels = rng.integers(0, 3, (1, 4, 4)).astype(np.uint8)
    plain, total = task(auxiliary=0.4).loss({"logits": logits, "auxiliary": logits}, labels, jnp.ones(1))
    np.testing.assert_allclose(plain["auxiliary"], 0.4 * plain["pixels"], rtol=1e-6)
    weighted = Segmentation(labels_of(3), ((0, 0, 0),) * 3, weights=(1.0, 1.0, 5.0))
    parts, weight = weighted.loss({"logits": logits}, labels, jnp.ones(1))
    own, factor = np.asarray(pixel_losses(logits, labels)), np.where(labels == 2, 5.0, 1.0)
    np.testing.assert_allclose(parts["pixels"] / weight, (own * factor).sum() / factor.sum(), rtol=1e-6)
    assert float(weight) == factor.sum() != float(total)


def test_focal_and_dice_are_the_papers_formulas() -> None:
    rng = np.random.default_rng(4)
    logits, labels = rng.normal(size=(1, 3, 3, 2)), rng.integers(0, 2, (1, 3, 3)).astype(np.uint8)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    own = np.take_along_axis(p, labels[..., None].astype(int), -1)[..., 0]
    found = pixel_losses(jnp.asarray(logits, jnp.float32), labels, 2.0)
    np.testing.assert_allclose(found, -((1 - own) ** 2) * np.log(own), rtol=1e-5)
    g = np.eye(2)[labels]
    dice = (2 * (p * g).sum((1, 2)) + 1) / ((p**2).sum((1, 2)) + (g**2).sum((1, 2)) + 1)
    found = dice_losses(jnp.asarray(logits, jnp.float32), labels, jnp.ones((1, 3, 3), bool))
    np.testing.assert_allclose(found, 1 - dice.mean(-1), rtol=1e-5)


def test_hard_pixels_are_the_largest_losses() -> None:
    losses = jnp.asarray([[[1.0, 5.0, 3.0], [9.0, 2.0, 4.0]]])
    real = jnp.asarray([[[True, True, True], [False, True, True]]])
    kept = np.asarray(hard_pixels(losses, real, 0.4))
    np.testing.assert_array_equal(losses[kept], [5.0, 4.0])  # 2 of the 5 that count; 9 does not


def test_a_result_counts_draws_and_writes() -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[:5] = 2
    result = Segmented("a.png", mask, labels_of(3), np.uint8([[255, 0, 0], [0, 255, 0], [0, 0, 255]]))
    assert result.json() == {
        "source": "a.png",
        "size": [20, 30],
        "classes": ["c0", "c2"],
        "shares": [0.75, 0.25],
        "pixels": [450, 150],
        "error": None,
    }
    assert result.rows() == [("c0", "75.00 %", "450"), ("c2", "25.00 %", "150")]
    picture = Image.new("RGB", (30, 20), "white")
    files = result.files(picture)
    assert set(files) == {"_mask.png", "_overlay.png"}
    stored = Image.open(io.BytesIO(files["_mask.png"]))
    assert stored.mode == "P"
    np.testing.assert_array_equal(np.asarray(stored), mask)
    assert stored.convert("RGB").getpixel((0, 0)) == (0, 0, 255)
    drawn = result.draw(picture)
    assert drawn.width == 30 * 19  # 380 of 384 pixels for its shorter side
    assert drawn.height > 20 * 19  # the legend
    assert drawn.getpixel((0, 0)) == (115, 115, 255)
    assert run_lengths(mask) == [2, 150, 0, 450]


def test_a_strip_is_drawn_no_longer_than_can_be_looked_at() -> None:
    mask = np.zeros((1, 700), np.uint8)
    drawn = Segmented("a.png", mask, ("a",), np.zeros((1, 3), np.uint8)).draw(Image.new("RGB", (700, 1)))
    assert drawn.width == 2 * 700  # not 384 times, for its shorter side


def test_a_picture_that_cannot_be_used_has_no_mask() -> None:
    failed = task().failure("b.png", "broken")
    assert failed.json()["error"] == "broken"
    assert failed.json().keys() == Segmented("x", np.zeros((1, 1), np.uint8), ("a",), np.zeros((1, 3))).json().keys()
    assert failed.rows() == failed.caption() == []
    assert failed.files(Image.new("RGB", (2, 2))) == {}


def test_rare_classes_weigh_more() -> None:
    masks = np.zeros((2, 10, 10), np.uint8)
    masks[0, 0, :5] = 1

    class Source:
        classes = ("many", "few")

        def __len__(self) -> int:
            return 2

        def labels(self, index: int) -> np.ndarray:
            return masks[index]

    weights = class_weights(Source())
    assert weights is not None
    want = 1 / np.log(1.02 + np.array([195, 5]) / 200)
    np.testing.assert_allclose(weights, want / want.mean())


def test_it_comes_back_from_what_it_stores() -> None:
    first = Segmentation(("a", "b"), ((1, 2, 3), (4, 5, 6)), (1024, 256), reduce_zero_label=True)
    again = Segmentation.from_artifact(first.labels, first.artifact_options())
    assert again == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"palette": [[1, 2, 3]]}, "2 classes needs as many colours"),
        ({"palette": [[1, 2], [3, 4]]}, "no list of numbers"),
        ({"scale": [100, 200]}, "not (longest, shortest)"),
        ({"palette": [[1, 2, 300], [1, 2, 3]]}, "0 to 255"),
    ],
)
def test_artifact_options_that_do_not_fit_are_refused(options: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message.replace("(", r"\(").replace(")", r"\)")):
        Segmentation.from_artifact(("a", "b"), options)


def test_what_cannot_be_learnt_is_refused() -> None:
    source = SimpleNamespace(classes=("a", "b"), palette=[(0, 0, 0), (1, 1, 1)])
    with pytest.raises(RequestError, match=r"task\.ratio"):
        Segmentation.from_data(SegmentationOptions(), Augment(mixup=0.2), source)
    with pytest.raises(RequestError, match=r"3 entries for 2 classes"):
        Segmentation.from_data(SegmentationOptions(class_weights=(1.0, 2.0, 3.0)), Augment(), source)
    with pytest.raises(RequestError, match="two or more"):
        Segmentation.from_data(SegmentationOptions(), Augment(), SimpleNamespace(classes=("a",)))
    with pytest.raises(RequestError, match="semantic_fpn_crossformer"):
        task().check_outputs((3,))
    with pytest.raises(RequestError, match="must lie in"):
        SegmentationOptions(hard_pixels=0.0)
