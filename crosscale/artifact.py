"""`config.json` of a folder of weights: its one schema, its one reader and its one writer.

What a file says is judged before a model is built from it: types, ranges, and sizes that no machine could hold.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from crosscale.contracts import InputSpec
from crosscale.errors import RequestError, did_you_mean
from crosscale.runtime import package_version
from crosscale.typed import convert, to_plain

CONFIG, WEIGHTS = "config.json", "model.safetensors"
VERSION = 2  # of the schema; files without the key "version" are of version 1, which had no "task" either

MAX_BYTES = 32 * 2**20  # of the file: a million class names
MAX_OUTPUTS = 1_000_000
MAX_SIDE = 8192  # pixels of a model's input
MAX_CHANNELS = 1024
MAX_BATCH = 2**20
MAX_FOLDS = 2**20
MAX_BLOCKS = 512  # of all stages and branches together; a block takes some 20 ms to trace
MAX_ENTRIES = 64  # of a list among the options
MAX_TEXT = 200  # characters of a name, or of a text among the options
MAX_NUMBER = 65_536  # any other number among the options, such as a width
_LARGEST = {"img_size": MAX_SIDE, "group_size": 100}  # a group of n x n tokens has n^4 pairs
_BLOCKS = ("depth", "depths")

# Fields whose key on disc is another: the words of the first files.
_KEYS = {"labels": "classes", "num_outputs": "num_classes"}
_LATER = ("crop_mode", "pixels", "pictures")  # fields of the input that the first files lacked
_SEPARATE = ("version", "extra")  # fields that are not simply read by their type
_MAY_LACK = (
    "task_options",
    "step",
    "epoch",
    "data",
    "crosscale_version",
    "weights_digest",
)  # where they have nothing to say


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What a folder of weights says of them; with the weights it is all that using them takes.

    Attributes:
      model: a preset or family, as `create_model` takes it.
      options: the constructor's fields as JSON holds them, without num_classes.
      labels: what the head's outputs are called, in order: the class names; "classes" on disc.
      num_outputs: how many there are, 0..1,000,000; "num_classes" on disc. 0 is a model without a head.
      input_spec: the input that the weights were trained for.
      task: what was learnt, by its name; whoever looks the task up refuses names that it does not know.
      task_options: what the task needs to decode the outputs; empty for classification.
      metrics: of the validation that these weights were kept for. A number that was not finite is null on disc,
        and NaN here.
      step: of the training, 0 or more; None where it is not known.
      epoch: likewise.
      data: what the weights were trained and validated on: "dir", "root", "val_fraction" (0 or more, below 1), "seed",
        "subset", "folds", "fold", "folds_by" and "batch_size", each where it is known.
      crosscale_version: of the package that wrote the file; "" where it does not say.
      weights_digest: `file_digest` of the weights beside it; "" where it does not say.
      version: of the schema.
      extra: keys for other programs (timm's, "names", "license"), which are kept and not looked into.

    Raises:
      RequestError: a value of the wrong type or out of range, by its key on disc; among the options a number above
        65,536, an image side above 8192 pixels, more than 512 blocks, or anything that JSON does not hold.
    """

    model: str
    options: Mapping[str, Any]
    labels: tuple[str, ...]
    num_outputs: int
    input_spec: InputSpec
    task: str = "classification"
    task_options: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    step: int | None = None
    epoch: int | float | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    crosscale_version: str = field(default_factory=package_version)
    weights_digest: str = ""
    version: int = VERSION
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("options", "task_options", "data", "extra"):
            object.__setattr__(self, name, to_plain(getattr(self, name)))
        _check_name("model", self.model)
        _check_name("task", self.task)
        _check_labels(self.labels, self.num_outputs)
        _check_spec(self.input_spec)
        for name, value in self.options.items():
            if name == "num_classes":
                raise RequestError(f"options.{name}: stands beside the options, not among them")
            check_option(name, value)
        _check_json("task_options", self.task_options)
        object.__setattr__(self, "metrics", {name: _metric(name, value) for name, value in self.metrics.items()})
        for name, number in (("step", self.step), ("epoch", self.epoch)):
            if number is not None and number < 0:
                raise RequestError(f"{name}: {number} is below 0")
        _check_data(self.data)
        if taken := sorted(set(self.extra) & {_KEYS.get(item.name, item.name) for item in fields(self)}):
            raise RequestError(f"{taken[0]}: a key of crosscale's own; call the further key something else")


