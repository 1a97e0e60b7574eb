"""How fast models run, beside timm, CrossFormer's released code and engines: fresh processes that take turns.

Every measurement is a process of its own. A round measures ours, then the peer eager, then the peer compiled, then our
model's ONNX program under each engine, and the rounds follow each other, so that a change of the machine's pace falls
on all of them alike; ratios are taken round by round. The first round starts with empty caches of compiled programs,
the others find what it left.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from crosscale.benchmark import released
from crosscale.benchmark.machine import describe_machine, load_average
from crosscale.benchmark.ratios import summarise
from crosscale.errors import RequestError, WorkError
from crosscale.export.engines import ENGINE_FORMATS
from crosscale.export.openvino import SETTINGS
from crosscale.models.registry import FAMILIES, create_model, get_preset, input_spec
from crosscale.runtime import COMPILE_CACHE, MALLOC

Report = Callable[[int, int, str], None]
Against = Literal["timm", "official"]
Dtype = Literal["float32", "bfloat16"]
OURS = "crosscale"
VARIANTS = ("eager", "compiled")
_LONGEST = 1200  # seconds of one process; a compiler that takes longer has failed
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Request:
    """What is measured.

    Attributes:
      mode: a forward, or a training step.
      models: presets.
      batch_sizes: pictures a step.
      dtype: of the computation; parameters are float32.
      rounds: processes of each contender.
      seconds: of each measurement, after the warm-up.
      against: the peer in torch; None goes without.
      engines: "onnxruntime", "openvino": these run our model's ONNX program, in float32 on the CPU, inference only.
      limit: seconds after which no more is measured; None for as long as it takes.
      variants: of the peer.
      peer_python: its Python.
      peer_repo: a checkout of the released CrossFormer code, for "official".
      platform: of JAX ("cpu", "cuda"), and "cpu" keeps torch off the GPU too; None takes the best there is.
      tf32: lets both sides round the factors of float32 products where the device offers it.
      matmul: side of the square matrices whose product tells the CPU's peak.
      options: constructor fields of our models beyond the preset's.
    """

    mode: Literal["infer", "train"]
    models: tuple[str, ...]
    batch_sizes: tuple[int, ...] = (8,)
    dtype: Dtype = "float32"
    rounds: int = 3
    seconds: float = 2.0
    against: Against | None = None
    engines: tuple[str, ...] = ()
    limit: float | None = None
    variants: tuple[str, ...] = VARIANTS
    peer_python: str = sys.executable
    peer_repo: str | None = None
    platform: str | None = None
    tf32: bool = True
    matmul: int = 2048
    options: Mapping[str, Any] | None = None


class _TimeUp(Exception):  # noqa: N818 - not an error: the caller set the limit
    """The limit of the request has passed."""


def measure(request: Request, report: Report | None = None) -> dict[str, Any]:
    """Runs the comparison.

    Returns:
      "mode", "machine", "settings", "rows" (one per model, batch size and contender; see `ratios.summarise`), "ratios",
      and "stopped": None, or why it ended with fewer rounds than were asked for: an interrupt, the limit, or a
      measurement of ours that failed after others. A contender that cannot run is a row with "error".

    Raises:
      RequestError: an unknown model, or one that the peer does not have; a Python, checkout or engine that is missing.
      WorkError: the first measurement of ours failed, or did not end within the limit.
    """
    cases = [(model, batch) for model in request.models for batch in request.batch_sizes]
    messages = {case: _message(request, *case) for case in cases}
    deadline = None if request.limit is None else time.perf_counter() + request.limit
    _check_engines(request)
    if request.against is not None:
        _check_peer(request)
    if request.against == "official":
        released.check_checkout(list(messages.values()))
    before = load_average()
    found: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = {}
    stopped = _measure_all(request, messages, found, deadline, report)
    rows, ratios = [], []
    for case, answers in found.items():
        if answers[OURS]:
            summary = summarise(answers, messages[case])
            rows += summary[0]
            ratios += summary[1]
    return {
        "mode": request.mode,
        "machine": {**describe_machine(rows), "load_before": before, "load_after": load_average()},
        "settings": {
            "dtype": request.dtype,
            "rounds": request.rounds,
            "seconds": request.seconds,
            "against": request.against,
            "engines": list(request.engines),
            "tf32": request.tf32,
            "malloc": MALLOC,
        },
        "rows": rows,
        "ratios": ratios,
        "stopped": stopped,
    }


def _measure_all(
    request: Request,
    messages: Mapping[tuple[str, int], dict[str, Any]],
    found: dict[tuple[str, int], dict[str, list[dict[str, Any]]]],
    deadline: float | None,
    report: Report | None,
) -> str | None:
    """Fills `found`, measurement by measurement; why that ended early, or None."""
    theirs = [f"{request.against} {variant}" for variant in request.variants if request.against is not None]
    contenders = [OURS, *theirs, *request.engines]
    total, done = len(messages) * len(contenders) * request.rounds, 0
    try:
        for (model, batch), message in messages.items():
            answers = found[model, batch] = {who: [] for who in contenders}
            with tempfile.TemporaryDirectory(prefix="crosscale-bench-") as folder:
                for turn in range(request.rounds):
                    for who in contenders:
                        if report is not None:
                            report(done, total, f"{model}, batch {batch}, {who}, round {turn + 1} of {request.rounds}")
                        asked = {**message, "first": turn == 0}
                        answers[who].append(_turn(request, asked, who, answers, Path(folder), deadline))
                        done += 1
    except (KeyboardInterrupt, _TimeUp, WorkError) as end:
        passed = f"{request.limit:g} s have passed" if isinstance(end, _TimeUp) else None
        if any(answers[OURS] for answers in found.values()):
            return passed or str(end) or "interrupted"
        if passed:
            raise WorkError(f"{passed} before anything was measured; give --limit more") from None
        raise
    if report is not None:
        report(total, total, "done")
    return None


def _message(request: Request, name: str, batch: int) -> dict[str, Any]:
    """What a process needs to know, on either side."""
    options = {"drop_path_rate": 0.0, **(request.options or {})}
    model = create_model(name, **options)
    spec = input_spec(name, model)
    message = {
        "mode": request.mode,
        "model": name,
        "options": dict(request.options or {}),
        "batch_size": batch,
        "size": spec.size,
        "mean": spec.mean,
        "std": spec.std,
        "channels": spec.channels,
        "classes": getattr(model, "num_classes", 0),
        "dtype": request.dtype,
        "seconds": request.seconds,
        "platform": request.platform,
        "tf32": request.tf32,
        "matmul": request.matmul,
        "against": request.against,
        "fusion": None,
    }
    if request.against == "timm":
        preset = None if name in FAMILIES else get_preset(name)
        if preset is None or not preset.hub.startswith("timm/"):
            raise RequestError(f"--against timm: timm has no {name}; --against official compares CrossFormer")
        message["peer_model"] = preset.hub.removeprefix("timm/").split(".")[0]
    elif request.against == "official":
        repo = request.peer_repo and str(Path(request.peer_repo).expanduser())
        message |= {"peer_repo": repo, **released.peer_of(name, model)}
    return message


def _check_engines(request: Request) -> None:
    for engine in request.engines:
        form = ENGINE_FORMATS.get(engine)
        if form is None:
            raise RequestError(f"--against {engine}: the engines are {', '.join(ENGINE_FORMATS)}")
        if request.mode != "infer" or request.dtype != "float32":
            raise RequestError(f"--against {engine}: goes with --mode infer and --dtype float32")
        if (package := form.missing()) is not None:
            raise RequestError(f"--against {engine} needs {package}: pip install 'crosscale[{form.extra}]'")


def _check_peer(request: Request) -> None:
    if shutil.which(request.peer_python) is None:
        raise RequestError(f"--peer-python {request.peer_python}: no such program")
    stub = "import sys, types; sys.modules['torchvision._meta_registrations'] = types.ModuleType('t'); "
    done = _start([request.peer_python, "-c", stub + "import torch, timm"], {}, _LONGEST)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise RequestError(f"--peer-python {request.peer_python}: cannot run torch and timm ({lines[-1]})")


def _turn(
    request: Request,
    message: dict[str, Any],
    who: str,
    found: Mapping[str, Sequence[dict[str, Any]]],
    folder: Path,
    deadline: float | None,
) -> dict[str, Any]:
    """One process's answer; a peer that has failed once is not tried again. Raises WorkError for ours, _TimeUp."""
    if who == OURS:
        return _ours(message, folder, deadline)
    if found[who] and "error" in found[who][0]:
        return found[who][0]
    try:
        if who in request.engines:
            return _engine(message, who, folder, deadline)
        # The first eager process tries the settings out; the others take the ones that it found best.
        trials = [answer["trial"] for answers in found.values() for answer in answers if "trial" in answer]
        return _torch(request, {**message, "trial": trials[0] if trials else None}, who, folder, deadline)
    except WorkError as error:
        return {"error": str(error)}


