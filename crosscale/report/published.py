"""Published ImageNet-1k results to compare with: this package's presets, and two families it does not hold."""

from dataclasses import dataclass

from crosscale.models.registry import FAMILIES, find_model, list_models

# name, parameters in millions, 1e9 multiply-accumulates, top-1 in percent.
# T2T-ViT: Yuan et al., ICCV 2021, with the released code's figures (README, section 2). PVT: Wang et al., ICCV 2021,
# Table 2, which the released code's README repeats except for the operations.
_OTHERS = (
    ("T2T-ViT-14", 21.5, 4.8, 81.5),
    ("T2T-ViT-19", 39.2, 8.5, 81.9),
    ("T2T-ViT-24", 64.1, 13.8, 82.3),
    ("T2T-ViT_t-14", 21.5, 6.1, 81.7),
    ("T2T-ViT_t-19", 39.2, 9.8, 82.4),
    ("T2T-ViT_t-24", 64.1, 15.0, 82.6),
    ("PVT-Tiny", 13.2, 1.9, 75.1),
    ("PVT-Small", 24.5, 3.8, 79.8),
    ("PVT-Medium", 44.2, 6.7, 81.2),
    ("PVT-Large", 61.4, 9.8, 81.7),
)
PUBLISHED_MEASURE = "top1"  # of the runs, what the published accuracies can be set against


@dataclass(frozen=True)
class Row:
    """One published model.

    Attributes:
      series: what its authors call the models of its kind.
      params: in millions.
      gmacs: 1e9 multiply-accumulates of one picture.
      accuracy: ImageNet-1k top-1, percent.
    """

    name: str
    series: str
    params: float
    gmacs: float
    accuracy: float


def published_rows() -> list[Row]:
    """All rows, by series and size."""
    rows = []
    for name in list_models():
        family, preset = find_model(name)
        published = preset.published
        if published.top1 is not None and published.gmacs is not None:
            series = preset.series or family.__name__
            rows.append(Row(name, series, published.params / 1e6, published.gmacs, published.top1))
    rows += [Row(name, _series(name), *figures) for name, *figures in _OTHERS]
    order = series_names()
    return sorted(rows, key=lambda row: (order.index(row.series), row.gmacs))


def series_names() -> list[str]:
    """All series in drawing order: the families by their class names, then the others."""
    families = [
        family.__name__
        for family, presets in FAMILIES.values()
        if any(preset.published.top1 is not None for preset in presets)
    ]
    further = [preset.series for _, presets in FAMILIES.values() for preset in presets if preset.series]
    return list(dict.fromkeys([*families, *further, *(_series(name) for name, *_ in _OTHERS)]))


def _series(name: str) -> str:
    """The series of a row of `_OTHERS`."""
    return name.rpartition("-")[0].removesuffix("_t")
