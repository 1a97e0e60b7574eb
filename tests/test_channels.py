"""A data set of five channels that is no photograph: its recipe, what is refused, and a whole run of it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crosscale.artifact import read_artifact, write_artifact
from crosscale.cli.main import main
from crosscale.contracts import InputSpec
from crosscale.errors import RequestError
from crosscale.export import export
from crosscale.export.stablehlo import open_stablehlo
from crosscale.predictor import Predictor
from crosscale.recipe import Recipe, load
from crosscale.runs.experiment import build
from crosscale.runs.train import run_training
from crosscale.serve.served import ServedModel
from crosscale.serve.settings import Refused
from crosscale.tasks.checks import check_photographs
from tests.test_build import SMALL

MEAN, STD = "[100]", "[5]"


@pytest.fixture(scope="module")
def satellite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cities have more in channel 4, which is all that tells them."""
    root, rng = tmp_path_factory.mktemp("data") / "satellite", np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8)):
        for place, name in enumerate(("wood", "city")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                array = rng.normal(100, 5, (16, 20, 5)).astype(np.float32)
                array[..., 4] += 8 * place
                np.save(folder / f"{i}.npy", array)
    return root


@pytest.fixture(scope="module")
def recipe(satellite: Path) -> Callable[..., Recipe]:
    def made(**changes: str) -> Recipe:
        given = {
            **SMALL,
            "model.options.in_channels": "null",
            "data.mean": MEAN,
            "data.std": STD,
            "data.dir": str(satellite),
            "train.batch_size": "16",
            "train.epochs": "4",
            "validate.batch_size": "16",
        }
        return load("smoke", given | {name.replace("__", "."): value for name, value in changes.items()})

    return made


def test_channels_and_depth_are_read_from_the_data(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    found = build(recipe())
    assert (found.model.in_channels, found.spec.channels, found.spec.pixels) == (5, 5, "float32")
    assert found.spec.mean == (100.0,) * 5
    assert (found.recipe.data.channels, found.recipe.data.pixels) == (5, "float32")
    assert found.recipe.model.options["in_channels"] == 5
    write_artifact(tmp_path, found.artifact)
    assert read_artifact(tmp_path).input_spec == found.spec
    assert "pixels" not in json.loads((tmp_path / "config.json").read_text())["options"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"data__mean": "null"}, r"data\.mean is not set.*crosscale data .*satellite --statistics measures it"),
        ({"data__mean": "[1, 2, 3]"}, r"data\.mean=\[1\.0, 2\.0, 3\.0\]: the model takes 5 channels"),
        ({"data__channels": "4", "model__options__in_channels": "5"}, r"data\.channels=4, but model\.options\.in_chan"),
        ({"data__pixels": "uint8"}, r"data\.pixels=uint8: pictures of 8 bits have 1 or 3 channels, not 5"),
        ({"data__decode": "fast"}, r"data\.decode=fast: works on one 8-bit JPEG"),
        ({"augment__color_jitter": "0.4"}, r"augment\.color_jitter=0\.4: is for photographs of 8 bits"),
        ({"augment__auto_augment": "v0"}, r"augment\.auto_augment=v0: is for photographs.*\(5 channels\); set"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    recipe: Callable[..., Recipe], changes: dict[str, str], line: str
) -> None:
    with pytest.raises(RequestError, match=line) as raised:
        build(recipe(**changes))
    assert "\n" not in str(raised.value)


def test_tasks_with_masks_and_boxes_take_photographs() -> None:
    for spec in (InputSpec(pixels="float32"), InputSpec(channels=5)):
        with pytest.raises(RequestError, match=r"data\.pixels=.*the task detection reads pictures of 8 bits and 1 or"):
            check_photographs(spec, "detection")
    with pytest.raises(RequestError, match=r"data\.crop_mode=pad: the task segmentation shows whole pictures"):
        check_photographs(InputSpec(crop_mode="pad"), "segmentation")


@pytest.fixture(scope="module")
def run(recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "satellite"
    result = run_training(recipe(optimizer__lr="3e-3"), folder)
    assert result["top1"] >= 0.9
    return folder


@pytest.mark.slow
def test_a_run_of_five_channels_from_training_to_a_service(
    run: Path, satellite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted((satellite / "val").rglob("*.npy"))
    predictor = Predictor.from_run(run)
    found = list(predictor.predict([*files, np.load(files[0]), np.zeros((4, 4, 3), np.float32)]))
    right = [item.classes[0] == file.parent.name for item, file in zip(found, files, strict=False)]
    assert np.mean(right) >= 0.9
    assert found[-2].probabilities == found[0].probabilities
    assert "3 channels, where 5 are wanted" in found[-1].error
    assert main(["predict", "--run", str(run), str(satellite / "val"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["predictions"]
    assert len(said) == 16

    assert main(["explain", "--run", str(run), str(files[0]), "--output", str(tmp_path / "maps"), "--json"]) == 0
    assert len(list((tmp_path / "maps").glob("*.png"))) == 1
    assert main(["predict", "--run", str(run), "--tta", "flips", str(files[0])]) == 0
    assert main(["embed", "--run", str(run), str(files[0]), "--output", str(tmp_path / "features.npz")]) == 0
    assert main(["report", str(run)]) == 0

    exported = export(predictor, tmp_path / "model.zip", format="stablehlo")
    assert exported.config["input"] == {
        "name": "images",
        "shape": ["batch", *predictor.spec.size, 5],
        "layout": "NHWC",
        "dtype": "float32",
        "values": "(pixel - mean) / std",
        "channels": "5 channels",
    }
    picture = predictor.prepare(files[0], "a")
    np.testing.assert_allclose(
        open_stablehlo(tmp_path / "model.zip")(picture[None])[0, predictor.classes.index(found[0].classes[0])],
        found[0].probabilities[0],
        atol=1e-5,
    )

    served = ServedModel(predictor, "satellite")
    served.warm_up([1])
    prepared = served.prepare(files[0].read_bytes(), "a.npy", 10**6)
    answer = served.explain(prepared, "a.npy", None, {})
    assert answer["classes"][0] == found[0].classes[0]
    with pytest.raises(Refused, match=r"b\.npy: the \.npy file is truncated"):
        served.prepare((satellite / "val" / "city" / "0.npy").read_bytes()[:-4], "b.npy", 10**6)
