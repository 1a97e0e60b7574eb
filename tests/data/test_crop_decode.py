"""Decoding the crop's part of a JPEG alone."""

import os
import subprocess
import sys
import threading
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from crosscale.contracts import InputSpec, Record
from crosscale.data import Augment, crop_decode, fast
from crosscale.data.crop_decode import decode_part

BOXES = [(0, 0, 100, 120), (3, 5, 97, 115), (201, 333, 226, 307), (100, 0, 1, 640), (426, 639, 1, 1)]


@pytest.fixture(scope="module")
def flower():
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image("flower.jpg"))


@pytest.fixture
def library():
    if not crop_decode.can_decode_parts():
        pytest.skip("nvImageCodec is not installed")


@pytest.mark.parametrize(
    "options",
    [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"quality": 40, "restart_marker_rows": 1}],
)
def test_pixels_are_those_of_the_whole(library, flower, encode, options):
    data = encode(flower, "JPEG", **{"quality": 92, **options})
    whole = np.asarray(Image.open(BytesIO(data)))
    for top, left, height, width in BOXES:
        part = decode_part(data, top, left, height, width)
        np.testing.assert_array_equal(part, whole[top : top + height, left : left + width])


def test_grey_pictures_have_three_equal_channels(library, flower, encode):
    data = encode(flower.convert("L"), "JPEG")
    part = decode_part(data, 10, 20, 30, 40)
    np.testing.assert_array_equal(part, np.asarray(Image.open(BytesIO(data)).convert("RGB"))[10:40, 20:60])


def test_files_that_are_not_whole_are_left_to_others(library, flower, encode, capfd):
    data = encode(flower, "JPEG")
    assert decode_part(data[:-500], 0, 0, 10, 10) is None
    assert decode_part(b"", 0, 0, 10, 10) is None
    assert capfd.readouterr().err == ""


def test_threads_have_decoders_of_their_own(library, flower, encode):
    data = encode(flower, "JPEG")
    whole = np.asarray(Image.open(BytesIO(data)))
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(20):
            top, left = int(rng.integers(300)), int(rng.integers(500))
            if not np.array_equal(decode_part(data, top, left, 90, 80), whole[top : top + 90, left : left + 80]):
                wrong.append((top, left))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_training_pictures_are_the_same_with_and_without_it(library, flower, encode, monkeypatch):
    transform = fast.fast_train_transform(InputSpec(size=(96, 96)), Augment())
    record = Record("x", encode(flower.resize((240, 160)), "JPEG"), 0)
    asked = []
    original = fast.decode_part
    monkeypatch.setattr(fast, "decode_part", lambda *place: asked.append(place) or original(*place))
    found = [transform(record, np.random.default_rng(seed)) for seed in range(12)]
    assert 4 < len(asked) < 12  # not the crops that are nearly all of the picture
    monkeypatch.setattr(fast, "decode_part", lambda *place: None)
    np.testing.assert_array_equal(found, [transform(record, np.random.default_rng(seed)) for seed in range(12)])


def test_it_comes_up_without_a_word_and_leaves_the_environment_alone(library):
    program = (
        "import os; from crosscale.data import crop_decode\n"
        "assert crop_decode.can_decode_parts()\n"
        "print(os.environ.get('NVIMGCODEC_EXTENSIONS_PATH'))\n"
    )
    for given, expected in ((None, "None"), ("/kept", "/kept")):
        environment = dict(os.environ) | ({} if given is None else {"NVIMGCODEC_EXTENSIONS_PATH": given})
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
        assert (done.stdout.strip(), done.stderr) == (expected, "")


def test_without_the_library_there_is_no_part(monkeypatch, flower, encode):
    monkeypatch.setattr(crop_decode, "_library", lambda: None)
    assert decode_part(encode(flower, "JPEG"), 0, 0, 10, 10) is None
