"""Pictures of 16 bits, of many channels and of arrays: read as they are stored, fitted as others are, or refused."""

import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from crosscale.cli.main import main
from crosscale.contracts import InputSpec, Record
from crosscale.data import Augment, BadImage, ImageExamples, eval_transform, open_source, train_transform
from crosscale.data.bands import Bands, as_shown
from crosscale.data.full_depth import read_full
from crosscale.data.picture_check import check_pictures
from crosscale.data.reading import read_picture
from crosscale.data.statistics import measure_statistics
from crosscale.errors import RequestError

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 65536, (9, 7, 3), np.uint16)
PLAIN = Augment(auto_augment=None, color_jitter=0.0)


def npy(array, **options):
    stream = BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def tiff(array, **options):
    tifffile = pytest.importorskip("tifffile")
    stream = BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def spec_of(channels, **changes):
    return InputSpec((8, 12), channels, (0.5,) * channels, (0.25,) * channels, pixels="float32", **changes)


@pytest.mark.parametrize(
    ("dtype", "scale"), [("uint8", 255), ("uint16", 65535), ("int16", 1), ("float32", 1), (">u2", 65535), ("bool", 1)]
)
def test_arrays_of_any_type_are_read(dtype, scale):
    array = (RNG.random((4, 5, 6)) * 200).astype(dtype)
    for order in "CF":
        found = read_full(npy(np.array(array, order=order)), 6, "a.npy")
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, array.astype(np.float64) / scale, rtol=1e-6)


def test_a_plane_is_one_channel_or_repeated():
    plane = RNG.random((4, 5)).astype(np.float32)
    np.testing.assert_array_equal(read_full(npy(plane), 1, "a")[..., 0], plane)
    np.testing.assert_array_equal(read_full(npy(plane), 3, "a"), np.repeat(plane[..., None], 3, 2))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_of_16_bits_keeps_every_bit(channels):
    cv2 = pytest.importorskip("cv2")
    array = RNG.integers(0, 65536, (9, 7, channels), np.uint16)
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    data = cv2.imencode(".png", np.ascontiguousarray(array[:, :, order]))[1].tobytes()
    np.testing.assert_array_equal(read_full(data, channels, "a.png"), array / np.float32(65535))
    if channels == 4:
        share = array[:, :, 3:] / 65535
        over_white = share * array[:, :, :3] / 65535 + 1 - share
        np.testing.assert_allclose(read_full(data, 3, "a.png"), over_white, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((9, 7, 6), {"photometric": "minisblack", "planarconfig": "contig"}),
        ((6, 9, 7), {"photometric": "minisblack", "planarconfig": "separate"}),
        ((6, 9, 7), {"photometric": "minisblack"}),  # a page for each channel
        ((6, 9, 7), {"imagej": True, "metadata": {"axes": "CYX"}}),
        ((9, 7, 6), {"photometric": "minisblack", "planarconfig": "contig", "compression": "zlib"}),
    ],
)
def test_tiff_of_many_channels(shape, options):
    array = RNG.integers(0, 65536, shape, np.uint16)
    expected = array if shape[-1] == 6 else np.moveaxis(array, 0, 2)
    np.testing.assert_array_equal(read_full(tiff(array, **options), 6, "a.tif"), expected / np.float32(65535))


def pillow_tiff(img, **options):
    stream = BytesIO()
    img.save(stream, "TIFF", **options)
    return stream.getvalue()


