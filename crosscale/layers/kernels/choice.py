"""Which platform a program is traced for, and the one way to ask for another form of a kernel than its own choice."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, get_type_hints

import jax
from jax import lax

from crosscale.errors import RequestError

AttentionForm = Literal["chunked", "whole", "plain", "padded", "cudnn", "cudnn_padded"]
GradientForm = Literal["written", "derived"]
ConvForm = Literal["products", "convolution"]
DenseForm = Literal["wide", "own"]
PartsForm = Literal["joint", "split"]
TokensForm = Literal["carried", "own"]
ResampleForm = Literal["products", "taps"]
SquaresForm = Literal["each", "stacked"]
VendorForm = Literal["used", "none"]
RowsForm = Literal["together", "loop"]


@dataclass(frozen=True)
class Kernels:
    """What measurements and tests ask for; None leaves the choice to the kernel.

    Attributes:
      platforms: JAX's names of the platforms that the program is for ("cpu", "cuda", "rocm", "tpu"; "gpu" is both
        in the middle); empty for the default backend.
      attention: see `attention.FORMS`.
      gradients: of all kernels as JAX derives them from the plain formulas ("derived"), which forward mode needs:
        `jax.jvp`, `jax.linearize`, `jax.hessian`. Written ones, a processor's default, know only reverse mode.
      gelu: with its gradient written out, or derived by JAX; before `gradients`.
      layer_norm: the same.
      convolution: strided ones as matrix products wherever that is possible, or never.
      dense: products of half precision summed up and handed over in float32, or in their own type.
      parts: queries, keys and values as one product that is then cut, or as three products.
      tokens: filled up once, before a branch's blocks, for an attention that wants multiples; or by each attention.
      resample: pictures rescaled by products with constant matrices, or by their few taps.
      vendor: whether kernels of a GPU's own library may be called by name, which an exported program must not.
      squares: of each gradient summed up by itself, or of gradients of one shape together.
      rows: what is said of one picture, or one box, for all of them together, or for one after another.
    """

    platforms: tuple[str, ...] = ()
    attention: AttentionForm | None = None
    gradients: GradientForm | None = None
    gelu: GradientForm | None = None
    layer_norm: GradientForm | None = None
    convolution: ConvForm | None = None
    dense: DenseForm | None = None
    parts: PartsForm | None = None
    tokens: TokensForm | None = None
    resample: ResampleForm | None = None
    squares: SquaresForm | None = None
    rows: RowsForm | None = None
    vendor: VendorForm | None = None


_ASKED: ContextVar[Kernels] = ContextVar("crosscale_kernels", default=Kernels())  # noqa: B039 (it is frozen)


def asked() -> Kernels:
    """What `use_kernels` asks for here."""
    return _ASKED.get()


@contextmanager
def use_kernels(**changes: Any) -> Iterator[None]:
    """Has everything that is traced inside use these forms: `with use_kernels(attention="plain"): ...`.

    A function that `jax.jit` has traced already keeps the forms of that trace; give it a new function.

    Raises:
      RequestError: a name or a form that is not known.
    """
    known = {"platforms": (), **{name: _forms(hint) for name, hint in get_type_hints(Kernels).items()}}
    for name, form in changes.items():
        if name not in known:
            raise RequestError(f"kernels.{name}: there are {', '.join(known)}")
        if name != "platforms" and form is not None and form not in known[name]:
            raise RequestError(f"kernels.{name}={form!r}: one of {', '.join(known[name])}")
    token = _ASKED.set(replace(_ASKED.get(), **changes))
    try:
        yield
    finally:
        _ASKED.reset(token)


def _forms(hint: Any) -> tuple[str, ...]:
    return tuple(form for part in get_args(hint) for form in get_args(part))


def platforms() -> tuple[str, ...]:
    """What the program is traced for."""
    return asked().platforms or (jax.default_backend(),)


def kinds() -> tuple[str, ...]:
    """The same in the words by which kernels choose: "cpu", "gpu" or "tpu" for each platform."""
    return tuple("gpu" if name in ("cuda", "rocm") else name for name in platforms())


def gradient_form(platform: str) -> GradientForm:
    """Whether gradients are written out or derived by JAX, where nothing is asked of the kernel itself."""
    return asked().gradients or ("written" if platform == "cpu" else "derived")


def by_platform(choose: Callable[[str], Any], run: Callable[..., Any], *operands: Any) -> Any:
    """`run(form, *operands)` in the form that `choose` gives for the platform ("cpu", "gpu", "tpu").

    Where the program is for several platforms with different forms it holds them all, and each gets its own.
    """
    forms = {name: choose(kind) for name, kind in zip(platforms(), kinds(), strict=True)}
    first = next(iter(forms.values()))
    if all(form == first for form in forms.values()):
        return run(first, *operands)

    def branch(form: Any) -> Callable[..., Any]:
        return lambda *given: run(form, *given)

    return lax.platform_dependent(*operands, **{name: branch(form) for name, form in forms.items()})
