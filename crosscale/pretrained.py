"""Weights onto models: recognise a file's naming scheme, check every tensor, convert; and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crosscale.contracts import Variables
from crosscale.errors import RequestError, did_you_mean
from crosscale.models.model import ImageModel
from crosscale.trees import flatten, unflatten
from crosscale.weights.files import read_safetensors, write_safetensors
from crosscale.weights.rules import Flat, check_against, fits, to_ours, to_theirs

OWN = "crosscale"


def load_weights(path: str | Path, model: ImageModel, names: str | None = None) -> Variables:
    """Reads a `.safetensors` file in any naming scheme the model knows.

    Args:
      path: the file.
      model: every parameter of it must be in the file, with the same shape, and nothing else.
      names: the scheme ("timm", "ibm", "crosscale", ...); None recognises it from the names.

    Returns:
      {"params": ...} as `model.init` would, float32 NumPy arrays.

    Raises:
      RequestError: no such file, not a whole file, no scheme fits, or a tensor is unknown, missing or misshapen.
    """
    flat, _ = read_safetensors(path)
    return to_variables(flat, model, names, str(path))


def save_weights(path: str | Path, variables: Variables, model: ImageModel, names: str = OWN) -> None:
    """Writes `variables` as `.safetensors` under another project's names (or our own, "crosscale").

    Raises RequestError for a scheme the model does not have.
    """
    write_safetensors(path, from_variables(variables, model, names), {"format": "pt", "names": names})


def to_variables(flat: Mapping[str, np.ndarray], model: ImageModel, names: str | None, source: str) -> Variables:
    """Named tensors -> variables, strictly (see `load_weights`); `source` is what errors name."""
    expected = parameter_shapes(model)
    scheme = names or recognise(flat, model, source)
    try:
        ours = _from_own(flat) if scheme == OWN else to_ours(_rules(model, scheme), flat)
    except RequestError as error:
        raise RequestError(f"{source}: {error}") from None
    check_against(ours, expected, source)
    return {"params": unflatten({k: _float32(v) for k, v in ours.items()})}


def from_variables(variables: Variables, model: ImageModel, names: str = OWN) -> Flat:
    """Variables -> named tensors in the given scheme; the inverse of `to_variables`, bit for bit."""
    flat = {k: np.asarray(v) for k, v in flatten(variables["params"]).items()}
    check_against(flat, parameter_shapes(model), "variables")
    if names == OWN:
        return {k.replace("/", "."): v for k, v in flat.items()}
    return to_theirs(_rules(model, names), flat)


def recognise(flat: Mapping[str, np.ndarray], model: ImageModel, source: str) -> str:
    """The naming scheme that all of the tensors' names fit.

    Raises RequestError when none does, with the first names that do not fit the nearest scheme.
    """
    own = {name.replace("/", ".") for name in parameter_shapes(model)}
    unfit = {OWN: [name for name in flat if name not in own]}
    unfit |= {scheme: fits(rules, flat) for scheme, rules in model.weight_rules().items()}
    good = [scheme for scheme, names in unfit.items() if not names]
    if good:
        return good[0]
    nearest = min(unfit, key=lambda scheme: len(unfit[scheme]))
    first = ", ".join(unfit[nearest][:5])
    raise RequestError(
        f"{source}: not weights of this model: {len(unfit[nearest])} of {len(flat)} names do not fit the nearest "
        f"scheme ({nearest}), first {first}; known schemes: {', '.join(unfit)}"
    )


def parameter_shapes(model: ImageModel) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by its "a/b/c" name, without computing anything."""
    images = jax.ShapeDtypeStruct((1, *model.input_size, model.in_channels), jnp.float32)
    tree = jax.eval_shape(model.init, jax.random.key(0), images)
    return {name: tuple(leaf.shape) for name, leaf in flatten(tree["params"]).items()}


def _rules(model: ImageModel, scheme: str) -> Any:
    rules = model.weight_rules()
    if scheme not in rules:
        known = [OWN, *rules]
        raise RequestError(
            f"no naming scheme '{scheme}' for this model{did_you_mean(scheme, known)}: {', '.join(known)}"
        )
    return rules[scheme]


def _from_own(flat: Mapping[str, np.ndarray]) -> Flat:
    return {name.replace(".", "/"): value for name, value in flat.items()}


def _float32(value: np.ndarray) -> np.ndarray:
    return np.asarray(value, dtype=np.float32)
