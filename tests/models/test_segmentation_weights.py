"""Weights of segmentation models: mmsegmentation's names both ways, and a classifier's onto a new head."""

import numpy as np
import pytest

import crosscale
from crosscale.errors import RequestError
from crosscale.models.registry import create_model
from crosscale.pretrained import from_variables, load_weights, save_weights
from crosscale.trees import flatten
from crosscale.weights.files import read_tensors, write_safetensors
from tests.contracts import assert_equal
from tests.golden.segmentation import segmentation_seeded as seeded
from tests.seeded import seeded_variables

SMALL = {"img_size": 32, "embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "group_size": 4, "interval": 2,
         "merge_size": ((2, 4),), "num_classes": 3}  # fmt: skip
SMALL_FPN = SMALL | {"neck_channels": 8, "head_channels": 8}
SMALL_UPERNET = SMALL | {"head_channels": 8, "aux_channels": 8, "pool_scales": (1, 2)}


def small(family):
    model = create_model(
        family, **{"semantic_fpn_crossformer": SMALL_FPN, "upernet_crossformer": SMALL_UPERNET}[family]
    )
    return model, seeded_variables(model)


@pytest.mark.parametrize("name", ["semfpn", "upernet"])
def test_mmsegmentations_file_is_recognised_and_written_back(name, tmp_path):
    model, wanted = seeded.narrow(name)
    reference = seeded.reference_weights(model)
    write_safetensors(tmp_path / "a.safetensors", {f"state_dict.{key}": value for key, value in reference.items()})
    variables = crosscale.load_weights(tmp_path / "a.safetensors", model)
    assert_equal(variables, wanted)
    crosscale.save_weights(tmp_path / "b.safetensors", variables, model, names="mmseg")
    written = read_tensors(tmp_path / "b.safetensors")
    assert written.keys() == reference.keys()
    for key, value in reference.items():
        counter = key.endswith("num_batches_tracked")
        np.testing.assert_array_equal(written[key], 0 if counter else value, err_msg=key)


def test_own_files_hold_statistics_beside_parameters(tmp_path):
    model, variables = small("semantic_fpn_crossformer")
    save_weights(tmp_path / "own.safetensors", variables, model)
    names = read_tensors(tmp_path / "own.safetensors")
    assert {"head.scale_0.block_0.norm.mean", "head.scale_0.block_0.norm.scale"} <= names.keys()
    assert_equal(load_weights(tmp_path / "own.safetensors", model), variables)


@pytest.mark.slow
@pytest.mark.parametrize("names", ["crosscale", "mmseg"])
def test_an_auxiliary_head_can_be_left_out_or_missing(names, tmp_path):
    model, variables = small("upernet_crossformer")
    without = create_model("upernet_crossformer", **SMALL_UPERNET | {"aux_channels": 0})
    save_weights(tmp_path / "whole.safetensors", variables, model, names)
    kept = load_weights(tmp_path / "whole.safetensors", without)
    assert "auxiliary_head" not in kept["params"]
    np.testing.assert_array_equal(kept["params"]["head"]["fuse"]["conv"]["kernel"],
                                  variables["params"]["head"]["fuse"]["conv"]["kernel"])  # fmt: skip
    save_weights(tmp_path / "short.safetensors", kept, without, names)
    assert_equal(load_weights(tmp_path / "short.safetensors", without), kept)
    with pytest.raises(RequestError, match="missing auxiliary_head/block_0/conv/kernel"):
        load_weights(tmp_path / "short.safetensors", model)
    adapted = load_weights(tmp_path / "short.safetensors", model, adapt=True)
    np.testing.assert_array_equal(adapted["batch_stats"]["auxiliary_head"]["block_0"]["norm"]["var"], np.ones(8))
    assert np.abs(adapted["params"]["auxiliary_head"]["block_0"]["conv"]["kernel"]).max() > 0