GREY = RNG.integers(0, 256, (6, 9), np.uint8)
COLOURS = RNG.integers(0, 256, (6, 9, 4), np.uint8)
OF_8_BITS = {
    "turned": lambda: pillow_tiff(Image.fromarray(COLOURS[:, :, :3]), tiffinfo={274: 6}),
    "a palette": lambda: pillow_tiff(Image.fromarray(COLOURS[:, :, :3]).quantize(8)),
    "CMYK": lambda: pillow_tiff(Image.fromarray(COLOURS[:, :, :3]).convert("CMYK")),
    "YCbCr": lambda: pillow_tiff(Image.fromarray(COLOURS[:, :, :3]).convert("YCbCr")),
    "0 is white": lambda: tiff(GREY, photometric="miniswhite"),
    "1 bit": lambda: pillow_tiff(Image.fromarray(GREY).convert("1")),
    "grey and alpha": lambda: pillow_tiff(Image.fromarray(COLOURS[:, :, :2], "LA")),
    "alpha": lambda: pillow_tiff(Image.fromarray(COLOURS)),
    "infrared": lambda: tiff(COLOURS, photometric="rgb", extrasamples=["unspecified"]),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("case", OF_8_BITS)
def test_a_tiff_of_8_bits_is_what_it_is_without_full_depth(case, channels):
    data = OF_8_BITS[case]()
    plain = np.asarray(read_picture(InputSpec(channels=channels), data, "a.tif"))
    assert abs(255 * read_full(data, channels, "a.tif").squeeze() - plain).max() <= 1


def test_a_tiff_at_full_depth_is_what_its_tags_say():
    deep, full = COLOURS.astype(np.uint16) * 257, COLOURS / np.float32(255)
    shown, alpha = full[:, :, :3], full[:, :, 3:]
    orientation = [(274, "H", 1, 6, True)]
    cases = [
        (tiff(deep[:, :, :3], photometric="rgb", extratags=orientation), 3, np.rot90(shown, 3)),
        (tiff(deep, photometric="minisblack", planarconfig="contig", extratags=orientation), 4, np.rot90(full, 3)),
        (tiff(deep[:, :, 0], photometric="miniswhite"), 1, 1 - full[:, :, :1]),
        (tiff(deep, photometric="rgb", extrasamples=["unassalpha"]), 3, 1 - alpha * (1 - shown)),
        (tiff(deep, photometric="rgb", extrasamples=["assocalpha"]), 3, shown + 1 - alpha),
        (tiff(deep, photometric="rgb", extrasamples=["unspecified"]), 3, shown),
        (
            tiff(deep[:, :, 2:], photometric="minisblack", extrasamples=["unassalpha"]),
            1,
            1 - alpha * (1 - shown[:, :, 2:]),
        ),
        (tiff(deep, photometric="separated"), 4, full),
        (tiff(COLOURS, photometric="rgb", extrasamples=["unspecified"]), 4, full),
        (tiff(np.moveaxis(COLOURS[:, :, :3], 2, 0), photometric="minisblack"), 3, shown),  # a page for each channel
    ]
    for number, (data, channels, expected) in enumerate(cases):
        np.testing.assert_allclose(read_full(data, channels, "a.tif"), expected, atol=1e-6, err_msg=str(number))


def test_a_photograph_is_what_it_is_in_8_bits(photo, encode):
    for mode, channels in (("RGB", 3), ("L", 1), ("RGB", 1), ("L", 3), ("P", 3), ("RGBA", 3)):
        data = encode(photo.convert(mode))
        plain = np.asarray(read_picture(InputSpec(channels=channels), data, "a"))
        assert abs(255 * read_full(data, channels, "a").squeeze() - plain).max() <= 0.501
    turned = Image.Exif()
    turned[0x0112] = 6
    data = encode(photo, exif=turned)
    assert read_full(data, 3, "a").shape[:2] == (photo.width, photo.height)


BAD = {
    "other channels": (npy(DEEP), 5, "a: 3 channels, where 5 are wanted (data.channels)"),
    "channels first": (npy(np.zeros((5, 9, 7))), 5, "has its channels first; save it as (H, W, C)"),
    "objects": (npy(np.array([[{}]]), allow_pickle=True), 1, "Python objects, which could run code; save numbers"),
    "text": (npy(np.array([["a"]])), 1, "is not a picture; (H, W) or (H, W, C) is"),
    "a vector": (npy(np.zeros(4)), 1, "an array of shape (4,) and type float64 is not a picture"),
    "empty": (npy(np.zeros((0, 4))), 1, "an array of shape (0, 4, 1) and type float64 is not a picture"),
    "cut short": (npy(DEEP)[:-1], 3, "the .npy file is truncated"),
    "half a header": (npy(DEEP)[:20], 3, "the header of the .npy file is damaged"),
    "a header that never ends": (npy(DEEP).replace(b"}", b" ", 1), 3, "the header of the .npy file is damaged"),
    "holes": (npy(np.array([[1.0, np.nan], [np.inf, 2.0]])), 1, "2 of its numbers are not finite"),
    "no tiff": (b"II*\x00 and nothing else", 1, "the TIFF cannot be read"),
    "deep CMYK": (
        tiff(RNG.integers(0, 9, (4, 5, 4), np.uint16), photometric="separated"),
        3,
        "CMYK, which only Pillow",
    ),
    "four bands": (
        tiff(RNG.integers(0, 9, (4, 5, 4), np.uint16), photometric="minisblack", extrasamples=["unspecified"] * 3),
        3,
        "a: 4 channels, where 3 are wanted (data.channels)",
    ),
    "no picture": (b"hello", 3, "not an image in a format that Pillow reads"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_one_line(case):
    data, channels, line = BAD[case]
    with pytest.raises(BadImage) as raised:
        read_full(data, channels, "a")
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_sizes_are_looked_at_before_anything_is_made():
    stream = BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6)})
    with pytest.raises(BadImage, match="too large: 1,000,000 x 1,000,000 numbers"):
        read_full(stream.getvalue(), 1, "a")
    with pytest.raises(BadImage, match="too large"):
        read_full(npy(np.zeros((10, 10, 9))), 9, "a", max_pixels=100)


