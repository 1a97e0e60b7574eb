"""The two ways in which asked-for work can fail, and how an error suggests what would be right."""

import difflib
from collections.abc import Iterable


class RequestError(ValueError):
    """The request itself is wrong: an unknown name, a missing file, a value that cannot work.

    The message is one line that names the thing and says what would work. The command line prints
    it without a traceback and exits with status 2.
    """


class WorkError(RuntimeError):
    """The request was right but the work failed: a file that does not decode, a full disc, a NaN loss.

    The command line prints the message without a traceback and exits with status 1.
    """


class GivenUpError(Exception):
    """A run's caller ends it after an epoch, because others promise more. Nothing failed."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` for the nearest of `known`, or an empty string if none is near.

    The last part of a dotted name ("--lr" and "--optimizer.lr") is nearest; a name and the initials of its words
    ("learning_rate" and "lr") are nearer than any spelling.
    """
    names = list(known)
    if name.startswith("--") or "." not in name:  # "lr", or "--lr", without its section or in another
        same = [other for other in names if "." in other and _last(other) == _last(name)]
        if same:
            return f"; did you mean '{difflib.get_close_matches(name, same, n=1, cutoff=0)[0]}'?"
    near = [other for other in names if _abbreviates(name, other) or _abbreviates(other, name)]
    near = near or difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    near = near or [other for other in names if "." in other and _abbreviates(_last(other), _last(name))]
    return f"; did you mean '{near[0]}'?" if near else ""


def _last(name: str) -> str:
    """The last part of a dotted name or option, as a recipe spells it."""
    return name.lstrip("-").rpartition(".")[2].replace("-", "_")


def _abbreviates(short: str, long: str) -> bool:
    """Whether one name is the initials of the other's words, in the same section of dotted names."""
    (section, initials), (other, words) = short.rpartition(".")[::2], long.rpartition(".")[::2]
    parts = [word for word in words.replace("-", "_").split("_") if word]
    return len(parts) > 1 and section == other and initials == "".join(word[0] for word in parts)
