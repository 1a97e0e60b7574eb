"""CrossFormer's and CrossFormer++'s published models as rows (figures of the released code's README)."""

from typing import Any

from crosscale.contracts import InputSpec
from crosscale.models.presets import Preset, Published

_SOURCE = "released code's README"

# name: width, depths, first stage's heads, params, GMACs, top-1
_ROWS: tuple[tuple[Any, ...], ...] = (
    ("crossformer_tiny_224", 64, (1, 1, 8, 6), 2, 27_776_794, 2.9, 81.5),
    ("crossformer_small_224", 96, (2, 2, 6, 2), 3, 30_657_394, 4.9, 82.5),
    ("crossformer_base_224", 96, (2, 2, 18, 2), 3, 51_971_554, 9.2, 83.4),
    ("crossformer_large_224", 128, (2, 2, 18, 2), 4, 91_971_184, 16.1, 84.0),
    ("crossformer_pp_small_224", 64, (2, 2, 18, 2), 2, 23_325_340, 4.9, 83.2),
    ("crossformer_pp_base_224", 96, (2, 2, 18, 2), 3, 51_994_594, 9.5, 84.2),
    ("crossformer_pp_large_224", 128, (2, 2, 18, 2), 4, 92_001_904, 16.6, 84.7),
    ("crossformer_pp_huge_224", 128, (6, 6, 18, 2), 4, 95_962_944, 21.8, 84.9),
)

_PLUS_PLUS = {"group_size": (4, 4, 14, 7), "interval": (4, 2, 1, 1), "use_acl": True}


def _preset(row: tuple[Any, ...]) -> Preset:
    name, embed_dim, depths, heads, params, gmacs, top1 = row
    return Preset(
        name=name,
        config={
            "img_size": 224,
            "embed_dim": embed_dim,
            "depths": depths,
            "num_heads": tuple(heads * 2**stage for stage in range(len(depths))),
            **(_PLUS_PLUS if "_pp_" in name else {}),
        },
        input_spec=InputSpec(size=(224, 224), crop_pct=0.875, interpolation="bicubic"),
        published=Published(params, gmacs, top1, source=_SOURCE),
    )


PRESETS = tuple(_preset(row) for row in _ROWS)
