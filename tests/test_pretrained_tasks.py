"""Weights of detectors and segmentations: how many classes they are for, and folders of their own."""

import logging

import numpy as np
import pytest

import crosscale
from crosscale.cli.main import main
from crosscale.errors import RequestError
from crosscale.predictor import Predictor
from crosscale.pretrained import inspect_weights, load_weights, save_weights
from tests.seeded import seeded_variables

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
def test_a_detectors_file_says_its_number_of_classes(family, names, tmp_path, caplog):
    caplog.set_level(logging.INFO, "crosscale")
    model, variables = narrow(family)
    file = tmp_path / "w.safetensors"
    save_weights(file, variables, model, names)
    other = crosscale.create_model(family, **NARROW[family], num_classes=5)
    assert inspect_weights(file, other).num_classes == 3
    load_weights(file, other, adapt=True)
    assert "new head (5 classes instead of 3); the rest is kept" in caplog.text
    with pytest.raises(RequestError, match="weights of 3 classes, and 2 names are given; give 3 names"):
        Predictor.from_weights(family, file, classes=["a", "b"], **NARROW[family])


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
