"""The record of where a run ran: its git state in repositories of every kind, and what stays of an earlier record."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from crosscale.engine.environment import git_state, record_environment

IDENTITY = {f"GIT_{who}_{what}": "tester@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def git(folder: Path, *words: str) -> str:
    environment = {**os.environ, **IDENTITY, "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(["git", *words], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_git_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    asked = git_state.__wrapped__  # each time anew
    assert asked() is None  # no repository
    git(tmp_path, "init", "--quiet")
    assert asked() is None  # no commit
    (tmp_path / "recipe.yaml").write_text("train: {}\n")
    git(tmp_path, "add", "recipe.yaml")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "runs").mkdir()  # what is not tracked does not count
    assert asked() == {"commit": commit, "dirty": False}
    (tmp_path / "recipe.yaml").write_text("train: {epochs: 2}\n")
    assert asked() == {"commit": commit, "dirty": True}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert asked() is None  # no git


def test_a_later_record_keeps_command_seed_and_peaks(tmp_path: Path) -> None:
    record_environment(tmp_path, ["train", "--config", "smoke"], seed=3)
    path = tmp_path / "environment.json"
    first = json.loads(path.read_text())
    path.write_text(json.dumps({**first, "peak_host_bytes": 2**60}))
    record_environment(tmp_path)
    later = json.loads(path.read_text())
    assert (later["command"], later["seed"]) == ("crosscale train --config smoke", 3)
    assert later["peak_host_bytes"] == 2**60
    assert later["git"] == git_state()
