"""`crosscale embed` against the model's own features."""

import json

import jax
import numpy as np
import pytest

from crosscale.cli.main import main
from crosscale.data import open_source, write_image_folder
from crosscale.engine.forward import normalize
from crosscale.predictor import Predictor
from crosscale.runs.embed import Embedded, write_embedded


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


def test_requests_that_are_wrong(tiny_run, pictures, tmp_path, capsys):
    words = ["embed", "--run", str(tiny_run), "--output"]
    assert main([*words, str(tmp_path / "f.csv"), str(pictures)]) == 2
    assert "give a name that ends in .npz or .parquet" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "f.npz"), str(pictures / "bad.png")]) == 1
    assert "none of the images could be used" in capsys.readouterr().err
    assert not (tmp_path / "f.npz").exists()
