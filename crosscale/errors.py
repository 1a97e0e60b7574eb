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


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` for the nearest of `known`, or an empty string if none is near.

    A name and the initials of its words ("learning_rate" and "lr") are nearer than any spelling.
    """
    names = list(known)
    near = [other for other in names if _abbreviates(name, other) or _abbreviates(other, name)]
    near = near or difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def _abbreviates(short: str, long: str) -> bool:
    """Whether one name is the initials of the other's words, in the same section of dotted names."""
    (section, initials), (other, words) = short.rpartition(".")[::2], long.rpartition(".")[::2]
    parts = [word for word in words.replace("-", "_").split("_") if word]
    return len(parts) > 1 and section == other and initials == "".join(word[0] for word in parts)
