"""A picture of its own for every branch: the table, the model, what is refused, and a whole run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from crosscale.artifact import read_artifact, write_artifact
from crosscale.cli.main import main
from crosscale.contracts import InputSpec
from crosscale.data import Augment, BadImage, eval_transform, open_source, train_transform
from crosscale.data.picture_check import check_pictures
from crosscale.data.pictures import decodable
from crosscale.data.reading import read_picture
from crosscale.data.statistics import measure_statistics
from crosscale.data.table import open_table
from crosscale.data.tag_table import open_tag_table
from crosscale.errors import RequestError
from crosscale.explain import describe_maps
from crosscale.export import export
from crosscale.export.engines import choose_engine
from crosscale.models.registry import create_model, input_spec
from crosscale.predictor import Predictor
from crosscale.pretrained import parameter_shapes
from crosscale.recipe import Recipe, load
from crosscale.runs.experiment import build
from crosscale.runs.train import run_training
from crosscale.serve.body import Asked, Upload, together
from crosscale.serve.served import ServedModel
from crosscale.serve.settings import Refused
from crosscale.trees import unflatten
from tests.conftest import TINY_CROSSVIT
from tests.test_build import SMALL

PAIR = InputSpec((8, 8), 6, (0.5,) * 6, (0.25,) * 6, crop_pct=1.0, pictures=2)


@pytest.fixture(scope="module")
def leaves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of pairs: the first picture is noise, and the second is dark or bright."""
    root, rng = tmp_path_factory.mktemp("leaves"), np.random.default_rng(0)
    lines = ["path,path_2,label,split"]
    for i in range(64):
        bright = i % 2
        noise, plain = rng.integers(0, 256, (16, 20, 1)), rng.integers(0, 60, (12, 12, 1)) + 150 * bright
        for name, pixels in (("a", noise), ("b", plain)):
            Image.fromarray(np.repeat(pixels, 3, 2).astype(np.uint8)).save(root / f"{i}{name}.png")
        lines.append(f"{i}a.png,{i}b.png,{('dark', 'bright')[bright]},{'val' if i >= 48 else 'train'}")
    (root / "leaves.csv").write_text("\n".join(lines) + "\n")
    return root / "leaves.csv"


@pytest.fixture(scope="module")
def recipe(leaves: Path) -> Callable[..., Recipe]:
    def made(**changes: str) -> Recipe:
        given = {
            **SMALL,
            "model.options.in_channels": "null",
            "model.options.img_size": "[16, 16]",
            "model.options.patch_size": "[8, 8]",
            "model.options.embed_dim": "[8, 8]",
            "model.options.depth": "[[1, 1, 0]]",
            "model.options.num_heads": "[1, 1]",
            "model.options.mlp_ratio": "[1, 1]",
            "data.mean": "[0.5]",
            "data.std": "[0.3]",
            "data.dir": str(leaves),
            "train.batch_size": "16",
            "train.epochs": "3",
            "validate.batch_size": "16",
            "augment.hflip": "0.5",
        }
        return load("smoke", given | {name.replace("__", "."): value for name, value in changes.items()})

    return made


def test_rows_have_a_picture_for_each_branch(leaves: Path) -> None:
    source: Any = open_source(leaves, "train")
    assert (len(source), source.pictures) == (48, 2)
    record = source[3]
    assert record.id == "3a.png::3b.png"
    assert [len(part) for part in record.image] == [(leaves.parent / f"3{name}.png").stat().st_size for name in "ab"]
    assert source.notes[0].startswith("leaves.csv: path from 'path', path_2 from 'path_2', label from 'label'")
    found = measure_statistics(source)
    assert (found.channels, len(found.mean)) == (3, 6)
    assert abs(found.mean[0] - 0.5) < 0.02
    assert check_pictures({"train": source}).modes == {"RGB": 48}


