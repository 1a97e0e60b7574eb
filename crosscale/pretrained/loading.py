"""Weights by name or from a file onto a model, and back into a file."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crosscale.artifact import CONFIG, Artifact, first_of_several, read_if_ours, whole_weights
from crosscale.contracts import Variables
from crosscale.errors import RequestError
from crosscale.models.model import ImageModel
from crosscale.models.registry import create_model, get_preset
from crosscale.pretrained.adapt import adapt as adapt_tensors
from crosscale.pretrained.naming import (
    OWN,
    NotFloatsError,
    as_float32,
    class_count,
    from_variables,
    parameter_shapes,
    recognise,
    rename,
    variables_of,
)
from crosscale.pretrained.restore import restore_model
from crosscale.pretrained.suggest import best_preset
from crosscale.weights.files import read_tensors, write_tensors
from crosscale.weights.hub import FILE, fetch
from crosscale.weights.rules import Flat, check_against

log = logging.getLogger("crosscale")


def load_weights(
    path: str | Path,
    model: ImageModel,
    names: str | None = None,
    *,
    key: str = "",
    adapt: bool = False,
    only: str | Sequence[str] = (),
    classes: Sequence[str] | None = None,
    seed: int = 0,
) -> Variables:
    """Reads weights in any file format and any naming scheme that the model knows.

    Args:
      path: a `.safetensors`, `.pth` (needs PyTorch) or MindSpore `.ckpt` file, a run folder or its `best/`, or a
        folder that `save_pretrained` made.
      model: what they are for.
      names: the scheme ("timm", "ibm", "mindcv", "official", "mmseg", "mmdet", "vit_pytorch", "crosscale"); None
        recognises it.
      key: which of several sets of weights in one file to take ("model", "state_dict_ema", ...); see
        `weights.files.read_tensors`.
      adapt: accept another number of classes (a new classifier), weights of another task (a whole new head), another
        image size (position tables are resized) and another number of input channels (the first kernels are summed or
        repeated). Otherwise every parameter must be in the file with its own shape, and nothing else.
      only: regular expressions on whole parameter names ("backbone/stage_0/.*"), or one alone: take these and make
        the others anew. Implies `adapt`.
      classes: with `adapt`, the model's class names; where the folder names other ones the head is made anew.
      seed: of what is made anew.

    Returns:
      {"params": ...} as `model.init` would, with {"batch_stats": ...} where the model has running statistics; float32
      NumPy arrays.

    Raises:
      RequestError: no such file, a damaged or unsafe one, no scheme fits, or a tensor is unknown, missing or
        misshapen; the message names it and the preset that the file fits best.
    """
    if not isinstance(path, str | Path) or isinstance(model, str | Path | Mapping):
        raise RequestError("load_weights takes (path, model), in this order")
    only = (only,) if isinstance(only, str) else only
    file, artifact = locate(path)
    flat = read_tensors(file, key)
    source = str(path)
    try:
        scheme = names or recognise(flat, model, source)
        ours = rename(flat, model, scheme, source)
        log.info("%s: %d tensors under the names of '%s'", source, len(flat), scheme)
        if adapt or only:
            other = classes is not None and artifact is not None and artifact.labels != tuple(classes)
            tables = restore_model(artifact, file.with_name(CONFIG)).position_tables() if artifact else None
            ours = adapt_tensors(ours, model, source, only=only, new_head=other, source_tables=tables, seed=seed)
        else:
            check_against(ours, parameter_shapes(model), source)
    except RequestError as error:
        raise _with_suggestion(error, flat, model) from None
    if remark := model.weight_remarks().get(scheme):
        log.warning("%s: %s", source, remark)
    _warn_of_nan(ours, source)
    return variables_of(ours, model)


class Contents(NamedTuple):
    """What a weight file holds: the naming scheme, the number of tensors, and of classes (None without a head)."""

    names: str
    tensors: int
    num_classes: int | None


def inspect_weights(path: str | Path, model: ImageModel, names: str | None = None, *, key: str = "") -> Contents:
    """What a file holds, as far as `model`, of the same kind but perhaps other classes, can tell.

    Raises RequestError as `load_weights` does.
    """
    flat = read_tensors(locate(path)[0], key)
    try:
        scheme = names or recognise(flat, model, str(path))
        ours = rename(flat, model, scheme, str(path))
    except RequestError as error:
        raise _with_suggestion(error, flat, model) from None
    return Contents(scheme, len(flat), class_count({name: value.shape for name, value in ours.items()}, model))


def other_classes(error: RequestError, path: str | Path, model: ImageModel, *, key: str, named: bool) -> RequestError:
    """An error of `load_weights`, or where only the number of classes was wrong, one that says how to settle that.

    Args:
      path, model, key: as `load_weights` had them.
      named: whether the model has as many classes as a file of names.
    """
    try:
        found = inspect_weights(path, model, key=key).num_classes
    except RequestError:
        return error
    wanted = getattr(model, "num_classes", found)
    if found in (None, wanted) or "the model needs" not in str(error):
        return error
    given = f"{wanted:,} names are given" if named else f"the preset has {wanted:,}"
    return RequestError(
        f"{path}: weights of {found:,} classes, and {given}; give {found:,} names (classes=[...], --classes FILE)"
    )


def load_pretrained(
    name: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    only: str | Sequence[str] = (),
    seed: int = 0,
    **overrides: Any,
) -> Variables:
    """The published weights of a preset, from the Hugging Face hub or its local cache.

    Args:
      name: a preset, such as "crossvit_9_240".
      revision: of the hub's repository: a commit, a tag or a branch; None is the preset's.
      cache_dir: None is the hub client's own.
      local_files_only: never ask the network.
      only: see `load_weights`.
      seed: likewise.
      **overrides: the fields of the model they are for, as `create_model` takes them: `num_classes=10` (a new
        head), `img_size=480`, `in_channels=1`, ...

    Returns:
      {"params": ...} for `create_model(name, **overrides)`.

    Raises:
      RequestError: an unknown preset or field, or one without published weights.
      WorkError: they cannot be fetched, or are damaged.
    """
    model = create_model(name, **overrides)
    path = fetch_weights(name, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only)
    return load_weights(path, model, adapt=True, only=only, seed=seed)


def fetch_weights(
    name: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The file of a preset's published weights in the cache, fetched if need be; see `load_pretrained`."""
    preset = get_preset(name)
    if not preset.hub:
        raise RequestError(
            f"{name}: no weights on the hub; download its authors' file and give that: --pretrained FILE, or "
            "load_weights(FILE, model)"
        )
    checked = "" if revision not in (None, preset.revision) else preset.sha256
    return fetch(
        preset.hub,
        revision or preset.revision,
        sha256=checked,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )


