"""A family's constructor and its checked configuration name the same fields with the same defaults."""

from dataclasses import fields

import pytest

from crosscale.models.crossformer.backbone import CrossFormer
from crosscale.models.crossformer.config import CrossFormerConfig
from crosscale.models.crossvit.backbone import CrossViT
from crosscale.models.crossvit.config import CrossViTConfig


@pytest.mark.parametrize(("model", "config"), [(CrossViT, CrossViTConfig), (CrossFormer, CrossFormerConfig)])
def test_same_fields_and_defaults(model, config):
    constructor = {f.name: f.default for f in fields(model) if f.name not in ("parent", "name")}
    assert constructor == {f.name: f.default for f in fields(config)}
