import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from crosscale.contracts import Source
from crosscale.data import open_source
from crosscale.errors import RequestError


def test_digits_are_split_once_and_for_all():
    train, val = open_source("digits", "train"), open_source("digits", "val")
    assert isinstance(train, Source)
    assert list(train.classes) == [str(digit) for digit in range(10)]
    assert (len(train), len(val)) == (1438, 359)
    ids = [[source[i].id for i in range(len(source))] for source in (train, val)]
    assert len(set(ids[0]) | set(ids[1])) == 1797
    # The split is part of the published number: it must not move with library versions.
    assert ids[1][:5] == [f"digits/{i:04d}" for i in (48, 49, 160, 178, 292)]
    labels = np.array([val[i].target for i in range(len(val))])
    assert set(np.bincount(labels)) <= {35, 36, 37}


def test_digits_pixels():
    data = load_digits()
    source = open_source("digits", "val")
    for i in range(0, len(source), 50):
        record = source[i]
        original = int(record.id.split("/")[1])
        assert record.target == data.target[original]
        assert record.image.dtype == np.uint8
        np.testing.assert_allclose(record.image, data.images[original] * 255 / 16, atol=0.5)


def test_digits_are_read_without_importing_scikit_learn():
    """Its import takes longer than everything else that a training of the digits waits for."""
    opened = "from crosscale.data import open_source; open_source('digits', 'val')"
    code = f"import sys; {opened}; sys.exit('sklearn' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_other_seed_holds_out_others():
    ids = [
        {source[i].id for i in range(len(source))} for source in (open_source("digits", "val", seed=s) for s in (0, 1))
    ]
    assert len(ids[0] & ids[1]) < 150


def test_wrong_requests():
    with pytest.raises(RequestError, match="train or val"):
        open_source("digits", "test")
    with pytest.raises(RequestError, match="lies in 0 <= value < 1"):
        open_source("digits", "val", val_fraction=1.0)