def best_folder(path: str | Path) -> Path:
    """The folder that holds a run's best weights: `path/best`, or `path` where that is such a folder itself.

    Raises:
      RequestError: neither holds `config.json` and `model.safetensors`.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise RequestError(f"--run {root}: no such folder; give the --output-dir of a training run")
    if (found := find_best(root)) is not None:
        return found
    if several := first_of_several(root):
        raise RequestError(f"--run {root}: holds several runs, not one; name one of them, such as {several}")
    if (root / "recipe.yaml").is_file():
        raise RequestError(f"--run {root}: this run has no best weights yet; train past its first validation")
    raise RequestError(f"--run {root}: not a run folder (no best/{CONFIG} and best/{WEIGHTS})")


def first_of_several(root: Path) -> Path | None:
    """The first run in the folder of a cross-validation or a sweep; None for any other folder."""
    found = (root / f"{name}-1" for name in ("fold", "trial"))
    return next((folder for folder in found if folder.is_dir()), None)


def find_best(root: Path) -> Path | None:
    """`root/best` or `root`, whichever holds both `config.json` and `model.safetensors`; None for neither."""
    for folder in (root / "best", root):
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            return folder
    return None


def file_digest(file: Path) -> str:
    """BLAKE2b of 16 bytes in hexadecimal digits, of a file's contents. Raises OSError."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def whole_weights(folder: Path, artifact: Artifact) -> Path:
    """The weights beside an artifact. Raises RequestError where they are not what was written with it."""
    file = folder / WEIGHTS
    if artifact.weights_digest not in ("", file_digest(file)):
        raise RequestError(
            f"{file}: damaged, it is not what was written with {CONFIG}; copy the folder again, or to "
            f"take other weights there remove 'weights_digest' from {CONFIG}"
        )
    return file


def read_artifact(place: str | Path) -> Artifact:
    """Reads `config.json`, or the one in a folder.

    Raises:
      RequestError: one line that names the file and the key: the file is missing, larger than 32 MiB, or no JSON;
        it is of a later schema; a key is missing, of the wrong type or out of range.
    """
    file = _file(place)
    return _parsed(file, _load(file))


def read_if_ours(place: str | Path) -> Artifact | None:
    """As `read_artifact`, but None where there is no file or it is another project's: one without "model".

    Raises RequestError as `read_artifact` does.
    """
    file = _file(place)
    if not file.is_file():
        return None
    plain = _load(file)
    return _parsed(file, plain) if isinstance(plain, dict) and "model" in plain else None


def write_artifact(folder: Path, artifact: Artifact) -> None:
    """Writes `config.json` into a folder that exists, whole or not at all; keys with nothing to say are left out.

    Raises:
      RequestError: there is something in it that JSON does not hold, or more than `read_artifact` takes.
    """
    plain: dict[str, Any] = {"version": VERSION}
    for item in fields(Artifact):
        value = getattr(artifact, item.name)
        if item.name not in _SEPARATE and not (item.name in _MAY_LACK and value in (None, "", {})):
            plain[_KEYS.get(item.name, item.name)] = value
    plain["input_spec"] = _spec_json(artifact.input_spec)
    plain["metrics"] = {name: value if math.isfinite(value) else None for name, value in artifact.metrics.items()}
    plain |= artifact.extra
    try:
        text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"{folder / CONFIG}: cannot be written as JSON ({error})") from None
    if len(text.encode()) >= MAX_BYTES:
        raise RequestError(f"{folder / CONFIG}: {len(text.encode()):,} bytes; at most {MAX_BYTES:,} are read back")
    temporary = folder / f".{CONFIG}.{os.getpid()}"
    try:
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, folder / CONFIG)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _file(place: str | Path) -> Path:
    path = Path(place).expanduser()
    return path / CONFIG if path.is_dir() else path


