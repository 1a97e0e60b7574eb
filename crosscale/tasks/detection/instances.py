"""Boxes with masks: a detection that learns, measures and tells which pixels belong to each object."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from crosscale.contracts import Array, Source
from crosscale.data.coco_masks import import_coco_masks
from crosscale.data.cut_masks import SIDE, packed_width
from crosscale.tasks.detection.masks import coco_masks
from crosscale.tasks.detection.metric import MaskAveragePrecision, Target, packed_masks
from crosscale.tasks.detection.options import InstanceOptions
from crosscale.tasks.detection.result import Detected, coco_results
from crosscale.tasks.detection.roi_loss import SHARE, all_losses, chooser
from crosscale.tasks.detection.rpn_loss import averaged
from crosscale.tasks.detection.task import Detection
from crosscale.tasks.measure import Measure
from crosscale.tasks.metric import DeviceBatch
from crosscale.tasks.sections import Chart
from crosscale.tasks.task import Losses


@dataclass(frozen=True)
class Instances(Detection):
    """Instance segmentation: `Detection` with a mask for every box.

    Attributes:
      options: the recipe's, `InstanceOptions`.
      target: of the held-out examples, where the metric reads the true masks.
    """

    options: Any = field(default_factory=InstanceOptions)
    target: Target | None = field(default=None, compare=False, repr=False)

    name: ClassVar[str] = "instances"
    Options: ClassVar[type] = InstanceOptions
    masks: ClassVar[bool] = True
    needed: ClassVar[str] = (
        "a task of instances needs a model that gives boxes with masks, such as mask_rcnn_crossformer_small"
    )
    activation: ClassVar[str] = "instances"
    title: ClassVar[str] = "Boxes and masks"
    best: ClassVar[str] = "mask_map"
    loss_label: ClassVar[str] = "sum of the five losses"
    schema: ClassVar[Mapping[str, Any]] = {
        **Detection.schema,
        "masks": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "size": {"type": "array", "items": {"type": "integer"}},
                    "counts": {"type": "string"},
                },
            },
            "description": "each box's pixels in the picture, as COCO's compressed run lengths",
        },
    }
    charts: ClassVar[tuple[Chart, ...]] = (
        Chart(
            "Average precision of masks on held-out pictures",
            ("mask_map", "mask_ap50", "mask_ap75"),
            "average precision, %",
            share=True,
        ),
        *Detection.charts,
    )
    measures: ClassVar[Mapping[str, Measure]] = {
        **{
            f"mask_{name}": Measure(f"mask {measure.label}", True, share=True)
            for name, measure in Detection.measures.items()
        },
        **Detection.measures,
    }

    def measuring(self, source: Source) -> Self:
        """The same with the true masks of these examples."""
        return replace(self, target=getattr(source, "target", None))

    def target_bytes(self) -> int:
        """With the masks and their frames."""
        return super().target_bytes() + self.max_objects * (SIDE * packed_width() + 4 * 4)

    def augment(self, key: Array, images: Array, batch: DeviceBatch) -> tuple[Array, dict[str, Array]]:
        """As they came, with the keys of what this step draws: "regions" and "anchors"."""
        images, targets = super().augment(key, images, batch)
        regions, anchors = jax.random.split(jnp.asarray(key))
        drawn = {"regions": regions, "anchors": anchors}
        return images, {**targets, **drawn, "masks": batch["masks"], "frames": batch["frames"]}

    def training_options(self, targets: Any) -> dict[str, Any]:
        """The pictures' sizes, and which proposals are learnt from."""
        count = self.options.regions
        choose = chooser(targets["regions"], targets, len(self.labels), count=count)
        return {"sizes": targets["size"], "choose": choose, "masks": int(count * SHARE)}

    def loss(self, outputs: Any, targets: Any, weight: Array) -> tuple[Losses, Array]:
        """ "proposal_objects", "proposal_boxes", "classes", "boxes" and "masks", each times the pictures that count.

        Each is divided by what it counts in the whole batch, such as the boxes learnt from: `roi_loss.all_losses`.

        Args:
          outputs: `training_outputs` of a model of two stages, a `RegionTraining`.
          targets: of `augment`.
        """
        counted = jnp.asarray(weight) > 0
        parts = averaged(all_losses(targets["anchors"], outputs, targets), counted)
        pictures = counted.sum().astype(jnp.float32)
        return {name: pictures * value for name, value in parts.items()}, pictures

    @cached_property
    def metric(self) -> MaskAveragePrecision:
        """COCO's twelve numbers, of boxes and of masks."""
        return MaskAveragePrecision(self.labels, self.target)

    def results(
        self,
        outputs: Array,
        sources: Sequence[str],
        sizes: Sequence[tuple[int, int]] | None = None,
        **options: Any,
    ) -> list[Detected]:
        """The boxes of the pictures and their masks; without sizes there are no pixels, and no masks.

        Args:
          outputs: (B, K, 6 + m * m) as `infer` gives them.
          sizes: see `Detection.results`.
          **options: likewise.

        Raises:
          RequestError: faster-coco-eval is not installed, which writes the masks.
        """
        import_coco_masks()
        found = []
        boxed = super().results(outputs, sources, sizes, **options)
        for row, result in zip(np.asarray(outputs, np.float32), boxed, strict=True):
            masks: list[dict[str, Any]] = []
            if result.size is not None and result.boxes is not None:
                said = packed_masks(row[: len(result.boxes)])  # the best come first
                masks = coco_masks(said, result.boxes, result.size)
            found.append(replace(result, masks=tuple(masks)))
        return found

    def failure(self, source: str, error: str) -> Detected:
        """Without boxes and masks."""
        return replace(super().failure(source, error), masks=())

    def together(self, results: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
        """With "coco_masks.json": the masks in COCO's format, in a file of their own as its evaluation wants them."""
        return {**super().together(results), "coco_masks.json": coco_results(results, self.ids_by_name, masks=True)}

    def headline(self, metrics: Mapping[str, float | None]) -> str:
        """ "mask mAP 37.10 %, mask AP50 58.00 %, box mAP 41.20 %"."""
        shown = {name: self.measures[name].shown(metrics.get(name)) for name in ("mask_map", "mask_ap50", "map")}
        return f"mask mAP {shown['mask_map']}, mask AP50 {shown['mask_ap50']}, box mAP {shown['map']}"
