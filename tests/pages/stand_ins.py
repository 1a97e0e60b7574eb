"""What the pages' commands and code find when a test runs them: the one place where stand-ins are declared.

`make dist` uses `write_photos` and `write_weights` outside the repository, with the installed package alone, so the
imports of crosscale and of the tests stand inside the functions.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = ("ant", "bee")
ROOT = Path(__file__).parent.parent.parent
GOLDEN_RUN = ROOT / "tests" / "golden" / "runs" / "crossvit"  # a real run on the digits

# Constructor fields that replace those of all models of a family: the pages' names build narrow, shallow models.
_CROSSFORMER = {"depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "group_size": (4, 4, 4, 4), "embed_dim": 16}
_NECK = {"neck_channels": 16}
NARROW: dict[str, dict[str, Any]] = {
    "crossvit": {
        "depth": ((1, 1, 0),),
        "num_heads": (2, 2),
        "mlp_ratio": (1.0, 1.0, 1.0),
        "patch_size": (24, 28),
        "multi_conv": False,
    },
    "crossformer": _CROSSFORMER,
    "semantic_fpn_crossformer": {**_CROSSFORMER, **_NECK, "head_channels": 16},
    "upernet_crossformer": {**_CROSSFORMER, "head_channels": 16, "aux_channels": 8},
    "retinanet_crossformer": {**_CROSSFORMER, **_NECK},
    "mask_rcnn_crossformer": {
        **_CROSSFORMER,
        **_NECK,
        "fc_channels": 16,
        "mask_channels": 8,
        "proposals": 20,
        "proposals_before_nms": 30,
    },
}


def write_photos(folder: Path, splits: dict[str, int] | None = None) -> None:
    """An image folder of two classes: JPEGs of noise, 64 x 48, one class dark and one light."""
    rng = np.random.default_rng(0)
    for split, count in (splits or {"train": 8, "val": 4}).items():
        for label, name in enumerate(CLASSES):
            for number in range(count):
                write_picture(folder / split / name / f"{number}.jpg", rng, label)


def _imagenet(folder: Path) -> None:
    """As many classes as ImageNet has, each with one picture to train on, and some held out; all are the same."""
    write_picture(folder / "picture.jpg", np.random.default_rng(0))
    content = (folder / "picture.jpg").read_bytes()
    (folder / "picture.jpg").unlink()
    for split, count in {"train": 1000, "val": 8}.items():
        for label in range(count):
            place = folder / split / f"n{label:08}"
            place.mkdir(parents=True)
            (place / "0.jpg").write_bytes(content)


def write_picture(path: Path, rng: np.random.Generator, label: int = 0) -> None:
    """A file of noise, 64 x 48, in the format that its name says: dark, or light for the label 1."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    noise = rng.integers(0, 100, (48, 64, 3), dtype=np.uint8) + 150 * label
    Image.fromarray(noise.astype(np.uint8)).save(path)


def write_weights(path: Path, preset: str, names: str = "crosscale") -> None:
    """Weights of a preset's own shapes with small random values, under our own names or another project's."""
    import crosscale
    from crosscale.pretrained import parameter_shapes
    from crosscale.pretrained.naming import variables_of

    model = crosscale.create_model(preset)
    rng = np.random.default_rng(0)
    values = {
        name: rng.standard_normal(shape, dtype=np.float32) * 0.02 for name, shape in parameter_shapes(model).items()
    }
    crosscale.save_weights(path.with_suffix(".safetensors"), variables_of(values, model), model, names=names)
    path.with_suffix(".safetensors").rename(path)  # files are told apart by content, whatever their name


def narrow_families() -> dict[str, Any]:
    """The registry's families with every preset narrow, each of another width, so that weights tell which one it is."""
    from dataclasses import replace

    from crosscale.models.registry import FAMILIES

    families: dict[str, Any] = {}
    for family, (kind, presets) in FAMILIES.items():
        rows = []
        for place, preset in enumerate(presets):
            options = dict(NARROW[family])
            if preset.config.get("fusion") == "none":  # one branch
                options = {"depth": ((1, 0),), "embed_dim": (8 + 4 * place,), "num_heads": (2,)}
            elif family == "crossvit":
                options["embed_dim"] = (8 + 4 * place, 16 + 4 * place)
            elif family == "crossformer":
                options["embed_dim"] = 16 + 16 * place
            rows.append(replace(preset, config={**preset.config, **options}))
        families[family] = (kind, tuple(rows))
    return families


