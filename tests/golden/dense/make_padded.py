"""Writes `padded.npz`: what the references give for a picture of 200 x 312, filled up to 224 x 320.

python tests/golden/dense/make_padded.py CHECKOUT WEIGHTS

Runs with mmcv 1.6.2 without its compiled operations (MMCV_WITH_OPS=0), mmdet 2.26.0, mmsegmentation 0.29.1 and torch
2.13 on a processor. CHECKOUT is the released CrossFormer code with the branches as folders: `main/backbone_det.py`
(groups within regions) and `crossformer/backbone.py` (groups over the whole map), of its `models/`. WEIGHTS has the
narrow models' tensors by the reference's names, `w_<model>.npz` (`segmentation_seeded.weights`, and what `../detection`
keeps of the heads), and the picture as `image.npz`, that of `../detection/retinanet_train.npz`.

Suppression and RoIAlign are written out below, since torchvision's need its own build of torch.
"""

import importlib.util
import math
import sys
import types
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
SIZE, PADDED = (200, 312), (224, 320)
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
GROUPING = {"semfpn": "regions", "upernet": "whole", "retinanet": "whole", "maskrcnn": "regions"}
FILES = {"regions": "main/backbone_det.py", "whole": "crossformer/backbone.py"}
WIDTHS, STRIDES = [16, 32, 64, 128], [4, 8, 16, 32]


def suppressed(boxes, scores, threshold, labels=None):
    """Positions of the boxes that remain, the best first."""
    corners, labels = boxes.double().numpy(), np.zeros(len(boxes)) if labels is None else labels.numpy()
    areas = (corners[:, 2:] - corners[:, :2]).prod(1)
    out, kept = np.zeros(len(corners), bool), []
    for i in np.argsort(-scores.numpy(), kind="stable"):
        if out[i]:
            continue
        kept.append(i)
        sides = np.minimum(corners[i, 2:], corners[:, 2:]) - np.maximum(corners[i, :2], corners[:, :2])
        common = sides.clip(0).prod(1)
        with np.errstate(all="ignore"):
            out |= (common / (areas[i] + areas - common) > threshold) & (labels == labels[i])
    return torch.from_numpy(np.array(kept, np.int64))


def aligned(x, rois, out, *_, aligned_height, spatial_scale, **__):
    """RoIAlign with as many samples as a bin is cells long, bilinear along each axis."""
    size, maps = aligned_height, x.numpy()

    def means(start, end, cells):
        count = max(math.ceil((end - start) / size), 0)
        at = start + (np.arange(size)[:, None] + (np.arange(count) + 0.5) / max(count, 1)) * (end - start) / size
        inside, at = (at >= -1) & (at <= cells), at.clip(0, cells - 1)
        hats = np.maximum(0, 1 - np.abs(at[..., None] - np.arange(cells))) * inside[..., None]
        return hats.sum(1) / max(count, 1)

    for number, (image, *corners) in enumerate(rois.double().tolist()):
        x0, y0, x1, y1 = (value * spatial_scale - 0.5 for value in corners)
        down, right = means(y0, y1, maps.shape[2]), means(x0, x1, maps.shape[3])
        out[number] = torch.from_numpy(np.einsum("ih,chw,jw->cij", down, maps[int(image)], right))


def stand_ins():
    """The modules that the packages import and do not need here."""

    def refuse(*_, **__):
        raise RuntimeError("a compiled operation that stands in for nothing here")

    def missing(name):
        if name.startswith("__"):
            raise AttributeError(name)
        return refuse

    operations = types.ModuleType("mmcv._ext")
    operations.__getattr__ = missing
    operations.nms = lambda boxes, scores, iou_threshold, offset: suppressed(boxes, scores, iou_threshold)
    operations.roi_align_forward = aligned
    layers = types.ModuleType("timm.models.layers")
    layers.DropPath = lambda rate: torch.nn.Identity()
    layers.to_2tuple = lambda value: tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    layers.trunc_normal_ = lambda values, **options: values
    names = ["timm", "timm.models", "torchvision", "torchvision.models", "torchvision.transforms"]
    for module in (*map(types.ModuleType, names), layers, operations):
        module.__path__ = []
        sys.modules[module.__name__] = module
    sys.modules["torchvision"].__version__ = "0"
    sys.modules["torchvision"].models = sys.modules["torchvision.models"]


