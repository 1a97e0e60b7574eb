"""`crosscale embed` against the model's own features."""

import json
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

from crosscale.cli.main import main
from crosscale.contracts import InputSpec
from crosscale.data import open_source, write_image_folder
from crosscale.engine.forward import normalize
from crosscale.predictor import Predictor
from crosscale.runs.embed import Embedded, check_output, embed, write_embedded
from crosscale.tasks.classification import Classification


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation():
    """Programs that run once compile without optimisation."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embed") / "few"
    write_image_folder({"val": open_source("digits", "val", val_fraction=0.01)}, folder)
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


@pytest.mark.slow
def test_the_vectors_are_the_models(tiny_run, pictures, tmp_path, capsys):
    out = tmp_path / "f.npz"
    assert (
        main(["embed", "--run", str(tiny_run), str(pictures), "--output", str(out), "--batch-size", "4", "--json"]) == 1
    )
    said = capsys.readouterr()
    result = json.loads(said.out)
    files = sorted(str(path) for path in pictures.rglob("*.png") if path.name != "bad.png")
    assert (result["images"], result["failed"], result["branches"]) == (len(files), 1, [8, 16])
    assert "bad.png: not an image" in said.err
    with np.load(out) as stored:
        assert stored["paths"].tolist() == files
        predictor = Predictor.from_run(tiny_run)
        images = np.stack([predictor.prepare(file, file) for file in files[-2:]])
        variables, inputs = predictor.variables, normalize(images, predictor.spec)
        want = jax.jit(lambda v, x: predictor.model.apply(v, x, method="features"))(variables, inputs).pooled
        for i, branch in enumerate(want):
            np.testing.assert_allclose(stored[f"branch_{i}"][-2:], branch, rtol=2e-4, atol=2e-5)
        np.testing.assert_array_equal(stored["joined"], np.concatenate([stored["branch_0"], stored["branch_1"]], 1))


def test_parquet_holds_a_row_per_picture(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    branches = np.arange(6, dtype=np.float32).reshape(3, 2), np.ones((3, 4), np.float32)
    write_embedded(Embedded(("a.png", "b.png", "c.png"), branches, ()), tmp_path / "f.parquet")
    rows = parquet.read_table(tmp_path / "f.parquet").to_pylist()
    assert rows[1] == {"path": "b.png", "branch_0": [2, 3], "branch_1": [1] * 4, "joined": [2, 3, 1, 1, 1, 1]}


class Mean(nn.Module):
    """The mean colour."""

    def __call__(self, images, train: bool = False):
        return images.mean((1, 2))

    def features(self, images, train: bool = False):
        return SimpleNamespace(pooled=(images.mean((1, 2)),))


class OwnShapes(Classification):
    """Pictures keep their own shapes, as in segmentation."""

    def fit(self, spec, img):
        return np.asarray(img)


def test_pictures_of_several_shapes_have_their_vectors_in_order(tmp_path):
    spec = InputSpec((8, 8), 3, (0.0,) * 3, (1 / 255,) * 3)
    for number, size in enumerate([(8, 8), (12, 8), (8, 8), (8, 20), (12, 8)]):
        Image.new("RGB", size, (number, 2 * number, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes(b"no picture")
    predictor = Predictor(Mean(), {}, spec, task=OwnShapes(3))
    found = embed(predictor, sorted(tmp_path.iterdir()), batch_size=3)
    assert [Path(path).stem for path in found.paths] == ["0", "1", "2", "4"]
    np.testing.assert_allclose(found.joined[:, 0], [0, 1, 2, 4], atol=1e-4)
    assert found.failures[0].startswith(f"{tmp_path / '3.png'}: not an image")


@pytest.mark.parametrize(
    ("name", "line"), [("no/f.npz", "there is no folder"), ("a.npz", "cannot be written (Is a directory)")]
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path, capsys, name, line):
    (tmp_path / "a.npz").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    words = ["embed", "--run", str(tmp_path / "no-run"), str(tmp_path / "p.png"), "--output", str(tmp_path / name)]
    assert main(words) == 2
    assert f"--output {tmp_path / name}: {line}" in capsys.readouterr().err


def test_looking_whether_an_output_can_be_written_leaves_what_is_there(tmp_path):
    (tmp_path / "old.npz").write_bytes(b"old")
    for name in ("old.npz", "new.npz"):
        check_output(tmp_path / name)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"old.npz": b"old"}


def test_requests_that_are_wrong(tiny_run, pictures, tmp_path, capsys):
    words = ["embed", "--run", str(tiny_run), "--output"]
    assert main([*words, str(tmp_path / "f.csv"), str(pictures)]) == 2
    assert "give a name that ends in .npz or .parquet" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "f.npz"), str(pictures / "bad.png")]) == 1
    assert "none of the images could be used" in capsys.readouterr().err
    assert not (tmp_path / "f.npz").exists()