def test_without_tifffile_the_remedy_is_named(monkeypatch):
    data = tiff(DEEP, photometric="rgb")
    monkeypatch.setattr("crosscale.data.full_depth.find_spec", lambda name: None)
    with pytest.raises(BadImage, match=r"where tifffile is installed: pip install 'crosscale\[tiff\]'"):
        read_full(data, 3, "a.tif")


def test_a_tiff_that_needs_full_depth_says_so_in_8_bits():
    data = tiff(RNG.integers(0, 255, (9, 7, 7), np.uint8), photometric="minisblack", planarconfig="contig")
    with pytest.raises(BadImage, match=r"data\.pixels=float32 reads TIFFs of many channels"):
        read_picture(InputSpec(), data, "a.tif")


@pytest.mark.parametrize("mode", ["center", "pad", "squash"])
@pytest.mark.parametrize("size", [(24, 24), (100, 30)])
def test_fitted_as_pillow_fits_8_bits(photo, encode, mode, size):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    plain = InputSpec(size, 3, mean, std, crop_pct=0.9, crop_mode=mode)
    deep = InputSpec(size, 3, mean, std, crop_pct=0.9, crop_mode=mode, pixels="float32")
    data = encode(photo)
    expected = eval_transform(plain)(read_picture(plain, data, "a")).astype(np.float64)
    found = eval_transform(deep)(read_picture(deep, data, "a"))
    assert (found.dtype, found.shape) == (np.float32, (*size, 3))
    # Pillow rounds 8 bits between the two directions, and cuts what overshoots.
    assert abs(np.clip(255 * (found * std + mean), 0, 255) - expected).max() <= 2


def test_training_crops_and_flips_all_channels_alike():
    spec = spec_of(6)
    record = Record("a", npy(np.repeat(RNG.random((30, 20, 1)), 6, 2)), 3)
    examples = ImageExamples(spec, Augment(auto_augment=None, color_jitter=0.0, vflip=0.5))
    found = [examples.train(record, np.random.default_rng(seed)) for seed in range(6)]
    for one in found:
        assert (one["image"].shape, one["image"].dtype, int(one["label"])) == ((8, 12, 6), np.float32, 3)
        np.testing.assert_array_equal(one["image"], np.repeat(one["image"][..., :1], 6, 2))
    assert len({one["image"].tobytes() for one in found}) == 6
    assert examples.blank()["image"].dtype == examples.validation(record)["image"].dtype == np.float32


def test_colours_are_refused_by_their_key():
    with pytest.raises(RequestError, match=r"augment\.auto_augment=rand-m9.*photographs of 8 bits.*6 channels"):
        train_transform(spec_of(6), Augment())
    with pytest.raises(RequestError, match=r"augment\.color_jitter=0\.4.*1 channel\); set"):
        train_transform(spec_of(1), Augment(auto_augment=None))


