"""`crosscale bench --mode infer|train|growth`: its arithmetic, its refusals, and real runs."""

import json
import sys

import pytest

from crosscale.benchmark.plots import plot
from crosscale.benchmark.ratios import OURS, pairwise, summarise
from crosscale.cli.main import main

MESSAGE = {"mode": "infer", "model": "m", "batch_size": 4, "dtype": "float32", "tf32": True}


def answer(seconds, peak=100, **more):
    base = {"seconds": seconds, "peak_bytes": peak, "first_call": 9.0, "start": 1.0, "iterations": 5}
    return {**base, "matmul_flops": 1e9, "device": "cpu", "settings": {}, "versions": {}, **more}


def found():
    ours = [answer(1.0, macs=5e7, formula_macs=6e7), answer(2.0, macs=5e7, formula_macs=6e7)]
    return {OURS: ours, "timm eager": [answer(2.0, 50), answer(3.0, 50)], "timm compiled": [answer(3.0), answer(2.0)]}


def test_ratios_are_taken_round_by_round_and_against_the_better_of_each():
    rows = {row["against"]: row for row in pairwise(found())}
    assert rows["timm eager"]["ratio"] == pytest.approx(1.75)  # 2 / 1 and 3 / 2
    assert (rows["timm compiled"]["low"], rows["timm compiled"]["high"]) == (1.0, 3.0)
    assert rows["best"]["ratio"] == pytest.approx(1.5)  # 2 / 1 and 2 / 2
    assert rows["best"]["memory"] == 2.0


def test_rows_tell_rates_and_the_share_of_the_peak_by_what_each_side_computes():
    rows, _ = summarise(found(), MESSAGE)
    assert rows[0]["images_per_second"] == pytest.approx(4 / 1.5)
    assert rows[0]["matmul_share"] == pytest.approx(2 * 5e7 * 4 / 1.5 / 1e9)
    assert rows[1]["matmul_share"] == pytest.approx(2 * 6e7 * 4 / 2.5 / 1e9)
    trained, _ = summarise(found(), {**MESSAGE, "mode": "train"})
    assert trained[0]["matmul_share"] == pytest.approx(3 * rows[0]["matmul_share"])


def test_a_peer_that_fails_is_a_row_with_its_reason_and_no_ratio():
    broken = {**found(), "timm compiled": [{"error": "no compiler"}] * 2}
    rows, ratios = summarise(broken, MESSAGE)
    assert rows[2]["error"] == "no compiler"
    assert [ratio["against"] for ratio in ratios] == ["timm eager", "best"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--mode", "infre"], "infer"),
        (["--mode", "infer"], "needs --model"),
        (["--mode", "infer", "--model", "crossvit_9_420"], "crossvit_9_240"),
        (["--mode", "infer", "--model", "crossformer_tiny_224", "--against", "timm"], "--against official"),
        (["--mode", "infer", "--model", "crossvit_9_240", "--against", "timm", "--peer-python", "/no"], "/no"),
        (["--mode", "growth", "--plot", "x.gif"], ".png or .svg"),
        (["--mode", "growth", "--output", "/no/folder/x.json"], "there is no folder"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(words, says, capsys):
    assert main(["bench", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert says in error
    assert len(error.splitlines()) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_a_real_measurement_alone(mode, tmp_path, capsys):
    out, picture = tmp_path / "out.json", tmp_path / "plot.png"
    words = ["bench", "--mode", mode, "--model", "crossvit_tiny_240", "--batch-size", "1", "--rounds", "2"]
    assert main([*words, "--seconds", "0.2", "--output", str(out), "--plot", str(picture), "--json"]) == 0
    result = json.loads(out.read_text())
    (row,) = result["rows"]
    assert 0 < row["matmul_share"] < 1.5
    assert row["ms_low"] <= row["ms"] <= row["ms_high"]
    assert row["first_call_warm"] < row["first_call_cold"]  # the second process found what the first had compiled
    assert picture.read_bytes()[1:4] == b"PNG"
    assert json.loads(capsys.readouterr().out)["rows"][0]["ms"] == row["ms"]


def test_plots_are_drawn_of_growth(tmp_path):
    rows = [{"series": "s", "at": str(n), "macs": n * 1e9, "ms": n, "temporary_bytes": n * 1e6} for n in (1, 2, 4)]
    plot({"mode": "growth", "rows": rows}, tmp_path / "growth.svg")
    assert "<svg" in (tmp_path / "growth.svg").read_text()


@pytest.mark.parity
def test_a_real_measurement_beside_timm(capsys):
    words = ["bench", "--mode", "infer", "--model", "crossvit_tiny_240", "--batch-size", "1", "--rounds", "1"]
    more = ["--seconds", "0.2", "--against", "timm", "--variant", "eager", "--peer-python", sys.executable, "--json"]
    assert main([*words, *more]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["who"] for row in result["rows"]] == ["crosscale", "timm eager"]
    assert not any(row["error"] for row in result["rows"])
    assert {ratio["against"] for ratio in result["ratios"]} == {"timm eager", "best"}
