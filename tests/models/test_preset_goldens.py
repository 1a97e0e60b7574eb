"""A changed default, name or initialiser of any preset shows here, and in the diff of its golden file."""

import pytest

from crosscale.models.registry import list_models
from tests.golden.presets.make_goldens import HERE, describe


@pytest.mark.parametrize("name", list_models())
def test_resolves_as_before(name):
    assert describe(name) == (HERE / f"{name}.txt").read_text()


def test_no_golden_without_a_preset():
    assert {path.stem for path in HERE.glob("*.txt")} == set(list_models())
