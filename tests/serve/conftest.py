"""One service for the module's tests, and pictures to send."""

from io import BytesIO

import numpy as np
import pytest
from client import serving
from PIL import Image
from skimage import data


def encode(array, kind="PNG", **options):
    file = BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="session")
def photos():
    """Real photographs as files, by name."""
    coffee, cat = data.coffee(), data.chelsea()
    return {
        "coffee.jpg": encode(coffee, "JPEG"),
        "cat.png": encode(cat),
        "cat.webp": encode(cat, "WEBP"),
        "camera.png": encode(data.camera()),
        "moon.jpg": encode(data.moon()[:200, :120], "JPEG", quality=50),
    }


@pytest.fixture(scope="session")
def service(tiny_run):
    with serving(
        tiny_run, "--max-bytes", 2_000_000, "--max-pixels", 4_000_000, "--body-seconds", 2, "--max-images", 8
    ) as found:
        yield found


@pytest.fixture(scope="session")
def bomb():
    """A PNG whose header declares a picture of 900 million pixels."""
    file = bytearray(encode(np.zeros((1, 1), np.uint8)))
    from zlib import crc32

    file[16:24] = (30000).to_bytes(4, "big") * 2
    file[29:33] = crc32(file[12:29]).to_bytes(4, "big")
    return bytes(file)
