"""How time and memory grow with the image, the batch and the depth; what the fusion and a further branch cost."""

from collections.abc import Iterator
from statistics import median
from typing import Any, NamedTuple

from crosscale.benchmark.machine import describe_machine, load_average
from crosscale.benchmark.speed import Dtype, Report, Request, own_answer


class Point(NamedTuple):
    """One measurement: the series it belongs to, what was varied, and what is built.

    Attributes:
      fusion: measures this fusion alone, on the tokens of the model's branches, instead of the model.
    """

    series: str
    at: str
    model: str
    options: dict[str, Any]
    batch_size: int = 1
    fusion: str | None = None


def points() -> Iterator[Point]:
    """All measurements, series by series; within one, each doubles what the one before had."""
    for side in (240, 480, 960):
        yield Point("crossvit_9, image side", f"{side} px", "crossvit_9_240", {"img_size": side})
    for side in (224, 448, 896):
        yield Point("crossformer_tiny, image side", f"{side} px", "crossformer_tiny_224", {"img_size": side})
    for batch in (1, 2, 4, 8, 16):
        yield Point("crossvit_9, batch", f"{batch}", "crossvit_9_240", {}, batch)
    for stages in (3, 6, 12):
        depth = ((1, 3, 0),) * stages
        yield Point("crossvit_9, depth", f"{stages} stages", "crossvit_9_240", {"depth": depth})
    for fusion in ("cross_attention", "all_attention"):
        for side in (240, 480, 960):
            options = {"img_size": (side, side * 224 // 240), "fusion": fusion}
            yield Point(f"{fusion} alone", f"{side} px", "crossvit_9_240", options, 1, fusion)
    for patches, widths in (((16,), (256,)), ((12, 16), (128, 256)), ((12, 16, 24), (128, 256, 256))):
        at = f"{len(patches)}: patches of {', '.join(map(str, patches))}"
        yield Point("branches", at, "crossvit", _branches(patches, widths))


def _branches(patches: tuple[int, ...], widths: tuple[int, ...]) -> dict[str, Any]:
    """A CrossViT of crossvit_9's blocks at 240 pixels; every branch further to the right is as deep as the last."""
    blocks = {12: 1, 16: 3, 24: 3}
    fused = len(patches) > 1
    return {
        "img_size": tuple(patch * (240 // patch) for patch in patches),
        "patch_size": patches,
        "embed_dim": widths,
        "depth": ((*(blocks[patch] for patch in patches), 0),) * 3,
        "num_heads": (4,) * len(patches),
        "mlp_ratio": (3.0,) * len(patches),
        "qkv_bias": True,
        "fusion": "cross_attention" if fused else "none",
    }


def measure(
    *, rounds: int = 3, seconds: float = 2.0, dtype: Dtype = "float32", report: Report | None = None
) -> dict[str, Any]:
    """Measures every point in processes of its own, round after round.

    Returns:
      "mode", "dtype", "machine", and "rows" of "series", "at", "model", "batch_size", "macs" (of the whole batch),
      "ms" (the median over the rounds), "ms_low", "ms_high", "temporary_bytes" (intermediate values, as the compiler
      laid them out) and "peak_bytes" (of the process). Memory is the first round's.

    Raises:
      WorkError: a measurement failed.
    """
    every = list(points())
    found: list[list[dict[str, Any]]] = [[] for _ in every]
    request = Request(mode="infer", models=(), seconds=seconds, dtype=dtype)
    before = load_average()
    for turn in range(rounds):
        for index, point in enumerate(every):
            if report is not None:
                what = f"{point.series}, {point.at}, round {turn + 1} of {rounds}"
                report(turn * len(every) + index, rounds * len(every), what)
            found[index].append(own_answer(request, point.model, point.batch_size, point.options, point.fusion))
    if report is not None:
        report(rounds * len(every), rounds * len(every), "done")
    rows = [_row(point, answers) for point, answers in zip(every, found, strict=True)]
    machine = {**describe_machine(), "load_before": before, "load_after": load_average()}
    return {"mode": "growth", "dtype": dtype, "rounds": rounds, "machine": machine, "rows": rows}


def _row(point: Point, answers: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [answer["seconds"] for answer in answers]
    return {
        "series": point.series,
        "at": point.at,
        "model": point.model,
        "batch_size": point.batch_size,
        "macs": answers[0]["macs"] * point.batch_size,
        "ms": 1e3 * median(seconds),
        "ms_low": 1e3 * min(seconds),
        "ms_high": 1e3 * max(seconds),
        "temporary_bytes": answers[0]["temporary_bytes"],
        "peak_bytes": answers[0]["peak_bytes"],
    }
