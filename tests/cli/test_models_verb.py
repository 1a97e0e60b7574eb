"""`crosscale models` against the presets' own rows."""

import json

import pytest

from crosscale.cli.main import main
from crosscale.measure import count_macs
from crosscale.models.registry import create_model, get_preset


def run(capsys, *words):
    assert main(["models", *words]) == 0
    return capsys.readouterr().out


def test_json_of_some(capsys):
    models = json.loads(run(capsys, "crossvit_*dagger_408", "--json"))["models"]
    assert [model["name"] for model in models] == ["crossvit_15_dagger_408", "crossvit_18_dagger_408"]
    for model in models:
        published = get_preset(model["name"]).published
        assert model["parameters"] == published.params
        assert model["published"]["top1"] == published.top1
        assert model["input_spec"]["size"] == [408, 408]
        assert model["family"] == "crossvit"
        assert model["hub"] == f"timm/{model['name']}.in1k"


@pytest.mark.slow
def test_macs_are_the_models_own(capsys):
    model = json.loads(run(capsys, "crossvit_tiny_240", "--json"))
    preset = get_preset("crossvit_tiny_240")
    assert model["macs"] == count_macs(create_model("crossvit_tiny_240"), preset.input_spec)
    # The class attention needs no keys and values of the tokens, so it stays below the published count.
    assert 0.9 < model["macs"] / 1e9 / preset.published.gmacs <= 1.005


@pytest.mark.slow
def test_macs_of_crossvit_9_by_hand():
    small, large = 20 * 20 + 1, 14 * 14 + 1  # tokens of the branches; widths 128 and 256, mlp ratio 3

    def block(tokens, dim):
        return tokens * dim * 3 * dim + 2 * tokens**2 * dim + tokens * dim**2 + 2 * tokens * dim * 3 * dim

    def fusion(tokens, dim, other, heads=4):
        project = dim * other + other * dim  # there and back
        query_and_out = 2 * other**2
        folded = 2 * other**2  # the query through the key matrix, the context through the value matrix
        attention = 2 * heads * tokens * other
        return project + query_and_out + folded + attention

    patches = 400 * 128 * 12 * 12 * 3 + 196 * 256 * 16 * 16 * 3
    stage = block(small, 128) + 3 * block(large, 256) + fusion(large, 128, 256) + fusion(small, 256, 128)
    heads = (128 + 256) * 1000
    model = create_model("crossvit_9_240")
    assert count_macs(model, get_preset("crossvit_9_240").input_spec) == patches + 3 * stage + heads


def test_alias_is_the_same_model(capsys):
    assert run(capsys, "crossvit_9_224", "--json") == run(capsys, "crossvit_9_240", "--json")


def test_one_in_full(capsys):
    out = run(capsys, "crossvit_9_240")
    for text in (
        "8,553,296",
        "crossvit_9_224",
        "240 x 240",
        "top-1 73.994, top-5 91.976",
        "embed_dim",
        "(128, 256)",
    ):
        assert text in out


@pytest.mark.parametrize("pattern", ["crossvit_9_24", "crosvit_9_*"])
def test_no_match_suggests_the_nearest(capsys, pattern):
    assert main(["models", pattern]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "did you mean 'crossvit_9_" in captured.err
