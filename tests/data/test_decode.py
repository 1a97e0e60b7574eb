import contextlib
import io
import pickle
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from crosscale.data.decode import MAX_PIXELS, BadImage, decode, open_image
from crosscale.errors import RequestError


def message(image, channels=3, **options):
    with pytest.raises(BadImage) as caught:
        decode(image, channels, "pets/cat.jpg", **options)
    text = str(caught.value)
    assert text.startswith("pets/cat.jpg: ")
    assert "\n" not in text
    assert caught.value.name == "pets/cat.jpg"
    return text


def test_truncated_jpeg(photo, encode):
    data = encode(photo, "JPEG", quality=95)
    assert "truncated" in message(data[: len(data) // 2])


def test_truncated_png(photo, encode):
    data = encode(photo)
    assert "truncated" in message(data[: len(data) // 2])


@pytest.mark.parametrize("zipped", [True, False])
def test_much_text_in_a_png(photo, zipped):
    """Cameras and editors write megabytes of notes; without end they would fill the memory."""

    def written(megabytes):
        notes = PngImagePlugin.PngInfo()
        notes.add_text("comment", "word " * (megabytes * (1 << 20) // 5), zip=zipped)
        stream = io.BytesIO()
        photo.save(stream, "PNG", pnginfo=notes)
        return stream.getvalue()

    np.testing.assert_array_equal(np.asarray(decode(written(2), 3, "x")), np.asarray(photo))
    assert "holds more than 16 MB of text or profiles beside the pixels; save it without them" in message(written(20))


def test_every_cut_of_a_file_is_a_bad_image_or_a_picture(photo, encode):
    for fmt in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"):
        data = encode(photo, fmt)
        for length in np.linspace(0, len(data) - 1, 40).astype(int):
            with contextlib.suppress(BadImage):
                assert decode(data[:length], 3, "x").size == photo.size


def test_text_named_png():
    assert "not an image" in message(b"this is a shopping list\n")


def test_empty_file():
    assert "empty (0 bytes)" in message(b"")


def png_header(width, height):
    """A PNG that declares a size and holds no pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_too_large_is_refused_before_decoding():
    text = message(png_header(20_000, 20_000))
    assert "20,000 x 20,000 = 400,000,000 pixels" in text
    assert f"{MAX_PIXELS:,}" in text


@pytest.mark.slow
def test_real_20000_square_picture_is_refused_fast(encode):
    data = encode(Image.new("1", (20_000, 20_000)))
    assert "20,000 x 20,000" in message(data)


def test_own_limit(photo, encode):
    assert "64 x 48 = 3,072 pixels; the limit is 3,000" in message(encode(photo), max_pixels=3000)


def test_mode_that_is_right_is_not_copied(photo, encode):
    array = np.asarray(photo)
    np.testing.assert_array_equal(np.asarray(decode(encode(photo), 3, "x")), array)
    np.testing.assert_array_equal(np.asarray(decode(array, 3, "x")), array)


def test_grey_and_colour_conversions(photo, encode):
    assert decode(encode(photo), 1, "x").mode == "L"
    grey = photo.convert("L")
    rgb = np.asarray(decode(encode(grey), 3, "x"))
    np.testing.assert_array_equal(rgb, np.repeat(np.asarray(grey)[..., None], 3, axis=2))


def test_cmyk_jpeg(photo, encode):
    found = np.asarray(decode(encode(photo.convert("CMYK"), "JPEG", quality=100), 3, "x")).astype(int)
    assert abs(found - np.asarray(photo)).mean() < 3


def test_sixteen_bit_grey_is_scaled_not_saturated(encode):
    values = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    for image in (encode(Image.fromarray(values)), encode(Image.fromarray(values), "TIFF"), values):
        found = np.asarray(decode(image, 1, "x"))
        np.testing.assert_array_equal(found, np.rint(values / 257).astype(np.uint8))


def test_palette_with_and_without_transparency(photo, encode):
    paletted = photo.quantize(64)
    expected = np.asarray(paletted.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(decode(encode(paletted), 3, "x")), expected)
    found = np.asarray(decode(encode(paletted, transparency=int(np.asarray(paletted)[0, 0])), 3, "x"))
    hidden = np.asarray(paletted) == np.asarray(paletted)[0, 0]
    assert (found[hidden] == 255).all()
    np.testing.assert_array_equal(found[~hidden], expected[~hidden])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_lie_over_white(photo, encode, mode):
    img = photo.convert(mode)
    alpha = np.zeros((48, 64), np.uint8)
    alpha[:, 32:] = 255
    img.putalpha(Image.fromarray(alpha))
    found = np.asarray(decode(encode(img), 3, "x"))
    assert (found[:, :32] == 255).all()
    np.testing.assert_array_equal(found[:, 32:], np.asarray(img.convert("RGB"))[:, 32:])


def test_one_bit(photo, encode):
    bits = photo.convert("1")
    found = np.asarray(decode(encode(bits), 1, "x"))
    np.testing.assert_array_equal(found, np.asarray(bits).astype(np.uint8) * 255)


@pytest.mark.parametrize("fmt", ["GIF", "PNG", "WEBP"])
def test_animation_gives_its_first_frame(encode, fmt):
    first, second = Image.new("RGB", (8, 8), (250, 10, 10)), Image.new("RGB", (8, 8), (10, 10, 250))
    data = encode(first, fmt, save_all=True, append_images=[second], lossless=True)
    found = np.asarray(decode(data, 3, "x")).astype(int)
    assert abs(found - [250, 10, 10]).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_exif_orientation(photo, encode, orientation, fmt):
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Transpose members that give the stored pixels
    stored = photo.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else photo
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(encode(stored, fmt, exif=exif), 3, "x")
    np.testing.assert_array_equal(np.asarray(found), np.asarray(photo))


def test_exif_rotated_jpeg_stands_upright(photo, encode):
    exif = Image.Exif()
    exif[0x0112] = 6
    found = decode(encode(photo.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95), 3, "x")
    assert found.size == photo.size
    assert abs(np.asarray(found).astype(int) - np.asarray(photo)).mean() < 4


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_lose_the_picture(photo, encode):
    data = encode(photo, "JPEG", exif=b"Exif\x00\x00II*\x00garbage")
    assert decode(data, 3, "x").size == photo.size


def test_floating_point_tiff(encode):
    assert "floating-point" in message(encode(Image.new("F", (4, 4)), "TIFF"))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_arrays_that_are_no_picture(array):
    assert "is not a picture" in message(array)


def test_channels():
    with pytest.raises(RequestError, match=r"1 \(grey\) or 3 \(RGB\)"):
        decode(b"", 2, "x")


def test_bad_image_crosses_processes():
    error = pickle.loads(pickle.dumps(BadImage("a.png", "two\nlines")))
    assert (error.name, error.reason, str(error)) == ("a.png", "two lines", "a.png: two lines")


def test_open_image(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert open_image(tmp_path / "a") == b"abc"
    with pytest.raises(BadImage, match="no such file"):
        open_image(tmp_path / "b")
    with pytest.raises(BadImage, match="a folder, not an image"):
        open_image(tmp_path)


def png(depth, colour_type, row, transparent, exif=b""):
    """A PNG of one row of pixels, whose tRNS chunk makes a colour transparent."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    width = len(row) * 8 // depth // (3 if colour_type == 2 else 1)
    header = struct.pack(">IIBBBBB", width, 1, depth, colour_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"tRNS", transparent), chunk(b"eXIf", exif) if exif else b""]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("depth", "row", "transparent", "expected"),
    [
        (1, b"\xa0", b"\0\0", [255] * 8),
        (1, b"\xa0", b"\0\1", [255, 0, 255, 0, 0, 0, 0, 0]),
        (2, b"\x1b", b"\0\1", [0, 255, 170, 255]),
        (4, b"\x7e", b"\0\7", [255, 238]),
        (8, b"\x07\x09", b"\0\7", [255, 9]),
        (16, b"\x01\x07\x01\x08", b"\1\7", [255, 1]),
    ],
)
def test_transparent_grey_lies_over_white_at_any_depth(depth, row, transparent, expected):
    data = png(depth, 0, row, transparent)
    assert np.asarray(decode(data, 1, "x")).tolist() == [expected]
    assert np.asarray(decode(data, 3, "x"))[..., 1].tolist() == [expected]


def test_transparent_colour_lies_over_white():
    data = png(8, 2, bytes([7, 7, 7, 7, 7, 8]), b"\0\7\0\7\0\7")
    assert np.asarray(decode(data, 3, "x")).tolist() == [[[255, 255, 255], [7, 7, 8]]]
    assert np.asarray(decode(data, 1, "x")).tolist() == [[255, 7]]
    # The same picture with an alpha channel reads alike.
    rgba = Image.fromarray(np.array([[[7, 7, 7, 0], [7, 7, 8, 255]]], np.uint8))
    np.testing.assert_array_equal(np.asarray(decode(rgba, 3, "x")), np.asarray(decode(data, 3, "x")))


def test_transparent_colour_of_sixteen_bits_is_compared_in_all_of_them():
    row = bytes([1, 7, 1, 7, 1, 7, 1, 7, 1, 7, 1, 8])
    found = np.asarray(decode(png(16, 2, row, b"\1\7\1\7\1\7"), 3, "x"))
    assert found.tolist() == [[[255, 255, 255], [1, 1, 1]]]


def test_transparent_colour_keeps_the_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6  # a row becomes a column
    data = png(8, 0, b"\x07\x09", b"\0\7", exif.tobytes().removeprefix(b"Exif\0\0"))
    assert np.asarray(decode(data, 1, "x")).tolist() == [[255], [9]]


def test_grey_gif_with_a_transparent_value(encode):
    grey = Image.fromarray(np.array([[7, 9], [9, 7]], np.uint8))
    found = np.asarray(decode(encode(grey, "GIF", transparency=7), 3, "x"))
    assert found[..., 0].tolist() == [[255, 9], [9, 255]]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "I;16"])
def test_pillow_images_decode_like_their_files(photo, encode, mode):
    if mode == "I;16":
        img = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    else:
        img = photo.convert(mode)
    data = encode(img, "TIFF")
    before = img.tobytes()
    np.testing.assert_array_equal(np.asarray(decode(img, 3, "x")), np.asarray(decode(data, 3, "x")))
    assert img.tobytes() == before


def test_sixteen_bits_that_look_like_eight_are_said_once(caplog, monkeypatch):
    monkeypatch.setattr("crosscale.data.decode._dark", [])
    for name in ("a.png", "b.png"):
        assert np.asarray(decode(np.full((2, 2), 200, np.uint16), 1, name)).max() == 1
    decode(np.full((2, 2), 256, np.uint16), 1, "c.png")
    (said,) = caplog.messages
    assert said.startswith(
        "a.png: pixels of 16 bits, none above 200, are read as 0..65535 and come out black; if 255 is"
    )


@pytest.mark.parametrize(("largest", "white"), [(1000, 1023), (4095, 4095), (4096, None)])
def test_ten_and_twelve_bits_in_files_of_sixteen_are_said_once(caplog, monkeypatch, largest, white):
    monkeypatch.setattr("crosscale.data.decode._dark", [])
    decode(np.full((2, 2), largest, np.uint16), 1, "a.png")
    assert [f"come out nearly black; if {white} is meant" in said for said in caplog.messages] == [True] * bool(white)


@pytest.mark.parametrize("extra", [40, 400])
def test_a_jpeg_of_hundreds_of_scans_is_refused_before_it_is_decoded(encode, extra):
    data = encode(Image.new("RGB", (6000, 4000)), "JPEG", progressive=True)
    first = data.rindex(b"\xff\xda")
    scan = data[first:-2]
    began = time.process_time()
    assert f"a JPEG of {data.count(bytes((0xFF, 0xDA))) + extra} scans" in message(data[:-2] + scan * extra + data[-2:])
    assert time.process_time() - began < 1


def test_small_jpegs_of_many_scans_and_usual_progressive_ones_are_read(photo, encode):
    data = encode(photo, "JPEG", progressive=True, quality=95)
    last = data.rindex(b"\xff\xda")
    assert decode(data, 3, "x").size == photo.size
    assert decode(data[:-2] + data[last:-2] * 40 + data[-2:], 3, "x").size == photo.size