def test_tables_of_numbers_and_of_tags_have_them_too(leaves: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("path,path_2,area\n0a.png,0b.png,2.5\n1a.png,1b.png,3\n")
    numbers = open_table(table, "all", val_fraction=0.5, seed=0, root=leaves.parent)
    assert (numbers.names, numbers.values.tolist(), numbers.pictures) == (("area",), [[2.5], [3.0]], 2)
    table.write_text("path,path_2,tags\n0a.png,0b.png,x|y\n1a.png,1b.png,y\n")
    tags = open_tag_table(table, "all", val_fraction=0.5, seed=0, root=leaves.parent)
    assert (list(tags.classes), len(tags[1].image)) == (["x", "y"], 2)


def test_a_missing_second_picture_is_named(leaves: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("path,path_2,label\n0a.png,gone.png,x\n1a.png,,y\n")
    with pytest.raises(
        RequestError, match=r"2 of its 2 pictures are missing: gone\.png \(row 2\), \(no path\) \(row 3"
    ):
        open_source(table, "train", root=leaves.parent)


def test_the_model_is_built_for_the_table(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    found = build(recipe())
    assert (found.recipe.model.options["pictures"], found.recipe.model.options["in_channels"]) == (2, 6)
    assert (found.spec.pictures, found.spec.channels, found.spec.mean) == (2, 6, (0.5,) * 6)
    kernels = [leaf for leaf in jax.tree.leaves(found.shapes) if leaf.ndim == 4]
    assert {kernel.shape[2] for kernel in kernels} == {3}
    write_artifact(tmp_path, found.artifact)
    assert read_artifact(tmp_path).input_spec == found.spec
    again = build(found.recipe)  # as a resumed run builds it
    assert again.spec == found.spec
    grey = build(recipe(data__channels="1"))
    assert (grey.spec.channels, grey.model.in_channels) == (2, 2)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model__options__pictures": "1"}, r"model\.options\.pictures=1, but a row of the table has 2 pictures"),
        ({"data__decode": "fast"}, r"data\.decode=fast: works on one 8-bit JPEG"),
        ({"data__mean": "[0.1, 0.2]"}, r"data\.mean=\[0\.1, 0\.2\]: the model takes 6 channels"),
    ],
)
def test_what_does_not_fit_is_one_line(recipe: Callable[..., Recipe], changes: dict[str, str], line: str) -> None:
    with pytest.raises(RequestError, match=line):
        build(recipe(**changes))
    with pytest.raises(RequestError, match="pictures=2, in_channels=5: one picture for all branches"):
        create_model("crossvit", **TINY_CROSSVIT, in_channels=5, pictures=2)


@pytest.mark.slow
def test_each_branch_sees_its_own_picture() -> None:
    options = {**TINY_CROSSVIT, "fusion": "none", "depth": [[1, 1, 0]], "num_classes": 3}
    one, two = create_model("crossvit", **options), create_model("crossvit", **options, in_channels=6, pictures=2)
    spec, rng = input_spec("crossvit", two), np.random.default_rng(0)
    assert (spec.channels, spec.pictures, spec.mean[:3]) == (6, 2, spec.mean[3:])
    shapes = parameter_shapes(two)
    assert shapes == parameter_shapes(one)  # weights of photographs fit
    variables = {"params": unflatten({name: rng.normal(0, 0.3, s).astype(np.float32) for name, s in shapes.items()})}
    features = jax.jit(lambda images: two.apply(variables, images, method="features").pooled)
    images = rng.normal(size=(2, 16, 16, 6)).astype(np.float32)
    before = features(images)
    for branch, channels in enumerate((slice(0, 3), slice(3, 6))):
        other = images.copy()
        other[..., channels] = 0
        found = features(other)
        np.testing.assert_array_equal(found[1 - branch], before[1 - branch])
        assert abs(found[branch] - before[branch]).max() > 1e-3
    assert two.timm_model(None) is None
    assert {m.channels for m in describe_maps(two)} == {(0, 3), (3, 6)}


def test_pictures_are_changed_alike_or_each_by_itself() -> None:
    img = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8))

    def differ(synchronised: bool) -> list[bool]:
        transform = train_transform(PAIR, Augment(synchronised=synchronised))
        found = [transform((img, img), np.random.default_rng(seed)) for seed in range(8)]
        assert {array.shape for array in found} == {(8, 8, 6)}
        assert len({array.tobytes() for array in found}) == 8
        return [not np.array_equal(array[..., :3], array[..., 3:]) for array in found]

    assert not any(differ(True))
    assert all(differ(False))