def test_shown_to_people_channels_are_stretched():
    picture = np.linspace(-3, 900, 101, dtype=np.float32).reshape(101, 1, 1)
    shown = as_shown(picture)
    assert (shown.dtype, shown.min(), shown.max()) == (np.uint8, 0, 255)
    assert shown[50, 0, 0] in (127, 128)
    assert as_shown(np.full((4, 4, 2), 7.0, np.float32)).max() == 0
    grey = np.zeros((2, 2, 1), np.uint8)
    assert as_shown(grey) is grey


def test_bands_have_pillows_words():
    bands = Bands(RNG.random((4, 6, 2)).astype(np.float32))
    assert (bands.size, bands.width, bands.height) == ((6, 4), 6, 4)
    np.testing.assert_array_equal(bands.crop((1, 0, 3, 2)).array, bands.array[:2, 1:3])
    np.testing.assert_array_equal(bands.transpose(Image.Transpose.FLIP_LEFT_RIGHT).array, bands.array[:, ::-1])
    padded = bands.padded(9, 8).array
    np.testing.assert_array_equal(padded[2:6, 1:7], bands.array)
    assert padded.sum() == pytest.approx(bands.array.sum())


@pytest.fixture
def satellite(tmp_path):
    """A folder of .npy files of 5 channels, and their pixels to train on."""
    pixels = []
    for split, count in (("train", 4), ("val", 2)):
        for place, name in enumerate(("city", "wood")):
            folder = tmp_path / "satellite" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                array = RNG.normal(1e6 + 100 * place, 7 * (i + 1), (6 + i, 9, 5))
                np.save(folder / f"{i}.npy", array)
                pixels += [array] if split == "train" else []
    return tmp_path / "satellite", pixels


def test_statistics_are_those_of_all_pictures_alike(satellite, capsys):
    root, pixels = satellite
    mean = np.mean([array.mean((0, 1)) for array in pixels], 0)
    std = np.sqrt(np.mean([(array**2).mean((0, 1)) for array in pixels], 0) - mean**2)
    assert main(["data", str(root), "--statistics", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["channels"], found["pixels"], found["pictures"], found["problems"]) == (5, "float32", 8, [])
    np.testing.assert_allclose(found["mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(found["std"], std, rtol=1e-3)
    assert main(["data", str(root), "--statistics"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["data:", "  channels: 5", "  pixels: float32"]
    assert [line.split(":")[0] for line in lines[3:]] == ["  mean", "  std"]


def test_statistics_of_photographs_are_in_8_bits(make_folder, photo, capsys):
    dark = Image.fromarray(np.zeros((5, 5), np.uint8))
    files = {"a/0.png": photo, "a/1.png": b"no picture", "b/0.png": dark, "b/1.png": dark}
    root = make_folder({f"train/{name}": file for name, file in files.items()} | {"val/a/0.png": photo})
    whole = measure_statistics(open_source(root, "train"))
    assert (whole.channels, whole.pixels, whole.pictures) == (3, "uint8", 3)
    pixels = np.asarray(photo).reshape(-1, 3) / 255
    np.testing.assert_allclose(whole.mean, pixels.mean(0) / 3, rtol=1e-9)
    assert "not an image in a format" in whole.problems[0]
    assert main(["data", str(root), "--statistics"]) == 1
    said = capsys.readouterr()
    assert said.out.startswith("data:\n  mean: [")
    assert "train/a/1.png: not an image in a format" in said.err
    empty = make_folder({"a/0.png": b"x", "b/0.png": b"x"}, "empty")
    with pytest.raises(RequestError, match=r"no picture can be measured; the first: a/0\.png"):
        measure_statistics(open_source(empty, "all"))


def test_arrays_are_pictures_where_there_are_no_others(satellite, make_folder, grey, caplog):
    root, _ = satellite
    assert len(open_source(root, "train")) == 8
    assert check_pictures({"val": open_source(root, "val")}).modes == {"5 channels": 4}
    mixed = make_folder({"a/0.png": grey(0), "a/0.npy": npy(DEEP), "b/0.png": grey(9), "b/x.npy": npy(DEEP)})
    assert len(open_source(mixed, "all")) == 2
    assert any("passed over 2 files: 2 .npy" in message for message in caplog.messages)
