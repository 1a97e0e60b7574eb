"""Paths of a recipe as they hold wherever a run goes on from."""

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from crosscale.data.sources import HUB
from crosscale.recipe import Recipe

T = TypeVar("T")


def data_place(data_dir: str) -> str:
    """Where the data is; names of data without a place stay as they are."""
    kept = data_dir == "digits" or data_dir.startswith(HUB)
    return data_dir if kept else str(Path(data_dir).expanduser().resolve())


def with_whole_paths(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths of the weights and the teacher, where these exist."""
    model = replace(recipe.model, pretrained=_whole(recipe.model.pretrained))
    distill = replace(recipe.distill, teacher=_whole(recipe.distill.teacher), weights=_whole(recipe.distill.weights))
    return replace(recipe, model=model, distill=distill)


def with_data_paths(recipe: Recipe) -> Recipe:
    """The same with absolute paths of the data too."""
    data = recipe.data
    places: dict[str, Any] = {
        name: data_place(place) for name in ("dir", "root") if (place := getattr(data, name)) is not None
    }
    return with_whole_paths(replace(recipe, data=replace(data, **places)))


def _whole(value: T) -> T | str:
    """The absolute path; a preset's name, or what is no path, as it is."""
    if not isinstance(value, str):
        return value
    path = Path(value).expanduser()
    return str(path.resolve()) if path.exists() else value
