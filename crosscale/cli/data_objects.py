"""`crosscale data` on pictures with boxes: what they hold, what is wrong with them, and some drawn."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crosscale.cli.output import bar, note, print_json, print_problems, print_table, progress_bar
from crosscale.runtime import printable

if TYPE_CHECKING:
    from crosscale.data.object_check import ObjectCheck
    from crosscale.data.object_source import ObjectSource

BAR = 24  # letters of the longest

PARTS = {"train": "to train on", "val": "held out"}


def describe_objects(
    place: str, *, val_fraction: float, seed: int, check: bool, draw: int | None, out: Path | None, as_json: bool
) -> int:
    """Prints the layout, the classes and how many objects there are; 1 where a check finds one that is wrong.

    Args:
      check: whether every picture is decoded.
      draw: how many pictures are drawn into `out`.
    """
    from crosscale.data.object_source import open_objects
    from crosscale.data.once import read_once

    how: dict[str, Any] = {"val_fraction": val_fraction, "seed": seed, "masks": None, "checked": 0}
    with read_once():
        sources = {split: open_objects(place, split, **how) for split in PARTS}
    found = _check(sources) if check else None
    written = 0 if draw is None or out is None else _draw(sources, draw, out)
    if as_json:
        print_json(_json(place, sources, found) | ({"drawn": {"pictures": written, "folder": str(out)}} if out else {}))
    else:
        _print(sources, found)
    return 1 if found is not None and found.problems else 0


def _check(sources: "Mapping[str, ObjectSource]") -> "ObjectCheck":
    from crosscale.data.object_check import check_objects

    with progress_bar("reading pictures") as report:
        return check_objects(sources, report)


def _draw(sources: "Mapping[str, ObjectSource]", count: int, out: Path) -> int:
    from crosscale.data.object_check import drawn_objects
    from crosscale.errors import RequestError

    written = 0
    try:
        out.mkdir(parents=True, exist_ok=True)
        with progress_bar("drawing") as report:
            for name, picture in drawn_objects(sources, count):
                picture.save(out / f"{written:03d}-{name.replace('/', '-').rsplit('.', 1)[0][-100:]}.png")
                written += 1
                report(written, count)
    except OSError as error:
        raise RequestError(f"{out}: cannot be written ({error.strerror or error})") from None
    note(f"drew {written:,} pictures with their boxes into {out}")
    return written


def _json(place: str, sources: "Mapping[str, ObjectSource]", found: "ObjectCheck | None") -> dict[str, Any]:
    from crosscale.data.picture_check import spread_of

    source = sources["train"]
    result: dict[str, Any] = {
        "data": place,
        "layout": source.layout,
        "notes": list(source.annotated.notes),
        "masks": source.has_masks,
        "classes": list(source.classes),
        "splits": {
            split: {
                "examples": len(part),
                "objects": int(part.counts.sum()),
                "per_picture": _spread(part.counts),
                "per_class": part.class_counts.tolist(),
                "counted": dict(part.summary),
            }
            for split, part in sources.items()
        },
    }
    if found is None:
        return result
    return {
        **result,
        "sizes": spread_of(found.sizes),
        "areas": dict(found.areas),
        "problems": {"count": len(found.problems), "lines": list(found.problems)},
    }


def _spread(counts: np.ndarray) -> dict[str, float]:
    """Least, median and most objects of a picture."""
    if not len(counts):
        return {}
    return {"least": int(counts.min()), "median": float(np.median(counts)), "most": int(counts.max())}


def _print(sources: "Mapping[str, ObjectSource]", found: "ObjectCheck | None") -> None:
    from crosscale.data.object_source import told_summary
    from crosscale.data.picture_check import spread_of

    source = sources["train"]
    print(f"layout: {printable(source.layout)}{', with masks' if source.has_masks else ''}")
    for line in source.annotated.notes:
        print(printable(line))
    for split, part in sources.items():
        per = _spread(part.counts)
        told = f", {per['least']} to {per['most']} a picture, median {per['median']:g}" if per else ""
        print(f"{PARTS[split]}: {len(part):,} pictures, {int(part.counts.sum()):,} objects{told}")
        if line := told_summary(part):
            print(f"  {line}")
    if found is not None:
        if sizes := spread_of(found.sizes):
            named = ", ".join(f"{name} {width:,} x {height:,}" for name, (height, width) in sizes.items())
            print(f"sizes: {named}")
        print("areas: " + ", ".join(f"{count:,} {name}" for name, count in found.areas.items()))
    _print_classes(sources)
    if found is not None:
        print_problems(found.problems, "every picture and object can be used")


def _print_classes(sources: "Mapping[str, ObjectSource]") -> None:
    counts = [part.class_counts for part in sources.values()]
    longest = max(1, int(counts[0].max(initial=0)))
    rows = [
        [str(label), name, f"{train:,}", bar(train / longest, BAR), f"{val:,}"]
        for label, (name, train, val) in enumerate(zip(sources["train"].classes, *counts, strict=True))
    ]
    columns = ["label", "class", PARTS["train"], "", PARTS["val"]]
    print_table(columns, rows, right=["label", PARTS["train"], PARTS["val"]])
