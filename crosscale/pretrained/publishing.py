"""Folders ready for the hub: weights, everything needed to use them alone, and a card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crosscale.artifact import CONFIG, Artifact, write_artifact
from crosscale.contracts import InputSpec, Variables
from crosscale.engine.run_folder import write_text
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
      RequestError: the folder holds other things, the class names are not the model's number or not distinct, or
        the input does not fit (see `Artifact`).
    """
    folder = Path(folder).expanduser()
    _check_folder(folder)
    if name not in FAMILIES:
        name = get_preset(name).name
    widths = [shape[-1] for key, shape in parameter_shapes(model).items() if key.startswith(model.classifiers())]
    num_classes = widths[0] if widths else 0
    if classes is not None and len(classes) != num_classes:
        raise RequestError(f"{len(classes)} class names for a model of {num_classes} classes; give one per class")
    names = names or ("timm" if "timm" in model.weight_rules() else OWN)
    timm = timm_config(model, name, spec, num_classes, classes, licence) if names == "timm" else {}
    artifact = Artifact(
        model=name,
        options={key: value for key, value in (options or {}).items() if key != "num_classes"},
        labels=tuple(classes) if classes is not None else tuple(map(str, range(num_classes))),
        num_outputs=num_classes,
        input_spec=spec,
        metrics=metrics or {},
        extra={**timm, "names": names, **({"license": licence} if licence else {})},
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / FILE, variables, model, names)
    write_artifact(folder, artifact)
    write_text(folder / "README.md", _card(artifact, licence))
    return folder


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder}: is a file, not a folder")
    ours = {FILE, CONFIG, "README.md", ".git", ".gitattributes"}
    others = sorted(path.name for path in folder.iterdir() if path.name not in ours) if folder.exists() else []
    if others:
        raise RequestError(f"{folder}: already holds other things ({others[0]}); give a new folder")


def _card(artifact: Artifact, licence: str) -> str:
    """The hub's model card: what the hub reads in the head, what a reader needs below."""
    head = [
        "---",
        *([f"license: {licence}"] if licence else []),
        "pipeline_tag: image-classification",
        f"library_name: {'timm' if 'architecture' in artifact.extra else 'crosscale'}",
        "tags: [image-classification, crosscale]",
        "---",
    ]
    spec = artifact.input_spec
    size = " x ".join(map(str, spec.size))
    facts = [
        f"# {artifact.model}",
        "",
        f"{artifact.num_outputs} classes, {spec.channels} input channels, {size} pixels.",
        *(f"{name}: {value}" for name, value in artifact.metrics.items()),
        "",
        "    crosscale predict --run FOLDER IMAGE",
    ]
    if "architecture" in artifact.extra:
        facts += ['    timm.create_model("local-dir:FOLDER", pretrained=True)']
    return "\n".join([*head, *facts]) + "\n"