@pytest.mark.parametrize("family", ["semantic_fpn_crossformer", "upernet_crossformer"])
@pytest.mark.slow
@pytest.mark.parametrize("names", ["crosscale", "official"])
def test_a_classifiers_weights_start_a_segmentation(family, names, tmp_path):
    classifier = create_model("crossformer", **SMALL | {"num_classes": 5})
    trained = seeded_variables(classifier, seed=3)
    save_weights(tmp_path / "c.safetensors", trained, classifier, names)
    model, _ = small(family)
    variables = load_weights(tmp_path / "c.safetensors", model, adapt=True)
    ours, theirs = flatten(variables["params"]["backbone"]), flatten(trained["params"]["backbone"])
    assert theirs.keys() - ours.keys() == {"norm/scale", "norm/bias"}
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    anew = flatten(load_weights(tmp_path / "c.safetensors", model, adapt=True, seed=1))
    for name, value in flatten(variables).items():
        if name.endswith("conv/kernel"):
            assert np.abs(value - anew[name]).max() > 0, name
        if name.startswith("batch_stats/"):
            np.testing.assert_array_equal(value, float(name.endswith("/var")), err_msg=name)
    with pytest.raises(RequestError, match=r"missing (neck|head|auxiliary_head)/"):
        load_weights(tmp_path / "c.safetensors", model)


@pytest.mark.slow
def test_the_backbone_alone_under_mmsegmentations_names(tmp_path):
    """As its users keep ImageNet weights: a detector's file, cut down."""
    model, variables = small("semantic_fpn_crossformer")
    flat = {key: value for key, value in from_variables(variables, model, "mmseg").items() if "backbone" in key}
    write_safetensors(tmp_path / "b.safetensors", flat)
    found = load_weights(tmp_path / "b.safetensors", model, adapt=True)
    assert_equal(found["params"]["backbone"], variables["params"]["backbone"])


@pytest.mark.slow
def test_other_classes_replace_the_classifiers_alone(tmp_path):
    model, variables = small("upernet_crossformer")
    save_weights(tmp_path / "w.safetensors", variables, model)
    other = create_model("upernet_crossformer", **SMALL_UPERNET | {"num_classes": 7})
    found, given = flatten(load_weights(tmp_path / "w.safetensors", other, adapt=True)), flatten(variables)
    for name, value in found.items():
        if "/classifier/" in name:
            assert value.shape[-1] == 7
        else:
            np.testing.assert_array_equal(value, given[name], err_msg=name)


def test_a_tensor_missing_within_a_part_is_named(tmp_path):
    model, variables = small("semantic_fpn_crossformer")
    flat = from_variables(variables, model, "mmseg")
    del flat["decode_head.scale_heads.1.0.bn.running_var"]
    write_safetensors(tmp_path / "w.safetensors", flat)
    with pytest.raises(RequestError, match="missing head/scale_1/block_0/norm/var"):
        load_weights(tmp_path / "w.safetensors", model, adapt=True)


@pytest.mark.parametrize(
    ("family", "names"), [("semantic_fpn_crossformer", "mmseg"), ("retinanet_crossformer", "mmdet")]
)
def test_another_grouping_than_the_released_one_is_told(family, names, tmp_path, caplog):
    stages = {"depths": (1, 1, 1), "num_heads": (1, 2, 2), "interval": (2, 2, 1), "merge_size": ((2, 4),) * 2}
    options = SMALL | stages | {"num_classes": 2, "neck_channels": 8, "img_size": 64}
    regions, whole = (create_model(family, **options, grouping=grouping) for grouping in ("regions", "whole"))
    save_weights(tmp_path / "w.safetensors", seeded_variables(whole), whole, names)
    load_weights(tmp_path / "w.safetensors", whole)
    assert "grouping" not in caplog.text
    load_weights(tmp_path / "w.safetensors", regions)
    told = "were trained with grouping='whole', as the presets have it; this model has 'regions'"
    assert told in caplog.text


def test_a_classifiers_names_are_only_read(tmp_path):
    model, variables = small("semantic_fpn_crossformer")
    with pytest.raises(RequestError, match="names of 'official' are only read for this model: they have none for "):
        save_weights(tmp_path / "w.safetensors", variables, model, "official")
