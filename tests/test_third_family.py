"""A third family is its own class and one row of the registry: all commands take it, and ask it what they need."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from crosscale.cli.main import main
from crosscale.contracts import Features, InputSpec
from crosscale.data import open_source
from crosscale.errors import RequestError
from crosscale.explain import attention, describe_maps
from crosscale.layers.attention import SelfAttention
from crosscale.layers.conv import Conv
from crosscale.models.description import TOP, AttentionMaps, Map, OpenSizes, Placement
from crosscale.models.model import ImageModel, check_images
from crosscale.models.presets import Preset, Published
from crosscale.models.registry import FAMILIES, create_model, families_that, input_spec
from crosscale.report.published import published_rows, series_names
from tests.seeded import seeded_variables

PATCH = 4


class ToyBackbone(nn.Module):
    width: int
    in_channels: int

    @nn.compact
    def __call__(self, images, train=False):
        check_images(images, self.in_channels)
        x = nn.gelu(Conv(self.width, PATCH, PATCH, name="patches")(images))
        tokens = x.reshape(x.shape[0], -1, self.width)
        tokens = tokens + SelfAttention(2, name="attention")(tokens, train=train)
        return Features((tokens.mean(1),), (tokens.reshape(x.shape),), (PATCH,))


class Toy(ImageModel):
    """Patches, one attention over them, and their mean."""

    img_size: int = 16
    in_channels: int = 3
    num_classes: int = 1000
    width: int = 16
    dtype: object = None

    @property
    def input_size(self):
        return self.img_size, self.img_size

    def make_backbone(self):
        return ToyBackbone(self.width, self.in_channels)

    def layer_of(self, name):
        return TOP if name.startswith("head/") else (0, float("attention" in name))

    def attention_maps(self, size=None):
        height, width = size or self.input_size
        grid = height // PATCH, width // PATCH

        def grids(captured, position, direction):
            heads_mean = captured["backbone"]["attention"]["weights"][0].astype(jnp.float32).mean(1)
            return {"received": heads_mean.mean(1).reshape(-1, *grid)}

        found = Map("received", "attention of all patches", f"{PATCH} px patches", grid[0] * grid[1])
        placement = Placement(grid, (0, 0), (PATCH, PATCH))
        return AttentionMaps((found,), {"received": placement}, grids, no_position="means over all patches")

    def open_sizes(self):
        return OpenSizes(PATCH, PATCH)


PRESETS = (
    Preset("toy_16", {"width": 16}, InputSpec(size=(16, 16), crop_pct=1.0), Published(2_000, 0.00003, 12.5)),
    Preset("toy_wide_16", {"width": 24}, InputSpec(size=(16, 16)), Published(4_000, 0.00006), aliases=("toy_24",)),
)

RECIPE = """
model: {name: toy_16, options: {in_channels: 1}}
data: {dir: digits, mean: [0.3], std: [0.37]}
augment: {scale: [0.8, 1.0], hflip: 0.0, color_jitter: 0.0, auto_augment: null, erase_prob: 0.0, mixup: 0, cutmix: 0}
optimizer: {lr: 5.0e-2, layer_decay: 0.8}
schedule: {warmup_epochs: 0.5}
train: {epochs: 2, batch_size: 64, log_every: 5}
validate: {batch_size: 128}
"""


@pytest.fixture(autouse=True, scope="module")
def registered():
    """One row, put in as a new family's author would write it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "toy", (Toy, PRESETS))
        yield


