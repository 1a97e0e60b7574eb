"""A disc that fills up under a real run: the last checkpoint stays good, and with space again nothing is lost."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability import full_disc
from tests.reliability.record import trying
from tests.reliability.runs import assert_same_run, train

pytestmark = pytest.mark.slow

# What the traceback names where this was what did not fit.
NAMED = {"log": "engine/log.py", "best": "in save_best", "checkpoint": "orbax/checkpoint"}


def namespace() -> list[str]:
    """What runs a command where it may mount a disc; skips where nothing does."""
    probe = "mount -t tmpfs -o size=1m tmpfs /tmp"
    for command in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        if (
            shutil.which("unshare")
            and subprocess.run([*command, "sh", "-c", probe], capture_output=True).returncode == 0
        ):
            return command
    pytest.skip("neither root nor unprivileged namespaces: no small disc can be mounted")


@pytest.mark.parametrize("where", sorted(full_disc.CASES))
def test_a_full_disc_loses_nothing(tmp_path: Path, where: str) -> None:
    command = namespace()
    whole = train(*full_disc.recipe(where), "--output-dir", str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    work = tmp_path / "work"
    work.mkdir()
    with trying(f"full disc while the {where} is written", lost="nothing: equal to the last bit"):
        done = subprocess.run(
            [*command, sys.executable, "-m", "tests.reliability.full_disc", where, str(work)],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=Path(__file__).parents[2],
        )
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["status"] == 1, result["errors"]
        assert NAMED[where] in result["errors"]
        # The libraries' own threads may print after it.
        (last,) = [line for line in result["errors"].splitlines() if line.startswith("crosscale train: error: ")]
        assert "no space left on the disc; the checkpoint of step" in last
        assert "was never retrieved" not in result["errors"]
        assert last.endswith(f"--output-dir {work}/disc/run --resume")
        assert f"the checkpoint of step {result['kept'][-1]} is whole" in last
        assert result["left"] == []
        assert result["again"] == 0, result["again_errors"]
        assert f"going on from step {result['kept'][-1]}," in result["again_errors"]
        assert "cannot be read" not in result["again_errors"]
        assert_same_run(work / "run", tmp_path / "whole")
