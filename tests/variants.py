"""Which cases of a parametrised test the default run takes; CI runs them all."""

from collections.abc import Container, Iterable
from typing import Any

import pytest


def variants(values: Iterable[Any], quick: Container[Any]) -> list[Any]:
    """The values as a test's parameters; those that are not in `quick` are marked `slow`."""
    return [pytest.param(value, marks=() if value in quick else pytest.mark.slow) for value in values]


def joint_variants(values: Iterable[tuple[Any, ...]], quick: Container[Any]) -> list[Any]:
    """The same of tuples that are several parameters each."""
    return [pytest.param(*value, marks=() if value in quick else pytest.mark.slow) for value in values]
