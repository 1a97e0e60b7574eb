"""Weights of detectors and segmentations: how many classes they are for, and folders of their own."""

import logging

import numpy as np
import pytest

import crosscale
from crosscale.artifact import read_artifact
from crosscale.cli.main import main
from crosscale.errors import RequestError
from crosscale.predictor import Predictor
from crosscale.pretrained import inspect_weights, load_weights, save_weights
from tests.seeded import seeded_run, seeded_variables

BACKBONE = {"img_size": 64, "embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2), "group_size": 4,
            "interval": (2, 2, 1, 1), "mlp_ratio": 1.0}  # fmt: skip
NARROW = {
    "retinanet_crossformer": {**BACKBONE, "neck_channels": 8},
    "mask_rcnn_crossformer": {**BACKBONE, "neck_channels": 8, "fc_channels": 8, "mask_channels": 8},
    "semantic_fpn_crossformer": {**BACKBONE, "neck_channels": 8, "head_channels": 8},
}
DETECTORS = ["retinanet_crossformer", "mask_rcnn_crossformer"]
NAMES = ["ant", "bee", "cat"]


def narrow(family, classes=3):
    model = crosscale.create_model(family, **NARROW[family], num_classes=classes)
    return model, seeded_variables(model)


@pytest.mark.parametrize("family", DETECTORS)
@pytest.mark.parametrize("names", ["crosscale", "mmdet"])
def test_a_detectors_file_says_its_number_of_classes(family, names, tmp_path):
    model, variables = narrow(family)
    file = tmp_path / "w.safetensors"
    save_weights(file, variables, model, names)
    other = crosscale.create_model(family, **NARROW[family], num_classes=5)
    assert inspect_weights(file, other).num_classes == 3
    with pytest.raises(RequestError, match="weights of 3 classes, and 2 names are given; give 3 names"):
        Predictor.from_weights(family, file, classes=["a", "b"], **NARROW[family])


@pytest.mark.slow
@pytest.mark.parametrize("family", DETECTORS)
def test_a_detectors_new_head_is_told_in_classes(family, tmp_path, caplog):
    caplog.set_level(logging.INFO, "crosscale")
    model, variables = narrow(family)
    save_weights(tmp_path / "w.safetensors", variables, model)
    load_weights(tmp_path / "w.safetensors", narrow(family, classes=5)[0], adapt=True)
    assert "new head (5 classes instead of 3); the rest is kept" in caplog.text


def test_convert_takes_a_detectors_classes_from_the_file(tmp_path, capsys):
    family = "retinanet_crossformer"
    model, variables = narrow(family)
    save_weights(tmp_path / "w.safetensors", variables, model, "mmdet")
    options = [
        f"--model.options.{key}={list(value) if isinstance(value, tuple) else value}"
        for key, value in NARROW[family].items()
    ]
    files = [str(tmp_path / "w.safetensors"), str(tmp_path / "out.safetensors")]
    assert main(["convert", "--model", family, *options, *files]) == 0
    old, new = (load_weights(file, model) for file in files)
    np.testing.assert_array_equal(
        old["params"]["head"]["classifier"]["bias"], new["params"]["head"]["classifier"]["bias"]
    )


# ---- folders and predictors ----


@pytest.mark.parametrize(
    ("family", "task", "tag"),
    [
        ("semantic_fpn_crossformer", "segmentation", "image-segmentation"),
        ("retinanet_crossformer", "detection", "object-detection"),
        ("mask_rcnn_crossformer", "instances", "image-segmentation"),
    ],
)
def test_a_folder_says_the_models_task(family, task, tag, tmp_path):
    model, variables = narrow(family)
    spec = crosscale.InputSpec(size=(64, 64))
    options = NARROW[family]
    crosscale.save_pretrained(
        tmp_path / "f", variables, model, name=family, spec=spec, options=options, classes=NAMES, names="crosscale"
    )
    artifact = read_artifact(tmp_path / "f")
    assert (artifact.task, artifact.labels) == (task, tuple(NAMES))
    assert f"pipeline_tag: {tag}" in (tmp_path / "f" / "README.md").read_text()
    again = Predictor.from_run(tmp_path / "f")
    assert (again.task.name, again.classes) == (task, tuple(NAMES))


def test_a_segmentation_model_predicts_masks(tmp_path):
    family = "semantic_fpn_crossformer"
    model, variables = narrow(family)
    save_weights(tmp_path / "w.safetensors", variables, model)
    by_hand = Predictor(model, variables, crosscale.InputSpec(size=(64, 64)))
    of_file = Predictor.from_weights(family, tmp_path / "w.safetensors", classes=NAMES, **NARROW[family])
    assert (by_hand.task.name, by_hand.classes) == ("segmentation", ("0", "1", "2"))
    assert (of_file.task.name, of_file.classes) == ("segmentation", tuple(NAMES))


def test_a_folder_of_a_run_keeps_the_runs_task(tmp_path, capsys):
    """What the task needs to decode, which only the run's folder says."""
    family, labels = "semantic_fpn_crossformer", ("ant", "bee", "cat")
    palette = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    seeded_run(
        tmp_path, family, NARROW[family], labels, input_spec=crosscale.InputSpec(size=(64, 64)),
        task="segmentation", task_options={"palette": palette, "scale": [96, 64]},
    )  # fmt: skip
    assert main(["convert", str(tmp_path), str(tmp_path / "f"), "--folder"]) == 0
    assert read_artifact(tmp_path / "f").task_options["palette"] == palette


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("crossvit", {}, r"^name='crossvit' builds a CrossViT, and the model is a \S+\.CrossFormer; give the preset"),
        (
            "crossformer",
            {**BACKBONE, "interval": (1, 1, 1, 1)},
            r"^options: 'crossformer' with these has interval=\(1, 1, 1, 1\), and the model has \(2, 2, 1, 1\); "
            "give 'interval' among them$",
        ),
    ],
)
def test_a_folder_that_would_be_read_as_another_model_is_refused(name, options, message, tmp_path):
    model = crosscale.create_model("crossformer", **BACKBONE, num_classes=3, drop_path_rate=0.3)
    with pytest.raises(RequestError, match=message):
        crosscale.save_pretrained(
            tmp_path / "f", {"params": {}}, model, name=name, spec=crosscale.InputSpec(), options=options
        )
    assert not (tmp_path / "f").exists()


def test_timms_names_are_for_what_timm_has(tmp_path):
    """Segmentation on CrossViT only reads them."""
    options = {"img_size": (48, 32), "patch_size": (12, 16), "embed_dim": (8, 16), "depth": ((1, 1, 0),),
               "num_heads": 2, "neck_channels": 8, "head_channels": 8}  # fmt: skip
    model = crosscale.create_model("semantic_fpn_crossvit", **options, num_classes=2)
    spec = crosscale.InputSpec(size=(48, 48))
    folder = crosscale.save_pretrained(
        tmp_path / "f", seeded_variables(model), model, name="semantic_fpn_crossvit", spec=spec, options=options
    )
    assert read_artifact(folder).extra["names"] == "crosscale"