def register(checkout):
    """The two backbones, for both packages."""
    from mmdet.models.builder import BACKBONES
    from mmseg.models.builder import BACKBONES as SEGMENTATION

    for grouping, path in FILES.items():
        spec = importlib.util.spec_from_file_location(f"backbone_{grouping}", checkout / path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        options = {"img_size": PADDED, "patch_size": [4, 8, 16, 32], "embed_dim": 16, "depths": [1, 1, 2, 1]}
        options |= {"num_heads": [1, 2, 4, 8], "group_size": [7] * 4, "crs_interval": [8, 4, 2, 1]}
        options |= {"drop_path_rate": 0.0, "merge_size": [[2, 4]] * 3}

        def build(self, base=module.CrossFormer, options=options):
            base.__init__(self, **options)

        members = {"__init__": build, "init_weights": lambda self: None}
        for registry in (BACKBONES, SEGMENTATION):
            registry.register_module(type(f"CrossFormer_{grouping}", (module.CrossFormer,), dict(members)))


def neck(**options):
    return {"type": "FPN", "in_channels": WIDTHS, "out_channels": 16, **options}


def segmentation(name):
    common = {"num_classes": 6, "norm_cfg": {"type": "BN"}, "align_corners": False, "dropout_ratio": 0.1}
    if name == "semfpn":
        head = {"type": "FPNHead", "in_channels": [16] * 4, "in_index": [0, 1, 2, 3], "feature_strides": STRIDES}
        return {"neck": neck(num_outs=4), "decode_head": {**head, "channels": 12, **common}}
    head = {"type": "UPerHead", "in_channels": WIDTHS, "in_index": [0, 1, 2, 3], "pool_scales": (1, 2, 3, 6)}
    aside = {"type": "FCNHead", "in_channels": 64, "in_index": 2, "channels": 12, "num_convs": 1, "concat_input": False}
    return {"decode_head": {**head, "channels": 16, **common}, "auxiliary_head": {**aside, **common}}


def retinanet():
    anchors = {"type": "AnchorGenerator", "octave_base_scale": 4, "scales_per_octave": 3, "ratios": [0.5, 1.0, 2.0]}
    head = {"type": "RetinaHead", "num_classes": 5, "in_channels": 16, "feat_channels": 16, "stacked_convs": 4}
    head |= {"anchor_generator": {**anchors, "strides": [8, 16, 32, 64, 128]}, "bbox_coder": coder(1.0, 1.0)}
    test = {"nms_pre": 1000, "score_thr": 0.05}
    return {"neck": neck(start_level=1, add_extra_convs="on_input", num_outs=5), "bbox_head": head, "test_cfg": test}


def coder(*stds):
    return {"type": "DeltaXYWHBBoxCoder", "target_stds": [stds[0], stds[0], stds[1], stds[1]]}


def mask_rcnn():
    def reader(size):
        layer = {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0}
        return {"type": "SingleRoIExtractor", "roi_layer": layer, "out_channels": 16, "featmap_strides": STRIDES}

    anchors = {"type": "AnchorGenerator", "scales": [8], "ratios": [0.5, 1.0, 2.0], "strides": [*STRIDES, 64]}
    proposals = {"type": "RPNHead", "in_channels": 16, "feat_channels": 16, "anchor_generator": anchors}
    boxes = {"type": "Shared2FCBBoxHead", "in_channels": 16, "fc_out_channels": 32, "roi_feat_size": 7}
    masks = {"type": "FCNMaskHead", "num_convs": 4, "in_channels": 16, "conv_out_channels": 16, "num_classes": 5}
    heads = {"type": "StandardRoIHead", "bbox_roi_extractor": reader(7), "mask_roi_extractor": reader(14)}
    heads |= {"bbox_head": {**boxes, "num_classes": 5, "bbox_coder": coder(0.1, 0.2)}, "mask_head": masks}
    first = {"nms_pre": 100, "max_per_img": 1000, "nms": {"type": "nms", "iou_threshold": 0.7}, "min_bbox_size": 0}
    second = {"score_thr": 0.05, "nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 100}
    parts = {"neck": neck(num_outs=5), "rpn_head": {**proposals, "bbox_coder": coder(1.0, 1.0)}, "roi_head": heads}
    return {**parts, "test_cfg": {"rpn": first, "rcnn": second}}


def built(name, weights):
    """A model of the reference with the recorded weights."""
    import mmcv
    from mmdet.models import build_detector
    from mmseg.models import build_segmentor

    kinds = {"retinanet": ("RetinaNet", retinanet), "maskrcnn": ("MaskRCNN", mask_rcnn)}
    kind, parts = kinds.get(name, ("EncoderDecoder", lambda: {**segmentation(name), "test_cfg": {"mode": "whole"}}))
    config = {"type": kind, "backbone": {"type": f"CrossFormer_{GROUPING[name]}"}, **parts()}
    model = (build_detector if name in kinds else build_segmentor)(mmcv.ConfigDict(config))
    with np.load(weights / f"w_{name}.npz") as file:
        given = {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}
    left = model.load_state_dict(given, strict=False)
    assert not left.unexpected_keys, left
    return model.eval()


def main(checkout, weights):
    stand_ins()
    register(checkout)
    picture = np.load(weights / "image.npz")["image"]
    filled = np.zeros((1, 3, *PADDED), np.float32)
    filled[0, :, : SIZE[0], : SIZE[1]] = ((picture - MEAN) / STD).transpose(2, 0, 1)
    images, meta = torch.from_numpy(filled), {"img_shape": (*SIZE, 3), "pad_shape": (*PADDED, 3), "flip": False}
    meta |= {"ori_shape": (*SIZE, 3), "scale_factor": np.ones(4, np.float32)}
    found = {}
    with torch.no_grad():
        for name in ("semfpn", "upernet"):
            logits = built(name, weights).encode_decode(images, [meta])[0].permute(1, 2, 0)[: SIZE[0], : SIZE[1]]
            found |= {f"{name}/logits": logits[::7, ::9], f"{name}/labels": logits.argmax(-1).to(torch.uint8)}
        model = built("retinanet", weights)
        maps = model.bbox_head(model.extract_feat(images))
        heads = {"img_metas": [meta], "cfg": model.test_cfg, "rescale": False, "with_nms": False}
        boxes, scores, labels = model.bbox_head.get_bboxes(*maps, **heads)[0]
        full = (boxes[:, 2:] > boxes[:, :2]).all(1)  # as mmdetection 3 has it
        boxes, scores, labels = boxes[full], scores[full], labels[full]
        kept = suppressed(boxes, scores, 0.5, labels)[:100]
        boxes = torch.cat([boxes, scores[:, None]], 1)[kept]
        found |= {"retinanet/boxes": boxes, "retinanet/labels": labels[kept]}
        model = built("maskrcnn", weights)
        maps = model.extract_feat(images)
        proposals = model.rpn_head.simple_test_rpn(maps, [meta])
        (boxes,), (labels,) = model.roi_head.simple_test_bboxes(maps, [meta], proposals, model.test_cfg.rcnn)
        regions = torch.cat([torch.zeros(12, 1), boxes[:12, :4]], 1)
        masks = model.roi_head._mask_forward(maps, regions)["mask_pred"][torch.arange(12), labels[:12]].sigmoid()
        found |= {"maskrcnn/boxes": boxes, "maskrcnn/labels": labels, "maskrcnn/masks": masks}
    np.savez_compressed(HERE / "padded.npz", **{name: values.numpy() for name, values in found.items()})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
