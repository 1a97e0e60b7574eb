"""The range of a setting, written once, at its field: `lr: Annotated[float, POSITIVE] = 1e-3`.

It is checked wherever the settings come from (`check_ranges`), and the help and `crosscale recipe explain` print it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from crosscale.errors import RequestError


@dataclass(frozen=True)
class Range:
    """What a value must fulfil beyond its type.

    Attributes:
      words: as the error says it, such as "must be positive".
      holds: whether a value does; for a tuple, every entry is asked.
      whole: a tuple is asked as one value.
      brackets: the error shows a tuple as a list.
    """

    words: str
    holds: Callable[[Any], bool]
    whole: bool = False
    brackets: bool = False

    def fits(self, value: Any) -> bool:
        """Whether the value, or every entry of a tuple, lies in the range."""
        entries = value if isinstance(value, tuple) and not self.whole else (value,)
        return all(map(self.holds, entries))


POSITIVE = Range("must be positive", lambda value: 0 < value < math.inf)
MOST_STEPS = 2**31 - 1  # JAX counts in 32 bits
COUNT = Range(f"must be positive, and at most {MOST_STEPS:,}", lambda value: 1 <= value <= MOST_STEPS)
NOT_NEGATIVE = Range("must not be negative", lambda value: 0 <= value < math.inf)
BETWEEN = Range("must lie between 0 and 1", lambda value: 0 < value < 1)
BELOW_ONE = Range("must lie in 0 <= value < 1", lambda value: 0 <= value < 1)
ABOVE_ZERO = Range("must lie in 0 < value <= 1", lambda value: 0 < value <= 1)
SHARE = Range("must lie in 0 <= value <= 1", lambda value: 0 <= value <= 1)
CHANCE = Range("a probability lies in 0..1", lambda value: 0 <= value <= 1)


@cache
def ranges_of(kind: type) -> dict[str, tuple[Range, str]]:
    """The fields of a dataclass that have a range: the range, and its words with null where the field may be null."""
    found = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if get_origin(hint) is not Annotated:
            continue
        nullable = type(None) in get_args(hint.__origin__)
        for item in hint.__metadata__:
            if isinstance(item, Range):
                null = ", or null" if item.words.startswith("must be ") else ", or be null"
                found[name] = item, item.words + null * nullable
    return found


def check_ranges(section: str, settings: Any) -> None:
    """Raises RequestError for the first field that is out of its range; None and a text, such as auto, are in every
    range."""
    for name, (item, words) in ranges_of(settings.__class__).items():
        value = getattr(settings, name)
        if value is not None and not isinstance(value, str) and not item.fits(value):
            shown = list(value) if item.brackets else value
            raise RequestError(f"{section}.{name}={shown}: {words}")
