"""Weights onto a model of other classes, image size or channels; whatever is changed or made anew is logged."""

import logging
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from crosscale.errors import RequestError
from crosscale.layers.resize import bicubic_matrix
from crosscale.models.model import ImageModel
from crosscale.pretrained.naming import as_float32, class_count, fresh, parameter_shapes
from crosscale.weights.positions import PositionTable
from crosscale.weights.rules import Flat, check_against

log = logging.getLogger("crosscale")

Tables = Mapping[str, PositionTable]


def adapt(
    flat: Mapping[str, np.ndarray],
    model: ImageModel,
    source: str,
    *,
    only: Sequence[str] = (),
    new_head: bool = False,
    source_tables: Tables | None = None,
    seed: int = 0,
) -> Flat:
    """Tensors under our names -> every parameter of `model`.

    - A classifier is made anew where its shape differs, where the file has none, or with `new_head`.
    - Other parts that another task's weights do not have, like a neck and a head's rest, are made anew as a whole.
    - Position tables are resized bicubically on their grid (CrossViT, section 4.1: a = -0.75, no antialias).
    - Kernels that read the image are summed over the channels (for one channel) or repeated.
    - With `only`, the parameters whose whole name matches one of these regular expressions are taken, and all
      others are made anew.

    Args:
      source: what errors and the log name.
      source_tables: the position tables of the model that the file was made for; None infers their grids.
      seed: of what is made anew.

    Raises:
      RequestError: anything else is missing, unknown or misshapen, or a pattern matches nothing.
    """
    expected = parameter_shapes(model)
    wanted = _wanted(expected, only, source)
    tables, classifiers = model.position_tables(), model.classifiers()
    channels = model.in_channels // getattr(model, "pictures", 1)  # a kernel sees one of the pictures
    absent = tuple(part for part in model.new_parts() if not any(name.startswith(part) for name in flat))
    taken: Flat = {}
    for name in wanted:
        value, shape = flat.get(name), expected[name]
        if name.startswith(absent) or (
            name.startswith(classifiers) and (value is None or new_head or value.shape != shape)
        ):
            continue
        if value is None or value.shape == shape:
            if value is not None:
                taken[name] = as_float32(value)
        elif name in tables and value.ndim == 3 and value.shape[-1] == shape[-1]:
            known = (source_tables or {}).get(name)
            taken[name] = _resized(name, as_float32(value), tables[name], known, source)
        elif _reads_image(value.shape, shape, channels):
            taken[name] = other_channels(as_float32(value), shape[-2])
            log.info("%s: %s: %d input channels made of %d", source, name, shape[-2], value.shape[-2])
        else:
            taken[name] = value  # misshapen: the check below says so
    replaced = (*absent, *classifiers)
    heads = [name for name in wanted if name.startswith(classifiers) and name not in taken]
    _log_head(heads, flat, model, new_head, source)
    anew = [name for name in expected if name not in taken and (name not in wanted or name.startswith(replaced))]
    found = {name for name in flat if name not in expected and not only and not name.startswith(classifiers)}
    placeholders = {name: np.broadcast_to(np.float32(0), expected[name]) for name in anew}
    check_against({**taken, **placeholders, **{name: flat[name] for name in found}}, expected, source)
    return {**taken, **fresh(model, anew, seed)}


def resize_position(table: np.ndarray, old: PositionTable, new: PositionTable) -> np.ndarray:
    """(1, [1 +] h * w, C) on one grid -> on another; the CLS token's row stays as it is.

    The same interpolation as the images', as if the table were a picture of C channels.

    Raises RequestError when only one of the two has a CLS token.
    """
    if old.has_cls != new.has_cls:
        raise RequestError("only one of the position tables has a CLS token")
    cls, patches = table[:, : int(old.has_cls)], table[:, int(old.has_cls) :]
    grid = patches.reshape(1, *old.grid, table.shape[-1]).astype(np.float64)
    rows, columns = (bicubic_matrix(a, b).astype(np.float64) for a, b in zip(old.grid, new.grid, strict=True))
    resized = np.einsum("oh,bhwc,pw->bopc", rows, grid, columns, optimize=True)
    return np.concatenate([cls, resized.reshape(1, -1, table.shape[-1]).astype(table.dtype)], axis=1)


def other_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """(h, w, c_in, c_out) -> (h, w, channels, c_out), for images of another number of channels.

    One channel takes the sum, so that a grey image as one channel gives what it gave as c_in equal ones. More repeat
    the kernels in turn, times c_in / channels, so that channels that are all equal give the same again.
    """
    before = kernel.shape[-2]
    if channels == 1:
        return kernel.sum(axis=-2, keepdims=True)
    return np.take(kernel, np.arange(channels) % before, axis=-2) * np.float32(before / channels)


def _wanted(expected: Mapping[str, object], only: Sequence[str], source: str) -> list[str]:
    if not only:
        return list(expected)
    for pattern in only:
        try:
            hit = any(re.fullmatch(pattern, name) for name in expected)
        except re.error as error:
            raise RequestError(f"'{pattern}' is not a regular expression ({error})") from None
        if not hit:
            names = list(expected)
            raise RequestError(f"'{pattern}' matches no parameter; names are such as '{names[0]}' and '{names[-1]}'")
    wanted = [name for name in expected if any(re.fullmatch(pattern, name) for pattern in only)]
    log.info("%s: %d of %d parameters taken by name, the others made anew", source, len(wanted), len(expected))
    return wanted


def _resized(name: str, table: np.ndarray, new: PositionTable, known: PositionTable | None, source: str) -> np.ndarray:
    old = known or _inferred(name, table.shape[1], new, source)
    log.info("%s: %s resized from %s to %s patches", source, name, _by(old), _by(new))
    try:
        return resize_position(table, old, new)
    except RequestError as error:
        raise RequestError(f"{source}: {name}: {error}") from None


def _inferred(name: str, length: int, new: PositionTable, source: str) -> PositionTable:
    """A square grid where the number of patches is a square, else the target's proportions."""
    patches = length - int(new.has_cls)
    side = math.isqrt(max(patches, 0))
    if side and side * side == patches:
        return PositionTable((side, side), new.has_cls)
    rows = round(math.sqrt(max(patches, 0) * new.grid[0] / new.grid[1]))
    if rows and patches % rows == 0 and rows * new.grid[1] == (patches // rows) * new.grid[0]:
        return PositionTable((rows, patches // rows), new.has_cls)
    raise RequestError(
        f"{source}: {name} has {length} rows: neither a square grid nor the proportions of {_by(new)} patches; load "
        "it from its run folder, which says what it was made for"
    )


def _reads_image(old: tuple[int, ...], new: tuple[int, ...], channels: int) -> bool:
    same = len(old) == len(new) == 4 and old[:2] == new[:2] and old[3] == new[3]
    return same and new[2] == channels and old[2] >= 1


def _log_head(
    anew: Sequence[str], flat: Mapping[str, np.ndarray], model: ImageModel, new_head: bool, source: str
) -> None:
    if not anew:
        return
    old = class_count({name: flat[name].shape for name in anew if name in flat}, model)
    new = class_count(parameter_shapes(model), model)
    why = "other class names" if new_head and old == new else f"{new} classes instead of {old or 'none'}"
    log.info("%s: new head (%s); the rest is kept", source, why)


def _by(table: PositionTable) -> str:
    return f"{table.grid[0]} x {table.grid[1]}"
