"""Which preset a set of tensors was made for, by their names and shapes."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from crosscale.errors import RequestError
from crosscale.models.registry import create_model, list_models
from crosscale.pretrained.naming import OWN, parameter_shapes, renamed
from crosscale.weights.rules import fits


class Match(NamedTuple):
    """A preset, the naming scheme of the tensors, and the share of its parameters that they have, 0..1."""

    preset: str
    scheme: str
    share: float


def best_preset(flat: Mapping[str, np.ndarray]) -> Match | None:
    """The preset that the tensors fit best; None where fewer than a tenth of any one's parameters are there.

    Heads do not count, because their width is the number of classes. Shapes are compared without order, as the
    schemes lay tensors out differently.
    """
    shapes = {name: _unordered(value.shape) for name, value in flat.items()}
    best: Match | None = None
    for preset in list_models():
        model = create_model(preset)
        schemes = {scheme: rules for scheme, rules in model.weight_rules().items() if not fits(rules, flat)}
        looks_own = any("/" not in name and name.startswith("backbone.") for name in flat)
        for scheme in [*schemes, *([OWN] if looks_own else [])]:
            try:
                ours = renamed(flat, model, scheme)
            except RequestError:  # two names would become one: another configuration's table
                continue
            share = _share({new: shapes[old] for old, new in ours.items()}, preset)
            if best is None or share > best.share:
                best = Match(preset, scheme, share)
    return best if best is not None and best.share >= 0.1 else None


def _share(found: Mapping[str, tuple[int, ...]], preset: str) -> float:
    expected = _expected(preset)
    body = {name for name in {*found, *expected} if not name.startswith("head/")}
    return sum(found.get(name) == expected.get(name) for name in body) / len(body)


@cache
def _expected(preset: str) -> dict[str, tuple[int, ...]]:
    return {name: _unordered(shape) for name, shape in parameter_shapes(create_model(preset)).items()}


def _unordered(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(side for side in shape if side != 1))
