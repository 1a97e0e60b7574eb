"""The YAML file of YOLO's folders: the classes' names, where the parts lie, and how many key points a line has."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from crosscale.data.scan import entries, is_dir
from crosscale.data.text_lists import check_distinct
from crosscale.errors import RequestError

_NOTHING = ("", "~", "null", "Null", "NULL")

Description = tuple[Path, Mapping[str, Any]]


def description(root: Path) -> Description | None:
    """The YAML file with the classes' names, and what it says, all of it as text; None where there is none.

    As text, because YAML takes names such as "on" and "no" for truths, and 1_0 for a number.
    """
    files = sorted(
        entry.name for entry in entries(root) if entry.name.lower().endswith((".yaml", ".yml")) and not is_dir(entry)
    )
    for name in sorted(files, key=lambda name: not name.lower().startswith(("data.", "dataset."))):
        try:
            text = (root / name).read_text(encoding="utf-8-sig")
            described = yaml.load(text, Loader=yaml.BaseLoader)  # makes texts, lists and mappings alone
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            if name.lower().startswith("data."):
                raise RequestError(f"{root / name}: cannot be read ({' '.join(str(error).split())[:150]})") from None
            continue
        if isinstance(described, dict) and "names" in described:
            said = {key: value for key, value in described.items() if isinstance(key, str) and value not in _NOTHING}
            return root / name, {"names": None, **said}
    return None


def class_names(file: Path, described: Mapping[str, Any]) -> tuple[str, ...]:
    """names as a list, or as a mapping from numbers 0.. that has no gap. Raises RequestError."""
    names = described["names"]
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(map(str, range(len(names)))):
            raise RequestError(f"{file}: names has the numbers {', '.join(map(str, names))}; number them 0, 1, 2, ...")
        names = [names[str(number)] for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise RequestError(f"{file}: names is neither a list nor a mapping of numbers to names")
    check_distinct(names, str(file))
    count = described.get("nc", str(len(names)))
    if count != str(len(names)):
        raise RequestError(f"{file}: nc is {count}, but names has {len(names)}; make them equal")
    return tuple(names)


def key_point_numbers(file: Path, described: Mapping[str, Any]) -> int:
    """How many numbers of key points follow the box in each line of a pose data set; 0 for other ones.

    Raises RequestError where kpt_shape is not a count and 2 or 3.
    """
    shape = described.get("kpt_shape")
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not str(shape[0]).isdigit() or shape[1] not in ("2", "3"):
        raise RequestError(
            f"{file}: kpt_shape is {shape}; it says how many key points a line has, and that each is 2 or 3 numbers"
        )
    return int(shape[0]) * int(shape[1])
