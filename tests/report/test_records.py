"""Reading run folders, whole and damaged."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from crosscale.errors import RequestError
from crosscale.report.records import flat_recipe, read_run, repeat_command

LINES = [
    {
        "kind": "train",
        "step": 5,
        "epoch": 0.5,
        "loss": 2.0,
        "lr": 1e-3,
        "images_per_second": 90.0,
        "data_wait": 0.1,
        "loss_labels": 1.5,
        "loss_teacher": 0.5,
    },
    {"kind": "train", "step": 10, "epoch": 1.0, "loss": None, "lr": 2e-3, "images_per_second": 95.0, "data_wait": 0.2},
    {"kind": "nonfinite", "step": 10, "tensor": "loss"},
    {"kind": "validate", "step": 10, "epoch": 1, "loss": 1.5, "top1": 0.4, "top5": 0.9, "images_per_second": 200.0},
]


def test_curves(written):
    run = read_run(written("a", LINES))
    assert run.curves.loss == [(0.5, 2.0)]  # a loss that was not finite is no point
    assert run.curves.lr == [(0.5, 1e-3), (1.0, 2e-3)]
    assert run.curves.measures == {"loss": [(1.0, 1.5)], "top1": [(1.0, 0.4)], "top5": [(1.0, 0.9)]}
    assert run.curves.parts == {"labels": [(0.5, 1.5)], "teacher": [(0.5, 0.5)]}
    assert run.curves.val_rate == [(1.0, 200.0)]
    assert (run.steps, run.skipped_steps, run.epochs, run.planned_epochs) == (10, 1, 1.0, 4)
    assert run.best is None
    assert run.metrics == {}


def test_epochs_shorter_than_the_logs_window(written):
    lines = []
    for epoch in (1, 2, 3):
        lines.append({"kind": "epoch", "step": 4 * epoch, "epoch": epoch, "train_loss": 3.0 / epoch, "lr": 1e-3})
        lines[-1]["seconds"] = 2.5
    run = read_run(written("a", [*lines, {"kind": "train", "step": 8, "epoch": 2.0, "loss": 9.0, "lr": 5.0}]))
    assert run.curves.loss == [(1.0, 3.0), (2.0, 1.5), (3.0, 1.0)]
    assert run.curves.lr == [(1.0, 1e-3), (2.0, 1e-3), (3.0, 1e-3)]
    assert run.seconds == 7.5
    assert run.goes_on  # 3 of 4
    assert not read_run(written("b", lines, "train: {epochs: 3}\n")).goes_on
    assert read_run(written("c", LINES)).seconds is None  # of an older version


def test_a_run_out_of_patience_goes_on_only_where_training_would(written):
    recipe = "train: {epochs: 30, early_stop_epochs: 3}\n"

    def goes_on(epochs, validated, extended=()):
        lines = [{"kind": "epoch", "step": n, "epoch": n, "train_loss": 1.0, "lr": 1e-3} for n in range(1, epochs + 1)]
        lines += [{"kind": "validate", "step": n, "epoch": n, "loss": 1.0} for n in validated]
        lines += [{"kind": "extend", "step": n, "epoch": n} for n in extended]
        run = read_run(written(f"{epochs}-{extended}", lines, recipe))
        return replace(run, best=SimpleNamespace(epoch=5)).goes_on

    assert goes_on(8, [5])  # patience is judged at a validation
    assert not goes_on(10, [5, 10])
    assert goes_on(10, [5, 10], extended=[10])


def test_a_torn_last_line_is_left_out(written):
    folder = written("a", LINES)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 15, "lo')
    assert read_run(folder).steps == 10


def test_flat_recipe():
    nested = {"model": {"name": "x", "options": {"depth": [[1, 2]]}}, "train": {"epochs": 3}}
    assert flat_recipe(nested) == {"model.name": "x", "model.options.depth": [[1, 2]], "train.epochs": 3}


def test_repeat_command_quotes(written):
    folder = written("a run", LINES)
    command = repeat_command(read_run(folder))
    assert command == f"crosscale train --config '{folder}/recipe.yaml' --output-dir '{folder}-again'"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such run folder"),
        (lambda path: path.write_text(""), "a file, not a run folder"),
        (lambda path: path.mkdir(), "not a run folder"),
    ],
)
def test_what_is_no_run(tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(RequestError, match=message):
        read_run(tmp_path / "x")


def test_a_damaged_config(written):
    folder = written("a", LINES)
    (folder / "best").mkdir()
    (folder / "best" / "config.json").write_text("{")
    with pytest.raises(RequestError, match="cannot be read as JSON"):
        read_run(folder)