@pytest.fixture(scope="module")
def run(registered, tmp_path_factory):
    """Two epochs on the digits, by the command."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy.yaml").write_text(RECIPE)
    assert main(["train", "--config", str(folder / "toy.yaml"), "--output-dir", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, source = tmp_path_factory.mktemp("pictures"), open_source("digits", "val")
    files = [folder / f"{index}.png" for index in range(0, 300, 100)]
    for file in files:
        Image.fromarray(source[int(file.stem)].image).save(file)
    return files


def told(capsys, *words):
    """The JSON that a command prints."""
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_train_and_validate(run, capsys):
    config = json.loads((run / "best" / "config.json").read_text())
    assert (config["model"], config["num_classes"]) == ("toy_16", 10)
    result = told(capsys, "validate", "--run", run)
    assert result["examples"] == 359
    assert result["top1"] == pytest.approx(config["metrics"]["top1"])
    assert result["top1"] > 0.2  # chance is 0.1


def test_predict_and_explain(run, pictures, capsys, tmp_path):
    predicted = told(capsys, "predict", "--run", run, *pictures)["predictions"]
    explained = told(capsys, "explain", "--run", run, *pictures, "--output", tmp_path)
    assert [list(entry["maps"]) for entry in explained["explanations"]] == [["received"]] * 3
    for entry, other in zip(explained["explanations"], predicted, strict=True):
        assert entry["classes"][0] == other["classes"][0]
        assert Image.open(entry["output"]).width > 2 * 224


def test_the_maps_are_the_familys():
    model = create_model("toy_16", in_channels=1, num_classes=10)
    variables = seeded_variables(model)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 16, 16, 1)).astype(np.float32)
    (found,) = attention(model, variables, images).values()
    assert found.shape == (2, 16, 16)
    np.testing.assert_allclose(found.sum((1, 2)) / PATCH**2, 1, rtol=1e-5)
    with pytest.raises(RequestError, match="Toy's maps are means over all patches, which have no position"):
        attention(model, variables, images, position=(0.5, 0.5))
    assert [m.cells for m in describe_maps(model, (32, 16))] == [32]


def test_report_and_comparison(run, capsys, tmp_path):
    told(capsys, "report", run)
    page = (run / "report.html").read_text()
    assert "toy_16" in page
    assert 'alt="attention maps of ' in page
    shutil.copytree(run, tmp_path / "copy")
    assert main(["report", str(run), str(tmp_path / "copy"), "--output", str(tmp_path / "both.html")]) == 0
    text = (tmp_path / "both.html").read_text()
    assert "Beside published models" not in text  # it does not tell ImageNet's classes apart
    assert series_names()[:3] == ["CrossViT", "CrossFormer", "Toy"]
    # toy_wide_16 has no published figure to compare with.
    assert [(row.name, row.accuracy) for row in published_rows() if row.series == "Toy"] == [("toy_16", 12.5)]


@pytest.mark.parametrize(
    ("format", "options"), [("stablehlo", ("--any-size",)), pytest.param("onnx", (), marks=pytest.mark.slow)]
)
def test_export(run, capsys, tmp_path, format, options):
    pytest.importorskip("jax2onnx" if format == "onnx" else "flatbuffers")
    result = told(capsys, "export", "--run", run, "--format", format, *options, tmp_path / "toy.out")
    assert result["deviation"] < 1e-4
    assert result["config"]["model"] == "Toy"
    assert result["config"]["input"]["shape"][1] == ("multiple of 4, at least 4" if options else 16)


def test_the_registry_knows_it(capsys):
    shown = told(capsys, "models", "toy_24")
    assert (shown["name"], shown["family"]) == ("toy_wide_16", "toy")
    assert input_spec("toy", create_model("toy", img_size=32)).size == (32, 32)
    segmentations = "SemanticFPNCrossFormer, UPerNetCrossFormer"
    assert families_that("open_sizes") == f"CrossFormer, {segmentations} and Toy"
    detectors = "RetinaNetCrossFormer, MaskRCNNCrossFormer"
    described = f"CrossViT, CrossFormer, {segmentations}, {detectors}, SemanticFPNCrossViT and Toy"
    assert families_that("attention_maps") == described
    assert families_that("timm_model") == "CrossViT"
    with pytest.raises(RequestError, match="toy_16 has no option 'widht'; did you mean 'width'"):
        create_model("toy_16", widht=3)
    with pytest.raises(TypeError, match="Toy has no option 'widht'; did you mean 'width'"):
        Toy(widht=3)
