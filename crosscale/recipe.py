"""A training recipe: typed sections, read strictly from YAML and dotted overrides, written back resolved."""

import logging
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from crosscale.artifact import MAX_SIDE
from crosscale.contracts import CropMode, Pixels
from crosscale.data.augment import Augment
from crosscale.engine.settings import (
    MeshSettings,
    OptimizerSettings,
    ScheduleSettings,
    TrainSettings,
    ValidateSettings,
)
from crosscale.errors import RequestError, did_you_mean
from crosscale.models.model import option_names
from crosscale.models.registry import FAMILIES, get_preset
from crosscale.ranges import ABOVE_ZERO, BELOW_ONE, NOT_NEGATIVE, POSITIVE, Range, check_ranges
from crosscale.tasks.distillation import DistillSettings
from crosscale.tasks.registry import DEFAULT, TASKS, task_kind
from crosscale.tasks.task import DeclaredData
from crosscale.typed import Key, Pair, dump_yaml, from_plain, keys_of, parse_scalar, read_yaml, to_plain

SHIPPED = Path(__file__).parent / "recipes"
# Keys that moved: recipes and commands with the old name go on to work.
RENAMED = {"train.label_smoothing": "task.label_smoothing"}

# What counts epochs -> the key that counts steps in its place, where it is set.
COUNTED_IN_STEPS = {
    "train.epochs": "train.steps",
    "train.eval_every": "train.steps",
    "schedule.warmup_epochs": "schedule.warmup_steps",
}

# Options that change the training alone and mean the same to every family.
_RATES = ("drop_rate", "attn_drop_rate", "drop_path_rate")

log = logging.getLogger("crosscale")

FOLDS = Range("must be 2 or more", lambda value: value >= 2)
SIZE = Range(f"height and width must lie in 1..{MAX_SIDE}", lambda side: 1 <= side <= MAX_SIDE, brackets=True)
MEAN = Range("every value must be a finite number", math.isfinite, brackets=True)
STD = Range("every value must be positive", POSITIVE.holds, brackets=True)


@dataclass(frozen=True)
class ModelSettings:
    """What is trained, and from which weights."""

    name: str = "crossvit_9_240"
    """A preset (`crosscale models` lists them), or a family's plain constructor such as crossvit."""
    options: dict[str, Any] = field(default_factory=dict)
    """Constructor fields that differ, such as drop_path_rate; num_classes comes from the data."""
    pretrained: bool | str = False
    """true for the preset's published weights, or a weight file or run folder; a head for other classes is new."""
    pretrained_only: tuple[str, ...] = ()
    """Patterns of the parameters to take from there; empty for all. The others are new."""


