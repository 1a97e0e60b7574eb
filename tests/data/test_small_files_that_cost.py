"""Small files that would cost much: large tiles, plain Netpbm, pixels of 16 bits; shards that end too soon."""

import io
import struct
import tarfile
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from crosscale.data.decode import BadImage, decode
from crosscale.data.netpbm import is_read_one_by_one, read_netpbm
from crosscale.data.shards import label_numbers
from crosscale.data.sources import open_source
from crosscale.errors import RequestError, WorkError


def tiff(width, height, tile):
    """A grey TIFF with one tile of zeros, `tile` pixels square, written by hand."""
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1),
        (322, 4, 1, tile), (323, 4, 1, tile), (324, 4, 1, 8), (325, 4, 1, 16),
    ]  # fmt: skip
    directory = len(entries).to_bytes(2, "little")
    for tag, kind, count, value in entries:
        head = tag.to_bytes(2, "little") + kind.to_bytes(2, "little")
        directory += head + count.to_bytes(4, "little") + value.to_bytes(4, "little")
    return b"II*\0" + (24).to_bytes(4, "little") + bytes(16) + directory + bytes(4)


@pytest.mark.parametrize(("size", "tile"), [((10, 10), 40_000), ((100, 20), 65_520)])
def test_a_tile_larger_than_its_picture_is_refused(size, tile):
    with pytest.raises(BadImage, match=r"x\.tif: a TIFF whose tiles have [\d,]+ pixels, more than the picture"):
        decode(tiff(*size, tile), 1, "x.tif")


def test_a_tiff_of_very_many_strips_is_refused():
    count = 100_001  # one row of one pixel each
    entries = [(256, 1), (257, count), (258, 8), (259, 1), (262, 1), (277, 1), (278, 1)]
    start = 16 + 2 + 12 * (len(entries) + 2) + 4
    tags = [(tag, 1, value) for tag, value in entries]
    tags += [(273, count, start), (279, count, start + 4 * count)]
    directory = len(tags).to_bytes(2, "little")
    for tag, amount, value in sorted(tags):
        head = tag.to_bytes(2, "little") + (4).to_bytes(2, "little")
        directory += head + amount.to_bytes(4, "little") + value.to_bytes(4, "little")
    places, sizes = ((number).to_bytes(4, "little") * count for number in (8, 1))
    data = b"II*\0" + (16).to_bytes(4, "little") + bytes(8) + directory + bytes(4) + places + sizes
    with pytest.raises(BadImage, match=r"x\.tif: a picture in 100,001 strips"):
        decode(data, 1, "x.tif")


def test_usual_tiles_are_read():
    picture = Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20))
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF", tile=(16, 16))
    assert np.array_equal(decode(buffer.getvalue(), 1, "x.tif"), picture)


def plain(kind, largest, bands, rng):
    values = rng.integers(0, largest + 1, (6, 5 * bands))
    head = kind + b" # a comment\n5 6\n" + (b"" if kind == b"P1" else b"%d\n" % largest)
    return head + b"".join(b" ".join(b"%d" % value for value in row) + b" # row\n" for row in values)


@pytest.mark.parametrize(
    ("kind", "largest", "bands"),
    [
        (b"P1", 1, 1),
        (b"P2", 255, 1),
        (b"P2", 15, 1),
        (b"P2", 65535, 1),
        (b"P2", 1000, 1),
        (b"P3", 255, 3),
        (b"P3", 7, 3),
    ],
)
def test_plain_netpbm_is_what_pillow_reads(kind, largest, bands):
    data = plain(kind, largest, bands, np.random.default_rng(0))
    theirs = Image.open(io.BytesIO(data))
    ours = read_netpbm(Image.open(io.BytesIO(data)), data)
    assert np.array_equal(np.asarray(ours), np.asarray(theirs.convert("L") if kind == b"P1" else theirs))
    assert decode(data, 1, "x.pgm").size == (5, 6)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"P2\n2 2\n255\n1 2 3\n", "3 numbers where 4"),
        (b"P2\n2 2\n255\n1 2 x 4\n", "2 numbers where 4"),
        (b"P3\n1 1\n255\n1 2 256\n", "outside 0..255"),
        (b"P1\n2 2\n10a1\n", "outside 0..1"),
    ],
)
def test_plain_netpbm_that_is_damaged(data, reason):
    with pytest.raises(BadImage, match=reason):
        decode(data, 1, "x.ppm")


