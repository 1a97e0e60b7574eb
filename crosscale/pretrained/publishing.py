"""Folders ready for the hub: weights, everything needed to use them alone, and a card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crosscale.artifact import CONFIG, Artifact, read_if_ours, write_artifact
from crosscale.contracts import InputSpec, Variables
from crosscale.engine.run_folder import BEST, RECIPE, write_text
from crosscale.errors import RequestError
from crosscale.models.model import ImageModel, option_names
from crosscale.models.registry import FAMILIES, create_model, get_preset
from crosscale.pretrained.loading import save_weights
from crosscale.pretrained.naming import OWN, class_count, parameter_shapes, scheme_to_share
from crosscale.pretrained.timm_config import timm_config
from crosscale.tasks.registry import own_task, plain_task
from crosscale.tasks.task import Task
from crosscale.weights.hub import FILE

# The hub's words; a task without one has no tag.
_TAGS = {
    "classification": "image-classification",
    "multilabel": "image-classification",
    "segmentation": "image-segmentation",
    "detection": "object-detection",
    "instances": "image-segmentation",
}
# Fields that a prediction does not depend on, and the head and its width, which the task decides.
_FREE = ("num_classes", "task_head", "dtype", "remat")


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
    task: Task | None = None,
) -> Path:
    """Writes `model.safetensors`, `config.json` and `README.md` into a folder, which it returns.

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
      names: the naming scheme of the file; None is timm's where its model has the same outputs, else our own.
      task: what the outputs mean; None is a classification, for a detector or a segmentation model its own task.

    Raises:
      RequestError: the folder holds other things, `name` with `options` builds another model, the class names are not
        the model's number or not distinct, or the input does not fit (see `Artifact`).
    """
    folder = _free_folder(folder)
    if name not in FAMILIES:
        name = get_preset(name).name
    labels = _labels(model, classes)
    options = {key: value for key, value in (options or {}).items() if key != "num_classes"}
    _check_model(model, name, options, len(labels))
    task = task or own_task(model, labels) or plain_task(labels)
    names = names or scheme_of_folder(model, task)
    own_head = _has_own_head(task)
    timm = timm_config(model, name, spec, len(labels), classes, licence) if names == "timm" and not own_head else {}
    artifact = Artifact(
        model=name,
        options=options,
        labels=labels,
        num_outputs=len(labels),
        input_spec=spec,
        task=task.name,
        task_options=task.artifact_options(),
        metrics=metrics or {},
        extra={**timm, "names": names, **({"license": licence} if licence else {})},
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / FILE, variables, model, names)
    write_artifact(folder, artifact)
    write_text(folder / "README.md", _card(artifact, licence, task.noun, own_head))
    return folder


def scheme_of_folder(model: ImageModel, task: Task | None) -> str:
    """The naming scheme of a folder's weights: timm's where its model has the same outputs, else our own.

    Args:
      task: None is the model's usual one.
    """
    return OWN if task is not None and _has_own_head(task) else scheme_to_share(model)


def check_not_best(folder: Path) -> None:
    """Raises RequestError for the place of a run's own best weights, which what is written would replace."""
    found = read_if_ours(folder / CONFIG)
    of_run = found is not None and (found.step is not None or bool(found.data))
    if of_run or (folder.name == BEST and (folder.parent / RECIPE).is_file()):
        raise RequestError(f"{folder}: a run keeps its best weights there; give a new folder")


def _has_own_head(task: Task) -> bool:
    """Whether the outputs are not the model's usual ones, such as numbers in their units."""
    return "task_head" in task.model_options({})


def _free_folder(place: str | Path) -> Path:
    """The folder. Raises RequestError where it holds other things than an earlier version of the files."""
    folder = Path(place).expanduser()
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder}: is a file, not a folder")
    ours = {FILE, CONFIG, "README.md", ".git", ".gitattributes"}
    check_not_best(folder)
    others = sorted(path.name for path in folder.iterdir() if path.name not in ours) if folder.exists() else []
    if others:
        raise RequestError(f"{folder}: already holds other things ({others[0]}); give a new folder")
    return folder


def _labels(model: ImageModel, classes: Sequence[str] | None) -> tuple[str, ...]:
    """The class names, or numbers in their place. Raises RequestError unless they are as many as the model's."""
    num_classes = class_count(parameter_shapes(model), model) or 0
    if classes is not None and len(classes) != num_classes:
        raise RequestError(f"{len(classes)} class names for a model of {num_classes} classes; give one per class")
    return tuple(classes) if classes is not None else tuple(map(str, range(num_classes)))


def _check_model(model: ImageModel, name: str, options: Mapping[str, Any], num_classes: int) -> None:
    """Raises RequestError unless the name and the options build this very model, which the folder is read as."""
    built = create_model(name, **options, num_classes=num_classes)
    if type(built) is not type(model):
        kind = f"{type(model).__module__}.{type(model).__name__}"
        raise RequestError(
            f"name='{name}' builds a {type(built).__name__}, and the model is a {kind}; give the preset or family that "
            "it was built from"
        )
    for field in option_names(type(model)):
        own, other = getattr(model, field), getattr(built, field)
        if field not in _FREE and not field.endswith("_rate") and own != other:
            raise RequestError(
                f"options: '{name}' with these has {field}={other!r}, and the model has {own!r}; give '{field}' among "
                "them"
            )


def _card(artifact: Artifact, licence: str, noun: str, own_head: bool) -> str:
    """The hub's model card: what the hub reads in the head, what a reader needs below."""
    tag = _TAGS.get(artifact.task)
    head = [
        "---",
        *([f"license: {licence}"] if licence else []),
        *([f"pipeline_tag: {tag}"] if tag else []),
        f"library_name: {'timm' if 'architecture' in artifact.extra else 'crosscale'}",
        f"tags: [{', '.join([tag, 'crosscale'] if tag else ['crosscale'])}]",
        "---",
    ]
    spec = artifact.input_spec
    size = " x ".join(map(str, spec.size))
    facts = [
        f"# {artifact.model}",
        "",
        f"{artifact.num_outputs} {noun}, {spec.channels} input channels, {size} pixels.",
        *(f"{name}: {value}" for name, value in artifact.metrics.items()),
        "",
        "    crosscale predict --run FOLDER IMAGE",
    ]
    if "architecture" in artifact.extra:
        facts += ['    timm.create_model("local-dir:FOLDER", pretrained=True)']
    if own_head and artifact.extra["names"] == OWN:
        facts += ["", f"The weights have crosscale's own names: the {noun} need its head, which no other library has."]
    return "\n".join([*head, *facts]) + "\n"