@dataclass(frozen=True)
class DataSettings:
    """Where the pictures are and how they are loaded; what is null is the model's own."""

    dir: str | None = None
    """A folder of images or shards, a table of paths and labels, an .npz file, hf:owner/name, or digits (they ship with
    scikit-learn)."""
    root: str | None = None
    """What the paths in a table are relative to; null is the table's folder."""
    classes: tuple[str, ...] | None = None
    """Class names in label order, as a run records them; where set, the data must have the same."""
    train_images: Annotated[int | None, POSITIVE] = None
    """The number of training images that --dry-run assumes where dir is not set."""
    val_images: Annotated[int | None, POSITIVE] = None
    """The number of held-out images that --dry-run assumes where dir is not set."""
    num_classes: Annotated[int | None, POSITIVE] = None
    """The number of classes that --dry-run assumes where dir is not set."""
    val_fraction: Annotated[float, BELOW_ONE] = 0.2
    """Share of each class that is held out where the folder has no val/; 0 trains on all and validates nothing."""
    subset: Annotated[float | None, ABOVE_ZERO] = None
    """Share of each class's training pictures that is used, for a first try; all held-out pictures stay."""
    folds: Annotated[int | None, FOLDS] = None
    """Cross-validation: the pictures to train on are cut into so many parts, and each is held out once; val_fraction
    and a val/ of the data's own mean nothing then."""
    fold: Annotated[int | None, POSITIVE] = None
    """Which of the folds is held out, from 1; null trains on all of them in turn, a run each."""
    folds_by: str | None = None
    """A column of the table; pictures that have the same value there, such as those of one patient, share a fold."""
    workers: Annotated[int, NOT_NEGATIVE] = 0
    """Processes that load; 0 loads in threads of the training process."""
    threads: Annotated[int | None, POSITIVE] = None
    """Loading threads per process; null is up to 8."""
    on_bad_image: Literal["error", "skip"] = "error"
    """What happens to a picture that does not decode: it ends the run, or is left out and counted."""
    decode: Literal["exact", "fast"] = "exact"
    """Pixels of training: as Pillow's, or from quicker libraries that differ a little; validation is exact."""
    channels: Annotated[int | None, POSITIVE] = None
    """How many channels the pictures have, for which the model is then built (in_channels); null is the model's, or
    that of the first picture where pictures are .npy files or TIFFs of many channels."""
    pixels: Pixels | None = None
    """Depth at which pictures are read: uint8 has 8 bits and 1 or 3 channels; float32 takes all bits and channels of
    16-bit PNG, TIFF and .npy. null is uint8 for 1 and 3 channels, else float32."""
    mean: Annotated[tuple[float, ...] | None, MEAN] = None
    """Per channel, of pixels scaled to 0..1; one number holds for all channels."""
    std: Annotated[tuple[float, ...] | None, STD] = None
    """Per channel, of pixels scaled to 0..1; one number holds for all channels."""
    size: Annotated[tuple[int, int] | None, SIZE, Pair("[96, 96]")] = None
    """Height and width that the model is fed, or one number for both; its branches rescale that to their own."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None
    """Filter of the validation resize."""
    crop_pct: Annotated[float | None, ABOVE_ZERO] = None
    """Share of the resized picture's side that the validation crop keeps."""
    crop_mode: CropMode | None = None
    """How validation and prediction fit a picture of another shape: center cuts off what is beyond, pad shows all of it
    with the mean colour around, squash all of it, its ratio given up. With the last two, crop_pct is 1 where null."""

    @property
    def declared(self) -> DeclaredData:
        """The sizes to assume where the data is not at hand."""
        return DeclaredData(self.train_images, self.val_images, self.num_classes, self.classes)

    def __post_init__(self) -> None:
        check_ranges("data", self)
        if self.folds is None and (self.fold is not None or self.folds_by is not None):
            raise RequestError("data.fold and data.folds_by go with data.folds, the number of folds")
        if self.folds is not None and self.fold is not None and self.fold > self.folds:
            raise RequestError(f"data.fold={self.fold}: must lie in 1..{self.folds}")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run."""

    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    task: Any = field(default_factory=lambda: TASKS[DEFAULT].Options())  # the options of the task that its name gives
    augment: Augment = field(default_factory=Augment)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    validate: ValidateSettings = field(default_factory=ValidateSettings)
    distill: DistillSettings = field(default_factory=DistillSettings)
    mesh: MeshSettings = field(default_factory=MeshSettings)


def shipped_recipes() -> list[str]:
    """Names that `load` takes in place of a path."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def header(name: str) -> list[str]:
    """The lines of the comment at the head of a shipped recipe's file: what it is, its commands, its source."""
    lines = takewhile(lambda line: line.startswith("#"), (SHIPPED / f"{name}.yaml").read_text("utf-8").splitlines())
    return [line.removeprefix("#").removeprefix(" ") for line in lines]


def set_by(key: str) -> dict[str, Any]:
    """Which shipped recipes set a dotted key, and to what; the others leave it at its default."""
    section, _, name = key.partition(".")
    result = {}
    for recipe in shipped_recipes():
        values: Any = _shipped(recipe).get(section)
        for part in name.split(".", 1) if name.startswith("options.") else [name]:
            values = values.get(part, MISSING) if isinstance(values, Mapping) else MISSING
        if values is not MISSING:
            result[recipe] = values
    return result


