"""Semantic FPN in torch around the released CrossFormer backbone, under mmsegmentation's parameter names.

The released code takes the neck and the head from mmsegmentation, which builds with compilers of its day. These are
the same formulas (Kirillov et al., Panoptic Feature Pyramid Networks, CVPR 2019) in plain torch.
"""

import sys
import types

import torch
from torch import nn
from torch.nn import functional as F


def stub_frameworks() -> None:
    """Stands in for what the released backbone imports to read checkpoints, which nobody does here."""
    for name, parts in {"mmdet.utils": ("get_root_logger",), "mmcv.runner": ("load_checkpoint",)}.items():
        stub = types.ModuleType(name)
        for part in parts:
            setattr(stub, part, None)
        sys.modules.setdefault(name.split(".")[0], types.ModuleType(name.split(".")[0]))
        sys.modules.setdefault(name, stub)


class ConvModule(nn.Module):  # type: ignore[misc]  # torch is not there where types are checked
    """A convolution; with `norm`, batch normalisation and ReLU after it, and no bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not norm)
        self.bn = nn.BatchNorm2d(outputs) if norm else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return x if self.bn is None else F.relu(self.bn(x))


class FPN(nn.Module):  # type: ignore[misc]  # torch is not there where types are checked
    """Maps of equal width, each with what the coarser ones add."""

    def __init__(self, widths: list[int], channels: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(ConvModule(width, channels, 1, norm=False) for width in widths)
        self.fpn_convs = nn.ModuleList(ConvModule(channels, channels, 3, norm=False) for _ in widths)

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        found = [conv(x) for conv, x in zip(self.lateral_convs, maps, strict=True)]
        for level in range(len(found) - 1, 0, -1):
            finer = found[level - 1]
            found[level - 1] = finer + F.interpolate(found[level], size=finer.shape[2:], mode="nearest")
        return [conv(x) for conv, x in zip(self.fpn_convs, found, strict=True)]


class FPNHead(nn.Module):  # type: ignore[misc]  # torch is not there where types are checked
    """Every map to the finest one's size; their sum, classified."""

    def __init__(self, inputs: int, channels: int, classes: int, levels: int) -> None:
        super().__init__()
        self.scale_heads = nn.ModuleList()
        for level in range(levels):
            steps: list[nn.Module] = []
            for block in range(max(1, level)):
                steps.append(ConvModule(inputs if block == 0 else channels, channels, 3, norm=True))
                if level:
                    steps.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.scale_heads.append(nn.Sequential(*steps))
        self.conv_seg = nn.Conv2d(channels, classes, 1)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        size = maps[0].shape[2:]
        found = [head(x) for head, x in zip(self.scale_heads, maps, strict=True)]
        found = [F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in found]
        logits: torch.Tensor = self.conv_seg(sum(found[1:], found[0]))
        return logits


class SemanticFPN(nn.Module):  # type: ignore[misc]  # torch is not there where types are checked
    """Pictures (B, 3, H, W) -> logits (B, classes, H, W) at their own size."""

    def __init__(self, backbone: nn.Module, widths: list[int], neck: int, head: int, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = FPN(widths, neck)
        self.decode_head = FPNHead(neck, head, classes, len(widths))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.decode_head(self.neck(self.backbone(images)))
        return F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)
