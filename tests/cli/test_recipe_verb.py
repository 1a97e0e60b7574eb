"""`crosscale recipe`: what it lists, prints, explains and checks, against the recipes themselves."""

import json
from pathlib import Path

import pytest
import yaml

from crosscale.cli.main import main
from crosscale.recipe import Recipe, dump, load, recipe_keys, shipped_recipes


def run(capsys, *words):
    assert main(["recipe", *words]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def explained(capsys, key):
    return json.loads(run(capsys, "explain", key, "--json"))["keys"]


def test_list_is_every_shipped_recipe_with_a_line(capsys):
    recipes = json.loads(run(capsys, "--json"))["recipes"]
    assert [recipe["name"] for recipe in recipes] == shipped_recipes()
    text = run(capsys, "list")
    for recipe in recipes:
        assert recipe["header"].startswith(recipe["summary"] + "\n")
        assert recipe["summary"] in text
        assert "crosscale train --" in recipe["header"]
        assert "#" not in recipe["summary"]


def test_show_is_the_resolved_recipe(capsys, tmp_path):
    out = run(capsys, "show", "digits", "--train.epochs", "3", "--model.options.drop-path-rate", "0.2")
    wanted = load("digits", {"train.epochs": "3", "model.options.drop_path_rate": "0.2"})
    assert out == dump(wanted)
    file = tmp_path / "mine.yaml"
    file.write_text(out)
    assert load(file) == wanted
    shown = json.loads(run(capsys, "show", str(file), "--json"))
    assert shown == yaml.safe_load(out)


def test_explain_a_key(capsys):
    [row] = explained(capsys, "optimizer.layer_decay")
    assert row["description"] == recipe_keys()["optimizer.layer_decay"].doc
    assert (row["type"], row["range"], row["default"]) == (
        "a number or null",
        "must be positive, and at most 10, or null",
        None,
    )
    assert row["recipes"] == {"finetune": load("finetune").optimizer.layer_decay}
    text = run(capsys, "explain", "optimizer.layer_decay")
    for part in (row["description"], row["type"], row["range"], "finetune 0.75", "optimizer: {layer_decay: V}"):
        assert part in text


def test_explain_names_who_sets_a_key_to_what(capsys):
    for key, get in (("train.epochs", lambda r: r.train.epochs), ("data.size", lambda r: r.data.size)):
        [row] = explained(capsys, key)
        default = get(Recipe())
        for name in shipped_recipes():
            value = get(load(name))
            assert row["recipes"].get(name, default) == (list(value) if isinstance(value, tuple) else value)


def test_explain_a_section_is_all_its_keys(capsys):
    rows = explained(capsys, "augment")
    assert [row["key"] for row in rows] == [key for key in recipe_keys() if key.startswith("augment.")]
    text = run(capsys, "explain", "augment")
    assert all(row["key"] in text and row["description"] in text for row in rows)


def test_explain_knows_older_names_tasks_and_the_models_fields(capsys):
    assert [row["key"] for row in explained(capsys, "train.label_smoothing")] == ["task.label_smoothing"]
    assert explained(capsys, "task.huber_delta")[0]["tasks"] == ["regression"]
    assert explained(capsys, "task.name")[0]["tasks"] == [
        "classification", "multilabel", "regression", "segmentation", "detection", "instances"
    ]  # fmt: skip
    of = {row["family"]: row for row in explained(capsys, "model.options.drop_path_rate")}
    on_crossformer = [
        "crossformer",
        *(f"{head}_crossformer" for head in ("semantic_fpn", "upernet", "retinanet", "mask_rcnn")),
    ]
    defaults = {"crossvit": 0.0, "semantic_fpn_crossvit": 0.0, **dict.fromkeys(on_crossformer, 0.1)}
    assert {family: row["default"] for family, row in of.items()} == defaults
    assert "stochastic depth" in of["crossvit"]["description"]
    assert of["crossvit"]["recipes"]["digits"] == 0.05
    fusion, of_segmentation = explained(capsys, "model.options.fusion")
    assert (fusion["family"], of_segmentation["family"]) == ("crossvit", "semantic_fpn_crossvit")
    assert fusion["default"] == "cross_attention"
    assert "model: {options: {fusion: V}}" in run(capsys, "explain", "model.options.fusion")


def test_every_key_can_be_explained(capsys):
    for key in recipe_keys():
        assert [row["key"] for row in explained(capsys, key)] == [key]


@pytest.mark.slow
def test_check_tells_what_it_found(capsys):
    facts = json.loads(run(capsys, "check", "crossvit_ibm", "--json"))
    assert (facts["model"], facts["parameters"], facts["input"]) == ("crossvit_15_240", 27528464, [240, 240, 3])
    assert (facts["task"], facts["epochs"], facts["batch_size"]) == ("classification", 300, 4096)
    assert "56,544 parameters" in run(capsys, "check", "smoke")


@pytest.mark.slow
def test_check_needs_neither_data_nor_a_table(capsys, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("task: {name: regression}\ndata: {dir: /no/such/table.csv}\nmesh: {data: 64}\n")
    assert json.loads(run(capsys, "check", str(file), "--json"))["task"] == "regression"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer: {lrr: 1}", "unknown key 'optimizer.lrr'; did you mean 'lr'?"),
        ("model: {options: {dpeth: 1}}", "crossvit_9_240 has no option 'dpeth'; did you mean 'depth'?"),
        ("model: {options: {drop_path_rate: 2}}", "drop_path_rate=2"),
        ("model: {options: {depth: [[1, 1]]}}", "depth"),
        ("model: {name: crossvt}", "unknown model 'crossvt'"),
        ("optimizer: {frozen: [stem]}", "optimizer.frozen: 'stem' matches no parameter"),
        (
            "schedule: {warmup_epochs: 30}\ntrain: {epochs: 20}",
            "schedule.warmup_epochs=30 is longer than train.epochs=20",
        ),
        ("optimizer: {accumulate: 3}", "train.batch_size=256 does not divide evenly into optimizer.accumulate=3 parts"),
        ("validate: {best: accuracy}", "validate.best=accuracy: one of "),
        ("model: {options: {norm_layer: x}}", "norm_layer='x' builds nothing"),
        ("model: {options: {name: x}}", "model.options: no crossvit_9_240 can be built from them ("),
        ("model: {options: {img_size: 1000000}}", "model.options.img_size: 1000000 is absurdly large; at most 8,192"),
        ("data: {mean: []}", "data.mean=[]: the model takes 3 channels"),
        ("data: {mean: [0.1, 0.2]}", "data.mean=[0.1, 0.2]: the model takes 3 channels"),
    ],
)
def test_check_refuses_in_one_line_that_names_file_and_key(text, message, tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    assert main(["recipe", "check", str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"crosscale recipe: error: {file}: ")
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shw", "digits"], "unknown action 'shw'; did you mean 'show'?"),
        (["show"], "show needs NAME"),
        (["show", "digts"], "did you mean 'digits'?"),
        (["show", "digits", "--train.epoch", "3"], "unknown option '--train.epoch'; did you mean '--train.epochs'?"),
        (["show", "digits", "--train.epochs", "0"], "train.epochs=0: must be positive"),
        (["explain"], "explain needs KEY"),
        (["explain", "lr"], "unknown recipe key 'lr'; did you mean 'optimizer.lr'?"),
        (["explain", "optimiser"], "did you mean 'optimizer'?"),
        (["explain", "qqqq"], "the sections are model, data, task, "),
        (["explain", "model.options.drop_path"], "no model has an option 'drop_path'; did you mean 'drop_path_rate'?"),
        (["explain", "optimizer.lr", "--optimizer.lr", "1"], "--optimizer.lr goes with show and check"),
        (["list", "digits"], "`crosscale recipe show digits`"),
        (["digits"], "unknown action 'digits'"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(words, message, capsys):
    assert main(["recipe", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


def test_page_shows_commands_that_work(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    commands = [
        line.partition(" #")[0].split()[1:] for line in page.splitlines() if line.startswith("crosscale recipe")
    ]
    assert len(commands) == 6
    for words in commands:
        if ">" in words:
            Path(words[-1]).write_text(run(capsys, *words[1:-2]))
        else:
            run(capsys, *words[1:])
