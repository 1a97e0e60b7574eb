"""Pictures that the data tests share."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image


def encoded(img, fmt="PNG", **options):
    buffer = BytesIO()
    img.save(buffer, fmt, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def photo():
    """A 64 x 48 part of a photograph, RGB."""
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image("flower.jpg")[100:148, 200:264])


@pytest.fixture
def encode():
    return encoded


@pytest.fixture
def make_folder(tmp_path):
    """Writes {"class/name": PIL image or bytes} below a new folder and returns it."""

    def make(files, name="data"):
        root = tmp_path / name
        for path, content in files.items():
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else encoded(content))
        return root

    return make


@pytest.fixture
def grey():
    """A function of a value: an 8 x 8 picture of it."""
    return lambda value: Image.fromarray(np.full((8, 8), value, np.uint8))
