"""`crosscale bench`: speed, beside the libraries that people would use instead."""

import argparse
import importlib.util
import json
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crosscale.cli.arguments import Parser, count, positive_int, refuse_given
from crosscale.cli.main import INTERRUPTED
from crosscale.cli.output import note, print_json, progress_bar
from crosscale.errors import RequestError, did_you_mean

HELP = """\
Measures speed, side by side with a peer where one is asked for.

--mode infer: a forward of a resident batch of normalised float32 pictures to logits, of the public model under jit.
--mode train: the engine's training step on a resident batch: forward, cross-entropy, backward, AdamW; drop rates 0.
--mode growth: the time and memory of a forward as the image, the batch or the depth doubles; of the fusion against
  joint attention over all tokens; of a third branch.
--mode start-up: `crosscale predict` and the first training step, with and without programs compiled before.
--mode data: how fast training pictures are fed, stage by stage, on JPEG files of ImageNet's size distribution; then
  how long the steps of a short training of CrossViT-9 on them wait for data.

infer and train measure each contender in fresh processes that take turns (A B A B), with the same threads, malloc
settings and precision. timm and the released CrossFormer code run eager and through torch.compile, at their best
settings: inference mode and frozen weights, fused AdamW, the memory format that a trial finds quicker. onnxruntime and
openvino run our model's ONNX program on the CPU. Round 1 starts
with empty caches of compiled programs ("cold s": trace, compile and run once), the others find them filled ("warm s").
"images/s" is the median of all rounds' medians, "best" the quickest step of all, which other work on the machine
spoils least. An interrupt (Ctrl-C, SIGTERM) or --limit ends the measuring; what was measured is printed and written.
"MB" is the largest resident memory of the process on the CPU, of the device's allocator elsewhere. "of matmul peak" is
2 x multiply-accumulates (x 3 in training) over the rate that the same process reaches on a large matrix product."""

EPILOG = """\
examples:
  crosscale bench --mode infer --model crossvit_9_240 --batch-size 1 8 --against timm
  crosscale bench --mode infer --model crossvit_9_240 --against timm onnxruntime openvino --limit 600
  crosscale bench --mode infer --model crossvit_9_240 --against timm --quick
  crosscale bench --mode train --model crossvit_9_240 --batch-size 16 --against timm --peer-python /path/to/python
  crosscale bench --mode infer --model crossformer_small_224 --against official --peer-repo CrossFormer/
  crosscale bench --mode train --model semantic_fpn_crossformer_tiny --batch-size 2 --against official --peer-repo DIR
  crosscale bench --mode growth --plot growth.png
  crosscale bench --mode data --peer-python /path/to/python --fast

JSON of infer and train: {"mode", "machine", "settings", "rows": [{"model", "batch_size", "who", "ms", "ms_low",
"ms_high", "ms_best", "images_per_second", "images_per_second_best", "first_call_cold", "first_call_warm", "start",
"peak_bytes", "macs", "matmul_share", "peak_share", "error"}], "ratios": [{"model", "batch_size", "against", "peers",
"ratio", "low", "high", "best_ratio", "memory"}], "stopped": why there are fewer rounds, or null};
of growth: "rows": [{"series", "at", "macs", "ms", "temporary_bytes"}]; of start-up: "predict" and "train", each
{"cold", "warm"} in seconds; of data: {"rows": [{"stage", "who", "per_core", "low", "high", "wall"}], "ratios",
"fast_deviation", "images", "mean_bytes", "size", "rounds", "threads", "cores", "load"}.

exit status:
  0  done
  1  the work failed, or --limit passed
  2  the request was wrong (a mode that is not there, a library or peer that is missing)
  130  interrupted; what was measured is printed and written"""

MODES = ("infer", "train", "growth", "start-up", "data")
_MODEL_MODES = ("infer", "train")
_TORCH = ("timm", "official")
_ENGINES = ("onnxruntime", "openvino")
# What each option counts for; elsewhere it would do nothing.
_COUNTS_FOR = {
    **dict.fromkeys(
        ("model", "against", "quick", "limit", "platform", "no_tf32", "peer_repo", "variant"), _MODEL_MODES
    ),
    **dict.fromkeys(("seconds", "dtype"), (*_MODEL_MODES, "growth")),
    **dict.fromkeys(("batch_size", "peer_python"), (*_MODEL_MODES, "data")),
    **dict.fromkeys(("images", "size", "threads", "fast", "train_steps"), ("data",)),
    "plot": (*_MODEL_MODES, "growth"),
}
_FOR_PEERS = {"peer_python": _TORCH, "peer_repo": ("official",), "variant": _TORCH}
_QUICK = 50.0  # seconds; the check of the peer and the printing also fit into the minute


