"""The command's frame: help, verbs, exit statuses and one-line errors."""

import errno
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from crosscale.cli import main as cli
from crosscale.cli.arguments import Parser, positive_int
from crosscale.cli.main import main
from crosscale.cli.output import print_json, print_table
from crosscale.errors import RequestError, WorkError


def run_process(*words, **environment):
    return subprocess.run(
        [sys.executable, "-m", "crosscale", *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


@pytest.fixture
def verb(monkeypatch):
    """Replaces the table's verbs by one, `work`, whose `run` the test supplies."""

    def install(run):
        module = types.ModuleType("crosscale_test_verb")
        module.run = run
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(cli, "VERBS", {"work": cli.Verb(module.__name__, "does the test's work")})

    return install


def raising(error):
    def run(argv, *, as_json):
        raise error

    return run


def test_help_lists_every_verb_and_the_exit_statuses(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for name, row in cli.VERBS.items():
        assert f"  {name}" in out
        assert row.summary in out
    assert "exit status:" in out


def test_help_answers_without_importing_the_numeric_stack():
    script = (
        "import sys; from crosscale.cli.main import main; status = main(['--help'])\n"
        "heavy = {'jax', 'flax', 'grain', 'orbax', 'optax', 'PIL', 'rich'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("name", list(cli.VERBS))
def test_every_verb_explains_itself(name, capsys):
    assert main([name, "--help"]) == 0
    captured = capsys.readouterr()
    assert f"crosscale {name}" in captured.out
    assert "example" in captured.out.lower()
    assert "exit status" in captured.out.lower()
    assert captured.err == ""


def test_help_verb_is_the_verbs_help(capsys):
    assert main(["help", "models"]) == 0
    first = capsys.readouterr().out
    assert main(["models", "--help"]) == 0
    assert capsys.readouterr().out == first


def test_no_verb_shows_the_help_and_refuses(capsys):
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "usage: crosscale" in captured.err


def test_version_names_the_package(capsys):
    assert main(["--version"]) == 0
    name, version = capsys.readouterr().out.split()
    assert name == "crosscale"
    assert version[0].isdigit()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["validat"], "crosscale: error: unknown command 'validat'; did you mean 'validate'?"),
        (["--versoin"], "crosscale: error: unknown option '--versoin'; did you mean '--version'?"),
    ],
)
def test_unknown_word_suggests_the_nearest(words, message, capsys):
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == message + "\n"


def test_unknown_word_with_no_near_one_lists_the_verbs(capsys):
    assert main(["zzz"]) == 2
    assert "; one of: demo, models, data, train, sweep, validate, predict" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (RequestError("no such model"), 2, "no such model"),
        (WorkError("loss is not finite\nat step 3"), 1, "loss is not finite at step 3"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 1, "out of memory; a smaller batch size or image size needs less"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/a"),
            1,
            "no space left on the disc: runs/a; free some or choose another folder",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "secret"), 1, "Permission denied: secret"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: out of memory while allocating 9 bytes"),
            1,
            "out of device memory; a smaller batch size or image size needs less",
        ),
    ],
)
def test_failure_is_one_line_and_a_status(verb, capsys, error, status, line):
    verb(raising(error))
    assert main(["work"]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"crosscale work: error: {line}\n"


@pytest.mark.parametrize("kind", [RuntimeError, KeyError, ZeroDivisionError, AttributeError])
def test_what_was_not_foreseen_is_one_line_and_a_file_with_the_traceback(verb, capsys, kind):
    verb(raising(kind("shapes do not match\nat all")))
    assert main(["work"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    said, _, file = line.partition("; the traceback is in ")
    assert said.startswith(f"crosscale work: error: unforeseen {kind.__name__}: ")
    text = Path(file).read_text()
    Path(file).unlink()
    assert "Traceback (most recent call last)" in text
    assert "shapes do not match" in text


def test_traceback_on_demand(verb, capsys, monkeypatch):
    verb(raising(RequestError("no such model")))
    monkeypatch.setenv("CROSSCALE_TRACEBACK", "1")
    assert main(["work"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.endswith("crosscale work: error: no such model\n")


@pytest.mark.parametrize("words", [["work", "a", "--json"], ["--json", "work", "a"], ["work", "--json", "a"]])
def test_json_is_accepted_anywhere_and_taken_out(verb, words):
    seen = []
    verb(lambda argv, *, as_json: seen.append((argv, as_json)) or 0)
    assert main(words) == 0
    assert seen == [(["a"], True)]


def test_json_after_a_bare_double_dash_is_a_file_name(verb):
    seen = []
    verb(lambda argv, *, as_json: seen.append((argv, as_json)) or 0)
    assert main(["work", "--", "--json"]) == 0
    assert seen == [(["--", "--json"], False)]


def test_closed_pipe_is_quiet():
    """The reader leaves before the help is written: no message, and the status a signal would leave."""
    command = f"sleep 0.5; exec {sys.executable} -m crosscale --help"
    process = subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141


def test_module_runs_as_a_process():
    done = run_process("validat")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "did you mean 'validate'?" in done.stderr


@pytest.fixture
def parser():
    parser = Parser("work", description="d", epilog="e")
    parser.add_argument("files", nargs="*")
    parser.add_argument("--top-k", type=positive_int, default=5)
    return parser


def test_parser_takes_words_and_options_in_any_order(parser):
    options = parser.parse(["a", "--top-k", "3", "b"])
    assert (options.files, options.top_k) == (["a", "b"], 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top-q", "3"], r"unknown option '--top-q'; did you mean '--top-k'\?"),
        (["--top_k=3"], r"unknown option '--top_k'; did you mean '--top-k'\?"),
        (["--top", "3"], r"unknown option '--top'"),  # no abbreviations
        (["--top-k", "0"], r"argument --top-k: expected a whole number of at least 1, got '0'"),
        (["--top-k", "many"], r"at least 1, got 'many'"),
        (["--top-k"], r"argument --top-k: expected one argument; see crosscale work --help"),
    ],
)
def test_parser_errors_are_one_line(parser, words, message, capsys):
    with pytest.raises(RequestError, match=message) as caught:
        parser.parse(words)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_json_holds_plain_values_only(capsys):
    import numpy as np

    print_json({"a": np.float32(0.5), "b": float("nan"), "c": (1, np.arange(2)), "d": {"é": None}})
    assert json.loads(capsys.readouterr().out) == {"a": 0.5, "b": None, "c": [1, [0, 1]], "d": {"é": None}}


def test_piped_table_cuts_nothing_and_reads_no_markup(capsys):
    name = "x" * 200
    print_table(["name", "n"], [[name, "[red]1[/red]"]], right=["n"])
    out = capsys.readouterr().out
    assert name in out
    assert "[red]1[/red]" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("platforms", "error", "words"),
    [
        ("cuda", AssertionError(), "JAX_PLATFORMS=cuda: no such device was found"),
        ("nowhere", RuntimeError("Unable to initialize backend"), "JAX_PLATFORMS=nowhere: no such device was found"),
        (None, RuntimeError("Could not determine home directory."), "~: there is no such user"),
    ],
)
def test_surroundings_that_cannot_be_are_named(monkeypatch, capsys, platforms, error, words):
    def devices():
        raise error

    def work():
        raise error

    if platforms:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
    else:
        monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr("jax.devices", devices)
    assert cli._guarded("work", work) == 2
    assert capsys.readouterr().err.startswith(f"crosscale work: error: {words}")


@pytest.mark.parametrize(
    ("name", "value", "left_out"),
    [
        ("JAX_NUMPY_RANK_PROMOTION", "raise", True),
        ("JAX_NUMPY_DTYPE_PROMOTION", "strict", True),
        ("JAX_NUMPY_RANK_PROMOTION", "warn", False),
        ("JAX_TRANSFER_GUARD", "disallow", True),
        ("JAX_TRANSFER_GUARD_HOST_TO_DEVICE", "Disallow_Explicit", True),
        ("JAX_TRANSFER_GUARD", "log", False),
    ],
)
def test_modes_that_no_program_runs_in_are_left_out_with_a_word(monkeypatch, capsys, name, value, left_out):
    monkeypatch.setenv(name, value)
    cli._leave_out_modes()
    assert (name in os.environ) != left_out
    assert (f"{name}={value} is left out" in capsys.readouterr().err) == left_out