@cache
def _shipped(name: str) -> Mapping[str, Any]:
    """A shipped recipe's sections, only to be read; explaining a section asks for each of its keys."""
    return _renamed(read_yaml(SHIPPED / f"{name}.yaml"))


def model_options(name: str) -> dict[str, Key]:
    """A constructor field that recipes give as model.options.NAME: family -> what it is there.

    Raises:
      RequestError: no family has it.
    """
    import docstring_parser

    result, known = {}, set()
    for family, (model, _) in FAMILIES.items():
        known |= set(option_names(model))
        if name in option_names(model):
            params = docstring_parser.parse(model.__doc__ or "").params
            docs = {param.arg_name: " ".join((param.description or "").split()) for param in params}
            default = model.__dataclass_fields__[name].default
            result[family] = Key(type(default), to_plain(default), docs.get(name, ""))
    if not result:
        raise RequestError(f"no model has an option '{name}'{did_you_mean(name, sorted(known))}")
    return result


def find(name: str) -> Path:
    """The file of a recipe given by path or by shipped name.

    Raises:
      RequestError: neither a file nor a shipped recipe.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if name in shipped_recipes():
        return SHIPPED / f"{name}.yaml"
    hint = did_you_mean(name, shipped_recipes())
    shipped = ", ".join(shipped_recipes())
    raise RequestError(f"recipe '{name}' is neither a file nor a shipped recipe{hint} (shipped: {shipped})")


def load(name: str | Path, overrides: Mapping[str, str] | None = None) -> Recipe:
    """Reads a recipe.

    Args:
      name: a path, or the name of a shipped recipe.
      overrides: dotted key ("optimizer.lr", "model.options.depth") -> its value, as YAML writes it. With another
        model.name, the recipe's options of its own model are left out, except the rates of dropping.

    Raises:
      RequestError: no such recipe, not YAML, an unknown key, or a value of the wrong type or range. One
        line that names the file and the key.
    """
    path = find(str(name))
    plain = read_yaml(path)
    try:
        parse(plain)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None
    return parse(_overridden(plain, overrides or {}))


def parse(plain: Mapping[str, Any]) -> Recipe:
    """A recipe from nested dictionaries, as YAML gives them. Raises RequestError."""
    sections = _renamed(plain)
    task = sections.pop("task", None)
    return replace(from_plain(Recipe, sections), task=_task_options({} if task is None else task))


def override(recipe: Recipe, overrides: Mapping[str, str]) -> Recipe:
    """The recipe with some keys replaced; see `load`."""
    return parse(_overridden(to_plain(asdict(recipe)), overrides))


def dump(recipe: Recipe) -> str:
    """YAML of every key, which `load` reads back to an equal recipe."""
    return dump_yaml(to_plain(asdict(recipe)))


def differences(old: Recipe, new: Recipe) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ -> (old, new)."""
    result = {}
    for section in fields(Recipe):
        before, after = getattr(old, section.name), getattr(new, section.name)
        if type(before) is not type(after):  # the options of two tasks
            result[f"{section.name}.name"] = before.name, after.name
            continue
        for key in fields(before):
            pair = getattr(before, key.name), getattr(after, key.name)
            if pair[0] != pair[1]:
                result[f"{section.name}.{key.name}"] = pair
    return result


@cache
def recipe_keys() -> dict[str, Key]:
    """Every dotted key with its type, default and description; the options of all tasks under "task."."""
    result: dict[str, Key] = {}
    for section, kind in get_type_hints(Recipe).items():
        if section != "task":
            result |= keys_of(kind, section)
            continue
        options: dict[str, Key] = {}
        for task in TASKS.values():
            options = {**keys_of(task.Options, section), **options}
        name = options.pop("task.name")
        result["task.name"] = Key(Literal[tuple(TASKS)], DEFAULT, name.doc)
        result |= options
    return result


