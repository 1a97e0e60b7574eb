"""Named tensors <-> variables: recognise a file's naming scheme, rename, check every tensor."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crosscale.contracts import Features, Variables
from crosscale.errors import RequestError, did_you_mean
from crosscale.layers.batch_norm import BATCH_STATS
from crosscale.models.model import ImageModel
from crosscale.models.shapes import variable_shapes
from crosscale.trees import flatten, unflatten
from crosscale.weights.rules import Flat, Rule, check_against, fits, to_ours, to_theirs, unplaced

OWN = "crosscale"
_SHOWN = 5  # names listed in one error line


class NotFloatsError(RequestError):
    """A file whose parameters are no floats, which no other model would read either."""


def to_variables(flat: Mapping[str, np.ndarray], model: ImageModel, names: str | None, source: str) -> Variables:
    """Named tensors -> variables, strictly: every parameter and running statistic with its shape, and nothing else.

    Args:
      names: the scheme; None recognises it.
      source: what errors name.

    Raises:
      RequestError: no scheme fits, or a tensor is unknown, missing or misshapen.
    """
    expected = parameter_shapes(model)
    ours = rename(flat, model, names or recognise(flat, model, source), source)
    check_against(ours, expected, source)
    return variables_of(ours, model)


def variables_of(flat: Mapping[str, np.ndarray], model: ImageModel) -> Variables:
    """Every parameter and running statistic of `model`, by "a/b/c" name -> variables, float32 NumPy arrays."""
    found: Variables = {}
    for collection, tree in _shapes(model).items():
        found[collection] = unflatten({name: as_float32(flat[name]) for name in flatten(tree)})
    return found


def from_variables(variables: Variables, model: ImageModel, names: str = OWN) -> Flat:
    """Variables -> named tensors in the given scheme; the inverse of `to_variables`, bit for bit.

    Raises RequestError for a scheme that the model does not have, or that only reads: a classifier's, for a model with
    more than its parts.
    """
    flat = {name: np.asarray(value) for name, value in _flat(variables).items()}
    check_against(flat, parameter_shapes(model), "variables")
    if names == OWN:
        return {k.replace("/", "."): v for k, v in flat.items()}
    rules = _rules(model, names)
    if homeless := unplaced(rules, flat):
        raise RequestError(
            f"the names of '{names}' are only read for this model: they have none for {homeless[0]} and "
            f"{len(homeless) - 1} more; write names='{OWN}' or another scheme"
        )
    return to_theirs(rules, flat)


def scheme_to_share(model: ImageModel) -> str:
    """The scheme of files for others: timm's where it has a name for all of the model, else our own."""
    rules = model.weight_rules().get("timm")
    return "timm" if rules is not None and not unplaced(rules, parameter_shapes(model)) else OWN


def rename(flat: Mapping[str, np.ndarray], model: ImageModel, scheme: str, source: str) -> Flat:
    """Their names and layouts -> ours, without asking whether the model has such parameters.

    Raises RequestError for a name that no rule of the scheme knows, and NotFloatsError.
    """
    try:
        kept = renamed(flat, model, scheme)
        ours = {} if scheme == OWN else to_ours(_rules(model, scheme), flat)
    except RequestError as error:
        raise RequestError(f"{source}: {error}") from None
    for name in kept:  # not of the whole numbers that references save beside their parameters
        _check_floats(flat[name], name, source)
    return {ours: flat[name] for name, ours in kept.items()} if scheme == OWN else ours


def recognise(flat: Mapping[str, np.ndarray], model: ImageModel, source: str) -> str:
    """The naming scheme that all of the tensors' names fit.

    Raises RequestError when none does, with the first names that do not fit the nearest scheme, or when several do
    and would put a tensor into different places.
    """
    if not flat:
        raise RequestError(f"{source}: holds no tensors")
    unfit = unfit_names(flat, model)
    good = [scheme for scheme, names in unfit.items() if not names]
    if len({tuple(sorted(renamed(flat, model, scheme).items())) for scheme in good}) > 1:
        raise RequestError(
            f"{source}: its names fit several schemes ({', '.join(good)}) in different ways; say which one: "
            f"names='{good[0]}'"
        )
    if good:
        return good[0]
    nearest = min(unfit, key=lambda scheme: len(unfit[scheme]))
    first = ", ".join(unfit[nearest][:_SHOWN])
    raise RequestError(
        f"{source}: not weights of this model: {len(unfit[nearest])} of {len(flat)} names do not fit the nearest "
        f"scheme ({nearest}), first {first}; known schemes: {', '.join(unfit)}"
    )


