"""Recipes: strict in what they take, with a message that helps; resolved and read back equal."""

from dataclasses import replace
from pathlib import Path

import pytest

from crosscale.errors import RequestError
from crosscale.recipe import Recipe, differences, dump, load, override, parse, recipe_keys, shipped_recipes
from crosscale.runs.experiment import build


def write(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"optimiser": {}}, "unknown key 'optimiser'; did you mean 'optimizer'?"),
        ({"optimizer": {"wieght_decay": 0.1}}, "unknown key 'optimizer.wieght_decay'; did you mean 'weight_decay'?"),
        ({"optimizer": {"xyz": 1}}, "unknown key 'optimizer.xyz'; one of: name, lr, "),
        ({"optimizer": {"lr": "fast"}}, "optimizer.lr: expected a number, got 'fast'"),
        ({"optimizer": {"lr": None}}, "optimizer.lr: expected a number, got null"),
        ({"optimizer": {"lr": True}}, "optimizer.lr: expected a number, got true"),
        ({"train": {"epochs": 64.5}}, "train.epochs: expected a whole number, got 64.5"),
        ({"train": {"epochs": "64"}}, "train.epochs: expected a whole number, got '64'"),
        ({"train": {"epochs": True}}, "train.epochs: expected a whole number, got true"),
        ({"optimizer": {"nesterov": 1}}, "optimizer.nesterov: expected true or false, got 1"),
        ({"optimizer": {"name": "adam"}}, "expected adamw or sgd or lamb, got 'adam'; did you mean 'adamw'?"),
        ({"optimizer": {"betas": [0.9]}}, "optimizer.betas: expected a list of a number, a number, got [0.9]"),
        ({"optimizer": {"betas": ["a", 1]}}, "optimizer.betas[0]: expected a number, got 'a'"),
        ({"optimizer": {"no_decay": "bias"}}, "optimizer.no_decay: expected a list, each a text, got 'bias'"),
        ({"optimizer": 3}, "optimizer: expected a section of 'key: value' lines, got 3"),
        ({"model": {"options": [1]}}, "model.options: expected key: value pairs, got [1]"),
        ({"train": {"ema_decay": "x"}}, "train.ema_decay: expected a number or null, got 'x'"),
        ({"model": {"pretrained": 3}}, "model.pretrained: expected true or false or a text, got 3"),
        ({"optimizer": {"no_decay": ["a("]}}, "optimizer.no_decay: 'a(' is not a regular expression"),
        ({"optimizer": {"lr": 0}}, "optimizer.lr=0.0: must be positive"),
        ({"optimizer": {"lr": float("nan")}}, "optimizer.lr=nan: must be positive"),
        ({"optimizer": {"betas": [0.9, 1]}}, "optimizer.betas=(0.9, 1.0): must lie in"),
        ({"train": {"ema_decay": 1.0}}, "train.ema_decay=1.0: must lie between 0 and 1, or be null"),
        ({"optimizer": {"lr": 1e300}}, "optimizer.lr=1e+300: must be positive, and at most 1e30"),
        (
            {"optimizer": {"layer_decay": 1e300}},
            "optimizer.layer_decay=1e+300: must be positive, and at most 10, or null",
        ),
        (
            {"schedule": {"cycles": 10**12}},
            "schedule.cycles=1000000000000: must be positive, and at most 2,147,483,647",
        ),
        (
            {"train": {"steps": 10**11}},
            "train.steps=100000000000: must be positive, and at most 2,147,483,647, or null",
        ),
        ({"train": {"epochs": 10**21}}, "at most 2,147,483,647"),
        ({"train": {"batch_size": 0}}, "train.batch_size=0: must be positive"),
        ({"data": {"crop_pct": 1.5}}, "data.crop_pct=1.5: must lie in"),
        ({"augment": {"hflip": 2}}, "augment.hflip=2"),
        ({"data": {"workers": -1}}, "data.workers=-1: must not be negative"),
        ({"data": {"threads": 0}}, "data.threads=0: must be positive, or null"),
        ({"data": {"size": [0, 5]}}, "data.size=[0, 5]: height and width must lie in 1..8192, or be null"),
        ({"data": {"std": [0.2, 0]}}, "data.std=[0.2, 0.0]: every value must be positive"),
        ({"distill": {"share": 2}}, "distill.share=2.0: must lie in 0 <= value <= 1, or be null"),
        ({"data": {"size": 10**20}}, "height and width must lie in 1..8192, or be null"),
        ({"data": {"mean": [float("nan")]}}, "data.mean=[nan]: every value must be a finite number, or be null"),
        ({"optimizer": {"lr": 10**400}}, "optimizer.lr: expected a number, got 1000"),
        ({"mesh": {"fsdp": 0}}, "mesh.fsdp=0: must be positive, or -1 for all that is left"),
        ({"data": {"size": "big"}}, "got 'big'; write it as '[96, 96]', or one number for both"),
        ({"data": {"size": [96]}}, "got [96]; write it as '[96, 96]', or one number for both"),
        ({"data": {"size": True}}, "got true; write it as"),
        ({"data": {"size": 96.5}}, "got 96.5; write it as"),
        ({"augment": {"scale": 0.5}}, "got 0.5; write it as '[0.08, 1.0]'"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_key(plain: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError) as error:
        parse(plain)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_one_number_is_both_sides(tmp_path: Path) -> None:
    assert parse({"data": {"size": 96}}).data.size == (96, 96)
    assert load(write(tmp_path, "data: {size: [96, 64]}"), {"data.size": "48"}).data.size == (48, 48)


def test_an_exponent_without_a_dot_is_a_number(tmp_path: Path) -> None:
    recipe = load(write(tmp_path, "optimizer: {lr: 1e-4, eps: 1E-6}\nschedule: {min_lr: 1e-5}"))
    assert (recipe.optimizer.lr, recipe.optimizer.eps, recipe.schedule.min_lr) == (1e-4, 1e-6, 1e-5)


def test_merge_keys_take_what_a_section_does_not_say_itself(tmp_path: Path) -> None:
    assert load(write(tmp_path, "model: {options: {<<: {in_channels: 1}}}")).model.options == {"in_channels": 1}
    # b is written out of a before a is read itself
    text = "model: {options: {x: {deep: {a: &a {<<: &c {p: 1, q: 2}, p: 3}}}, y: {<<: [*a, {q: 5, r: 6}], q: 4}}}"
    options = load(write(tmp_path, text)).model.options
    assert options == {"x": {"deep": {"a": {"p": 3, "q": 2}}}, "y": {"p": 3, "q": 4, "r": 6}}


# Ten names, each ten times the one before.
LAUGHS = "\n".join(f"x{i}: &{'abcdefghijk'[i]} [{', '.join(['*' + 'abcdefghijk'[i - 1]] * 10)}]" for i in range(1, 10))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epochs: 3\nx", "not YAML (line "),
        ("[1, 2]", "holds [1, 2], not 'section: ...' lines"),
        ("train: {epochs: 3, epochs: 4}", "not YAML (line 1: the key 'epochs' appears twice)"),
        ("model: {options: {<<: {x: 1}, y: 2, y: 3}}", "not YAML (line 1: the key 'y' appears twice)"),
        ("model: {options: {<<: {x: 1, x: 2}}}", "not YAML (line 1: the key 'x' appears twice)"),
        ("model: {options: {<<: {x: 1}, <<: {y: 1}}}", "not YAML (line 1: the key '<<' appears twice)"),
        ("model: {options: {<<: 3}}", "not YAML (line 1: expected a mapping or list of mappings for merging"),
        ("model: {options: &a {x: *a}}", "not YAML (line 1: an alias lies inside what it names)"),
        ("model: {options: {x: &a [*a]}}", "not YAML (line 1: an alias lies inside what it names)"),
        ("a: &a {x: 1}\nb: {<<: *c}", "not YAML (line 2: found undefined alias"),
        ("x: &a [" + "1, " * 99 + "1]\n" + LAUGHS, "aliases turn it into more than 1,000,000 values)"),
        ("x: &a {k: v}\n" + LAUGHS.replace("[", "{<<: [").replace("]", "]}"), "aliases turn it into more than"),
        (
            "model: {options: {x: " + "[" * 200 + "]" * 200 + "}}",
            "not YAML (line 1: brackets or sections are nested too deep",
        ),
        ("x: !!timestamp 2026-02-30", "not YAML (day is out of range for month)"),
        ("x: !!int one", "not YAML (invalid literal for int()"),
        ("x: " + "1" * 5000, "not YAML (Exceeds the limit"),
        ("[" * 3000, "not YAML (brackets or sections are nested too deeply)"),
        ("train: {seed: 2026-02-30}", "train.seed: expected a whole number, got '2026-02-30'"),
        ("train: {epoch: 3}", "unknown key 'train.epoch'; did you mean 'epochs'?"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RequestError) as error:
        load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


def test_aliases_and_dates_in_a_folders_name_are_taken(tmp_path: Path) -> None:
    recipe = load(write(tmp_path, "optimizer: {no_decay: &x [bias], frozen: *x}\ndata: {dir: 2026-02-28}"))
    assert recipe.optimizer.no_decay == recipe.optimizer.frozen == ("bias",)
    assert recipe.data.dir == "2026-02-28"
    assert load(write(tmp_path, dump(recipe))) == recipe


def test_an_override_that_is_no_yaml_is_a_text() -> None:
    for text in ("&a [*a]", "!!timestamp 2026-02-30", "[" * 3000):
        with pytest.raises(RequestError, match=r"^data\.size: expected a list"):
            override(Recipe(), {"data.size": text})


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load(write(tmp_path, "# nothing yet\n")) == Recipe()


def test_an_unknown_name_lists_the_shipped_recipes() -> None:
    with pytest.raises(RequestError, match=r"'digts' .*did you mean 'digits'\? \(shipped: .*digits.*smoke"):
        load("digts")


def test_overrides_are_typed_like_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "optimizer: {lr: 0.1}\nmodel: {options: {depth: [[1, 1, 0]]}}")
    recipe = load(
        path,
        {
            "optimizer.lr": "1e-3",
            "optimizer.betas": "[0.8, 0.9]",
            "optimizer.clip_norm": "null",
            "data.dir": "123",
            "augment.auto_augment": "null",
            "train.ema_decay": "0.9",
            "model.pretrained": "true",
            "model.options.img_size": "[32, 32]",
        },
    )
    assert (recipe.optimizer.lr, recipe.optimizer.betas, recipe.optimizer.clip_norm) == (1e-3, (0.8, 0.9), None)
    assert (recipe.data.dir, recipe.augment.auto_augment, recipe.train.ema_decay) == ("123", None, 0.9)
    assert recipe.model.pretrained is True
    assert recipe.model.options == {"depth": [[1, 1, 0]], "img_size": [32, 32]}
    assert load(path, {"model.pretrained": "w.safetensors"}).model.pretrained == "w.safetensors"


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("lr", "1", "unknown recipe key 'lr'; did you mean 'optimizer.lr'?"),
        ("optimizer.lrr", "1", "unknown recipe key 'optimizer.lrr'; did you mean 'optimizer.lr'?"),
        ("train.epochs", "many", "train.epochs: expected a whole number, got 'many'"),
        ("train.epochs", "2.5", "train.epochs: expected a whole number, got 2.5"),
        ("optimizer.betas", "[0.9", "optimizer.betas: expected a list"),
    ],
)
def test_a_wrong_override_is_named(key: str, text: str, message: str) -> None:
    with pytest.raises(RequestError) as error:
        override(Recipe(), {key: text})
    assert message in str(error.value)


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_reads_back_equal_from_its_dump(name: str, tmp_path: Path) -> None:
    recipe = load(name)
    assert load(write(tmp_path, dump(recipe))) == recipe
    text = (Path(__file__).parent.parent / "crosscale" / "recipes" / f"{name}.yaml").read_text()
    assert "\n#   crosscale train --" in text  # the command that it is for
    assert ("Expected: " in text) == (name in ("digits", "smoke"))  # the others were not trained here


