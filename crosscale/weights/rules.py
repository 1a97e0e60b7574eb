"""Name rules: one declarative table per naming scheme, read in both directions, every name exactly once."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crosscale.errors import RequestError, did_you_mean

Flat = dict[str, np.ndarray]
_SHOWN = 5  # names listed in one error line


@dataclass(frozen=True)
class Layout:
    """An invertible view of one tensor; both directions keep every bit."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda x: x, lambda x: x)
DENSE = Layout(lambda w: w.T, lambda w: w.T)  # (out, in) <-> (in, out)
CONV = Layout(lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1))  # OIHW <-> HWIO


@dataclass(frozen=True)
class Rule:
    """One line of a table. `{b}` and the like in both names stand for a whole number."""

    theirs: str
    ours: str
    layout: Layout = SAME


@dataclass(frozen=True)
class Dropped:
    """A tensor of theirs that carries no weights (a saved index buffer): recognised by name and left out.

    Attributes:
      beside: the name of a tensor of ours beside which it is written again, as the whole number 0 that a counter
        starts at; "" where it is not written.
    """

    theirs: str
    beside: str = ""


Rules = Sequence[Rule | Dropped]


def dense(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{theirs}.weight", f"{ours}/kernel", DENSE),
        Rule(f"{theirs}.bias", f"{ours}/bias"),
    ]


def conv(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{theirs}.weight", f"{ours}/kernel", CONV),
        Rule(f"{theirs}.bias", f"{ours}/bias"),
    ]


def norm(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{theirs}.weight", f"{ours}/scale"),
        Rule(f"{theirs}.bias", f"{ours}/bias"),
    ]


def to_ours(rules: Rules, flat: Mapping[str, np.ndarray]) -> Flat:
    """Renames and re-lays their tensors to ours.

    Raises RequestError when a name fits no rule or several, or when two names become one.
    """
    named = [r for r in rules if isinstance(r, Rule)]
    dropped = [_pattern(r.theirs) for r in rules if isinstance(r, Dropped)]
    kept = {k: v for k, v in flat.items() if not any(p.fullmatch(k) for p in dropped)}
    return _rename(kept, [(_pattern(r.theirs), r.ours, r.layout.to_ours) for r in named])


def to_theirs(rules: Rules, flat: Mapping[str, np.ndarray]) -> Flat:
    """The other direction of `to_ours`; of what that drops, only counters are made again (see `Dropped`)."""
    named = [r for r in rules if isinstance(r, Rule)]
    counters = [(_pattern(r.beside), r.theirs) for r in rules if isinstance(r, Dropped) and r.beside]
    made = {
        theirs.format(**match.groupdict()): np.zeros((), np.int64)
        for pattern, theirs in counters
        for match in map(pattern.fullmatch, flat)
        if match
    }
    return _rename(flat, [(_pattern(r.ours), r.theirs, r.layout.to_theirs) for r in named]) | made


def fits(rules: Rules, names: Iterable[str]) -> list[str]:
    """Those of their `names` that no rule knows."""
    patterns = [_pattern(r.theirs) for r in rules]
    return [name for name in names if not any(p.fullmatch(name) for p in patterns)]


def unplaced(rules: Rules, names: Iterable[str]) -> list[str]:
    """Those of our `names` that no rule knows."""
    patterns = [_pattern(r.ours) for r in rules if isinstance(r, Rule)]
    return [name for name in names if not any(p.fullmatch(name) for p in patterns)]


def check_against(flat: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raises RequestError, naming the tensors, unless names and shapes are exactly the expected ones."""
    missing = [name for name in expected if name not in flat]
    unknown = [name for name in flat if name not in expected]
    if missing or unknown:
        parts = []
        if unknown:
            hint = did_you_mean(unknown[0], missing) if missing else ""
            parts.append(f"unknown {_listed(unknown)}{hint}")
        if missing:
            parts.append(f"missing {_listed(missing)}")
        raise RequestError(f"{source}: weights do not fit the model: {'; '.join(parts)}")
    for name, shape in expected.items():
        if tuple(flat[name].shape) != tuple(shape):
            raise RequestError(f"{source}: {name} has shape {tuple(flat[name].shape)}, the model needs {tuple(shape)}")


def _rename(flat: Mapping[str, np.ndarray], table: Sequence[tuple[re.Pattern[str], str, Callable[..., Any]]]) -> Flat:
    out: Flat = {}
    unmatched = []
    for name, value in flat.items():
        hits = [(m, target, convert) for pattern, target, convert in table if (m := pattern.fullmatch(name))]
        if not hits:
            unmatched.append(name)
            continue
        if len(hits) > 1:
            raise RequestError(f"{name}: fits {len(hits)} rules ({', '.join(t for _, t, _ in hits)}); expected one")
        match, target, convert = hits[0]
        new = target.format(**match.groupdict())
        if new in out:
            raise RequestError(f"{name}: another tensor already became {new}")
        # safetensors writes garbage for arrays that are not C-contiguous, and transposes are not
        out[new] = np.asarray(convert(value), order="C")
    if unmatched:
        raise RequestError(f"no rule for {_listed(unmatched)}")
    return out


def _pattern(template: str) -> re.Pattern[str]:
    seen: set[str] = set()

    def group(match: re.Match[str]) -> str:
        name = match.group(1)
        if name in seen:
            return f"(?P={name})"
        seen.add(name)
        return rf"(?P<{name}>\d+)"

    return re.compile(re.sub(r"\\\{(\w+)\\\}", group, re.escape(template)))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