def save_weights(path: str | Path, variables: Variables, model: ImageModel, names: str = OWN) -> None:
    """Writes `variables` under another project's names (or our own, "crosscale").

    A `.safetensors` file; with the suffix `.pth`, `.pt` or `.bin` a PyTorch state dict (needs PyTorch). For MindCV's
    names the tensors are as MindSpore's, but the file is never a `.ckpt`.

    A file that is there already is replaced, with a line in the log.

    Raises RequestError for a scheme the model does not have, and for something else in place of an argument.
    """
    if not isinstance(path, str | Path) or isinstance(model, str | Path | Mapping):
        raise RequestError("save_weights takes (path, variables, model), in this order")
    if not isinstance(variables, Mapping) or not isinstance(variables.get("params"), Mapping):
        raise RequestError(
            'save_weights: variables must be {"params": ...} as model.init and load_weights give them'
            + (", not what is inside 'params'" if isinstance(variables, Mapping) else "")
        )
    if Path(path).suffix == ".ckpt":
        raise RequestError(f"{path}: MindSpore's .ckpt files are read, not written; give a .safetensors file")
    if Path(path).exists():
        log.warning("%s: replaces the file that was there", path)
    write_tensors(path, from_variables(variables, model, names), {"format": "pt", "names": names})


def read_source(path: str | Path) -> tuple[Flat, Artifact | None]:
    """The tensors of a file or folder, under its own names, and what the folder says of them (None for a file).

    Raises RequestError as `load_weights` does.
    """
    file, artifact = locate(path)
    return read_tensors(file), artifact


def locate(path: str | Path) -> tuple[Path, Artifact | None]:
    """The weight file, and what the folder says of it if one was given; other projects' folders say nothing.

    Raises RequestError for a folder without weights, and for a damaged one.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        return root, None
    for folder in (root / "best", root):
        if (folder / FILE).is_file():
            artifact = read_if_ours(folder / CONFIG)
            return whole_weights(folder, artifact) if artifact is not None else folder / FILE, artifact
    if (several := first_of_several(root)) is not None:
        raise RequestError(f"{root}: holds several runs, not one; name one of them, such as {several}")
    if (root / "recipe.yaml").is_file():
        raise RequestError(f"{root}: this run has no best weights yet; train past its first validation")
    raise RequestError(f"{root}: a folder without {FILE} or best/{FILE}; give a weight file or a run that has one")


def _with_suggestion(error: RequestError, flat: Mapping[str, np.ndarray], model: ImageModel) -> RequestError:
    """The error with the preset that would take the tensors, where one would."""
    match = None if isinstance(error, NotFloatsError) else best_preset(flat)
    if match is None:
        return error
    if parameter_shapes(create_model(match.preset)).keys() == parameter_shapes(model).keys() and match.share == 1:
        return RequestError(f"{error}; it is a whole {match.preset}")
    return RequestError(f"{error}; it fits {match.preset} best ({match.share:.0%} of its tensors)")


def _warn_of_nan(flat: Mapping[str, np.ndarray], source: str) -> None:
    for name, value in flat.items():
        if value.dtype.kind in "fV" and not np.isfinite(as_float32(value)).all():
            log.warning("%s: %s holds numbers that are not finite", source, name)
