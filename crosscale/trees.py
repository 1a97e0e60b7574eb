"""Parameter trees by "a/b/c" name: flatten, unflatten, choose a value by name pattern."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from flax import traverse_util
from jax import lax

T = TypeVar("T")


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """{"a": {"b": x}} -> {"a/b": x}."""
    return dict(traverse_util.flatten_dict(dict(tree), sep="/"))


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b": x} -> {"a": {"b": x}}."""
    return dict(traverse_util.unflatten_dict(dict(flat), sep="/"))


def match_first(name: str, rules: Iterable[tuple[str, T]], default: T) -> T:
    """The value of the first (regular expression, value) rule whose pattern matches the whole name."""
    for pattern, value in rules:
        if re.fullmatch(pattern, name):
            return value
    return default


def map_named(function: Callable[[str, Any], Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of `function(name, leaf)`, of the same structure."""
    return unflatten({name: function(name, leaf) for name, leaf in flatten(tree).items()})


def stop_gradients(tree: Mapping[str, Any], patterns: Sequence[str]) -> Mapping[str, Any]:
    """The tree with the matching leaves as constants, so that no backward pass is made for them alone."""
    if not patterns:
        return tree
    rules = [(pattern, True) for pattern in patterns]
    return map_named(lambda name, leaf: lax.stop_gradient(leaf) if match_first(name, rules, False) else leaf, tree)


def select(tree: Mapping[str, Any], rules: Sequence[tuple[str, T]], default: T) -> dict[str, Any]:
    """A tree of the same structure that holds each leaf's value by the first matching name rule.

    Weight decay, freezing, layer-wise rates, loading and sharding are all such lists of rules.
    """
    return map_named(lambda name, _: match_first(name, rules, default), tree)