def narrow_model(name: str, **overrides: Any) -> Any:
    """`create_model` with the fields of `NARROW` where a family is built without saying otherwise."""
    from crosscale.models.registry import create_model

    return create_model(name, **{**NARROW.get(name, {}), **overrides})


def _table(file: Path, heading: str, row: Callable[[int], str]) -> None:
    """Twelve rows, the last four held out, and the pictures that they name."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(12):
        picture = f"pictures/{number}.jpg"
        write_picture(file.parent / picture, rng, number % 2)
        lines.append(f"{picture},{row(number)},{'train' if number < 8 else 'val'}")
    file.write_text("\n".join([f"path,{heading},split", *lines]) + "\n", encoding="utf-8")


def _labels(file: Path) -> None:
    _table(file, "label", lambda number: CLASSES[number % 2])


def _tags(file: Path) -> None:
    _table(file, "tags", lambda number: ("cat|outdoor", "dog", "cat", "outdoor")[number % 4])


def _leaves(file: Path) -> None:
    _table(file, "mass [g],length (mm)", lambda number: f"{number / 4},{40 + number}")


def _pairs(file: Path) -> None:
    _table(file, "path_2,label", lambda number: f"pictures/{11 - number}.jpg,{CLASSES[number % 2]}")


def _streets(folder: Path) -> None:
    """Pictures and masks of two classes."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in {"train": 4, "val": 2}.items():
        for number in range(count):
            write_picture(folder / "images" / split / f"{number}.png", rng)
            mask = np.zeros((48, 64), np.uint8)
            mask[:, 20 + number :] = 1
            (folder / "masks" / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(folder / "masks" / split / f"{number}.png")
    (folder / "classes.txt").write_text("road\nsky\n", encoding="utf-8")


def _boxes(folder: Path) -> None:
    """Pictures with boxes and masks, as COCO has them."""
    from tests.tasks.shapes import write_coco

    def told(label: int, box: list[int], size: tuple[int, int]) -> dict[str, Any]:
        x, y, width, height = box
        corners = [x, y, x + width, y, x + width, y + height, x, y + height]
        return {"area": width * height, "segmentation": [corners]}

    folder.mkdir(parents=True)
    write_coco(folder, np.random.default_rng(0), {"train": [(64, 64)] * 4, "val": [(64, 64)] * 2}, told)


def _picture(file: Path) -> None:
    write_picture(file, np.random.default_rng(0))


def _pictures(folder: Path) -> None:
    for number in range(2):
        write_picture(folder / f"{number}.jpg", np.random.default_rng(number), number)


def _golden_run(folder: Path) -> None:
    shutil.copytree(GOLDEN_RUN, folder)


def _seeded_run(folder: Path, recipe: str, data: Callable[[Path], None], **given: str) -> None:
    """A run of a recipe that stands before its first step, with random weights as its best, and its data beside it."""
    from crosscale.recipe import dump, load
    from crosscale.runs.experiment import build, save_best
    from tests.seeded import seeded_variables

    place = folder.parent / f"{folder.name}-data" / ("table.csv" if data in (_leaves, _tags) else "files")
    if not place.exists():
        data(place)
    small = {"train.batch_size": "2", "validate.batch_size": "2"}
    keys = {name.replace("__", "."): value for name, value in given.items()}
    experiment = build(load(recipe, {"data.dir": str(place), **small, **keys}))
    variables = seeded_variables(experiment.model)
    folder.mkdir(parents=True)
    metrics = dict.fromkeys(experiment.task.measures, 0.5)
    save_best(folder / "best", experiment, variables, {"metrics": metrics, "step": 1, "epoch": 1})
    (folder / "recipe.yaml").write_text(dump(experiment.recipe), encoding="utf-8")
    record = {"kind": "validate", "step": 1, "epoch": 1, "examples": 1, **metrics}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")


def _photos_run(folder: Path) -> None:
    _seeded_run(folder, "finetune", write_photos, model__name="crossvit_9_240")


def _leaves_run(folder: Path) -> None:
    _seeded_run(folder, "finetune", _leaves, model__name="crossvit_9_240", task__name="regression")


def _tags_run(folder: Path) -> None:
    _seeded_run(folder, "finetune", _tags, model__name="crossvit_9_240", task__name="multilabel")


def _streets_run(folder: Path) -> None:
    _seeded_run(folder, "segment", _streets)


def _street_run(folder: Path) -> None:
    _seeded_run(folder, "detect", _boxes, data__size="[64, 64]", task__scale="[64, 64]")


def _birds_run(folder: Path) -> None:
    _seeded_run(folder, "finetune", write_photos, model__name="crossformer_small_224")


def _weights(preset: str, names: str = "crosscale") -> Callable[[Path], None]:
    return lambda file: write_weights(file, preset, names)


def _text(content: str) -> Callable[[Path], None]:
    return lambda file: Path.write_text(file, content, encoding="utf-8") and None


# Patterns of the names on the pages, and who makes what stands there. What a page's own commands made stays.
STAND_INS: dict[str, Callable[[Path], None]] = {
    "photos|satellite": write_photos,
    "imagenet": _imagenet,
    "streets|FOLDER": _streets,
    "street|coco|D": _boxes,
    r"labels\.csv": _labels,
    r"tags\.csv": _tags,
    r"leaves\.csv": _leaves,
    r"pairs\.csv": _pairs,
    r"my\.yaml": _text("model: {name: crossvit_9_240}\n"),
    r"(photo|holiday|bird|leaf)\.jpg|three\.png": _picture,
    "folder|archive|pictures": _pictures,
    r"runs/digits(-\d)?|runs/five/fold-1|RUN": _golden_run,
    r"runs/(photos(-\d)?|mine)": _photos_run,
    "runs/birds": _birds_run,
    "runs/leaves": _leaves_run,
    "runs/tags": _tags_run,
    "runs/streets": _streets_run,
    "runs/street": _street_run,
    r"crossvit_9(_240)?\.safetensors|weights\.safetensors|FILE": _weights("crossvit_9_240"),
    r"in\.pth": _weights("crossvit_9_240", "ibm"),
    r"crossvit_15_224\.pth": _weights("crossvit_15_240", "ibm"),
    r"crossformer-s\.pth": _weights("crossformer_small_224", "official"),
    r"model\.safetensors": _weights("crossformer_small_224"),
    r"retinanet_crossformer_s\.pth": _weights("retinanet_crossformer"),
    r"mask_rcnn_crossformer_s\.pth": _weights("mask_rcnn_crossformer"),
}


class HubFiles(dict[tuple[str, str], bytes]):
    """The files of a hub by repository and name, as `tests/hub_server.py` asks for them: published weights of presets.

    Each file is made, under timm's names, when it is first asked for.
    """

    def __init__(self, folder: Path) -> None:
        from crosscale.models.registry import FAMILIES

        self.folder = folder
        rows = [preset for _, presets in FAMILIES.values() for preset in presets if preset.hub]
        super().__init__({(preset.hub, "model.safetensors"): preset.name.encode() for preset in rows})

    def __getitem__(self, key: tuple[str, str]) -> bytes:
        file = self.folder / "hub" / f"{key[0].replace('/', '-')}.safetensors"
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            write_weights(file, super().__getitem__(key).decode(), "timm")
        return file.read_bytes()


def provide(folder: Path, name: str) -> None:
    """Makes what stands for `name` in `folder`, unless something is there or nobody knows the name."""
    bare = name.rstrip("/")
    if not (folder / bare).exists():
        for pattern, make in STAND_INS.items():
            if re.fullmatch(pattern, bare):
                (folder / bare).parent.mkdir(parents=True, exist_ok=True)
                make(folder / bare)