def test_examples_of_other_numbers_of_pictures_are_one_line(leaves: Path) -> None:
    paths = [leaves.parent / f"0{name}.png" for name in "ab"]
    for picture in (tuple(paths), f"{paths[0]}::{paths[1]}"):
        pair = read_picture(PAIR, decodable(picture, "a"), "a")
        assert eval_transform(PAIR)(pair).shape == (8, 8, 6)
    assert len(read_picture(PAIR, np.zeros((4, 4, 6), np.uint8), "a")) == 2
    with pytest.raises(BadImage, match="a: 1 picture, and the model looks at 2 together"):
        read_picture(PAIR, decodable(paths[0], "a"), "a")
    with pytest.raises(BadImage, match="a: 2 pictures, and the model looks at 1 together"):
        read_picture(InputSpec(), decodable(tuple(paths), "a"), "a")


def test_uploads_go_together() -> None:
    asked = Asked(tuple(Upload(name, name.encode()) for name in "abcd"))
    assert together(asked, 1) is asked
    found = together(asked, 2).uploads
    assert [(upload.name, upload.data) for upload in found] == [("a::b", (b"a", b"b")), ("c::d", (b"c", b"d"))]
    with pytest.raises(Refused, match="4 pictures: the model looks at 3 together"):
        together(asked, 3)


@pytest.fixture(scope="module")
def run(recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "leaves"
    result = run_training(recipe(optimizer__lr="3e-3"), folder)
    assert result["top1"] >= 0.9
    return folder


@pytest.mark.slow
def test_a_run_from_training_to_a_service(
    run: Path, leaves: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictor = Predictor.from_run(run)
    files = [leaves.parent / f"60{name}.png" for name in "ab"]
    found = list(predictor.predict([tuple(files), f"{files[0]}::{files[1]}", files[0]]))
    assert (found[0].classes[0], found[0].probabilities) == ("dark", found[1].probabilities)
    assert "1 picture, and the model looks at 2 together" in found[2].error
    assert main(["predict", "--run", str(run), str(leaves), f"{files[0]}::{files[1]}", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["predictions"]
    assert len(said) == 65
    assert said[64]["classes"][0] == "dark"
    maps = tmp_path / "maps"
    assert main(["explain", "--run", str(run), f"{files[0]}::{files[1]}", "--output", str(maps), "--json"]) == 0
    assert len(list(maps.glob("*.png"))) == 1

    exported = export(predictor, tmp_path / "model.zip", format="stablehlo")
    assert exported.config["input"]["channels"] == "2 pictures, one after another: RGB"
    assert exported.config["input"]["shape"] == ["batch", *predictor.spec.size, 6]
    pytest.importorskip("onnxruntime")
    elsewhere = choose_engine(predictor, "onnxruntime").predictor
    (other,) = elsewhere.predict([tuple(files)])
    np.testing.assert_allclose(other.probabilities, found[0].probabilities, atol=1e-4)

    served = ServedModel(predictor, "leaves")
    served.warm_up([1])
    prepared = served.prepare(tuple(file.read_bytes() for file in files), "a::b", 10**6)
    answer = served.explain(prepared, "a::b", None, {})
    assert answer["classes"][0] == "dark"
    assert len({entry["picture"] for entry in answer["maps"]}) == 2
    with pytest.raises(Refused, match="a: 1 picture, and the model looks at 2 together"):
        served.prepare(files[0].read_bytes(), "a", 10**6)
