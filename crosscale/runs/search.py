"""What a sweep looks through: recipe keys with a range or a list of values each."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from crosscale.errors import RequestError, did_you_mean
from crosscale.recipe import Recipe, override, recipe_keys
from crosscale.typed import dump_yaml, parse_scalar

_RANGE = re.compile(r"(?P<low>[^.\s][^\s]*?)\.\.(?P<high>[^:\s]+)(?P<log>:log)?")
_FORM = "write KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=[A, B, ...]"


@dataclass(frozen=True)
class Searched:
    """One key.

    Attributes:
      key: dotted, of a recipe.
      text: as it was given, "optimizer.lr=1e-4..1e-2:log".
      low: of a range, both ends included.
      high: likewise.
      log: whether the logarithm is drawn evenly.
      whole: whether only whole numbers are drawn.
      choices: the values of a list, as YAML writes them; empty for a range.
    """

    key: str
    text: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[str, ...] = ()


def parse_search(text: str) -> Searched:
    """A key and its range or values from "KEY=LOW..HIGH", "KEY=LOW..HIGH:log" or "KEY=[A, B]". Raises RequestError."""
    key, sign, values = (part.strip() for part in text.partition("="))
    if not sign or not values:
        raise RequestError(f"--over '{text}': {_FORM}")
    known = recipe_keys()
    if key not in known and not key.startswith("model.options."):
        raise RequestError(f"--over '{text}': unknown recipe key '{key}'{did_you_mean(key, known)}")
    if values.startswith("["):
        found = parse_scalar(Any, values)
        if not isinstance(found, list) or len(found) < 2:
            raise RequestError(f"--over '{text}': give a list of two values or more: KEY=[A, B, ...]")
        return Searched(key, text, choices=tuple(_as_text(value) for value in found))
    return _range(key, text, values, known[key].type if key in known else None)


def _range(key: str, text: str, values: str, kind: Any) -> Searched:
    match = _RANGE.fullmatch(values)
    ends = [parse_scalar(Any, match[name]) for name in ("low", "high")] if match else []
    if not match or not all(type(end) in (int, float) and math.isfinite(end) for end in ends):
        raise RequestError(f"--over '{text}': {_FORM}")
    low, high = ends
    kinds = get_args(kind) or (kind,)
    whole = all(type(end) is int for end in ends) and (kind is None or (int in kinds and float not in kinds))
    log = match["log"] is not None
    if low >= high or (log and low <= 0):
        why = "a logarithm needs numbers above 0" if log and low <= 0 else "the first end must be the smaller one"
        raise RequestError(f"--over '{text}': {why}")
    return Searched(key, text, float(low), float(high), log, whole)


def check_search(recipe: Recipe, searched: Sequence[Searched]) -> None:
    """Raises RequestError where a key appears twice, or the recipe does not take an end or a value."""
    keys = [item.key for item in searched]
    for item in searched:
        if keys.count(item.key) > 1:
            raise RequestError(f"--over: {item.key} appears twice")
        ends = item.choices or tuple(_number(item, end) for end in (item.low, item.high))
        for end in ends:
            try:
                override(recipe, {item.key: end})
            except RequestError as error:
                raise RequestError(f"--over '{item.text}': {error}") from None


def distributions(searched: Sequence[Searched]) -> dict[str, Any]:
    """Optuna's, by key."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for item in searched:
        if item.choices:
            found[item.key] = CategoricalDistribution(item.choices)
        elif item.whole:
            found[item.key] = IntDistribution(int(item.low), int(item.high), log=item.log)
        else:
            found[item.key] = FloatDistribution(item.low, item.high, log=item.log)
    return found


def overrides(params: Mapping[str, Any]) -> dict[str, str]:
    """What Optuna drew, as the command line would give it."""
    return {key: value if isinstance(value, str) else repr(value) for key, value in params.items()}


def _number(item: Searched, end: float) -> str:
    return repr(int(end)) if item.whole else repr(end)


def _as_text(value: Any) -> str:
    """A value of a YAML list, as the command line has it alone."""
    if isinstance(value, str):
        return value
    return dump_yaml({"_": value}).partition(":")[2].strip()
