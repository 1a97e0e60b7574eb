"""benchmarks/accelerator.sh at toy size: parts run to their end and write what they found."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHON": sys.executable}


def run(out, *arguments):
    command = ["sh", str(ROOT / "benchmarks" / "accelerator.sh"), "--smoke", "--out", str(out), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=580)


@pytest.mark.slow
def test_parts_run_at_toy_size(tmp_path):
    """CrossViT's; the other family, the peers and `pytest -m gpu` have the same way through the script."""
    model = "crossvit_9_240"
    parts = f"train:{model}@250,variants:{model}@250,infer:{model}@150,profile:{model}@150"
    done = run(tmp_path / "out", "--limit", "550", "--pack", str(tmp_path / "all.tar.gz"), "--parts", parts)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    files = {path.stem: json.loads(path.read_text())["rows"] for path in (tmp_path / "out").glob("*.json")}
    assert set(files) == {f"{part}-{model}" for part in ("train", "variants", "infer", "profile")}
    rows = [row for part in ("train", "infer") for row in files[f"{part}-{model}"] if "error" not in row]
    assert rows
    assert all(row["images_per_second"] > 0 for row in rows)
    assert (tmp_path / "all.tar.gz").stat().st_size > 0


@pytest.mark.slow
def test_a_part_that_fails_stops_no_other_and_is_named(tmp_path):
    done = run(tmp_path, "--parts", "nothing,forms@200")
    assert done.returncode == 1
    assert "nothing: no such part" in done.stdout
    assert "did not end well: nothing" in done.stdout.splitlines()[-1]
    assert json.loads((tmp_path / "forms.json").read_text())["rows"]
