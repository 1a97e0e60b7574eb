"""A class for every pixel: cross-entropy with ignored pixels, mean intersection over union."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from PIL import Image

from crosscale.contracts import Array, InputSpec, Source
from crosscale.data.augment import Augment
from crosscale.data.mask_examples import SCALE, SegmentationExamples
from crosscale.data.mask_folder import open_masks
from crosscale.data.mask_sets import distinct_colours
from crosscale.data.table_rows import check_no_root
from crosscale.errors import RequestError
from crosscale.tasks.checks import (
    check_labels,
    check_photographs,
    check_test_options,
    classes_option,
    declared_sizes,
)
from crosscale.tasks.defaults import ChoosesNothing
from crosscale.tasks.measure import Measure
from crosscale.tasks.metric import DeviceBatch
from crosscale.tasks.sections import Chart, Examined, Section
from crosscale.tasks.segmentation.labels import label_maps
from crosscale.tasks.segmentation.losses import class_factors, counted, dice_losses, hard_pixels, pixel_losses
from crosscale.tasks.segmentation.metric import Overlaps
from crosscale.tasks.segmentation.options import SegmentationOptions
from crosscale.tasks.segmentation.report import sections, telling
from crosscale.tasks.segmentation.result import Segmented
from crosscale.tasks.segmentation.source import DeclaredMasks, class_weights, usual_scale
from crosscale.tasks.segmentation.views import Apply, Views, looked_at
from crosscale.tasks.task import DeclaredData, Losses, ResultOption, Split
from crosscale.typed import from_plain, to_plain

MASK = "mask"


@dataclass(frozen=True)
class Segmentation(ChoosesNothing):
    """Semantic segmentation.

    Attributes:
      labels: names of the classes, in the order of the logits; at most 255.
      palette: a colour (red, green, blue) of each.
      scale: longest and shortest side that pictures are resized to fit before they are fed.
      options: the recipe's.
      weights: of the classes in the loss; None counts all alike.
      reduce_zero_label: whether the value 0 of masks is ignored and classes count from 1; None as the layout says.
      remarks: lines on how the classes were found.
    """

    labels: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    scale: tuple[int, int] = SCALE
    options: SegmentationOptions = field(default_factory=SegmentationOptions)
    weights: tuple[float, ...] | None = None
    reduce_zero_label: bool | None = None
    remarks: tuple[str, ...] = ()

    name: ClassVar[str] = "segmentation"
    Options: ClassVar[type] = SegmentationOptions
    method: ClassVar[str | None] = "cells"
    has_logits: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = ("class", "share", "pixels")
    numeric: ClassVar[tuple[str, ...]] = ("share", "pixels")
    activation: ClassVar[str] = "labels"
    noun: ClassVar[str] = "classes"
    result_options: ClassVar[Mapping[str, ResultOption]] = {}
    test_options: ClassVar[tuple[str, ...]] = tuple(field.name for field in fields(Views))
    schema: ClassVar[Mapping[str, Any]] = {
        "size": {"type": "array", "items": {"type": "integer"}, "description": "height and width"},
        "classes": {"type": "array", "items": {"type": "string"}},
        "shares": {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}},
        "pixels": {"type": "array", "items": {"type": "integer", "minimum": 0}},
    }
    served_schema: ClassVar[Mapping[str, Any]] = {
        "mask": {"type": ["string", "null"], "description": "base64 of a PNG file whose pixels are label numbers"},
        "runs": {
            "type": "array",
            "items": {"type": "integer"},
            "description": "the same as label, length, label, length, ..., row by row",
        },
        "colours": {"type": "array", "items": {"type": "string"}, "description": "of the classes, #rrggbb"},
    }
    title: ClassVar[str] = "Classes by area"
    best: ClassVar[str] = "miou"
    loss_label: ClassVar[str] = "cross-entropy, nats"
    charts: ClassVar[tuple[Chart, ...]] = (
        Chart("Overlap on held-out pictures", ("miou", "macc", "aacc"), "share, %", share=True),
    )
    measures: ClassVar[Mapping[str, Measure]] = {
        "miou": Measure("mIoU", True, share=True),
        "macc": Measure("mean accuracy", True, share=True),
        "aacc": Measure("pixel accuracy", True, share=True),
        "loss": Measure("loss", False, unit="nats"),
    }

    @classmethod
    def open(
        cls,
        place: str | Path,
        split: Split,
        *,
        val_fraction: float,
        seed: int,
        options: Any = None,
        root: str | Path | None = None,
    ) -> Source:
        """One part of a folder of pictures and masks; see `crosscale.data.mask_folder.open_masks`."""
        check_no_root(root, place)
        zero = options.reduce_zero_label if options is not None else None
        return open_masks(place, split, val_fraction=val_fraction, seed=seed, reduce_zero_label=zero)

    @classmethod
    def declared(cls, data: DeclaredData) -> tuple[Source, Source]:
        """Sources of the declared sizes, without examples. Raises RequestError where a size is missing."""
        classes, train, val = declared_sizes(data)
        return DeclaredMasks(classes, train), DeclaredMasks(classes, val)

    @classmethod
    def from_data(cls, options: Any, augment: Augment, source: Any) -> "Segmentation":
        """Classes and colours are the source's; the scale, where the recipe has none, is the pictures' usual size."""
        if augment != Augment():
            raise RequestError(
                "augment: of a segmentation, pictures and masks are changed together, which the keys of `task` say "
                "(task.ratio, task.hflip, task.photometric, ...); leave the section augment as it is"
            )
        classes = tuple(source.classes)
        if len(classes) < 2:
            raise RequestError(f"the masks have {len(classes)} class; a segmentation needs two or more")
        weights = options.class_weights
        if weights == "auto":
            weights = class_weights(source)
        elif weights is not None and len(weights) != len(classes):
            raise RequestError(f"task.class_weights has {len(weights)} entries for {len(classes)} classes")
        scale = options.scale or usual_scale(source)
        palette = tuple((int(r), int(g), int(b)) for r, g, b in source.palette)
        return cls(classes, palette, scale, options, weights, options.reduce_zero_label, tuple(source.notes))

    @classmethod
    def from_artifact(cls, labels: Sequence[str], options: Mapping[str, Any]) -> "Segmentation":
        """The options are those of `artifact_options`. Raises RequestError where they do not fit the labels."""
        try:
            palette = tuple((int(r), int(g), int(b)) for r, g, b in options.get("palette") or ())
            long, short = (int(side) for side in options.get("scale", SCALE))
        except (TypeError, ValueError) as error:
            raise RequestError(f"a segmentation's palette or scale is no list of numbers ({error})") from None
        if not palette:
            palette = tuple(map(tuple, distinct_colours(len(labels)).tolist()))
        if len(palette) != len(labels) or not all(0 <= value <= 255 for colour in palette for value in colour):
            raise RequestError(f"a segmentation of {len(labels)} classes needs as many colours, of numbers 0 to 255")
        if not long >= short >= 1:
            raise RequestError(f"a segmentation's scale {[long, short]} is not (longest, shortest) in pixels")
        zero = options.get("reduce_zero_label")
        if zero not in (None, True, False):
            raise RequestError(f"a segmentation's reduce_zero_label={zero!r} is neither true, false nor null")
        views = from_plain(Views, options.get("views") or {}, "views")
        chosen = SegmentationOptions(**asdict(views))
        return cls(tuple(labels), palette, (long, short), chosen, reduce_zero_label=zero)

    def artifact_options(self) -> dict[str, Any]:
        """Palette, scale, whether the masks' value 0 is ignored, where the recipe said so, and the views, where they
        are not one whole picture."""
        palette = [list(colour) for colour in self.palette]
        own = {"palette": palette, "scale": list(self.scale), "reduce_zero_label": self.reduce_zero_label}
        views = self.options.views
        return own if views == Views() else {**own, "views": to_plain(asdict(views))}

    def with_options(self, options: Mapping[str, Any]) -> "Segmentation":
        """The same with other views; see `test_options`. Raises RequestError."""
        check_test_options(self, options)
        return replace(self, options=replace(self.options, **options))

    def infer(self, apply: Apply, images: Array, sizes: Array | None = None) -> Array:
        """The cells' logits, of all views together."""
        return looked_at(apply, images, self.options.views)

    def model_options(self, given: Mapping[str, Any], place: str | Path | None = None) -> dict[str, Any]:
        """`num_classes`. Raises RequestError where another number was given."""
        return classes_option(given, len(self.labels), place)

    def input_spec(self, spec: InputSpec) -> InputSpec:
        """The size of a training crop: the recipe's, or the model's but no larger than the pictures usually are."""
        check_photographs(spec, self.name)
        height, width = self.options.crop or (min(side, min(self.scale)) for side in spec.size)
        return replace(spec, size=(height, width))

    @property
    def notes(self) -> tuple[str, ...]:
        """The classes' origin, and the scale."""
        return (*self.remarks, f"pictures are resized to fit {self.scale[0]} x {self.scale[1]} before they are cropped")

    def check_outputs(self, shape: Sequence[int]) -> None:
        """Raises RequestError unless the model gives a logit per cell and class."""
        if len(shape) != 3 or shape[-1] != len(self.labels):
            raise RequestError(
                f"a segmentation of {len(self.labels)} classes needs a model that gives as many logits for every cell, "
                f"such as semantic_fpn_crossformer_tiny; this one gives {tuple(shape)}"
            )

    def check_recorded(self, recorded: Sequence[str], place: str | Path) -> None:
        """Raises RequestError unless the data has the classes that a recipe recorded."""
        check_labels(recorded, self.labels, f"data.classes: {{}} in {place}", one="class", many="classes")

    def examples(
        self, spec: InputSpec, augment: Augment | None = None, decode: Literal["exact", "fast"] = "exact"
    ) -> SegmentationExamples:
        """ "image" and "mask", in validation "size" too."""
        return SegmentationExamples(spec, None if augment is None else self.options.augment, scale=self.scale)

    def fit(self, spec: InputSpec, img: Image.Image) -> np.ndarray:
        """The whole picture at the scale, its sides raised to multiples of 32: (h, w, C) uint8."""
        return self.examples(spec).network_image(img)

    def content(self, spec: InputSpec, size: tuple[int, int]) -> tuple[int, int] | None:
        """None: nothing fills up."""
        return None

    def reopen(
        self, place: str | Path, split: Split, *, val_fraction: float, seed: int, root: str | Path | None = None
    ) -> Source:
        """Masks of this task's classes, in its order. Raises RequestError where they are others."""
        options = replace(self.options, reduce_zero_label=self.reduce_zero_label)
        source: Any = self.open(place, split, val_fraction=val_fraction, seed=seed, options=options, root=root)
        if len(source.classes) > len(self.labels) or source.classes != self.labels[: len(source.classes)]:
            check_labels(self.labels, source.classes, f"classes: {{}} in {place}", one="class", many="classes")
        return source

    def target_bytes(self) -> int:
        """Nothing: a mask is small beside its picture, with which it is counted."""
        return 0

    def augment(self, key: Array, images: Array, batch: DeviceBatch) -> tuple[Array, Array]:
        """As they came: pictures and masks were changed together on the host. The targets are (B, H, W) uint8."""
        return images, batch[MASK]

    def loss(self, outputs: Any, targets: Array, weight: Array) -> tuple[Losses, Array]:
        """Over pixels: "pixels" (cross-entropy or focal), with options "dice" and "auxiliary".

        Args:
          outputs: `training_outputs` of the model: "logits" and perhaps "auxiliary", each (B, H, W, classes).
          targets: (B, H, W) labels, 255 for what does not count.

        Returns:
          The parts, each summed over the pixels that count times the weights of their classes; the sum of these.
        """
        options = self.options
        real = counted(targets, weight)
        factors = jnp.where(real, class_factors(targets, self.weights), 0.0)
        parts, total = self._pixels(outputs["logits"], targets, real, factors)
        losses: Losses = {"pixels": parts}
        if options.dice:
            examples = jnp.maximum((weight > 0).sum(), 1)
            dice = dice_losses(outputs["logits"], targets, real)
            losses["dice"] = options.dice * total * jnp.where(weight > 0, dice, 0.0).sum() / examples
        if "auxiliary" in outputs and options.auxiliary:
            losses["auxiliary"] = options.auxiliary * self._pixels(outputs["auxiliary"], targets, real, factors)[0]
        return losses, total

    def _pixels(self, logits: Array, targets: Array, real: Array, factors: Array) -> tuple[Array, Array]:
        """The summed losses and what divides them."""
        options = self.options
        losses = pixel_losses(logits, targets, options.focal_gamma)
        if options.average == "all":
            return jnp.where(real, losses * factors, 0.0).sum(), (real.any((1, 2)) * math.prod(real.shape[1:])).sum()
        total = factors.sum()
        if options.hard_pixels < 1:
            kept = jnp.where(hard_pixels(losses, real, options.hard_pixels), factors, 0.0)
            # The mean is over those kept; the weight of a batch in a sum over batches stays that of all its pixels.
            return jnp.where(real, losses * kept, 0.0).sum() * total / jnp.maximum(kept.sum(), 1e-6), total
        return jnp.where(real, losses * factors, 0.0).sum(), total

    @cached_property
    def metric(self) -> Overlaps:
        """mIoU and accuracies at the masks' own resolution."""
        return Overlaps(self.labels)

    def activate(self, outputs: Array) -> Array:
        """Logits (..., classes) -> labels, int32."""
        return jnp.argmax(outputs, -1).astype(jnp.int32)

    def results(
        self, outputs: Array, sources: Sequence[str], sizes: Sequence[tuple[int, int]] | None = None, **options: Any
    ) -> list[Segmented]:
        """The masks of the pictures, at their own sizes.

        Args:
          outputs: (B, h, w, classes) logits of the cells, of pictures of one shape.
          sizes: heights and widths of the pictures as they came; None takes four pixels for a cell.
        """
        cells = np.asarray(outputs)
        sizes = sizes or [(4 * cells.shape[1], 4 * cells.shape[2])] * len(cells)
        found, examples = [], self.examples(InputSpec())
        for name, logits, size in zip(sources, cells, sizes, strict=True):
            network, canvas = examples.shape_key(size)
            mask = label_maps(logits[None], np.array([size], np.int32), network=network, canvas=canvas)
            found.append(self._result(name, np.asarray(mask)[0, : size[0], : size[1]]))
        return found

    def failure(self, source: str, error: str) -> Segmented:
        """Without a mask."""
        return self._result(source, None, error)

    def _result(self, source: str, mask: np.ndarray | None, error: str | None = None) -> Segmented:
        return Segmented(source, mask, self.labels, np.array(self.palette, np.uint8), error)

    def facts(self) -> dict[str, Any]:
        """ "classes": their number."""
        return {"classes": len(self.labels)}

    def headline(self, metrics: Mapping[str, float | None]) -> str:
        """ "mIoU 91.20 %, pixel accuracy 98.30 %"."""
        return ", ".join(f"{self.measures[n].label} {self.measures[n].shown(metrics.get(n))}" for n in ("miou", "aacc"))

    def sections(self, examined: Examined) -> list[Section]:
        """Classes, confusion matrix, the worst and the best pictures."""
        return sections(self.labels, np.array(self.palette, np.uint8), examined)

    def telling(self, examined: Examined) -> list[int]:
        """The pictures of the least overlap."""
        return telling(examined)

    def truth(self, target: Any) -> str:
        """The classes by area."""
        found = self._result("", np.asarray(target)).areas
        return ", ".join(self.labels[label] for label, _ in found[:4])