def _overridden(plain: Mapping[str, Any], overrides: Mapping[str, str]) -> dict[str, Any]:
    result = {name: dict(section or {}) for name, section in _renamed(plain).items()}
    wanted, named = overrides.get("task.name"), (result.get("task") or {}).get("name", DEFAULT)
    if wanted is not None and wanted != named:  # the other task's options mean nothing to it
        result["task"] = {}
    _drop_other_models_options(result.get("model", {}), overrides.get("model.name"))
    for given, text in overrides.items():
        dotted = RENAMED.get(given, given)
        if dotted != given and dotted in overrides:
            raise RequestError(f"{given} is an older name of {dotted}; give one of them")
        key, _, option = dotted.partition(".options.") if dotted.startswith("model.options.") else (dotted, "", "")
        if option:
            options = result.setdefault("model", {})
            options["options"] = {**(options.get("options") or {}), option: parse_scalar(Any, text)}
            continue
        known = recipe_keys()
        if key not in known:
            raise RequestError(f"unknown recipe key '{key}'{did_you_mean(key, known)}")
        section, _, name = key.partition(".")
        result.setdefault(section, {})[name] = parse_scalar(known[key].type, text)
    _check_counted(result, overrides)
    return result


def _check_counted(sections: Mapping[str, Any], overrides: Mapping[str, str]) -> None:
    """Raises RequestError for a given key that counts epochs and means nothing, as the recipe counts steps."""
    for key, other in COUNTED_IN_STEPS.items():
        section, _, name = other.partition(".")
        steps = sections.get(section, {}).get(name)
        if key in overrides and steps is not None:
            raise RequestError(
                f"{key}={overrides[key]} means nothing with {other}={steps}; give --{other} null with it, or change "
                f"{other}"
            )


def _drop_other_models_options(model: dict[str, Any], wanted: str | None) -> None:
    """Takes out of the section `model` what describes another model than the wanted one, and says so.

    A family's plain constructor is described by its options, all of them. A preset's options are what differs from
    it; the rates of dropping fit any model, the others, such as its depth, do not.
    """
    named, options = model.get("name", ModelSettings.name), model.get("options")
    if wanted is None or _same_model(wanted, named) or not isinstance(options, Mapping):
        return
    kept = {} if named in FAMILIES else {name: options[name] for name in options if name in _RATES}
    left_out = [name for name in options if name not in kept]
    if left_out:
        log.warning("model.name is now %s; left out are the options of %s: %s", wanted, named, ", ".join(left_out))
    model["options"] = kept


def _same_model(name: str, other: Any) -> bool:
    if name == other or not isinstance(other, str):
        return True
    try:
        return get_preset(name).name == get_preset(other).name
    except RequestError:  # a family, or no model at all, which is refused where it is built
        return False


def _renamed(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The sections with today's names of keys that moved."""
    result = dict(plain)
    for old, new in RENAMED.items():
        (section, key), (target, name) = old.split("."), new.split(".")
        values, others = result.get(section), result.get(target) or {}
        if not isinstance(values, Mapping) or key not in values or not isinstance(others, Mapping):
            continue
        if name in others:
            raise RequestError(f"{old} is an older name of {new}; give one of them")
        result[section] = {k: v for k, v in values.items() if k != key}
        result[target] = {**others, name: values[key]}
    return result


def _task_options(section: Any) -> Any:
    """The section `task` as the options of the task that it names. Raises RequestError."""
    if not isinstance(section, Mapping):
        return from_plain(TASKS[DEFAULT].Options, section, "task")
    kind = task_kind(section.get("name", DEFAULT)).Options
    known = {item.name for item in fields(kind)}
    for name in section:
        others = [task for task, other in TASKS.items() if name in {item.name for item in fields(other.Options)}]
        if name not in known and others:
            raise RequestError(f"task.{name} is an option of the task {' or '.join(others)}, not of {kind().name}")
    return from_plain(kind, section, "task")
