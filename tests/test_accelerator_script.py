"""benchmarks/accelerator.sh at toy size: every part runs to its end and writes what it found."""

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
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=1500)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_part_runs_at_toy_size(tmp_path):
    parts = "train@600,variants:crossvit_9_240@600,infer@600,attention@600,parity@900,profile:crossvit_9_240@600"
    done = run(tmp_path / "out", "--limit", "1400", "--pack", str(tmp_path / "all.tar.gz"), "--parts", parts)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    files = {path.stem: json.loads(path.read_text())["rows"] for path in (tmp_path / "out").glob("*.json")}
    assert set(files) == {
        "train", "variants-crossvit_9_240", "infer", "attention", "attention-time", "profile-crossvit_9_240"
    }  # fmt: skip
    assert not [row for rows in files.values() for row in rows if "error" in row]
    assert all(row["images_per_second"] > 0 for name in ("train", "infer") for row in files[name])
    assert (tmp_path / "all.tar.gz").stat().st_size > 0


@pytest.mark.slow
def test_a_part_that_fails_stops_no_other_and_is_named(tmp_path):
    done = run(tmp_path, "--parts", "nothing,forms@200")
    assert done.returncode == 1
    assert "nothing: no such part" in done.stdout
    assert "did not end well: nothing" in done.stdout.splitlines()[-1]
    assert json.loads((tmp_path / "forms.json").read_text())["rows"]
