"""docs/performance.md is written from results: the newest of every mode, between the markers, and nothing else."""

import json

import pytest

from benchmarks.performance_page import ROOT, cases, newest, speed_tables, write_page

MACHINE = {
    "processor": "P",
    "cores": 2,
    "memory_bytes": 8e9,
    "devices": ["cpu"],
    "versions": {"jax": "1"},
    "load_before": 0.1,
    "load_after": 0.5,
}


def row(who, rate, **more):
    return {
        "model": "m",
        "batch_size": 8,
        "who": who,
        "images_per_second": rate,
        "ms": 1.0,
        "ms_low": 0.9,
        "ms_high": 1.2,
        "first_call_cold": 5.0,
        "first_call_warm": None,
        "matmul_share": 0.5,
        "error": None,
        **more,
    }


def result(rate):
    rows = [row("crosscale", rate), row("timm eager", 20.0), {**row("timm compiled", 0.0), "error": "no compiler"}]
    ratio = {"model": "m", "batch_size": 8, "ratio": rate / 20, "low": 1.0, "high": 9.0, "memory": 0.8}
    return {
        "mode": "infer",
        "machine": MACHINE,
        "rows": rows,
        "ratios": [{**ratio, "against": "timm eager"}, {**ratio, "against": "best"}],
    }


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    for name, rate in (("2026-01-02-infer-a", 50.0), ("2026-01-02-infer-b", 70.0), ("2026-01-01-infer-a", 10.0)):
        (folder / f"{name}.json").write_text(json.dumps(result(rate)))
    return folder


def test_newest_day_counts(results):
    day, found = newest(results)["infer"]
    assert day == "2026-01-02"
    assert [one["rows"][0]["images_per_second"] for one in found] == [50.0, 70.0]


def test_cases_keep_their_ratios(results):
    first, second = (result(rate) for rate in (50.0, 70.0))
    groups = cases({"rows": first["rows"] + second["rows"], "ratios": first["ratios"] + second["ratios"]})
    assert [group["ratios"][-1]["ratio"] for group in groups] == [2.5, 3.5]
    alone = cases({"rows": [row("crosscale", 5.0), *first["rows"]], "ratios": first["ratios"]})
    assert [len(group["rows"]) for group in alone] == [1, 3]


def test_page(results, tmp_path):
    page = tmp_path / "performance.md"
    page.write_text(
        "# Top\n<!-- begin infer -->\nformerly\n<!-- end infer -->\n<!-- begin train -->\nkept\n<!-- end train -->\n"
    )
    assert write_page(results, page) == ["infer"]
    text = page.read_text()
    assert "formerly" not in text
    assert text.startswith("# Top\n")
    assert "\nkept\n" in text
    assert "2026-01-02. P, 2 cores, 8 GB; device: cpu; jax 1; load average 0.1 to 0.5." in text
    assert "| m | 8 | 50.0 | 20.0 |  | **2.50** | 1.00–9.00 | 0.80 | 50 % | 50 % |" in text
    assert (tmp_path / "images" / "performance_infer.png").read_bytes().startswith(b"\x89PNG")
    write_page(results, page)
    assert page.read_text() == text


def test_engines_have_columns_where_they_were_measured():
    found = result(50.0)
    assert "openvino" not in speed_tables(found)
    found["rows"].append(row("openvino", 30.0, matmul_share=None))
    text = speed_tables(found)
    assert "| compiled | openvino | ratio |" in text
    assert "| m | 8 | 50.0 | 20.0 |  | 30.0 | **2.50** |" in text


def test_shipped_page_has_the_markers():
    text = (ROOT / "docs" / "performance.md").read_text()
    for mode in ("infer", "train", "growth", "start_up"):
        assert text.count(f"<!-- begin {mode} -->") == text.count(f"<!-- end {mode} -->") == 1
