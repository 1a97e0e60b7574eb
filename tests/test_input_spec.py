"""What a model's input may be described by."""

import jax
import numpy as np
import pytest

from crosscale.contracts import InputSpec
from crosscale.errors import RequestError
from crosscale.predictor import Predictor
from tests.models.test_heads import SMALL_VIT
from tests.seeded import seeded_variables


def test_lists_and_arrays_are_the_same_as_tuples():
    plain = InputSpec(size=(48, 40), mean=(0.5, 0.25, 0.5), std=(0.5, 1.0, 2.0))
    listed = InputSpec(size=[48, 40], mean=[0.5, 0.25, 0.5], std=np.array([0.5, 1.0, 2.0], np.float32))
    assert listed == plain
    assert hash(listed) == hash(plain)
    assert {type(side) for side in InputSpec(size=np.array([48, 40])).size} == {int}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 48}, r"^InputSpec: size=48 is not a pair of whole numbers of pixels, \(height, width\)$"),
        ({"size": (48, 48, 3)}, r"size=\(48, 48, 3\) is not a pair"),
        ({"size": (48.5, 48)}, "is not a pair"),
        ({"size": "48"}, "size='48' is not a pair"),
        ({"mean": 0.5}, r"^InputSpec: mean=0.5 is not a list of numbers, one per channel$"),
        ({"std": [[1.0], [1.0, 2.0]]}, "is not a list of numbers"),
        ({"std": ("a", "b", "c")}, "is not a list of numbers"),
    ],
)
def test_anything_else_is_refused(fields, message):
    with pytest.raises(RequestError, match=message):
        InputSpec(**fields)


def test_pictures_of_a_listed_size_share_a_batch(monkeypatch):
    from crosscale.models.crossvit.backbone import CrossViT

    model = CrossViT(**SMALL_VIT, num_classes=2)
    predictor = Predictor(model, seeded_variables(model), InputSpec(size=[32, 32]))
    shapes = []

    def seen(images, contents=None):
        shapes.append(images.shape)
        return jax.numpy.zeros((len(images), 2))

    monkeypatch.setattr(predictor, "spread_outputs", seen)
    list(predictor.predict([np.zeros((32, 32, 3), np.uint8)] * 5, batch_size=5))
    assert shapes == [(5, 32, 32, 3)]
