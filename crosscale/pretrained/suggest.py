"""Which preset a set of tensors was made for, by their names and shapes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from crosscale.errors import RequestError
from crosscale.models.registry import create_model, get_preset, list_models
from crosscale.pretrained.naming import OWN, parameter_shapes, renamed
from crosscale.weights.rules import fits

_TRIED = 4  # presets whose shapes are looked at, the nearest in size first


class Match(NamedTuple):
    """A preset, the naming scheme of the tensors, and the share of its parameters that they have, 0..1."""

    preset: str
    scheme: str
    share: float


def best_preset(flat: Mapping[str, np.ndarray]) -> Match | None:
    """The preset that the tensors fit best; None where fewer than a tenth of any one's parameters are there.

    Classifiers do not count, because their width is the number of classes. Shapes are compared without order, as the
    schemes lay tensors out differently.
    """
    shapes = {name: _unordered(value.shape) for name, value in flat.items()}
    numbers = sum(value.size for value in flat.values())
    best: Match | None = None
    for _, preset, scheme in sorted(_candidates(flat, numbers))[:_TRIED]:
        try:
            ours = renamed(flat, create_model(preset), scheme)
        except RequestError:  # two names would become one: another configuration's table
            continue
        share = _share({new: shapes[old] for old, new in ours.items()}, preset)
        if best is None or share > best.share:
            best = Match(preset, scheme, share)
    return best if best is not None and best.share >= 0.1 else None


def _candidates(flat: Mapping[str, np.ndarray], numbers: int) -> Iterator[tuple[float, str, str]]:
    """(how far the size is off, preset, scheme) of those whose table knows every name."""
    looks_own = any(name.startswith("backbone.") for name in flat)
    for preset in list_models():
        tables = create_model(preset).weight_rules()
        off = abs(math.log(max(numbers, 1) / get_preset(preset).published.params))
        schemes = [scheme for scheme, rules in tables.items() if not fits(rules, flat)]
        for scheme in schemes or ([OWN] if looks_own else []):
            yield off, preset, scheme


def _share(found: Mapping[str, tuple[int, ...]], preset: str) -> float:
    expected = _expected(preset)
    body = {name for name in {*found, *expected} if not name.startswith(create_model(preset).classifiers())}
    return sum(found.get(name) == expected.get(name) for name in body) / len(body)


@cache
def _expected(preset: str) -> dict[str, tuple[int, ...]]:
    return {name: _unordered(shape) for name, shape in parameter_shapes(create_model(preset)).items()}


def _unordered(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(side for side in shape if side != 1))
