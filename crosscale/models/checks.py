"""What the constructors of all families refuse, and how they read numbers and lists."""

import inspect
import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from crosscale.errors import RequestError, did_you_mean


def plain(value: Any) -> Any:
    """NumPy's and JAX's numbers as Python's and arrays as tuples, in lists and tuples too; anything else as it is."""
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        return tuple(map(plain, np.asarray(value))) if value.ndim else value.item()
    if isinstance(value, list | tuple):
        return tuple(map(plain, value)) if isinstance(value, tuple) else list(map(plain, value))
    return value


def plain_fields(config: Any) -> None:
    """Makes every field of `config` `plain`: one comparable, hashable and writable form for what means the same."""
    for name in config.__dataclass_fields__:
        value = getattr(config, name, None)
        if isinstance(value, np.generic | np.ndarray | jax.Array | list | tuple):
            setattr(config, name, plain(value))


def is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_numbers(config: Any, whole: Iterable[str], real: Iterable[str]) -> None:
    """Raises RequestError for a field of `config` that is not a whole number, or not a number at all."""
    for names, kind, what in ((whole, Integral, "a whole number"), (real, Real, "a number")):
        for name in names:
            value = getattr(config, name)
            if isinstance(value, bool) or not isinstance(value, kind):
                raise RequestError(f"{name}={value!r} is not {what}")


def check_counts(config: Any, names: Iterable[str], least: int = 1) -> None:
    """Raises RequestError unless each field is a whole number of at least `least`."""
    for name in names:
        check_numbers(config, (name,), ())
        if getattr(config, name) < least:
            raise RequestError(f"{name}={getattr(config, name)} must be {least} or more")


def check_entries(config: Any, names: Iterable[str]) -> None:
    """Raises RequestError for a field, a tuple of numbers, with an entry below 1."""
    for name in names:
        if min(getattr(config, name)) < 1:
            raise RequestError(f"{name}={list(getattr(config, name))}: every entry must be 1 or more")


def check_rates(config: Any, names: Iterable[str]) -> None:
    """Raises RequestError unless each field is a dropout rate, 0 <= rate < 1."""
    for name in names:
        check_numbers(config, (), (name,))
        if not 0 <= getattr(config, name) < 1:
            raise RequestError(f"{name}={getattr(config, name)} is not in 0 <= rate < 1")


def check_choice(config: Any, name: str, choices: tuple[str, ...]) -> None:
    """Raises RequestError, with the nearest of `choices`, unless the field is one of them."""
    value = getattr(config, name)
    if value not in choices:
        raise RequestError(f"{name}={value!r} is not one of {', '.join(choices)}{did_you_mean(str(value), choices)}")


def check_switches(config: Any, names: Iterable[str]) -> None:
    """Raises RequestError unless each field is True or False."""
    for name in names:
        if getattr(config, name) not in (True, False):
            raise RequestError(f"{name}={getattr(config, name)!r} is neither True nor False")


def check_dtype(dtype: Any) -> None:
    """Raises RequestError unless `dtype` is None or a floating-point type or its name."""
    try:
        fits = dtype is None or jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise RequestError(
            f"dtype={dtype!r} is no floating-point type: 'float32', 'bfloat16' and 'float16' are, or None for what the "
            "images and parameters have"
        )


def check_norm_layer(norm_layer: Any) -> None:
    """Raises RequestError unless `norm_layer` builds a module from `dtype` and `name`, as far as its signature says."""
    hint = "give what builds a normalisation from `dtype` and `name`, such as flax.linen.LayerNorm, the class"
    if isinstance(norm_layer, nn.Module) or not callable(norm_layer):
        given = f"{type(norm_layer).__name__}(...)" if isinstance(norm_layer, nn.Module) else repr(norm_layer)
        raise RequestError(f"norm_layer={given} builds nothing: {hint}")
    try:
        inspect.signature(norm_layer).bind(dtype=None, name="norm")
    except TypeError as error:
        raise RequestError(f"norm_layer={norm_layer!r}: {error}; {hint}") from None
    except ValueError:  # a callable without a signature
        pass


def check_common(config: Any) -> None:
    """Raises RequestError for values that cannot be, of the fields which both families have."""
    rates = ("drop_rate", "attn_drop_rate", "drop_path_rate")
    check_numbers(config, ("in_channels", "num_classes"), rates)
    if config.in_channels < 1 or config.num_classes < 0:
        raise RequestError(
            f"in_channels={config.in_channels} and num_classes={config.num_classes}: need at least 1 and at least 0"
        )
    check_rates(config, rates)
    check_switches(config, ("qkv_bias", "remat"))
    if config.qk_scale is not None:
        check_numbers(config, (), ("qk_scale",))
        if not 0 < config.qk_scale < math.inf:
            raise RequestError(
                f"qk_scale={config.qk_scale} must be above 0 and finite; None is (width / heads) ** -0.5"
            )
    check_dtype(config.dtype)


def check_perceptron(width: int, ratio: float, where: str = "") -> None:
    """Raises RequestError unless a perceptron on `width` channels has a hidden unit."""
    if not 0 < ratio < math.inf:
        raise RequestError(f"{where}mlp_ratio={ratio} must be above 0 and finite")
    if int(width * ratio) < 1:
        raise RequestError(
            f"{where}mlp_ratio={ratio} leaves the perceptron on {width} channels no hidden unit; "
            f"give {math.ceil(1000 / width) / 1000} or more"
        )


def listed(field: str, value: Any, count: int = 1) -> tuple[Any, ...]:
    """A list's entries; one number stands for `count` of them. Raises RequestError for anything else."""
    if isinstance(value, Real):
        return (value,) * count
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise RequestError(f"{field}={value!r} is neither a number nor a list")
    return tuple(plain(entry) for entry in value)


def side_pair(value: Any) -> tuple[int, int]:
    """A picture's height and width from one side or the pair. Raises RequestError where it is neither."""
    value = plain(value)
    pair = (value, value) if is_whole(value) else tuple(value) if isinstance(value, Iterable) else ()
    if len(pair) != 2 or not all(is_whole(side) and side > 0 for side in pair):
        raise RequestError(f"img_size: {value!r} is neither a side length in pixels nor a [height, width] pair")
    return int(pair[0]), int(pair[1])


def normalised(field: str, value: Any, count: int, kind: type) -> tuple[Any, ...]:
    """`value` as a tuple of `count` numbers of `kind`, int or float; one number stands for all of them.

    Raises RequestError when the count or a type does not fit.
    """
    values = listed(field, value, count)
    if len(values) != count:
        raise RequestError(f"{field}={list(values)} has {len(values)} entries, but there are {count} of them to set")
    for entry in values:
        if isinstance(entry, bool) or not isinstance(entry, Integral if kind is int else Real):
            raise RequestError(f"{field}={list(values)}: {entry!r} is not {kind.__name__}")
    return tuple(kind(entry) for entry in values)
