"""`crosscale data` on pictures with masks: what they hold, and what is wrong with them."""

from collections.abc import Mapping
from functools import partial, reduce
from operator import add
from typing import TYPE_CHECKING, Any

from crosscale.cli.output import Report, bar, print_json, print_problems, print_table, progress_bar
from crosscale.runtime import printable

if TYPE_CHECKING:
    from crosscale.data.mask_check import MaskCheck
    from crosscale.data.mask_folder import MaskSource

BAR = 24  # letters of the longest


def describe_masks(
    place: str, *, val_fraction: float, seed: int, reduce_zero_label: bool | None, check: bool, as_json: bool
) -> int:
    """Prints the layout and the classes, and with `check` what every picture and mask holds; 1 where one is wrong."""
    from crosscale.data.mask_folder import open_masks
    from crosscale.data.once import read_once

    how: dict[str, Any] = {"val_fraction": val_fraction, "seed": seed, "reduce_zero_label": reduce_zero_label}
    with read_once():
        sources = {split: open_masks(place, split, **how, checked=0) for split in ("train", "val")}
    found = _check(sources) if check else None
    if as_json:
        print_json(_json(place, sources, found))
    else:
        _print(sources, found)
    return 1 if found is not None and found.problems else 0


def _check(sources: "Mapping[str, MaskSource]") -> "MaskCheck":
    from crosscale.data.mask_check import check_masks

    total = sum(map(len, sources.values()))
    parts: list[MaskCheck] = []
    with progress_bar("reading pictures and masks") as report:
        for source in sources.values():
            before = sum(part.pictures for part in parts)
            parts.append(check_masks(source, partial(_report_after, report, before, total)))
    whole = reduce(add, parts)
    # Where data comes as one part, both splits name the same files without a counterpart.
    problems = tuple(dict.fromkeys(whole.problems))
    return type(whole)(whole.pictures, whole.pixels, whole.masks, whole.ignored, whole.sizes, problems)


def _report_after(report: Report, before: int, total: int, done: int, _: int) -> None:
    report(before + done, total)


def _json(place: str, sources: "Mapping[str, MaskSource]", found: "MaskCheck | None") -> dict[str, Any]:
    source = sources["train"]
    from crosscale.data.picture_check import spread_of

    result: dict[str, Any] = {
        "data": place,
        "layout": source.layout,
        "notes": list(source.notes),
        "reduce_zero_label": source.reduce_zero_label,
        "classes": list(source.classes),
        "splits": {split: {"examples": len(part)} for split, part in sources.items()},
    }
    if found is None:
        return result
    counted = zip(source.classes, found.pixels.tolist(), found.shares.tolist(), found.masks.tolist(), strict=True)
    return {
        **result,
        "pixels": [
            {"class": name, "pixels": pixels, "share": share, "masks": masks} for name, pixels, share, masks in counted
        ],
        "ignored": {"pixels": found.ignored, "share": found.ignored_share},
        "sizes": spread_of(found.sizes),
        "problems": {"count": len(found.problems), "lines": list(found.problems)},
    }


def _print(sources: "Mapping[str, MaskSource]", found: "MaskCheck | None") -> None:
    from crosscale.data.picture_check import spread_of

    source = sources["train"]
    print(f"layout: {printable(source.layout)}")
    for line in source.notes:
        print(printable(line))
    print(f"pictures with masks: {len(sources['train']):,} to train on, {len(sources['val']):,} held out")
    if found is None:
        print_table(["label", "class"], [[str(i), name] for i, name in enumerate(source.classes)], right=["label"])
        return
    if sizes := spread_of(found.sizes):
        named = ", ".join(f"{name} {width:,} x {height:,}" for name, (height, width) in sizes.items())
        print(f"sizes: {named}")
    print(f"ignored: {100 * found.ignored_share:.2f} % of the pixels")
    longest = max(found.shares.max(), 1e-12)
    rows = [
        [str(label), name, f"{100 * share:.2f} %", bar(share / longest, BAR), f"{masks:,}"]
        for label, (name, share, masks) in enumerate(zip(source.classes, found.shares, found.masks, strict=True))
    ]
    print_table(["label", "class", "of all pixels", "", "masks"], rows, right=["label", "of all pixels", "masks"])
    print_problems(found.problems, "every picture and mask can be used")