def _torch(request: Request, message: dict[str, Any], who: str, folder: Path, deadline: float | None) -> dict[str, Any]:
    message = {**message, "variant": who.split(" ", 1)[1]}
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "torch"), "TRITON_CACHE_DIR": str(folder / "triton")}
    program = str(_HERE / "torch_models.py")
    return _answer([request.peer_python, program, json.dumps(message)], environment, who, deadline)


def _engine(message: dict[str, Any], who: str, folder: Path, deadline: float | None) -> dict[str, Any]:
    """An engine's answer; the program is written once for all of them and all rounds."""
    file = folder / "program.onnx"
    settings = SETTINGS if who == "openvino" else {}
    message = {**message, "file": str(file), "engine": who, "engine_settings": settings}
    if not file.exists():
        writer = [sys.executable, "-m", "crosscale.benchmark.engine_program", json.dumps(message)]
        _answer(writer, _own_environment(folder), who, deadline)
    return _answer([sys.executable, str(_HERE / "engine_peer.py"), json.dumps(message)], {}, who, deadline)


def own_answer(request: Request, name: str, batch: int, options: dict[str, Any], fusion: str | None) -> dict[str, Any]:
    """One measurement of a model of ours with other fields, or of its fusion alone; with empty caches.

    Raises WorkError when it fails.
    """
    message = _message(replace(request, options=options), name, batch)
    with tempfile.TemporaryDirectory(prefix="crosscale-bench-") as folder:
        return _ours({**message, "first": True, "fusion": fusion}, Path(folder))


