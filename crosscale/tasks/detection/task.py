"""Boxes with a class and a score: focal loss over anchors, COCO's average precision."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import jax.numpy as jnp
import numpy as np
from PIL import Image

from crosscale.contracts import Array, InputSpec, Source
from crosscale.data.augment import Augment
from crosscale.data.object_examples import ObjectExamples
from crosscale.data.object_source import open_objects
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
from crosscale.tasks.detection.anchor_loss import batch_losses
from crosscale.tasks.detection.evaluation import check_library
from crosscale.tasks.detection.metric import LABEL, PLAIN, SCORE, AveragePrecision, corners
from crosscale.tasks.detection.options import DetectionOptions, Limits
from crosscale.tasks.detection.report import counted_names, sections, telling
from crosscale.tasks.detection.result import Detected, coco_results
from crosscale.tasks.detection.source import DeclaredObjects
from crosscale.tasks.measure import Measure
from crosscale.tasks.metric import DeviceBatch
from crosscale.tasks.sections import Chart, Examined, Section
from crosscale.tasks.task import DeclaredData, Losses, ResultOption, Split
from crosscale.typed import from_plain, to_plain

TARGETS = ("boxes", "labels", "crowd", "size")  # of a batch
ROUNDED = 8  # `max_objects` is raised to a multiple of it
HELD_OUT = 256  # room for at least so many objects of a held-out picture: an evaluation counts every one


@dataclass(frozen=True)
class Detection(ChoosesNothing):
    """Detection of objects.

    Attributes:
      labels: names of the classes, in the order of the logits.
      scale: longest and shortest side that pictures are resized to fit before they are fed; None: those of the input.
      max_objects: objects of a training picture that a batch has room for; in validation it is `HELD_OUT` at least.
      options: the recipe's.
      ids: of the classes in the data's own numbers, for results in COCO's format.
      remarks: lines on what was left out of the data.
      source: of the training data, where a mosaic takes its other pictures from.
    """

    labels: tuple[str, ...]
    scale: tuple[int, int] | None = None
    max_objects: int = 100
    options: Any = field(default_factory=DetectionOptions)
    ids: tuple[int, ...] = ()
    remarks: tuple[str, ...] = ()
    source: Any = field(default=None, compare=False, repr=False)

    name: ClassVar[str] = "detection"
    Options: ClassVar[type] = DetectionOptions
    masks: ClassVar[bool] = False  # whether the objects' masks are learnt too
    method: ClassVar[str | None] = "packed"
    has_logits: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = ("class", "score", "x0", "y0", "x1", "y1")
    numeric: ClassVar[tuple[str, ...]] = ("score", "x0", "y0", "x1", "y1")
    exports_inferred: ClassVar[bool] = True
    activation: ClassVar[str] = "detections"
    noun: ClassVar[str] = "classes"
    result_options: ClassVar[Mapping[str, ResultOption]] = {
        "min_score": ResultOption(30, 0, "PERCENT", "least score of a box to report, in percent"),
        "max_boxes": ResultOption(100, 1, "N", "most boxes to report of a picture"),
    }
    test_options: ClassVar[tuple[str, ...]] = (*(field.name for field in fields(Limits)), "max_objects")
    schema: ClassVar[Mapping[str, Any]] = {
        "size": {"type": ["array", "null"], "items": {"type": "integer"}, "description": "height and width"},
        "boxes": {
            "type": "array",
            "items": {"type": "array", "items": {"type": "number"}},
            "description": "x0, y0, x1, y1 in pixels of the picture, the surest box first",
        },
        "classes": {"type": "array", "items": {"type": "string"}},
        "scores": {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}},
    }
    served_schema: ClassVar[Mapping[str, Any]] = {
        "colours": {"type": "array", "items": {"type": "string"}, "description": "of the boxes' classes, #rrggbb"},
    }
    needed: ClassVar[str] = "a detection needs a model that gives boxes, such as retinanet_crossformer_small"
    title: ClassVar[str] = "Boxes"
    best: ClassVar[str] = "map"
    loss_label: ClassVar[str] = "focal loss and loss of the boxes"
    charts: ClassVar[tuple[Chart, ...]] = (
        Chart("Average precision on held-out pictures", ("map", "ap50", "ap75"), "average precision, %", share=True),
    )
    measures: ClassVar[Mapping[str, Measure]] = {
        "map": Measure("mAP", True, share=True),
        "ap50": Measure("AP50", True, share=True),
        "ap75": Measure("AP75", True, share=True),
        "ap_small": Measure("AP small", True, share=True),
        "ap_medium": Measure("AP medium", True, share=True),
        "ap_large": Measure("AP large", True, share=True),
        "ar1": Measure("AR1", True, share=True),
        "ar10": Measure("AR10", True, share=True),
        "ar100": Measure("AR100", True, share=True),
        "ar_small": Measure("AR small", True, share=True),
        "ar_medium": Measure("AR medium", True, share=True),
        "ar_large": Measure("AR large", True, share=True),
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
        """One part of pictures with boxes; see `crosscale.data.object_source.open_objects`."""
        check_no_root(root, place)
        return open_objects(place, split, val_fraction=val_fraction, seed=seed, masks=cls.masks)

    @classmethod
    def declared(cls, data: DeclaredData) -> tuple[Source, Source]:
        """Sources of the declared sizes, without examples. Raises RequestError where a size is missing."""
        classes, train, val = declared_sizes(data)
        return DeclaredObjects(classes, train), DeclaredObjects(classes, val)

    @classmethod
    def from_data(cls, options: Any, augment: Augment, source: Any) -> Self:
        """Classes are the source's; room for objects is what its fullest picture needs."""
        check_library()
        if augment != Augment():
            raise RequestError(
                "augment: of a detection, pictures and boxes are changed together, which the keys of `task` say "
                "(task.hflip, ...); leave the section augment as it is"
            )
        classes = tuple(source.classes)
        if not classes:
            raise RequestError("the annotations name no class; a detection needs one or more")
        if options.batches == "oriented" and (options.scale is None or options.scale[0] == options.scale[1]):
            raise RequestError(
                "task.batches=oriented: landscape and portrait pictures differ by task.scale, the longest and the "
                "shortest side, such as [1333, 800]; give it, or leave batches mixed"
            )
        room = options.max_objects or -(-max(1, source.most_objects) // ROUNDED) * ROUNDED
        remarks = list(source.notes)
        if options.max_objects and (above := source.above(room)):
            remarks.append(f"{above} pictures have more than {room} objects (task.max_objects): the largest are learnt")
        ids = tuple(int(value) for value in source.category_ids)
        return cls(classes, options.scale, room, options, ids, tuple(remarks), source)

    @classmethod
    def from_artifact(cls, labels: Sequence[str], options: Mapping[str, Any]) -> Self:
        """The options are those of `artifact_options`. Raises RequestError where they do not fit the labels."""
        try:
            scale = None if options.get("scale") is None else tuple(int(side) for side in options["scale"])
            room = int(options.get("max_objects", 100))
            ids = tuple(int(value) for value in options.get("category_ids") or ())
        except (TypeError, ValueError) as error:
            raise RequestError(f"a detection's scale, max_objects or category_ids is no number ({error})") from None
        if scale is not None and (len(scale) != 2 or not scale[0] >= scale[1] >= 1):
            raise RequestError(f"a detection's scale {list(scale)} is not (longest, shortest) in pixels")
        if room < 1 or (ids and len(ids) != len(labels)):
            raise RequestError(f"a detection of {len(labels)} classes has room for {room} objects and {len(ids)} ids")
        limits = from_plain(Limits, options.get("limits") or {}, "limits")
        chosen = cls.Options(**asdict(limits))
        return cls(tuple(labels), scale, room, chosen, ids)

    def artifact_options(self) -> dict[str, Any]:
        """Scale, room for objects, the classes' own numbers, and which boxes are kept."""
        scale, ids = None if self.scale is None else list(self.scale), list(self.ids)
        limits = to_plain(asdict(self.options.limits))
        return {"scale": scale, "max_objects": self.max_objects, "category_ids": ids, "limits": limits}

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """The same with other limits; see `test_options`. Raises RequestError."""
        check_test_options(self, options)
        own = {name: value for name, value in options.items() if name != "max_objects"}
        changed = replace(self, options=replace(self.options, **own))
        room = options.get("max_objects")
        return changed if room is None else replace(changed, max_objects=int(room))

    def model_options(self, given: Mapping[str, Any], place: str | Path | None = None) -> dict[str, Any]:
        """`num_classes`. Raises RequestError where another number was given."""
        return classes_option(given, len(self.labels), place)

    def input_spec(self, spec: InputSpec) -> InputSpec:
        """As it is: the shape that training pictures are filled up to."""
        check_photographs(spec, self.name)
        return spec

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out of the data, the room for objects, and the size of pictures."""
        fit = "the input" if self.scale is None else f"{self.scale[0]} x {self.scale[1]}"
        return (
            *self.remarks,
            f"pictures are resized to fit {fit} and filled up; a batch has room for {self.max_objects} objects of each",
            *self._shapes(),
        )

    def _shapes(self) -> tuple[str, ...]:
        """A line on the shapes of oriented batches."""
        if self.options.batches == "mixed":
            return ()
        examples = self.examples(InputSpec(), Augment())
        told = " or ".join(f"{height} x {width}" for height, width in examples.train_shapes)
        held_out = len(examples.validation_shapes)
        return (f"training batches are {told}, each compiled once; those of validation have {held_out} shapes at most",)

    def check_outputs(self, shape: Sequence[int]) -> None:
        """Raises RequestError unless the model gives boxes."""
        if len(shape) != 2 or not (shape[-1] > PLAIN if self.masks else shape[-1] == PLAIN):
            raise RequestError(f"{self.needed}; this one gives {tuple(shape)}")

    def check_recorded(self, recorded: Sequence[str], place: str | Path) -> None:
        """Raises RequestError unless the data has the classes that a recipe recorded."""
        check_labels(recorded, self.labels, f"data.classes: {{}} in {place}", one="class", many="classes")

    def examples(
        self, spec: InputSpec, augment: Augment | None = None, decode: Literal["exact", "fast"] = "exact"
    ) -> ObjectExamples:
        """ "image", "size", "boxes", "labels" and "crowd"; in validation "areas" and "original" too; where masks are
        learnt, "masks" and "frames" in training.

        Without a scale pictures fit into the input whichever way they lie.
        """
        scale = self.scale or (min(spec.size), min(spec.size))
        if augment is None:
            room = max(self.max_objects, HELD_OUT)
            return ObjectExamples(spec, scale=scale, max_objects=room, masks=self.masks)
        how: dict[str, Any] = {"max_objects": self.max_objects, "masks": self.masks, "source": self.source}
        how["batches"] = self.options.batches
        return ObjectExamples(spec, self.options.augment, scale=scale, **how)

    def fit(self, spec: InputSpec, img: Image.Image) -> np.ndarray:
        """The whole picture at the scale, filled up at the right and below: (h, w, C) uint8."""
        return self.examples(spec).network_image(img)

    def content(self, spec: InputSpec, size: tuple[int, int]) -> tuple[int, int] | None:
        """The picture's own part of what `fit` gives."""
        return self.examples(spec).fitted_size(size)

    def reopen(
        self, place: str | Path, split: Split, *, val_fraction: float, seed: int, root: str | Path | None = None
    ) -> Source:
        """Boxes of this task's classes, in its order. Raises RequestError where they are others."""
        check_no_root(root, place)
        how: dict[str, Any] = {"val_fraction": val_fraction, "seed": seed, "masks": self.masks}
        source = open_objects(place, split, classes=self.labels, **how)
        if source.most_objects > (room := max(self.max_objects, HELD_OUT)):
            raise RequestError(
                f"{place}: a picture has {source.most_objects} objects, and there is room for {room}; give "
                f"--task.max_objects {source.most_objects}"
            )
        return source

    def target_bytes(self) -> int:
        """What the boxes, labels and crowds of a picture take."""
        return self.max_objects * (4 * 4 + 4 + 1) + 8

    def augment(self, key: Array, images: Array, batch: DeviceBatch) -> tuple[Array, dict[str, Array]]:
        """As they came: pictures and boxes were changed together on the host."""
        return images, {name: batch[name] for name in TARGETS}

    def infer(self, apply: Callable[..., Any], images: Array, sizes: Array | None = None) -> Array:
        """(B, K, 6 or more): x0 y0 x1 y1 as shares of the picture's width and height, score, label; then the mask."""
        limits = self.options.limits
        found: Array = apply(
            images,
            sizes=sizes,
            score_threshold=limits.score_threshold,
            iou_threshold=limits.nms_threshold,
            count=limits.max_detections,
        )
        return found

    def loss(self, outputs: Any, targets: Any, weight: Array) -> tuple[Losses, Array]:
        """ "classes" (focal) and "boxes", each summed over the anchors; the number of anchors that are objects.

        Args:
          outputs: `training_outputs` of a model of one stage, an `AnchorTraining`.
          targets: see `anchor_targets`.
        """
        options = self.options
        said: Any = outputs  # arrays that jit traces
        classes, boxes, count = batch_losses(
            said.logits, said.deltas, said.anchors, targets, jnp.asarray(weight), options.box_loss
        )
        return {"classes": classes, "boxes": options.box_weight * boxes}, count

    @cached_property
    def metric(self) -> AveragePrecision:
        """COCO's twelve numbers."""
        return AveragePrecision(self.labels)

    def activate(self, outputs: Array) -> Array:
        """As they are: boxes as shares of the picture, scores and labels."""
        return outputs

    def results(
        self,
        outputs: Array,
        sources: Sequence[str],
        sizes: Sequence[tuple[int, int]] | None = None,
        **options: Any,
    ) -> list[Detected]:
        """The boxes of the pictures, in their own pixels.

        Args:
          outputs: (B, K, 6) as `infer` gives them.
          sizes: heights and widths of the pictures as they came; None leaves the boxes as they are.
          **options: `min_score` in percent, `max_boxes`.
        """
        told = {name: options.get(name, option.default) for name, option in self.result_options.items()}
        packed = np.asarray(outputs, np.float32)
        sides = np.ones((len(packed), 2)) if sizes is None else np.asarray(sizes, np.float64).reshape(-1, 2)
        factors = corners(sides)
        found = []
        for i, name in enumerate(sources):
            scores = packed[i, :, SCORE]
            chosen = np.flatnonzero((scores > 0) & (scores >= told["min_score"] / 100))[: told["max_boxes"]]
            boxes = packed[i, chosen, :SCORE] * factors[i]
            size = None if sizes is None else (int(sizes[i][0]), int(sizes[i][1]))
            labels = packed[i, chosen, LABEL].astype(np.int64)
            found.append(Detected(name, boxes, scores[chosen], labels, self.labels, size))
        return found

    def failure(self, source: str, error: str) -> Detected:
        """Without boxes."""
        return Detected(source, None, np.zeros(0), np.zeros(0, np.int64), self.labels, None, error)

    def together(self, results: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
        """ "coco_results.json": all boxes in COCO's format."""
        return {"coco_results.json": coco_results(results, self.ids_by_name)}

    @property
    def ids_by_name(self) -> dict[str, int]:
        """What results in COCO's format call each class: the data's own number, else its position from 1 on."""
        return dict(zip(self.labels, self.ids or range(1, len(self.labels) + 1), strict=True))

    def facts(self) -> dict[str, Any]:
        """ "classes": their number."""
        return {"classes": len(self.labels)}

    def headline(self, metrics: Mapping[str, float | None]) -> str:
        """ "mAP 41.20 %, AP50 62.30 %"."""
        return ", ".join(f"{self.measures[n].label} {self.measures[n].shown(metrics.get(n))}" for n in ("map", "ap50"))

    def sections(self, examined: Examined) -> list[Section]:
        """Classes, the worst and the best pictures."""
        return sections(self.labels, examined)

    def telling(self, examined: Examined) -> list[int]:
        """The pictures of the least agreement."""
        return telling(examined)

    def truth(self, target: Any) -> str:
        """The objects by class: "2 dog, 1 cat"."""
        return counted_names(self.labels, target.labels[~target.crowd])
