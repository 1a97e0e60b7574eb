"""Finds the verb, runs it, and turns every way of failing into one line and an exit status."""

import errno
import importlib
import io
import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol, cast

from crosscale.cli.arguments import EXIT_STATUS
from crosscale.cli.output import note
from crosscale.errors import RequestError, WorkError, did_you_mean
from crosscale.runtime import keep_compiled_programs, keep_memory, package_version, tell


class Verb(NamedTuple):
    """One row of the command table: the module that does the work and its line in `crosscale --help`."""

    module: str
    summary: str


class VerbModule(Protocol):
    """What each verb's module offers."""

    HELP: str
    EPILOG: str

    def run(self, argv: Sequence[str], *, as_json: bool) -> int: ...


VERBS = {
    "demo": Verb("crosscale.cli.demo", "a first look: trains, validates and predicts, with nothing to download"),
    "models": Verb("crosscale.cli.models", "list the presets: parameters, MACs, input size, published top-1"),
    "data": Verb("crosscale.cli.data", "describe a data set, or write it out as an image folder"),
    "train": Verb("crosscale.cli.train", "train or fine-tune from a recipe; leaves a complete run folder"),
    "sweep": Verb("crosscale.cli.sweep", "many runs over ranges of recipe keys, through Optuna; bad ones end early"),
    "validate": Verb("crosscale.cli.validate", "loss, top-1, top-5 and images/s on a labelled split"),
    "predict": Verb("crosscale.cli.predict", "classes and probabilities of image files"),
    "calibrate": Verb("crosscale.cli.calibrate", "how sure a trained model may say it is, and when it says unknown"),
    "embed": Verb("crosscale.cli.embed", "features of image files, per branch and joined, as NPZ or Parquet"),
    "convert": Verb("crosscale.cli.convert", "weights under another project's names, or a folder for the hub"),
    "explain": Verb("crosscale.cli.explain", "attention of every scale over image files, as PNG"),
    "export": Verb(
        "crosscale.cli.export", "a trained model as StableHLO, ONNX, OpenVINO or LiteRT, checked on photographs"
    ),
    "serve": Verb("crosscale.cli.serve", "HTTP service with a page: classes, and attention over the picture"),
    "bench": Verb("crosscale.cli.bench", "speed: models beside timm, how they grow, how pictures are fed"),
    "report": Verb("crosscale.cli.report", "one HTML page of a run, or of several side by side"),
    "recipe": Verb("crosscale.cli.recipe", "list, print, explain and check the recipes that `train` takes"),
}

# Settings of JAX that forbid what Flax and Optax do: add a bias to a batch, mix types of numbers, make arrays of them.
_GUARDS = ("disallow", "disallow_explicit")
_MODES = {
    "JAX_NUMPY_RANK_PROMOTION": ("raise",),
    "JAX_NUMPY_DTYPE_PROMOTION": ("strict",),
    "JAX_TRANSFER_GUARD": _GUARDS,
    "JAX_TRANSFER_GUARD_HOST_TO_DEVICE": _GUARDS,
    "JAX_TRANSFER_GUARD_DEVICE_TO_DEVICE": _GUARDS,
    "JAX_TRANSFER_GUARD_DEVICE_TO_HOST": _GUARDS,
}

EXAMPLES = """\
examples:
  crosscale demo
  crosscale models 'crossvit_*'
  crosscale train --config digits --output-dir runs/digits
  crosscale validate --run runs/digits
  crosscale predict --run runs/digits photo.jpg folder/"""

INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + 13  # SIGPIPE's number; the name does not exist on Windows


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one `crosscale` command.

    Args:
      argv: the words after `crosscale`; those of the process when None.

    Returns:
      The exit status: 0 done, 1 the work failed, 2 the request was wrong, 130 interrupted,
      141 the reader of standard output went away.
    """
    _never_refuse_to_print()
    words = list(sys.argv[1:] if argv is None else argv)
    words, as_json = _take_json(words)
    if not words:
        tell(_help())
        return 2
    if words[0] in ("-h", "--help", "help") and len(words) == 1:
        return _guarded("", lambda: _print(_help()))
    if words[0] == "--version":
        return _guarded("", lambda: _print(f"crosscale {package_version()}"))
    if words[0] == "help":
        words = [words[1], "--help"]
    return _guarded(words[0] if words[0] in VERBS else "", lambda: _dispatch(words, as_json))


def _dispatch(words: list[str], as_json: bool) -> int:
    name = words[0]
    if name not in VERBS:
        kind = "option" if name.startswith("-") else "command"
        hint = did_you_mean(name, [*VERBS, "--help", "--version"])
        raise RequestError(f"unknown {kind} '{name}'{hint or '; one of: ' + ', '.join(VERBS)}")
    _silence_backend_probing()
    _leave_out_modes()
    keep_compiled_programs()
    keep_memory()
    verb = cast(VerbModule, importlib.import_module(VERBS[name].module))
    return verb.run(words[1:], as_json=as_json)


def _take_json(words: list[str]) -> tuple[list[str], bool]:
    """Takes `--json` out of the words, wherever it stands before a bare `--`."""
    end = words.index("--") if "--" in words else len(words)
    options = [word for word in words[:end] if word != "--json"]
    return options + words[end:], len(options) < end


def _guarded(verb: str, work: Callable[[], int]) -> int:
    """Runs `work` and turns what it raises into a line on standard error and an exit status."""
    try:
        status = work()
        sys.stdout.flush()
        return status
    except SystemExit as stop:  # argparse's way out of --help
        if isinstance(stop.code, str):
            return _fail(verb, stop.code, 1)
        return stop.code or 0
    except RequestError as error:
        return _fail(verb, str(error), 2)
    except KeyboardInterrupt:
        return _fail(verb, "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The interpreter flushes standard output once more at exit; that must find an open file.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:
        message = _work_failure(error)
        if message is not None:
            return _fail(verb, message, 1)
        wrong = _wrong_surroundings(error)
        return _unforeseen(verb, error) if wrong is None else _fail(verb, wrong, 2)


def _wrong_surroundings(error: Exception) -> str | None:
    """What is wrong with the environment that the command was given; None where that is not what failed."""
    if isinstance(error, RuntimeError) and "determine home" in str(error):
        return "~: there is no such user, or no home folder; write the path in full"
    asked = os.environ.get("JAX_PLATFORMS")
    if asked and (jax := sys.modules.get("jax")) is not None:
        try:
            jax.devices()
        except Exception:  # JAX has an error of its own for each platform, and for some an assertion without words
            return f"JAX_PLATFORMS={asked}: no such device was found; JAX_PLATFORMS=cpu, or none, finds what there is"
    return None


def _unforeseen(verb: str, error: Exception) -> int:
    """One line, and the traceback in a file: a defect, or input beyond what is checked."""
    file: str | None = None
    with suppress(OSError):
        descriptor, file = tempfile.mkstemp(prefix="crosscale-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"crosscale {package_version()}, Python {sys.version}\n{sys.argv}\n\n{traceback.format_exc()}")
    reason = next(iter(str(error).strip().splitlines()), "")
    where = f"; the traceback is in {file}" if file else "; CROSSCALE_TRACEBACK=1 shows the traceback"
    return _fail(verb, f"unforeseen {type(error).__name__}: {reason[:300]}{where}", 1)


def _work_failure(error: Exception) -> str | None:
    """The line that says how the work failed; None where that is not known."""
    if isinstance(error, WorkError):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory; a smaller batch size or image size needs less"
    if isinstance(error, OSError):
        place = f": {error.filename}" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"no space left on the disc{place}; free some or choose another folder"
        return f"{error.strerror or error}{place}"
    # XLA reports device memory as a RuntimeError of its own, which only exists once jax is imported.
    if "RESOURCE_EXHAUSTED" in str(error):
        return "out of device memory; a smaller batch size or image size needs less"
    return None


def _fail(verb: str, message: str, status: int) -> int:
    if os.environ.get("CROSSCALE_TRACEBACK") == "1":
        traceback.print_exc()
    name = f"crosscale {verb}" if verb else "crosscale"
    note(f"{name}: error: {' '.join(message.split())}")
    return status


def _never_refuse_to_print() -> None:
    """Spells out what the terminal's encoding lacks: work that is done must not be lost while its name is printed.

    A stream that was closed before the start (`>&-`, a service without a terminal) takes everything and shows nothing.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _leave_out_modes() -> None:
    """Takes JAX's modes for finding errors out of the environment where no program of Flax's runs in them."""
    for name, value in _MODES.items():
        if os.environ.get(name, "").lower() in value:
            note(f"crosscale: {name}={os.environ.pop(name)} is left out: these programs do not run in that mode")


def _silence_backend_probing() -> None:
    """Keeps the search for accelerators, which is not news to the user, out of standard error."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)


def _print(text: str) -> int:
    print(text)
    return 0


def _help() -> str:
    width = max(map(len, VERBS)) + 2
    verbs = "\n".join(f"  {name:<{width}}{verb.summary}" for name, verb in VERBS.items())
    return f"""\
usage: crosscale COMMAND [options] [--json]

Cross-scale vision transformers (CrossViT, CrossFormer) in JAX.

commands (crosscale COMMAND --help explains each):
{verbs}

options:
  --json      print one JSON object on standard output; all else goes to standard error
  --version   print the version
  --help      print this

{EXAMPLES}

{EXIT_STATUS}

CROSSCALE_TRACEBACK=1 shows the traceback behind an error line; NO_COLOR=1 turns colours off. Compiled programs are
kept in $CROSSCALE_CACHE/compiled (~/.cache/crosscale/compiled), up to 2 GB; CROSSCALE_COMPILE_CACHE=0 keeps none."""