def _ours(message: dict[str, Any], folder: Path, deadline: float | None = None) -> dict[str, Any]:
    command = [sys.executable, "-m", "crosscale.benchmark.ours", json.dumps(message)]
    return _answer(command, _own_environment(folder), OURS, deadline)


def _own_environment(folder: Path) -> dict[str, str]:
    found = {"JAX_COMPILATION_CACHE_DIR": str(folder / "jax"), COMPILE_CACHE: "0"}
    return found | {"PYTHONPATH": os.pathsep.join(_search_path())}


def _search_path() -> list[str]:
    """Where our process finds this package, installed or not."""
    given = os.environ.get("PYTHONPATH")
    return [str(_HERE.parent.parent), *([given] if given else [])]


def _answer(command: list[str], environment: Mapping[str, str], who: str, deadline: float | None) -> dict[str, Any]:
    """What a process says. Raises WorkError, and _TimeUp where the deadline passes."""
    left = _LONGEST if deadline is None else min(_LONGEST, deadline - time.perf_counter())
    if left <= 0:
        raise _TimeUp
    try:
        done = _start(command, environment, left)
    except subprocess.TimeoutExpired:
        if left < _LONGEST:
            raise _TimeUp from None
        raise WorkError(f"{who}: took longer than {_LONGEST} s") from None
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        reasons = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise WorkError(f"{who}: the measurement failed ({reasons[-1]})")
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def _start(command: list[str], environment: Mapping[str, str], seconds: float) -> "subprocess.CompletedProcess[str]":
    """Runs a process in this one's environment, without its caches and with malloc alike for all.

    Raises subprocess.TimeoutExpired after `seconds`.
    """
    caching = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE", "TORCHINDUCTOR_", "TRITON_CACHE")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(caching)}
    settings = {
        **{name: str(value) for name, value in MALLOC.items()},
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    return subprocess.run(
        command, env={**clean, **settings, **environment}, capture_output=True, text=True, timeout=seconds, check=False
    )