@pytest.mark.parametrize(("kind", "bands"), [(b"P5", 1), (b"P6", 3)])
@pytest.mark.parametrize("largest", [1, 100, 254, 256, 1023, 65534])
def test_netpbm_of_an_odd_largest_number_is_what_pillow_reads(kind, bands, largest):
    dtype = np.dtype(np.uint8 if largest < 256 else ">u2")
    values = np.random.default_rng(0).integers(0, 256**dtype.itemsize, (6, 5, bands))
    data = kind + b"\n5 6\n%d\n" % largest + values.astype(dtype).tobytes()
    theirs, header = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(data))
    assert is_read_one_by_one(header)
    ours = read_netpbm(header, data)
    assert ours.mode == theirs.mode
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    with pytest.raises(BadImage, match="numbers where"):
        decode(data[:-1], 1, "x.ppm")


def encoded(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def repeated(data, place, piece, count=1_200_000):
    return data[:place] + piece * count + data[place:]


def chunk(kind, data=b""):
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


TINY = Image.new("L", (8, 8), 100)
PNG, JPEG, GIF = encoded(TINY), encoded(TINY, "JPEG"), encoded(TINY, "GIF")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(repeated(JPEG, 2, b"\xff"), id="bytes that fill up"),
        pytest.param(repeated(JPEG, 2, b"\xff\xe5\0\2"), id="empty segments"),
        pytest.param(repeated(GIF, GIF.index(b","), b"\x21\xf0\1x\0"), id="extensions"),
        pytest.param(repeated(PNG, 33, chunk(b"tEXt", b"x\0")), id="texts"),
        pytest.param(b"P5 #" + b"x" * 1_200_000 + b"\n8 8 255\n" + bytes(64), id="comment"),
        pytest.param(b"P5" + b" " * 1_200_000 + b"8 8 255\n" + bytes(64), id="blanks"),
    ],
)
def test_a_file_of_a_million_pieces_is_refused(monkeypatch, data):
    monkeypatch.setattr("crosscale.data.costly._READS", 20_000)
    began = time.process_time()
    with pytest.raises(BadImage, match=r"^x: more pieces than a picture's file has; save it anew$"):
        decode(data, 1, "x")
    assert time.process_time() - began < 1  # to its end each would take many times as long


def test_a_png_of_many_profiles_is_refused_and_one_is_read():
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(1 << 20)))
    assert decode(repeated(PNG, 33, profile, 1), 1, "x").size == (8, 8)
    with pytest.raises(BadImage, match="a PNG of many colour profiles"):
        decode(repeated(PNG, 33, profile, 900), 1, "x")


def run_lengths(width, height, runs):
    palette, start = bytes(1024), 14 + 40 + 1024
    head = b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start)
    return head + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0) + palette + runs


def test_a_large_bmp_in_run_lengths_is_refused():
    with pytest.raises(BadImage, match="a BMP in run lengths of more than 8,388,608 pixels"):
        decode(run_lengths(20_000_000, 2, b"\1\5\0\0\1\5\0\0\0\1"), 1, "x")
    assert decode(run_lengths(4, 2, b"\4\5\0\0\4\5\0\0\0\1"), 1, "x").size == (4, 2)


def test_what_phones_write_behind_a_picture_is_no_scan():
    """A film of several MB has the marker of a scan in it by chance; so has a picture in the header."""
    photo = encoded(Image.new("RGB", (4000, 3000)), "JPEG")
    film = b"\xff\xda" * 100
    thumbnail = b"\xff\xe1" + (2 + len(film)).to_bytes(2, "big") + film
    assert decode(photo + film, 3, "x").size == (4000, 3000)
    assert decode(repeated(photo, 2, thumbnail, 1), 3, "x").size == (4000, 3000)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa", "PA"])
