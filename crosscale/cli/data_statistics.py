"""`crosscale data --statistics`: mean and deviation of every channel, as lines of a recipe."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from crosscale.cli.output import note, print_json, progress_bar
from crosscale.runtime import printable

if TYPE_CHECKING:
    from crosscale.contracts import Source

SHOWN = 10  # problems


def describe_statistics(name: str, source: "Source", *, as_json: bool) -> int:
    """Measures and prints; the exit status, which is 1 where a picture cannot be used.

    Args:
      source: the pictures to train on.
    """
    from crosscale.data.statistics import measure_statistics

    with progress_bar("measuring") as report:
        found = measure_statistics(source, progress=report)
    if as_json:
        print_json({"data": name, **asdict(found)})
        return 1 if found.problems else 0
    note(f"{found.pictures:,} pictures to train on; each counts the same, whatever its size")
    print("data:")
    if found.pixels != "uint8" or found.channels != 3:
        print(f"  channels: {found.channels}")
    if found.pixels != "uint8":
        print(f"  pixels: {found.pixels}")
    for key in ("mean", "std"):
        print(f"  {key}: [{', '.join(f'{value:.6g}' for value in getattr(found, key))}]")
    for line in found.problems[:SHOWN]:
        note(printable(line))
    if len(found.problems) > SHOWN:
        note(f"and {len(found.problems) - SHOWN:,} more that cannot be used")
    return 1 if found.problems else 0
