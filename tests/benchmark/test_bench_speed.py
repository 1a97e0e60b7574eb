"""`crosscale bench` of models: from answers to rows and ratios, processes that fail, and whole measurements."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from crosscale.benchmark import speed
from crosscale.benchmark.peaks import known_flops
from crosscale.benchmark.plots import plot
from crosscale.benchmark.ratios import pairwise, summarise
from crosscale.benchmark.speed import Request, measure
from crosscale.benchmark.stopwatch import MIN_ITERATIONS, WARM_UP, host_peak_bytes, timed
from crosscale.cli.main import main
from crosscale.errors import RequestError, WorkError
from crosscale.export import formats
from tests.conftest import TINY_CROSSVIT

MESSAGE = {"model": "m", "batch_size": 4, "dtype": "float32", "mode": "infer", "tf32": True}


def answer(seconds, first_call=1.0, peak=100, **more):
    return {
        "seconds": seconds,
        "best": seconds / 2,
        "iterations": 5,
        "first_call": first_call,
        "start": 1.0,
        "peak_bytes": peak,
        "matmul_flops": 1e9,
        "device": "cpu",
        "settings": {},
        "versions": {},
        "macs": 1_000_000,
        "formula_macs": 2_000_000,
        **more,
    }


@pytest.fixture
def found():
    """Three rounds; the machine was half as fast in the second."""
    return {
        "crosscale": [answer(0.1, 9.0), answer(0.2, 2.0), answer(0.1, 3.0)],
        "timm eager": [answer(0.3, peak=50), answer(0.5, peak=60), answer(0.2, peak=70)],
        "timm compiled": [answer(0.2, peak=200), answer(0.6, peak=200), answer(0.4, peak=200)],
    }


def test_ratios_are_taken_round_by_round(found):
    ratios = {row["against"]: row for row in pairwise(found)}
    assert ratios["timm eager"]["ratio"] == pytest.approx(2.5)  # of 3, 2.5 and 2
    assert (ratios["timm eager"]["low"], ratios["timm eager"]["high"]) == pytest.approx((2.0, 3.0))
    assert ratios["timm compiled"]["ratio"] == pytest.approx(3.0)  # of 2, 3 and 4
    assert ratios["best"]["ratio"] == pytest.approx(2.0)  # of 2, 2.5 and 2: the quicker of each round
    assert ratios["timm eager"]["memory"] == pytest.approx(100 / 60)
    assert ratios["best"]["memory"] == pytest.approx(100 / 60)
    # The quickest steps of all rounds are half the shortest medians: 0.05 of ours, 0.1 of both peers.
    assert ratios["best"]["best_ratio"] == pytest.approx(2.0)
    assert (ratios["timm eager"]["peers"], ratios["best"]["peers"]) == (1, 2)


def test_a_round_that_was_not_ended(found):
    found = {"crosscale": found["crosscale"][:2], "timm eager": found["timm eager"][:1], "openvino": []}
    rows, ratios = summarise(found, MESSAGE)
    assert [row["error"] for row in rows] == [None, None, "not measured"]
    assert [row["against"] for row in ratios] == ["timm eager", "best"]
    assert [row["ratio"] for row in ratios] == pytest.approx([3.0, 3.0])


def test_rows(found):
    rows, ratios = summarise(found, MESSAGE)
    ours, eager, _ = rows
    assert (ours["ms"], ours["ms_low"], ours["ms_high"]) == pytest.approx((100, 100, 200))
    assert ours["images_per_second"] == pytest.approx(40)
    assert (ours["ms_best"], ours["images_per_second_best"]) == pytest.approx((50, 80))
    assert (ours["first_call_cold"], ours["first_call_warm"]) == (9.0, 2.5)
    # 2 x 1e6 MACs x 4 pictures in 0.1 s are 8e7 FLOP/s; the peer's formula counts twice as many in 0.3 s
    assert ours["matmul_share"] == pytest.approx(0.08)
    assert eager["matmul_share"] == pytest.approx(0.16 / 3)
    assert len(ratios) == 3
    training = summarise(found, {**MESSAGE, "mode": "train"})[0][0]
    assert training["matmul_share"] == pytest.approx(0.24)


def test_a_variant_that_fails_is_a_row(found):
    found["timm compiled"] = [{"error": "no compiler"}] * 3
    rows, ratios = summarise(found, MESSAGE)
    assert rows[2]["error"] == "no compiler"
    assert {row["against"] for row in ratios} == {"timm eager", "best"}
    alone = pairwise({"crosscale": found["crosscale"]})
    assert alone == []


def test_timed_waits_for_both_bounds():
    calls = []
    result = timed(lambda: calls.append(0), 0.0)
    assert len(calls) == WARM_UP + MIN_ITERATIONS
    assert result["iterations"] == MIN_ITERATIONS
    assert result["seconds"] < 0.1
    assert host_peak_bytes() > 10_000_000


def test_peaks_by_name():
    assert known_flops("NVIDIA H200", "bfloat16", True) == pytest.approx(989e12)
    assert known_flops("NVIDIA H100 80GB HBM3", "float32", False) == pytest.approx(67e12)
    assert known_flops("NVIDIA H100 PCIe", "bfloat16", True) == pytest.approx(756e12)
    assert known_flops("cpu", "float32", True) is None


@pytest.fixture
def processes(monkeypatch):
    """Stands in for the processes; returns what they were asked."""
    asked = []

    def start(command, environment, seconds):
        if command[1] == "-c":  # whether the peer has torch
            return subprocess.CompletedProcess(command, 0, "", "")
        message = json.loads(command[-1])
        if command[2] == "crosscale.benchmark.engine_program":
            Path(message["file"]).write_bytes(b"a program")
            return subprocess.CompletedProcess(command, 0, "{}", "")
        asked.append((message, environment))
        theirs = "variant" in message or "engine" in message
        if theirs and "engine" in message:
            assert Path(message["file"]).read_bytes() == b"a program"
            said = answer(0.3, matmul_flops=None)
            return subprocess.CompletedProcess(command, 0, json.dumps(said), "")
        if theirs and message["variant"] == "compiled":
            return subprocess.CompletedProcess(command, 0, json.dumps({"error": "no compiler"}), "")
        if message["model"] == "crossvit_18_240" and not theirs:
            return subprocess.CompletedProcess(command, 1, "", "Traceback\nMemoryError: much")
        said = answer(0.2 if theirs else 0.1, **({"trial": [True, False]} if theirs else {}))
        return subprocess.CompletedProcess(command, 0, "noise\n" + json.dumps(said), "")

    monkeypatch.setattr(speed, "_start", start)
    return asked


def test_turns(processes):
    seen = []
    request = Request("infer", ("crossvit_9_240",), (1, 2), rounds=2, against="timm", peer_python=sys.executable)
    result = measure(request, lambda done, total, what: seen.append((done, total, what)))
    who = [("timm " + message["variant"]) if "variant" in message else "crosscale" for message, _ in processes]
    once = ["crosscale", "timm eager", "timm compiled"]
    # A variant that failed is not tried again for the same case.
    assert who == [*once, "crosscale", "timm eager"] * 2
    assert [message["first"] for message, _ in processes[:5]] == [True, True, True, False, False]
    assert processes[1][0]["trial"] is None
    assert processes[2][0]["trial"] == [True, False]
    assert processes[0][1]["JAX_COMPILATION_CACHE_DIR"] == processes[3][1]["JAX_COMPILATION_CACHE_DIR"]
    assert processes[0][1]["JAX_COMPILATION_CACHE_DIR"] != processes[5][1]["JAX_COMPILATION_CACHE_DIR"]
    assert processes[1][0]["peer_model"] == "crossvit_9_240"
    assert [row["ratio"] for row in result["ratios"]] == pytest.approx([2.0] * 4)
    assert seen[-1][:2] == (12, 12)
    assert result["machine"]["cores"] >= 1


def test_ours_that_fails_is_an_error(processes):
    with pytest.raises(WorkError, match=r"crosscale: the measurement failed \(MemoryError: much"):
        measure(Request("infer", ("crossvit_18_240",)))


@pytest.fixture
def installed(monkeypatch):
    """As if every engine was."""
    monkeypatch.setattr(formats, "find_spec", lambda name: name)


def test_engines_take_turns_with_the_others(processes, installed, tmp_path, capsys):
    words = ["bench", "--mode", "infer", "--model", "crossvit_9_240", "--rounds", "2", "--variant", "eager"]
    assert main([*words, "--against", "timm", "onnxruntime", "openvino"]) == 0
    shown = capsys.readouterr().out
    who = [message.get("engine") or message.get("variant", "crosscale") for message, _ in processes]
    assert who == ["crosscale", "eager", "onnxruntime", "openvino"] * 2
    assert processes[3][0]["engine_settings"]["INFERENCE_PRECISION_HINT"] == "f32"
    assert len({message["file"] for message, _ in processes if "engine" in message}) == 1
    assert "the best of these 3" in shown


def test_an_end_before_its_time_keeps_the_rounds(processes, monkeypatch, tmp_path, capsys):
    calls, plain = [], speed._start

    def ended_at(call, error):
        def start(command, environment, seconds):
            calls.append(seconds)
            if len(calls) == call:
                raise error
            return plain(command, environment, seconds)

        calls.clear()
        monkeypatch.setattr(speed, "_start", start)

    words = ["bench", "--mode", "infer", "--model", "crossvit_9_240", "--rounds", "3"]
    output = tmp_path / "r.json"
    ended_at(3, KeyboardInterrupt())
    assert main([*words, "--output", str(output)]) == 130
    said = capsys.readouterr()
    assert "ended early: interrupted" in said.err
    assert "crossvit_9_240" in said.out
    result = json.loads(output.read_text())
    assert (result["stopped"], result["rows"][0]["iterations"]) == ("interrupted", [5, 5])
    ended_at(2, subprocess.TimeoutExpired("python", 1))
    assert main([*words, "--limit", "40"]) == 1
    assert "ended early: 40 s have passed" in capsys.readouterr().err
    assert max(calls) <= 40
    ended_at(1, subprocess.TimeoutExpired("python", 1))
    assert main([*words, "--quick"]) == 1
    assert "50 s have passed before anything was measured" in capsys.readouterr().err
    ended_at(1, KeyboardInterrupt())
    assert main(words) == 130


def test_quick_is_one_short_round(processes, capsys):
    assert main(["bench", "--mode", "infer", "--model", "crossvit_9_240", "--against", "timm", "--quick"]) == 0
    assert [message.get("variant") for message, _ in processes] == [None, "eager"]
    assert processes[0][0]["seconds"] == 0.5


def test_released_code_is_built_as_ours(processes, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "crossformer.py").write_text("")
    request = Request("infer", ("crossformer_tiny_224",), rounds=1, against="official", peer_repo=str(tmp_path))
    measure(request)
    options = processes[1][0]["peer_options"]
    assert options["depths"] == [1, 1, 8, 6]
    assert options["merge_size"] == [[2, 4]] * 3
    assert options["mlp_ratio"] == [4.0] * 4
    assert (options["img_size"], options["crs_interval"]) == (224, [8, 4, 2, 1])
    assert "peer_head" not in processes[1][0]


def test_released_segmentation_is_built_as_ours(processes, tmp_path):
    name = "semantic_fpn_crossformer_small"
    request = Request("train", (name,), rounds=1, against="official", peer_repo=str(tmp_path))
    with pytest.raises(RequestError, match=f"models/crossformer_backbone.py, which {name} needs .branch crossformer"):
        measure(request)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "crossformer_backbone.py").write_text("")
    measure(request)
    asked = processes[1][0]
    assert asked["peer_head"] == {"widths": [96, 192, 384, 768], "neck": 256, "head": 128, "classes": 150}
    assert asked["peer_options"]["group_size"] == [14, 14, 7, 7]
    assert (asked["peer_options"]["mlp_ratio"], asked["peer_options"]["img_size"]) == (4.0, 512)
    with pytest.raises(RequestError, match="has grouping=regions, its peer only whole"):
        measure(Request("train", (name,), against="official", peer_repo=str(tmp_path), options={"grouping": "regions"}))


def test_verb_prints_and_writes(processes, tmp_path, capsys):
    output, picture = tmp_path / "r.json", tmp_path / "r.png"
    words = ["bench", "--mode", "infer", "--model", "crossvit_9_240", "--batch-size", "1", "--rounds", "1"]
    assert main([*words, "--against", "timm", "--output", str(output), "--plot", str(picture)]) == 0
    shown = capsys.readouterr().out
    assert "timm compiled is missing (no compiler)" in shown
    assert "2.00" in shown
    assert json.loads(output.read_text())["ratios"][0]["ratio"] == pytest.approx(2.0)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main([*words, "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["ratios"] == []
    assert "ours alone" in shown.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mode", "inference"], "not one of infer, train, growth, start-up, data"),
        (["--mode", "infer"], "needs --model"),
        (["--mode", "infer", "--model", "crossvit_9", "--against", "timm"], "did you mean"),
        (["--mode", "data", "--model", "crossvit_9_240"], "--model goes with --mode infer, train, not data"),
        (["--mode", "data", "--dtype", "bfloat16"], "--dtype goes with --mode infer, train, growth, not data"),
        (["--mode", "start-up", "--batch-size", "4"], "--batch-size goes with --mode infer, train, data, not start-up"),
        (["--mode", "growth", "--peer-python", "p"], "--peer-python goes with --mode infer, train, data, not growth"),
        (["--mode", "growth", "--train-steps", "0"], "--train-steps goes with --mode data, not growth"),
        (["--mode", "infer", "--model", "crossvit_9_240", "--fast"], "--fast goes with --mode data, not infer"),
        (["--mode", "data", "--plot", "x.png"], "--plot goes with --mode infer, train, growth, not data"),
        (
            ["--mode", "infer", "--model", "crossvit_9_240", "--variant", "eager"],
            "goes with --against timm or official",
        ),
        (
            ["--mode", "infer", "--model", "crossvit_9_240", "--against", "timm", "--peer-repo", "x"],
            "--peer-repo goes with --against official",
        ),
        (["--mode", "infer", "--model", "crossvit_9_240", "--seconds", "0"], "seconds above 0"),
        (["--mode", "growth", "--quick"], "--quick goes with --mode infer, train, not growth"),
        (
            ["--mode", "train", "--model", "crossvit_9_240", "--against", "openvino"],
            "goes with --mode infer and --dtype",
        ),
        (["--mode", "infer", "--model", "crossvit_9_240", "--against", "timm", "official"], "one of them at a time"),
        (["--mode", "infer", "--model", "crossvit_9_240", "--plot", "x.txt"], "ends in .png or .svg"),
        (["--mode", "infer", "--model", "crossvit_9_240", "--output", "/no/such/f.json"], "there is no folder"),
        (["--mode", "infer", "--model", "crossformer_tiny_224", "--against", "timm"], "timm has no crossformer_tiny"),
        (["--mode", "infer", "--model", "crossvit_9_240", "--against", "official"], "has no crossvit_9_240"),
        (
            ["--mode", "train", "--model", "crossvit_9_240", "--against", "timm", "--peer-python", "/no/python"],
            "/no/python: no such program",
        ),
    ],
)
def test_wrong_requests_of_models(words, message, capsys):
    assert main(["bench", *words]) == 2
    assert message in capsys.readouterr().err


def test_missing_checkout(monkeypatch):
    monkeypatch.setattr(speed, "_start", lambda command, *_: subprocess.CompletedProcess(command, 0, "", ""))
    for repo, message in ((None, "needs --peer-repo"), ("/no/such", "holds no models")):
        with pytest.raises(RequestError, match=message):
            measure(Request("infer", ("crossformer_tiny_224",), against="official", peer_repo=repo))


def test_growth_plot(tmp_path):
    rows = [
        {"series": series, "at": str(at), "macs": 1e9 * at, "ms": 2.0 * at, "temporary_bytes": 1e6 * at}
        for series in ("image side", "branches")
        for at in (1, 2)
    ]
    plot({"mode": "growth", "rows": rows}, tmp_path / "g.svg")
    assert "image side" in (tmp_path / "g.svg").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_measurement_of_a_tiny_model(mode):
    result = measure(
        Request(
            mode, ("crossvit",), (2,), rounds=2, seconds=0.1, matmul=256, options={**TINY_CROSSVIT, "num_classes": 10}
        )
    )
    (row,) = result["rows"]
    assert row["error"] is None
    assert 0 < row["ms_low"] <= row["ms"] <= row["ms_high"]
    assert row["first_call_warm"] < row["first_call_cold"]
    parts = row["first_call_parts"]
    assert parts["warm"]["compile"] < parts["cold"]["compile"]
    assert 0 < sum(parts["cold"].values()) < row["first_call_cold"]
    assert 0 < row["matmul_share"] < 1
    assert row["peak_bytes"] > 50_000_000
    assert row["macs"] > 1000


@pytest.mark.slow
def test_measurement_of_engines():
    pytest.importorskip("jax2onnx")
    engines = tuple(name for name in ("onnxruntime", "openvino") if importlib.util.find_spec(name))
    options = {**TINY_CROSSVIT, "num_classes": 10}
    result = measure(
        Request("infer", ("crossvit",), (2,), rounds=1, seconds=0.1, matmul=256, options=options, engines=engines)
    )
    assert [row["error"] for row in result["rows"]] == [None] * (1 + len(engines))
    for row in result["rows"][1:]:
        assert row["who"] in row["versions"]
        assert 0 < row["ms_best"] <= row["ms"]
        assert row["peak_bytes"] < result["rows"][0]["peak_bytes"]  # without JAX
        assert row["matmul_share"] is None
    assert result["ratios"][-1]["peers"] == len(engines)


@pytest.mark.timed
def test_growth_of_the_fusions():
    """Twice the side is four times the tokens: the class token's attention grows as much, joint attention more."""
    from crosscale.benchmark.growth import points

    request = Request("infer", (), seconds=0.1)
    found = {}
    for point in points():
        if point.fusion is not None and point.at != "240 px":
            said = speed.own_answer(request, point.model, 1, point.options, point.fusion)
            found.setdefault(point.fusion, []).append(said)
    macs = {name: after["macs"] / before["macs"] for name, (before, after) in found.items()}
    assert macs["cross_attention"] < 4.0 < 8.0 < macs["all_attention"] < 16.0
    assert found["all_attention"][1]["seconds"] > 20 * found["cross_attention"][1]["seconds"]


@pytest.mark.parity
@pytest.mark.parametrize(("mode", "variants"), [("infer", ("eager", "compiled")), ("train", ("eager",))])
def test_beside_timm(mode, variants):
    options = {"rounds": 1, "seconds": 0.2, "against": "timm", "variants": variants, "matmul": 256}
    result = measure(Request(mode, ("crossvit_tiny_240",), (1,), **options))
    ours, eager, *compiled = result["rows"]
    assert eager["error"] is None
    # Without a C++ compiler on the machine, torch.compile is a row with its reason.
    assert all(row["error"] is None or "ompil" in row["error"] for row in compiled)
    assert eager["versions"].keys() == {"torch", "timm"}
    assert ours["macs"] <= eager["macs"]
    assert {row["against"] for row in result["ratios"]} >= {"timm eager", "best"}
    assert all(row["ratio"] > 0 for row in result["ratios"])
