"""CrossViT's published models as rows (paper Tables 2, 4 and 8; accuracies as timm measured the released weights)."""

from typing import Any

from crosscale.contracts import InputSpec
from crosscale.models.presets import Preset, Published

_TIMM = "timm, released weights"

# name: widths, M, heads, mlp ratio, dagger, sizes, IBM's name, params, GMACs, top-1, top-5
_ROWS: tuple[tuple[Any, ...], ...] = (
    ("tiny_240", (96, 192), 4, 3, 4.0, False, (240, 224), "tiny_224", 7_014_800, 1.57, 73.352, 91.906),
    ("small_240", (192, 384), 4, 6, 4.0, False, (240, 224), "small_224", 26_856_272, 5.63, 81.036, 95.466),
    ("base_240", (384, 768), 4, 12, 4.0, False, (240, 224), "base_224", 105_025_232, 21.22, 82.212, 95.826),
    ("9_240", (128, 256), 3, 4, 3.0, False, (240, 224), "9_224", 8_553_296, 1.85, 73.994, 91.976),
    ("15_240", (192, 384), 5, 6, 3.0, False, (240, 224), "15_224", 27_528_464, 5.81, 81.522, 95.694),
    ("18_240", (224, 448), 6, 7, 3.0, False, (240, 224), "18_224", 43_271_408, 9.05, 82.390, 96.064),
    (
        "9_dagger_240",
        (128, 256),
        3,
        4,
        3.0,
        True,
        (240, 224),
        "9_dagger_224",
        8_776_592,
        1.99,
        76.990,
        93.602,
    ),
    (
        "15_dagger_240",
        (192, 384),
        5,
        6,
        3.0,
        True,
        (240, 224),
        "15_dagger_224",
        28_209_008,
        6.13,
        82.302,
        95.960,
    ),
    (
        "15_dagger_408",
        (192, 384),
        5,
        6,
        3.0,
        True,
        (408, 384),
        "15_dagger_384",
        28_500_080,
        21.45,
        83.842,
        96.786,
    ),
    (
        "18_dagger_240",
        (224, 448),
        6,
        7,
        3.0,
        True,
        (240, 224),
        "18_dagger_224",
        44_266_976,
        9.50,
        82.494,
        96.070,
    ),
    (
        "18_dagger_408",
        (224, 448),
        6,
        7,
        3.0,
        True,
        (408, 384),
        "18_dagger_384",
        44_606_560,
        32.47,
        84.198,
        96.834,
    ),
)


# The paper's largest model (Table 4: 84.1 %, 56.6 G, 44.9 M); its weights were not released.
_DAGGER_480 = ("18_dagger_480", (224, 448), 6, 7, 3.0, True, (504, 480), "", 44_887_904, 56.6, 84.1, None)

# Single-scale references (Touvron et al., ICML 2021, Table 5): name, width, heads, params, GMACs, top-1.
# The small one's 79.9 is their README's figure; the table has 79.8.
_DEIT_ROWS = (
    ("tiny", 192, 3, 5_717_416, 1.26, 72.2),
    ("small", 384, 6, 22_050_664, 4.61, 79.9),
    ("base", 768, 12, 86_567_656, 17.58, 81.8),
)


def _deit(row: tuple[Any, ...]) -> Preset:
    name, embed_dim, heads, params, gmacs, top1 = row
    return Preset(
        name=f"deit_{name}_224",
        config={
            "img_size": (224,),
            "patch_size": (16,),
            "embed_dim": (embed_dim,),
            "depth": ((12, 0),),
            "num_heads": (heads,),
            "mlp_ratio": (4.0,),
            "qkv_bias": True,
            "fusion": "none",
        },
        input_spec=InputSpec(size=(224, 224), crop_pct=0.9),
        published=Published(params, gmacs, top1, None, "DeiT paper, Table 5"),
        series="DeiT",
        hub=f"timm/deit_{name}_patch16_224.fb_in1k",
        aliases=(f"deit_{name}_patch16_224",),
    )


def _preset(row: tuple[Any, ...]) -> Preset:
    name, embed_dim, blocks, heads, ratio, dagger, sizes, ibm, params, gmacs, top1, top5 = row
    full = f"crossvit_{name}"
    return Preset(
        name=full,
        config={
            "img_size": sizes,
            "embed_dim": embed_dim,
            "depth": ((1, blocks, 0),) * 3,
            "num_heads": (heads, heads),
            "mlp_ratio": (ratio, ratio, 1.0),
            "qkv_bias": True,
            "multi_conv": dagger,
        },
        input_spec=InputSpec(size=(sizes[0], sizes[0]), crop_pct=1.0 if sizes[0] > 240 else 0.875),
        published=Published(params, gmacs, top1, top5, _TIMM if ibm else "CrossViT paper, Table 4"),
        hub=f"timm/{full}.in1k" if ibm else "",
        aliases=(f"crossvit_{ibm}",) if ibm else (),
    )


PRESETS = (*map(_preset, (*_ROWS, _DAGGER_480)), *map(_deit, _DEIT_ROWS))