def test_transparency_is_laid_over_white_in_bands_as_at_once(monkeypatch, mode):
    values = np.random.default_rng(0).integers(0, 256, (13, 7, 4), np.uint8)
    picture = Image.fromarray(values, "RGBA")
    picture = picture.convert("LA").convert(mode) if mode == "PA" else picture.convert(mode)
    rgba = picture.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    white.alpha_composite(rgba)
    monkeypatch.setattr("crosscale.data.decode._BAND", 20)  # two rows
    assert np.array_equal(np.asarray(decode(picture, 3, "x")), np.asarray(white.convert("RGB")))


@pytest.mark.parametrize("kind", ["1", "L", "RGB", "I;16", "RGB;16B"])
def test_a_transparent_colour_is_found_in_bands_as_at_once(monkeypatch, kind):
    rng = np.random.default_rng(0)
    if kind == "RGB;16B":
        rows = b"".join(b"\0" + rng.choice([0x0102, 0x0103], (7, 3)).astype(">u2").tobytes() for _ in range(13))
        head = struct.pack(">IIBBBBB", 7, 13, 16, 2, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"tRNS", b"\1\2" * 3)
        data += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND")
    else:
        values = rng.integers(0, 2, (13, 7, 3) if kind == "RGB" else (13, 7))
        picture = Image.fromarray((values * 255).astype(np.uint8)).convert(kind) if kind != "I;16" else None
        picture = picture or Image.fromarray(values.astype(np.uint16) * 60000)
        data = encoded(picture, transparency=(0, 0, 0) if kind == "RGB" else 0)
    whole = np.asarray(decode(data, 3, "x"))
    monkeypatch.setattr("crosscale.data.decode._BAND", 20)
    assert np.array_equal(np.asarray(decode(data, 3, "x")), whole)
    assert (whole == 255).any()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_sixteen_bits_take_little_room(dtype):
    picture = Image.fromarray(np.full((4000, 4000), 257 * 200, dtype))
    tracemalloc.start()
    found = decode(picture, 1, "x.png")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.asarray(found)[::500, ::500].tolist() == [[200] * 8] * 8
    assert peak < 9 * 16e6  # bytes; whole, in numbers of 64 bits, it would be 24 a pixel


def shard(path, *, links=()):
    data = io.BytesIO()
    Image.new("L", (4, 4), 9).save(data, "PNG")
    with tarfile.open(path, "w") as tar:
        for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
            info = tarfile.TarInfo(name)
            info.size = len(data.getvalue())
            tar.addfile(info, io.BytesIO(data.getvalue()))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, target
            tar.addfile(info)
    return path


@pytest.mark.parametrize("members", [1, 3, 4])
def test_a_shard_cut_at_a_members_end_is_told(tmp_path, members):
    path = shard(tmp_path / "x.tar")
    path.write_bytes(path.read_bytes()[: members * 1024])  # a header and a block each
    with pytest.raises(WorkError, match=r"x\.tar: the shard is cut short .*end mark is missing"):
        open_source(tmp_path, "all")


def test_hard_links_in_a_shard_are_pictures_too(tmp_path):
    shard(tmp_path / "x.tar", links=[("a/3.png", "a/1.png"), ("b/3.png", "./b/2.png")])
    source = open_source(tmp_path, "all")
    assert len(source) == 6
    records = {source[index].id: source[index].image for index in range(6)}
    assert records["x.tar/a/3.png"] == records["x.tar/a/1.png"]
    shard(tmp_path / "x.tar", links=[("a/3.png", "c/1.png")])
    with pytest.raises(RequestError, match=r"a/3\.png is a hard link to c/1\.png"):
        open_source(tmp_path, "all")


def test_labels_that_would_make_a_billion_classes():
    for values in (np.array([0, 10**9]), ["0", "1000000"]):
        with pytest.raises(RequestError, match=r"would make as many classes"):
            label_numbers(values, None, "x")


@pytest.mark.parametrize("labels", [[0.0, 0.5], [1.0, float("nan")]])
def test_labels_of_parquet_that_are_no_whole_numbers(tmp_path, labels):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    data = io.BytesIO()
    Image.new("L", (4, 4), 9).save(data, "PNG")
    pictures = [{"bytes": data.getvalue(), "path": "x.png"}] * 2
    parquet.write_table(pa.table({"image": pictures, "label": labels}), tmp_path / "x.parquet")
    with pytest.raises(RequestError, match=r"the label of example 1 is .*whole numbers from 0, or names"):
        open_source(tmp_path, "all")
