"""The quick training path: how near it is to the exact one, and where it leaves the work to that."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from crosscale.contracts import InputSpec, Record
from crosscale.data import Augment, train_batches, train_transform
from crosscale.data.decode import BadImage, decode
from crosscale.data.examples import ImageExamples
from crosscale.data.fast import fast_train_transform, warp_affine
from crosscale.data.picture_operations import pillow_affine
from crosscale.data.rand_augment import RandAugment
from crosscale.data.transforms import operations
from crosscale.errors import RequestError

pytest.importorskip("cv2")
pytest.importorskip("simplejpeg")

SPEC = InputSpec(size=(96, 96))
PLAIN = Augment(auto_augment=None, color_jitter=0.0)


@pytest.fixture(scope="module")
def flower():
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image("flower.jpg"))


@pytest.fixture
def jpeg(flower, encode):
    return lambda size=(640, 427), **options: encode(flower.resize(size), "JPEG", quality=92, **options)


def both(data, augment=PLAIN, seeds=8, spec=SPEC):
    exact, fast = train_transform(spec, augment), fast_train_transform(spec, augment)
    for seed in range(seeds):
        one = exact(decode(data, spec.channels, "x"), np.random.default_rng(seed)).astype(int)
        other = fast(Record("x", data, 0), np.random.default_rng(seed)).astype(int)
        assert one.shape == other.shape
        yield np.abs(one - other)


@pytest.mark.parametrize("size", [(640, 427), (120, 80), (1600, 1067)])
def test_same_crops_with_nearly_the_same_pixels(jpeg, size):
    differences = list(both(jpeg(size)))
    assert np.mean([difference.mean() for difference in differences]) < 2.5
    assert max(difference.max() for difference in differences) < 100


def test_large_pictures_are_decoded_smaller(jpeg, monkeypatch):
    import simplejpeg

    asked = []
    original = simplejpeg.decode_jpeg
    monkeypatch.setattr(
        simplejpeg, "decode_jpeg", lambda data, **options: asked.append(original(data, **options)) or asked[-1]
    )
    transform = fast_train_transform(SPEC, Augment(scale=(1.0, 1.0), auto_augment=None, color_jitter=0.0))
    transform(Record("x", jpeg((1600, 1200)), 0), np.random.default_rng(0))
    assert asked[0].shape == (300, 400, 3)  # a quarter: still more than twice 96


@pytest.mark.parametrize("orientation", [3, 6])
def test_turned_pictures_come_upright(jpeg, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(exif=exif.tobytes())
    assert max(difference.mean() for difference in both(data, seeds=4)) < 4


def test_other_formats_take_the_exact_decoder(flower, encode, grey):
    for data in (encode(flower), encode(flower.convert("CMYK"), "JPEG"), encode(flower.convert("L"), "JPEG")):
        assert max(difference.mean() for difference in both(data, seeds=4)) < 4
    small = InputSpec(size=(32, 32), channels=1, mean=(0.5,), std=(0.5,))
    gradient = Image.fromarray(np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8))
    assert max(difference.max() for difference in both(encode(gradient), seeds=4, spec=small)) < 40


def test_damaged_pictures_are_told_as_ever(jpeg):
    transform = fast_train_transform(SPEC, PLAIN)
    for data in (b"", b"text", jpeg()[:2000], b"\xff\xd8\xff\xe0" + b"\0" * 50):
        with pytest.raises(BadImage, match=r"^photo: "):
            transform(Record("photo", data, 0), np.random.default_rng(0))


@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"])
def test_geometry_is_that_of_pillow(flower, name):
    img = flower.resize((96, 96))
    policy = operations(SPEC, Augment())
    slow = RandAugment(policy.policy, policy.fill, policy.filters, pillow_affine)
    quick = RandAugment(policy.policy, policy.fill, policy.filters, warp_affine)
    for seed in range(3):
        one, other = (
            np.asarray(each.apply(name, img, 9.0, np.random.default_rng(seed))).astype(int) for each in (slow, quick)
        )
        difference = np.abs(one - other)
        assert np.median(difference) <= 1  # the filters' cubics differ, the places do not
        assert difference.mean() < 5


def test_full_recipe_in_the_loader(jpeg):
    class Photos:
        classes = ("x",)

        def __len__(self):
            return 8

        def __getitem__(self, index):
            return Record(f"x/{index}", jpeg(), 0)

    options = {"batch_size": 4, "seed": 1, "epochs": 1}
    found = []
    for _ in range(2):
        with train_batches(Photos(), ImageExamples(SPEC, Augment(), decode="fast"), **options) as batches:
            found.append(np.stack([batch.image for batch in batches]))
    assert found[0].shape == (2, 4, 96, 96, 3)
    np.testing.assert_array_equal(*found)
    transform = fast_train_transform(SPEC, Augment())
    assert pickle.loads(pickle.dumps(transform)) == transform


def test_without_the_libraries_it_says_what_to_install():
    program = (
        "import sys; sys.modules['cv2'] = None\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'cv2' else find(name, *rest)\n"
        "from crosscale.contracts import InputSpec\n"
        "from crosscale.data import Augment\n"
        "from crosscale.data.fast import fast_train_transform\n"
        "try: fast_train_transform(InputSpec(), Augment())\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "data.decode=fast needs cv2, not installed: pip install 'crosscale[fast-data]'" in done.stdout, done.stderr


def test_unknown_way_to_decode_is_refused():
    from crosscale.recipe import Recipe, override

    with pytest.raises(RequestError, match=r"data\.decode"):
        override(Recipe(), {"data.decode": "quick"})


def segment(marker, content):
    return bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2, "big") + content


XMP = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize(
    "segments",
    [
        lambda exif: segment(0xFE, bytes(6_000)) + segment(0xE1, exif),
        lambda exif: segment(0xE2, b"ICC_PROFILE\0" + bytes(60_000)) * 2 + segment(0xE1, exif),
        lambda exif: segment(0xE1, XMP),
        lambda exif: segment(0xFE, bytes(6_000)) + segment(0xE1, XMP),
    ],
    ids=["EXIF behind a comment", "EXIF behind profiles", "XMP alone", "XMP behind a comment"],
)
def test_orientation_wherever_it_stands(jpeg, segments):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = jpeg((160, 96))
    turned = data[:2] + segments(exif.tobytes()) + data[2:]
    assert decode(turned, 3, "x").size == (96, 160)
    assert max(difference.max() for difference in both(turned, seeds=3)) < 100
    assert np.mean([difference.mean() for difference in both(turned, seeds=3)]) < 2.5
