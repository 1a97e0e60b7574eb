"""Folders ready for the hub: weights, everything needed to use them alone, and a card."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from crosscale.contracts import InputSpec, Variables
from crosscale.errors import RequestError
from crosscale.models.model import ImageModel
from crosscale.models.registry import FAMILIES, get_preset
from crosscale.pretrained.loading import save_weights
from crosscale.pretrained.naming import OWN, parameter_shapes
from crosscale.pretrained.timm_config import timm_config
from crosscale.weights.hub import FILE


def save_pretrained(
    folder: str | Path,
    variables: Variables,
    model: ImageModel,
    *,
    name: str,
    spec: InputSpec,
    options: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    licence: str = "",
    metrics: Mapping[str, float] | None = None,
    names: str | None = None,
) -> Path:
    """Writes `model.safetensors`, `config.json` and `README.md`.

    `Predictor.from_run`, `load_weights` and the command line's `--run` read the folder; where timm has the model,
    `timm.create_model("local-dir:FOLDER", pretrained=True)` does too.

    Args:
      folder: made where it is missing; may hold nothing but an earlier version of the three files.
      name: the preset or family that the model was built from.
      spec: the input that the weights were trained for.
      options: the constructor fields that differ from the preset's, without num_classes.
      classes: names in label order.
      licence: of the weights, as the hub spells it ("apache-2.0"); "" leaves it out.
      metrics: to record, such as {"top1": 0.98}.
      names: the naming scheme of the file; None is timm's where the model has it, else our own.

    Returns:
      The folder.

    Raises:
      RequestError: the folder holds other things, or the class names are not the model's number.
    """
    folder = Path(folder).expanduser()
    _check_folder(folder)
    if name not in FAMILIES:
        name = get_preset(name).name
    widths = [shape[-1] for key, shape in parameter_shapes(model).items() if key.startswith("head/")]
    num_classes = widths[0] if widths else 0
    if classes is not None and len(classes) != num_classes:
        raise RequestError(f"{len(classes)} class names for a model of {num_classes} classes; give one per class")
    names = names or ("timm" if "timm" in model.weight_rules() else OWN)
    config: dict[str, Any] = {
        **(timm_config(model, name, spec, num_classes, classes, licence) if names == "timm" else {}),
        "model": name,
        "options": dict(options or {}),
        "num_classes": num_classes,
        "input_spec": asdict(spec),
        "classes": list(classes) if classes is not None else [str(i) for i in range(num_classes)],
        "metrics": dict(metrics or {}),
        "names": names,
        **({"license": licence} if licence else {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / FILE, variables, model, names)
    _write(folder / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    _write(folder / "README.md", _card(config, licence))
    return folder


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder}: is a file, not a folder")
    ours = {FILE, "config.json", "README.md", ".git", ".gitattributes"}
    others = sorted(path.name for path in folder.iterdir() if path.name not in ours) if folder.exists() else []
    if others:
        raise RequestError(f"{folder}: already holds other things ({others[0]}); give a new folder")


def _card(config: Mapping[str, Any], licence: str) -> str:
    """The hub's model card: what the hub reads in the head, what a reader needs below."""
    head = [
        "---",
        *([f"license: {licence}"] if licence else []),
        "pipeline_tag: image-classification",
        f"library_name: {'timm' if 'architecture' in config else 'crosscale'}",
        "tags: [image-classification, crosscale]",
        "---",
    ]
    size = " x ".join(map(str, config["input_spec"]["size"]))
    facts = [
        f"# {config['model']}",
        "",
        f"{config['num_classes']} classes, {config['input_spec']['channels']} input channels, {size} pixels.",
        *(f"{name}: {value}" for name, value in config["metrics"].items()),
        "",
        "    crosscale predict --run FOLDER IMAGE",
    ]
    if "architecture" in config:
        facts += ['    timm.create_model("local-dir:FOLDER", pretrained=True)']
    return "\n".join([*head, *facts]) + "\n"


def _write(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
        file.write(text)
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