def run(argv: Sequence[str], *, as_json: bool) -> int:
    """Measures and prints. Raises RequestError, WorkError."""
    from crosscale.cli import bench_tables as tables

    options = _parser().parse(argv)
    if options.mode not in MODES:
        hint = did_you_mean(options.mode, MODES)
        raise RequestError(f"--mode {options.mode} is not one of {', '.join(MODES)}{hint}")
    _check_options(options)
    if options.mode == "data":
        result, show = _data(options), tables.print_data
    elif options.mode == "growth":
        result, show = _growth(options), tables.print_growth
    elif options.mode == "start-up":
        result, show = _start_up(options), tables.print_start_up
    else:
        result, show = _speed(options), tables.print_speed
    if options.plot is not None:
        from crosscale.benchmark.plots import plot

        plot(result, Path(options.plot))
    if options.output is not None:
        Path(options.output).write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if as_json:
        print_json(result)
    else:
        show(result)
    if stopped := result.get("stopped"):
        note(f"crosscale bench: ended early: {stopped}; these are the rounds until then")
        return INTERRUPTED if stopped == "interrupted" else 1
    return 0


def _parser() -> Parser:
    parser = Parser("bench", description=HELP, epilog=EPILOG)
    parser.add_argument("--mode", metavar="M", required=True, help=f"what is measured: {', '.join(MODES)}")
    parser.add_argument("--rounds", metavar="N", type=positive_int, help="turns of each (default 3; data 5)")
    parser.add_argument(
        "--batch-size", metavar="B", type=positive_int, nargs="+", help="pictures a step (default 8; data 32)"
    )
    parser.add_argument(
        "--peer-python", metavar="PATH", help="a Python with torch and timm (default: this one, if it has them)"
    )
    parser.add_argument("--output", metavar="FILE", help="write the result as JSON")
    parser.add_argument("--plot", metavar="FILE", help="write a plot, as PNG or SVG (infer, train, growth)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    models = parser.add_argument_group("infer and train")
    models.add_argument("--model", metavar="M", nargs="+", help="presets (see `crosscale models`)")
    models.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the computation (default float32)")
    models.add_argument(
        "--against",
        choices=(*_TORCH, *_ENGINES),
        nargs="+",
        default=[],
        help="peers: timm or official, and for inference engines on the CPU (default: none, ours alone)",
    )
    models.add_argument("--peer-repo", metavar="PATH", help="a checkout of the released CrossFormer code (official)")
    models.add_argument(
        "--variant", choices=("eager", "compiled"), nargs="+", help="of timm or official (default both; --quick: eager)"
    )
    models.add_argument("--seconds", metavar="S", type=_seconds, help="a measurement lasts (default 2; --quick: 0.5)")
    models.add_argument("--limit", metavar="S", type=positive_int, help="end after so many seconds with what there is")
    models.add_argument("--quick", action="store_true", help="a first answer within a minute: one round, --limit 50")
    models.add_argument("--platform", choices=("cpu", "cuda"), help="what it runs on (default: the best there is)")
    models.add_argument("--no-tf32", action="store_true", help="full float32 products on devices with TensorFloat-32")
    data = parser.add_argument_group("data")
    data.add_argument("--images", metavar="N", type=positive_int, help="JPEG files (default 256)")
    data.add_argument("--size", metavar="S", type=positive_int, help="input size (default 240)")
    data.add_argument("--threads", metavar="N", type=positive_int, help="threads, and torch's processes (default 2)")
    data.add_argument("--fast", action="store_true", help="measure data.decode=fast, too")
    data.add_argument(
        "--train-steps",
        metavar="N",
        type=count,
        help="of a real training on the files, to see how long its steps wait; 0 for none (default 24)",
    )
    return parser


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 600:
        raise argparse.ArgumentTypeError(f"expected seconds above 0 and up to 600, got '{text}'")
    return value


def _check_options(options: argparse.Namespace) -> None:
    """Refuses what cannot work before minutes are spent on measuring."""
    if options.mode in _MODEL_MODES and not options.model:
        raise RequestError(f"--mode {options.mode} needs --model M; `crosscale models` lists them")
    for name, modes in _COUNTS_FOR.items():
        if options.mode not in modes:
            refuse_given(options, [name], f"goes with --mode {', '.join(modes)}, not {options.mode}")
    if options.mode in _MODEL_MODES:
        for name, peers in _FOR_PEERS.items():
            if set(peers).isdisjoint(options.against):
                refuse_given(options, [name], f"goes with --against {' or '.join(peers)}")
    if len(set(options.against) & set(_TORCH)) > 1:
        raise RequestError("--against timm official: one of them at a time; no model is in both")
    if options.plot is not None:
        if Path(options.plot).suffix not in (".png", ".svg"):
            raise RequestError(f"--plot {options.plot}: give a file that ends in .png or .svg")
        if importlib.util.find_spec("matplotlib") is None:
            raise RequestError("--plot needs matplotlib: pip install 'crosscale[bench]'")
    for name in ("output", "plot"):
        place = getattr(options, name)
        if place is not None and not Path(place).absolute().parent.is_dir():
            raise RequestError(f"--{name} {place}: there is no folder {Path(place).parent}")


def _speed(options: argparse.Namespace) -> dict[str, Any]:
    from crosscale.benchmark.machine import load_average
    from crosscale.benchmark.speed import VARIANTS, Request, measure
    from crosscale.benchmark.stopwatch import cores

    load, free = load_average(), cores()
    if load is not None and load > 0.5 * free:
        note(f"crosscale bench: the load average is {load} on {free} cores; other work spoils the measurement")
    if not options.against:
        note("ours alone: --against timm or --against official measures a peer beside it")
    request = Request(
        mode=options.mode,
        models=tuple(options.model),
        batch_sizes=tuple(options.batch_size or [8]),
        dtype=options.dtype or "float32",
        rounds=options.rounds or (1 if options.quick else 3),
        seconds=options.seconds or (0.5 if options.quick else 2.0),
        against=next((peer for peer in options.against if peer in _TORCH), None),
        engines=tuple(dict.fromkeys(peer for peer in options.against if peer in _ENGINES)),
        limit=options.limit or (_QUICK if options.quick else None),
        variants=tuple(dict.fromkeys(options.variant or (VARIANTS[:1] if options.quick else VARIANTS))),
        peer_python=options.peer_python or sys.executable,
        peer_repo=options.peer_repo,
        platform=options.platform,
        tf32=not options.no_tf32,
    )
    with progress_bar("measuring", verb="bench") as report, _interrupted_by_sigterm():
        return measure(request, report)


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM, which `timeout` and batch systems send, ends the measuring as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only it may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _growth(options: argparse.Namespace) -> dict[str, Any]:
    from crosscale.benchmark.growth import measure

    how: dict[str, Any] = {"rounds": options.rounds or 3, "dtype": options.dtype or "float32"}
    with progress_bar("measuring", verb="bench") as report:
        return measure(seconds=options.seconds or 2.0, report=report, **how)


def _start_up(options: argparse.Namespace) -> dict[str, Any]:
    from crosscale.benchmark.start_up import measure_start_up

    return measure_start_up(rounds=options.rounds or 3)


def _data(options: argparse.Namespace) -> dict[str, Any]:
    from crosscale.benchmark.data import Request, default_peer, measure

    sizes, images = options.batch_size or [32], options.images or 256
    if len(sizes) > 1:
        raise RequestError("--mode data takes one --batch-size")
    if sizes[0] > images:
        raise RequestError(f"--batch-size {sizes[0]} is larger than --images {images}")
    peer = options.peer_python or default_peer()
    if peer is None:
        note("no torch and timm here, so there is no comparison with them; --peer-python PATH names a Python with both")
    request = Request(
        images=images,
        rounds=options.rounds or 5,
        size=options.size or 240,
        batch_size=sizes[0],
        threads=options.threads or 2,
        peer=peer,
        fast=options.fast,
        train_steps=24 if options.train_steps is None else options.train_steps,
    )
    with progress_bar("measuring") as report:
        return measure(request, report)
