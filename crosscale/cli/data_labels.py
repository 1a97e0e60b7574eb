"""`crosscale data` on labelled pictures: classes and counts, and with --check what is wrong with the files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscale.cli.output import bar, note, print_json, print_table
from crosscale.runtime import printable

if TYPE_CHECKING:
    from crosscale.contracts import LabelledSource
    from crosscale.data.picture_check import PictureCheck, Place

BAR = 20  # letters of the longest
SHOWN = 10  # problems, and groups of equal pictures
NAMED = 3  # of the rarest and the commonest classes


def describe_labels(
    name: str,
    sources: "Mapping[str, LabelledSource]",
    out: Path | None,
    found: "PictureCheck | None",
    *,
    as_json: bool,
) -> None:
    """Prints what labelled data holds.

    Args:
      sources: split -> its pictures.
      out: where they were written, if they were.
      found: by `check_pictures`, if it was asked for.
    """
    classes = list(sources["train"].classes)
    counts = {split: _count(source) for split, source in sources.items()}
    learnt = counts["train"]  # how rare a class is depends on what there is to learn from, not on the held-out part
    order = sorted(range(len(classes)), key=lambda label: (learnt[label], label))
    notes = list(getattr(sources["train"], "notes", ()))
    if as_json:
        splits = {
            split: {"examples": sum(numbers), "counts": dict(zip(classes, numbers, strict=True))}
            for split, numbers in counts.items()
        }
        result: dict[str, Any] = {"data": name, "classes": classes, "splits": splits, "notes": notes}
        result |= {"rarest": classes[order[0]], "commonest": classes[order[-1]]}
        checked = {} if found is None else {"check": _json(found)}
        print_json({**result, **checked, "written": None if out is None else str(out)})
        return
    for line in notes:
        note(line)
    rows = [
        [str(label), class_name, *(f"{numbers[label]:,}" for numbers in counts.values()), _bar(learnt, label)]
        for label, class_name in enumerate(classes)
    ]
    rows.append(["", f"all {len(classes)} classes", *(f"{sum(numbers):,}" for numbers in counts.values()), ""])
    print_table(["label", "class", *sources, ""], rows, right=["label", *sources])
    if learnt[order[0]] < learnt[order[-1]]:
        _print_ends(classes, learnt, order)
    if found is not None:
        _print_check(found)


def _count(source: "LabelledSource") -> list[int]:
    import numpy as np

    from crosscale.data.class_map import labels_of

    return [int(count) for count in np.bincount(labels_of(source), minlength=len(source.classes))]


def _bar(learnt: Sequence[int], label: int) -> str:
    return bar(learnt[label] / max(*learnt, 1), BAR)


def _print_ends(classes: Sequence[str], learnt: Sequence[int], order: Sequence[int]) -> None:
    """The rarest and the commonest classes, and their ratio."""

    def named(labels: Sequence[int]) -> str:
        return ", ".join(f"{classes[label]} ({learnt[label]:,})" for label in labels)

    print(printable(f"rarest to train on: {named(order[:NAMED])}; commonest: {named(order[::-1][:NAMED])}"))
    if (least := learnt[order[0]]) and learnt[order[-1]] >= 10 * least:
        ratio = learnt[order[-1]] / least
        print(f"{ratio:.0f} to 1: see task.class_weights and task.sampling for rare classes")


def _print_check(found: "PictureCheck") -> None:
    from crosscale.data.picture_check import spread_of

    if sizes := spread_of(found.sizes):
        named = ", ".join(f"{name} {width:,} x {height:,}" for name, (height, width) in sizes.items())
        print(f"sizes: {named}")
        print(f"modes: {', '.join(f'{mode} {count:,}' for mode, count in found.modes.items())}")
    _print_groups("pictures that are both to train on and held out (equal files)", found.leaks)
    _print_groups("pictures of equal content in several classes", found.disputed)
    _print_groups("pictures of equal content", [g for g in found.equal if g not in found.leaks + found.disputed])
    if not found.problems:
        print(f"all {found.pictures:,} pictures can be used")
        return
    more = f", the first {SHOWN}" if len(found.problems) > SHOWN else ""
    print(f"{len(found.problems):,} of {found.pictures:,} pictures do not decode{more}:")
    for line in found.problems[:SHOWN]:
        print(f"  {printable(line)}")


def _print_groups(what: str, groups: "Sequence[Sequence[Place]]") -> None:
    if not groups:
        return
    more = f", the first {SHOWN}" if len(groups) > SHOWN else ""
    print(f"{len(groups):,} groups of {what}{more}:")
    for group in groups[:SHOWN]:
        shown = [f"{place.id} ({place.split}, {place.label})" for place in group[:4]]
        rest = f" and {len(group) - 4} more" if len(group) > 4 else ""
        print(f"  {printable(', '.join(shown))}{rest}")


def _json(found: "PictureCheck") -> dict[str, Any]:
    from crosscale.data.picture_check import spread_of

    def plain(groups: "Sequence[Sequence[Place]]") -> dict[str, Any]:
        return {"count": len(groups), "groups": [[place._asdict() for place in group] for group in groups]}

    return {
        "pictures": found.pictures,
        "sizes": spread_of(found.sizes),
        "modes": dict(found.modes),
        "equal": plain(found.equal),
        "leaks": plain(found.leaks),
        "disputed": plain(found.disputed),
        "problems": {"count": len(found.problems), "lines": list(found.problems)},
    }