def test_texts_that_look_like_numbers_survive_the_dump(tmp_path: Path) -> None:
    names = ("1e-4", "007", "null", "true", "3.5", "ü, [x]", "")
    recipe = override(Recipe(), {})
    recipe = replace(recipe, data=replace(recipe.data, classes=names, dir="1e5"))
    assert load(write(tmp_path, dump(recipe))) == recipe


def test_every_key_is_described() -> None:
    undescribed = [name for name, key in recipe_keys().items() if len(key.doc) < 10]
    assert undescribed == []


def test_differences_name_the_keys() -> None:
    other = override(Recipe(), {"optimizer.lr": "0.5", "train.epochs": "7"})
    assert differences(Recipe(), other) == {"optimizer.lr": (1e-3, 0.5), "train.epochs": (300, 7)}


def test_another_models_options_are_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    recipe = load("digits", {"model.name": "crossvit_9_240", "model.options.drop_path_rate": "0.2"})
    assert recipe.model.options == {"drop_path_rate": 0.2}
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("model.name is now crossvit_9_240; left out are the options of crossvit: img_")
    caplog.clear()
    assert load("crossvit_ibm", {"model.name": "crossvit_18_240"}).model.options == {"drop_path_rate": 0.1}
    preset = override(Recipe(), {"model.options.depth": "[[1, 1, 1]]", "model.options.drop_rate": "0.1"})
    assert override(preset, {"model.name": "crossvit_9_224"}) == replace(
        preset, model=replace(preset.model, name="crossvit_9_224")
    )
    assert caplog.messages == []
    assert override(preset, {"model.name": "crossvit_15_240"}).model.options == {"drop_rate": 0.1}
    assert caplog.messages == ["model.name is now crossvit_15_240; left out are the options of crossvit_9_240: depth"]


def test_one_mean_is_for_all_channels() -> None:
    spec = build(load("digits", {"model.name": "crossvit_tiny_240"})).spec
    assert (spec.channels, spec.mean, spec.std) == (3, (0.3,) * 3, (0.37,) * 3)
    with pytest.raises(RequestError, match=r"data\.mean=\[0\.3, 0\.3\]: the model takes 1 channels"):
        build(load("digits", {"data.mean": "[0.3, 0.3]"}))
