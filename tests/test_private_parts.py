"""Parts of other libraries that are not their public interface: one file uses each, and here each is looked for.

A test that fails here after an upgrade names the file that has to change.
"""

import argparse
import inspect
import io
import re
import tarfile
from pathlib import Path

import h11
import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from crosscale.cli.arguments import Parser
from crosscale.serve.timed_http import timed_protocol

PACKAGE = Path(__file__).parent.parent / "crosscale"
USERS = {
    r"jax\._src\.distributed": ["cluster/watch.py"],
    r"jax\._src\.xla_bridge": ["cli/main.py"],
    r"_option_string_actions": ["cli/arguments.py"],
    r"TMP_DIR_SUFFIX": ["engine/checkpoint.py"],
    r"h11_impl|trailing_data": ["serve/timed_http.py"],
    r"tar\.members": ["data/tar_index.py"],
    r"torch\._inductor": ["benchmark/torch_models.py"],
    r"_DEFAULT_BARRIER_TIMEOUT": ["engine/checkpoint.py"],
    r"\b_src\b": ["cli/main.py", "cluster/watch.py", "engine/checkpoint.py"],
}


@pytest.mark.parametrize("pattern", USERS)
def test_one_file_uses_each(pattern):
    found = [p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py") if re.search(pattern, p.read_text())]
    assert sorted(found) == USERS[pattern]


def test_jax_keeps_the_state_of_several_processes():
    from jax._src.distributed import global_state
    from jax._src.lib import _jax

    for name in ("client", "process_id", "num_processes", "coordinator_address"):
        assert hasattr(global_state, name), f"cluster/watch.py reads global_state.{name}"
    for name in (
        "key_value_set", "key_value_dir_get", "blocking_key_value_get", "wait_at_barrier", "get_live_nodes",
    ):  # fmt: skip
        assert hasattr(_jax.DistributedRuntimeClient, name), f"cluster/ calls client().{name}"


def test_jax_logs_its_choice_of_a_backend_under_that_name():
    from jax._src import xla_bridge

    assert xla_bridge.logger.name == "jax._src.xla_bridge", "cli/main.py quietens this logger"


def test_argparse_lists_the_options_of_groups_too():
    parser = Parser("train", description="", epilog="")
    parser.add_argument_group("a").add_argument("--inside")
    parser.add_argument("--hidden", help=argparse.SUPPRESS)
    assert {"--inside", "--hidden"} <= set(parser.known_options())


def test_orbax_names_an_unfinished_checkpoint_so(tmp_path):
    """Digests are written into the folder before it gets its name: engine/checkpoint.py looks for it."""
    import numpy as np

    from crosscale.engine.checkpoint import Checkpoints
    from crosscale.engine.digests import check_digests

    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(1, {"w": np.ones(3, np.float32)}, {"step": 1})
    checkpoints.wait()
    checkpoints.close()
    check_digests(tmp_path / "checkpoints" / "1", below=("state", "progress"))
    first = next(p for p in (tmp_path / "checkpoints" / "1" / "state").rglob("*") if p.is_file() and p.stat().st_size)
    first.write_bytes(first.read_bytes()[::-1] + b"x")
    with pytest.raises(Exception, match=first.name):
        check_digests(tmp_path / "checkpoints" / "1", below=("state", "progress"))


def test_orbax_reads_its_limit_each_time():
    from orbax.checkpoint._src.multihost import multihost

    from crosscale.engine.checkpoint import _LONG_SECONDS

    assert multihost.coordination_timeout() == _LONG_SECONDS, "engine/checkpoint.py sets it"


def test_uvicorn_and_h11_have_what_the_limit_on_time_hooks_into():
    for name in ("connection_made", "connection_lost", "handle_events", "on_response_complete", "pause_writing"):
        assert callable(getattr(H11Protocol, name)), f"serve/timed_http.py overrides {name}"
        assert getattr(timed_protocol(1.0), name) is not getattr(H11Protocol, name)
    said = inspect.getsource(H11Protocol.__init__)
    for name in ("conn", "cycle", "loop", "transport"):
        assert re.search(rf"self\.{name}\b", said), f"serve/timed_http.py reads self.{name}"
    assert "self.handle_events()" in inspect.getsource(H11Protocol.data_received)
    assert "response_complete" in inspect.getsource(RequestResponseCycle.__init__)
    assert isinstance(h11.Connection(h11.SERVER).trailing_data, tuple)
    for name in ("capture_signals", "handle_exit"):
        assert callable(getattr(uvicorn.Server, name)), f"serve/server.py uses Server.{name}"


def test_tarfile_goes_on_when_its_list_of_members_is_emptied():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:") as tar:
        for name in ("a", "b", "c"):
            tar.addfile(tarfile.TarInfo(name))
    file.seek(0)
    seen = []
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            assert len(tar.members) == 1, "data/tar_index.py empties the list to save memory"
            seen.append(member.name)
            tar.members = []
    assert seen == ["a", "b", "c"]