def _load(file: Path) -> Any:
    try:
        if (size := file.stat().st_size) > MAX_BYTES:
            raise RequestError(f"{file}: {size:,} bytes are no {CONFIG}; it has at most {MAX_BYTES:,}")
        return json.loads(file.read_text(encoding="utf-8"))
    except RequestError:
        raise
    except (OSError, ValueError) as error:
        raise RequestError(f"{file}: cannot be read as JSON ({error})") from None
    except RecursionError:
        raise RequestError(f"{file}: cannot be read as JSON (nested too deeply)") from None


def _parsed(file: Path, plain: Any) -> Artifact:
    try:
        return _from_plain(plain)
    except RequestError as error:
        raise RequestError(f"{file}: {error}") from None
    except RecursionError:
        raise RequestError(f"{file}: nested too deeply; lists within lists of the model's fields suffice") from None


def _from_plain(plain: Any) -> Artifact:
    needed = ("model", "options", "num_classes", "input_spec", "classes")
    keys = plain if isinstance(plain, dict) else {}
    # First, because a later schema may well lack what this one needs.
    version = convert(int, keys.get("version", 1), "version")
    if version > VERSION:
        raise RequestError(
            f"version: the file is of schema version {version}, and this crosscale reads up to {VERSION}; "
            "install a later crosscale"
        )
    if version < 1:
        raise RequestError(f"version: {version} is below 1")
    for key in needed:
        if key not in keys:
            raise RequestError(f"lacks the key '{key}'{did_you_mean(key, keys)}; it needs {', '.join(needed)}")
    if keys["input_spec"] is None:
        raise RequestError("input_spec: expected key: value pairs, got null")
    hints = get_type_hints(Artifact)
    own = {_KEYS.get(item.name, item.name): item.name for item in fields(Artifact) if item.name not in _SEPARATE}
    values: dict[str, Any] = {name: convert(hints[name], keys[key], key) for key, name in own.items() if key in keys}
    # Some folders have it among the options too, which is harmless where it says the same.
    options = dict(values["options"])
    if options.pop("num_classes", values["num_outputs"]) != values["num_outputs"]:
        raise RequestError("options.num_classes: differs from num_classes; leave it out of the options")
    values["options"] = options
    values.setdefault("crosscale_version", "")
    extra = {key: value for key, value in keys.items() if key not in own and key != "version"}
    return Artifact(**values, version=version, extra=extra)


def _check_name(key: str, name: str) -> None:
    plain = name.replace("_", "").replace("-", "").replace(".", "")
    if not (plain.isascii() and plain.isalnum() and name[0].isalnum() and len(name) <= MAX_TEXT):
        raise RequestError(f"{key}: {_shown(name)} is no name; one of letters, digits, '_', '-' and '.' works, no path")


def _check_labels(labels: tuple[str, ...], count: int) -> None:
    if not 0 <= count <= MAX_OUTPUTS:
        raise RequestError(f"num_classes: {count:,} lies outside 0..{MAX_OUTPUTS:,}")
    if len(labels) != count:
        raise RequestError(f"classes: {len(labels):,} names, but num_classes is {count:,}; give one per class")
    seen: set[str] = set()
    for label in labels:
        if label in seen:
            raise RequestError(f"classes: {_shown(label)} appears twice; every class needs a name of its own")
        seen.add(label)
        _check_text("classes", label)


def _spec_json(spec: InputSpec) -> dict[str, Any]:
    """Without what the first files lacked, where it says nothing new: older versions read such a file."""
    usual = {item.name: item.default for item in fields(InputSpec) if item.name in _LATER}
    return {name: value for name, value in asdict(spec).items() if usual.get(name) != value}