def unfit_names(flat: Mapping[str, np.ndarray], model: ImageModel) -> dict[str, list[str]]:
    """Scheme -> those of the names that it does not know."""
    own = parameter_shapes(model)
    unfit = {OWN: [name for name, ours in renamed(flat, model, OWN).items() if ours not in own]}
    return unfit | {scheme: fits(rules, flat) for scheme, rules in model.weight_rules().items()}


def parameter_shapes(model: ImageModel) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by its "a/b/c" name, and of every running statistic, without computing anything.

    No statistic has the name of a parameter, so that weight files hold both.
    """
    return {name: tuple(leaf.shape) for tree in _shapes(model).values() for name, leaf in flatten(tree).items()}


def stored(variables: Mapping[str, Any]) -> Variables:
    """The collections that weight files hold: "params", and "batch_stats" where the model has it."""
    return {name: variables[name] for name in ("params", BATCH_STATS) if name in variables}


def _shapes(model: ImageModel) -> Variables:
    return stored(variable_shapes(model, model.input_size, model.in_channels))


def fresh(model: ImageModel, names: Sequence[str], seed: int) -> Flat:
    """The initial values of some parameters or statistics, by "a/b/c" name; the others are not computed."""
    if not names:
        return {}
    if all(name.startswith(model.new_parts()) for name in names):
        flat = _flat(model.init(jax.random.key(seed), _no_features(model), method="decode"))
        return {name: np.asarray(flat[name]) for name in names}
    images = jnp.zeros((1, *model.input_size, model.in_channels), jnp.float32)

    @jax.jit
    def initial(key: Any) -> dict[str, Any]:
        flat = _flat(model.init(key, images))
        return {name: flat[name] for name in names}

    return {name: np.asarray(value) for name, value in initial(jax.random.key(seed)).items()}


def class_count(shapes: Mapping[str, tuple[int, ...]], model: ImageModel) -> int | None:
    """For how many classes a classifier of these shapes is; None where there is none, or its width says nothing.

    Args:
      shapes: by our names, of all parameters; perhaps of other classes than the model's.
    """
    for name, shape in shapes.items():
        if shape and name.startswith(model.classifiers()):
            return model.classes_of(name, shape[-1])
    return None


def _flat(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {name: leaf for tree in stored(variables).values() for name, leaf in flatten(tree).items()}


def _no_features(model: ImageModel) -> Features:
    """Zeros of the shapes that the backbone gives for one picture, without running it."""
    images = jax.ShapeDtypeStruct((1, *model.input_size, model.in_channels), jnp.float32)
    features, _ = jax.eval_shape(
        lambda key, images: model.init_with_output(key, images, method="features"), jax.random.key(0), images
    )
    zeros: Features = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), features)
    return zeros


def _check_floats(value: np.ndarray, name: str, source: str) -> None:
    """Raises NotFloatsError for numbers that only a program with their scale could read, and for complex ones."""
    if not jnp.issubdtype(value.dtype, jnp.floating):
        what = "complex numbers" if value.dtype.kind == "c" else "quantised weights"
        raise NotFloatsError(
            f"{source}: holds {value.dtype} numbers under {name}: {what} cannot be read; save them as float32 or "
            "bfloat16"
        )


def as_float32(value: np.ndarray) -> np.ndarray:
    return np.asarray(value, dtype=np.float32)


def renamed(flat: Mapping[str, np.ndarray], model: ImageModel, scheme: str) -> dict[str, str]:
    """Their name -> ours, of the tensors that are kept, without touching the tensors."""
    if scheme == OWN:
        ours = {name: name.replace(".", "/") for name in flat}
        return {name: new for name, new in ours.items() if not new.startswith(model.left_out())}
    rules = [Rule(r.theirs, r.ours) if isinstance(r, Rule) else r for r in _rules(model, scheme)]
    index = {name: np.array(i) for i, name in enumerate(flat)}
    names = list(flat)
    return {names[int(i)]: new for new, i in to_ours(rules, index).items()}


def _rules(model: ImageModel, scheme: str) -> Any:
    rules = model.weight_rules()
    if scheme not in rules:
        known = [OWN, *rules]
        raise RequestError(
            f"no naming scheme '{scheme}' for this model{did_you_mean(scheme, known)}: {', '.join(known)}"
        )
    return rules[scheme]
