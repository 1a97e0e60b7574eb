"""Programs that several processes begin together: no process waits inside one for another that still compiles."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from crosscale.contracts import InputSpec
from crosscale.engine import joint, step
from crosscale.engine.joint import begun_together
from crosscale.engine.sharding import data_mesh
from crosscale.tasks.classification import Classification
from tests.engine.conftest import TinyModel

ROOT = Path(__file__).parents[2]


class Program:
    """Stands for a jitted function; tells what is done with it."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell

    def lower(self, *args: Any) -> "Program":
        return self

    def compile(self) -> None:
        self.tell("compiled")

    def __call__(self, *args: Any) -> None:
        self.tell("run")


def test_every_new_shape_is_compiled_and_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(joint, "spans_processes", lambda mesh: True)
    monkeypatch.setattr(joint, "wait_for_all", lambda name: done.append("met"))
    run = begun_together(Program(done.append), data_mesh())
    first = ["compiled", "met", "run"]
    run("state", {"image": jnp.zeros((2, 8))})
    assert done == first
    run("state", {"image": jnp.ones((2, 8))})
    assert done == [*first, "run"]
    run("state", {"image": jnp.zeros((2, 4))})
    run("state", {"image": jnp.zeros((2, 4), jnp.uint8)})
    run("state", {"image": jnp.zeros((2, 4)), "size": jnp.zeros((2, 2))})
    assert done == [*first, "run", *first, *first, *first]


def test_what_one_process_runs_alone_is_as_it_was() -> None:
    program = jax.jit(lambda x: x)
    assert begun_together(program, data_mesh()) is program


def test_a_step_of_training_is_one_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(step, "begun_together", lambda program, mesh: asked.append(mesh))
    mesh, optimizer = data_mesh(), optax.sgd(1.0)
    step.make_train_step(TinyModel(), InputSpec(), Classification(4), optimizer, lambda at: 0.1, mesh, seed=0)
    step.make_eval_step(TinyModel(), InputSpec(), Classification(4), mesh)
    assert asked == [mesh, mesh]


@pytest.mark.slow
def test_no_process_waits_inside_a_program_for_one_that_compiles_late() -> None:
    late = 6
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    script = [sys.executable, str(ROOT / "tests" / "cluster" / "late_compiling.py"), place, "2"]
    both = [
        subprocess.Popen([*script, str(i), str(late)], env=env, stdout=subprocess.PIPE, text=True) for i in range(2)
    ]
    said = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    found = json.loads(said[0].splitlines()[-1])
    assert found["step"] > late  # it did wait, but
    assert found["together"] < late / 2  # not inside the program, where Gloo would count
    assert found["met"] == 1
