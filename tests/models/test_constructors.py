"""The families' constructors: fields in their order, what a wrong keyword or value is told, and Linen's own table."""

from dataclasses import fields

import jax
import jax.numpy as jnp
import pytest

from crosscale.compat import vit_pytorch
from crosscale.errors import RequestError
from crosscale.models.crossformer.backbone import CrossFormer
from crosscale.models.crossformer.config import CrossFormerConfig
from crosscale.models.crossvit.backbone import CrossViT
from crosscale.models.crossvit.config import CrossViTConfig
from crosscale.models.heads.linear import MeanOfLinears

BOTH = [(CrossViT, CrossViTConfig), (CrossFormer, CrossFormerConfig)]


@pytest.mark.parametrize(("model", "config"), BOTH)
def test_the_config_names_the_fields(model, config):
    """The constructor's fields are the config's, in its order, and what Linen and the base add is keyword-only."""
    own = [f.name for f in fields(config)]
    assert [f.name for f in fields(model) if f.name not in ("task_head", "parent", "name")] == own
    assert not set(model.__annotations__) & set(own)
    assert model(img_size=96).config == config(img_size=96)
    assert model(96) == model(img_size=96)
    assert "img_size = " in repr(model(96))
    with pytest.raises(TypeError):
        model(*range(len(own)), None, None, MeanOfLinears(3))


def test_the_first_fields_by_position():
    assert [f.name for f in fields(CrossViTConfig)][:6] == [
        "img_size", "patch_size", "in_channels", "num_classes", "embed_dim", "depth",
    ]  # fmt: skip
    assert CrossViT((48, 48), (12, 16), 1, 5).num_classes == 5
    assert CrossFormer(64, (4, 8), 1, 5, 48).embed_dim == 48


@pytest.mark.parametrize(
    ("family", "wrong", "near"),
    [
        (CrossViT, "embed_dims", "embed_dim"),
        (CrossFormer, "depth", "depths"),
        (vit_pytorch.CrossViT, "dropouts", "dropout"),
    ],
)
def test_a_wrong_keyword_names_the_nearest_field(family, wrong, near):
    with pytest.raises(TypeError, match=f"^{family.__name__} has no option '{wrong}'; did you mean '{near}'\\?$"):
        family(**{wrong: 3})


@pytest.mark.parametrize(
    ("family", "options", "told"),
    [
        (CrossViT, {"depth": 2}, r"depth=2 is no list of stages: give one .* such as \[\[1, 1, 1\]\]"),
        (CrossViT, {"depth": [1, 3, 1]}, r"depth=\[1, 3, 1\] is no list of stages"),
        (CrossViT, {"embed_dim": None}, "embed_dim=None is neither a number nor a list"),
        (CrossViT, {"img_size": 224.0}, "img_size: 224.0 is neither a side length in pixels"),
        (CrossViT, {"in_channels": "3"}, "in_channels='3' is not a whole number"),
        (CrossFormer, {"num_classes": True}, "num_classes=True is not a whole number"),
        (CrossFormer, {"depths": None}, "depths=None is neither a number nor a list"),
        (CrossFormer, {"embed_dim": [96]}, r"embed_dim=\[96\] is not a whole number"),
        (CrossFormer, {"merge_size": 2}, "merge_size=.* are joined by 3"),
        (CrossFormer, {"drop_path_rate": "0.1"}, "drop_path_rate='0.1' is not a number"),
        (CrossFormer, {"task_head": 3}, "task_head=3 is not a Linen module"),
    ],
)
def test_a_value_of_the_wrong_kind_is_one_line(family, options, told):
    with pytest.raises(RequestError, match=told) as caught:
        family(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        CrossViT(32, (8, 16), embed_dim=(8, 16), depth=[[1, 1, 1]], num_heads=(2, 2), num_classes=3),
        CrossFormer(32, (4, 8), embed_dim=16, depths=(1, 1), num_heads=(1, 2), merge_size=[[2]], group_size=2,
                    interval=1, num_classes=3),
        vit_pytorch.CrossViT(image_size=48, num_classes=3, sm_dim=8, lg_dim=16, depth=1, lg_enc_depth=1),
    ],
    ids=lambda model: type(model).__name__,
)  # fmt: skip
def test_linens_table_counts_operations(model):
    images = jnp.zeros((1, *model.input_size, 3))
    table = model.tabulate(jax.random.key(0), images, compute_flops=True, depth=1, console_kwargs={"width": 200})
    rows = {name: row for row in table.splitlines() for name in ("backbone", "head") if f"│ {name} " in row}
    assert rows.keys() == {"backbone", "head"}
    assert "make_backbone" not in table
