"""From the answers of single processes to rows and ratios."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from crosscale.benchmark.peaks import known_flops

Answers = Sequence[dict[str, Any]]
OURS = "crosscale"


def summarise(
    found: Mapping[str, Answers], message: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and ratios of one model at one batch size.

    Args:
      found: by contender, its answers in the order of the rounds; ours is "crosscale", and its first answer tells
        the multiply-accumulates.
      message: what the processes were asked.

    Returns:
      Rows of "model", "batch_size", "who", "ms" (a step's median over the rounds) with "ms_low" and "ms_high",
      "images_per_second", "ms_best" and "images_per_second_best" (of the quickest step of all), "first_call_cold" and
      "first_call_warm" (seconds; the latter None with one round), "first_call_parts" (ours, as `_parts` has them),
      "start" (seconds until imports and the model were there), "peak_bytes", "macs" (of one picture's forward, as it
      runs: ours leaves products out that a peer in torch computes),
      "matmul_flops" (the peak that the same processes reached on a large product; None of an engine), "matmul_share" of
      that, and "peak_share" of the device's known peak; or of "error". And the ratios of `pairwise`.
    """
    costs = next(answer for answer in found[OURS] if "macs" in answer)
    case = {key: message[key] for key in ("model", "batch_size", "dtype")}
    rows = []
    for who, answers in found.items():
        macs = costs["formula_macs" if " " in who else "macs"]  # engines run our program
        # One step of training is a forward and a backward that costs twice as much.
        flops = 2 * macs * message["batch_size"] * (3 if message["mode"] == "train" else 1)
        rows.append({**case, "who": who, "macs": macs, **_row(answers, message, flops)})
    return rows, [{**case, **ratio} for ratio in pairwise(found)]


def _row(answers: Answers, message: Mapping[str, Any], flops: float) -> dict[str, Any]:
    failed = [answer["error"] for answer in answers if "error" in answer]
    if failed or not answers:
        return {"error": failed[0] if failed else "not measured"}
    seconds = [answer["seconds"] for answer in answers]
    middle, best = median(seconds), min(answer["best"] for answer in answers)
    peak = max((answer["matmul_flops"] for answer in answers if answer["matmul_flops"]), default=None)
    known = known_flops(answers[0]["device"], message["dtype"], message["tf32"])
    return {
        "ms": 1e3 * middle,
        "ms_low": 1e3 * min(seconds),
        "ms_high": 1e3 * max(seconds),
        "images_per_second": message["batch_size"] / middle,
        "ms_best": 1e3 * best,
        "images_per_second_best": message["batch_size"] / best,
        "iterations": [answer["iterations"] for answer in answers],
        "first_call_cold": answers[0]["first_call"],
        "first_call_warm": median(answer["first_call"] for answer in answers[1:]) if answers[1:] else None,
        "first_call_parts": _parts(answers),
        "start": median(answer["start"] for answer in answers),
        "peak_bytes": _median_or_none([answer["peak_bytes"] for answer in answers]),
        "matmul_flops": peak,
        "matmul_share": None if peak is None else flops / middle / peak,
        "peak_share": None if known is None else flops / middle / known,
        "device": answers[0]["device"],
        "settings": answers[0]["settings"],
        "versions": answers[0]["versions"],
        "error": None,
    }


def _parts(answers: Answers) -> dict[str, dict[str, float] | None] | None:
    """Seconds of "trace", "lower" and "compile" in the first call, by "cold" and "warm"; None of a peer's."""
    found: list[dict[str, float]] = [answer["first_call_parts"] for answer in answers if answer.get("first_call_parts")]
    if not found:
        return None
    first, *later = found
    return {"cold": first, "warm": {part: median(one[part] for one in later) for part in first} if later else None}


def pairwise(found: Mapping[str, Answers]) -> list[dict[str, Any]]:
    """How many times as fast ours is, each round by itself.

    Returns:
      Per peer, and for the better one of every round ("best"): "against", "peers" (how many that are), "ratio" (the
      median over the rounds), "low" and "high", "best_ratio" (of the quickest steps of all rounds), and "memory" (our
      peak over theirs; the smaller of the peers' for "best"). A round that was not ended may lack the last peers.
    """
    ours = found[OURS]
    peers = {
        who: answers
        for who, answers in found.items()
        if who != OURS and answers and not any("error" in one for one in answers)
    }
    chosen: dict[str, list[Answers]] = {who: [answers] for who, answers in peers.items()}
    if peers:
        chosen["best"] = list(peers.values())
    rows = []
    for against, several in chosen.items():
        ratios = [
            min(theirs["seconds"] for theirs in turn) / own["seconds"]
            for own, *turn in zip(ours, *several, strict=False)
        ]
        quickest = min(answer["best"] for answers in several for answer in answers)
        least = [_median_or_none([answer["peak_bytes"] for answer in answers]) for answers in several]
        own_peak = _median_or_none([answer["peak_bytes"] for answer in ours])
        known = own_peak is not None and None not in least
        rows.append(
            {
                "against": against,
                "peers": len(several),
                "ratio": median(ratios),
                "low": min(ratios),
                "high": max(ratios),
                "best_ratio": quickest / min(answer["best"] for answer in ours),
                "memory": own_peak / min(value for value in least if value is not None) if known and own_peak else None,
            }
        )
    return rows


def _median_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