def _check_spec(spec: InputSpec) -> None:
    if not all(1 <= side <= MAX_SIDE for side in spec.size):
        raise RequestError(f"input_spec.size: {_shown(spec.size)} lies outside 1..{MAX_SIDE} pixels")
    if not 1 <= spec.channels <= MAX_CHANNELS:
        raise RequestError(f"input_spec.channels: {spec.channels} lies outside 1..{MAX_CHANNELS}")
    if not 1 <= spec.pictures <= MAX_ENTRIES or spec.channels % spec.pictures:
        raise RequestError(
            f"input_spec.pictures: {spec.pictures} pictures cannot share {spec.channels} channels evenly"
        )
    for name, values in (("mean", spec.mean), ("std", spec.std)):
        if len(values) != spec.channels:
            raise RequestError(
                f"input_spec.{name}: {len(values)} numbers for {spec.channels} channels; one per channel"
            )
        if not all(math.isfinite(value) and (value > 0 or name == "mean") for value in values):
            what = "a finite number" if name == "mean" else "a finite number above 0"
            raise RequestError(f"input_spec.{name}: {_shown(values)}: every entry must be {what}")
    if not 0 < spec.crop_pct <= 1:
        raise RequestError(f"input_spec.crop_pct: {spec.crop_pct} is not in 0 < value <= 1")


def check_option(name: str, value: Any) -> None:
    """Refuses what would take absurd memory or time to build; what the model makes of the rest is its own matter."""
    key, largest = f"options.{name}", _LARGEST.get(name, MAX_NUMBER)
    _check_json(key, value)
    blocks = 0
    for leaf in _leaves(value):
        if isinstance(leaf, list | dict):
            if len(leaf) > MAX_ENTRIES:
                raise RequestError(f"{key}: a list of {len(leaf):,} entries; at most {MAX_ENTRIES}")
        elif isinstance(leaf, str):
            if len(leaf) > MAX_TEXT:
                raise RequestError(f"{key}: a text of {len(leaf):,} characters; at most {MAX_TEXT}")
        elif isinstance(leaf, int | float):
            if abs(leaf) > largest:
                raise RequestError(f"{key}: {_shown(leaf)} is absurdly large; at most {largest:,}")
            blocks += leaf if isinstance(leaf, int) else 0
    if name in _BLOCKS and blocks > MAX_BLOCKS:
        raise RequestError(f"{key}: {blocks:,} blocks in all; at most {MAX_BLOCKS:,}")


def _check_data(data: Mapping[str, Any]) -> None:
    kinds: dict[str, Any] = {"dir": str | None, "root": str | None, "val_fraction": float, "seed": int}
    kinds |= {"batch_size": int, "folds": int, "fold": int, "folds_by": str}
    known = {name: convert(kind, data[name], f"data.{name}") for name, kind in kinds.items() if name in data}
    _check_json("data", data)
    if "\0" in (known.get("dir") or ""):
        raise RequestError("data.dir: holds a zero byte, which no path does")
    if not 0 <= known.get("val_fraction", 0.5) < 1:
        raise RequestError(f"data.val_fraction: {known['val_fraction']} is not in 0 <= value < 1")
    if "folds" in known and not 1 <= known.get("fold", 0) <= known["folds"] <= MAX_FOLDS:
        raise RequestError(f"data.fold: is not one of the folds 1..{_shown(known['folds'])}")
    if not 0 <= known.get("seed", 0) < 2**31:
        raise RequestError(f"data.seed: {_shown(known['seed'])} lies outside 0..2^31 - 1")
    if not 1 <= known.get("batch_size", 1) <= MAX_BATCH:
        raise RequestError(f"data.batch_size: {_shown(known['batch_size'])} lies outside 1..{MAX_BATCH:,}")


def _metric(name: str, value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RequestError(
            f"metrics.{name}: expected a number, or null for one that is not finite, got {_shown(value)}"
        )
    return value


def _check_json(key: str, value: Any) -> None:
    for leaf in _leaves(value):
        if isinstance(leaf, str):
            _check_text(key, leaf)
        elif isinstance(leaf, float) and not math.isfinite(leaf):
            raise RequestError(f"{key}: {leaf} is not finite; give a number")
        elif not isinstance(leaf, dict | list | int | float | None):
            raise RequestError(
                f"{key}: a {type(leaf).__name__} is nothing that JSON holds; give a number, text or list"
            )


def _check_text(key: str, text: str) -> None:
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise RequestError(f"{key}: {_shown(text)} holds half a character, which cannot be written as UTF-8")


def _leaves(value: Any) -> Iterator[Any]:
    """The value and, for lists and mappings, everything within."""
    yield value
    if isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)


def _shown(value: Any) -> str:
    """As JSON writes it, in ASCII, and short."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
