"""Folders of pictures and masks: layouts, classes, and one line for each thing that would spoil a training."""

import io
import pickle
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from crosscale.data.mask_check import check_masks
from crosscale.data.mask_folder import open_masks, usual_short_side
from crosscale.data.mask_layouts import is_mask_folder
from crosscale.data.mask_sets import ADE20K, CITYSCAPES, VOC
from crosscale.errors import RequestError

H, W = 12, 16


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSCALE_CACHE", str(tmp_path / "cache"))


def picture(height=H, width=W):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def mask(*values, height=H, width=W):
    """Columns of the values, from left to right."""
    columns = np.array(values, np.uint8)[np.arange(width) * len(values) // width]
    return Image.fromarray(np.repeat(columns[None], height, 0))


def coloured(*colours):
    index = np.arange(W) * len(colours) // W
    return Image.fromarray(np.repeat(np.array(colours, np.uint8)[index][None], H, 0))


def paletted(*values, colours=()):
    img = mask(*values).convert("P")
    img.putdata(mask(*values).tobytes())
    img.putpalette([channel for colour in colours or VOC.palette.tolist() for channel in colour])
    return img


def jpeg(img):
    buffer = io.BytesIO()
    img.save(buffer, "JPEG")
    return buffer.getvalue()


def a_set(**masks):
    """images/ and masks/ of these masks, by stem."""
    files = {f"images/{name}.jpg": jpeg(picture()) for name in masks}
    return files | {f"masks/{name}.png": content for name, content in masks.items()}


def columns(source, index=0):
    """The different labels of a mask, in the order of its columns."""
    row = source[index].target[0]
    return [int(row[0]), *(int(b) for a, b in pairwise(row) if a != b)]


def opened(root, split="all", **options):
    return open_masks(root, split, val_fraction=0.25, seed=0, **options)


def refused(root, split="all", **options):
    with pytest.raises(RequestError) as caught:
        opened(root, split, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


SPLIT_NAMES = [
    ("images/train", "masks/train", "images/val", "masks/val"),
    ("images/training", "annotations/training", "images/validation", "annotations/validation"),
    ("img_dir/Train", "ann_dir/train", "img_dir/test", "ann_dir/test"),
    ("train/images", "train/masks", "valid/images", "valid/masks"),
]


@pytest.mark.parametrize("folders", SPLIT_NAMES, ids=lambda names: names[0])
def test_folders_of_splits(make_folder, folders):
    pictures, masks, val_pictures, val_masks = folders
    files = {f"{pictures}/{name}.png": picture() for name in "abc"} | {f"{val_pictures}/d.png": picture()}
    files |= {f"{masks}/{name}.png": mask(0, 1, 255) for name in "abc"} | {f"{val_masks}/d.png": mask(0, 2)}
    root = make_folder(files)
    assert is_mask_folder(root)
    train, val = opened(root, "train"), opened(root, "val")
    assert [train[i].id for i in range(len(train))] == [f"{pictures}/{name}.png" for name in "abc"]
    assert [val[i].id for i in range(len(val))] == [f"{val_pictures}/d.png"]
    # The largest value is in val alone: both splits have the same classes.
    assert train.classes == val.classes == ("0", "1", "2")
    assert columns(train) == [0, 1, 255]
    assert columns(val) == [0, 2]
    record = train[0]
    assert record.target.shape == (H, W)
    assert record.target.dtype == np.uint8
    assert isinstance(record.image, bytes)
    assert "because 2 is the largest value in all 4 masks" in train.notes[0]
    assert "two parts" in refused(root)


def test_one_part_is_cut_by_the_names_alone(make_folder):
    root = make_folder(a_set(**{f"p{number:02}": mask(0, 1) for number in range(20)}))
    train, val, whole = (opened(root, split) for split in ("train", "val", "all"))
    parts = [[source[i].id for i in range(len(source))] for source in (train, val, whole)]
    assert len(parts[1]) == 5
    assert sorted(parts[0] + parts[1]) == parts[2]
    again = pickle.loads(pickle.dumps(val))
    assert [again[i].id for i in range(len(again))] == parts[1]
    assert again.size(0) == (H, W)


def test_masks_with_a_common_ending_and_nested_folders(make_folder):
    files = {"images/x/a.jpg": picture(), "images/y/a.jpg": picture()}
    files |= {"masks/x/a_mask.png": mask(0, 1), "masks/y/a_mask.png": mask(1, 0)}
    source = opened(make_folder(files))
    assert [columns(source, i) for i in range(2)] == [[0, 1], [1, 0]]


def ade(prefix="ADE_train_"):
    files = {}
    for split in ("training", "validation"):
        files[f"images/{split}/{prefix}1.jpg"] = picture()
        files[f"annotations/{split}/{prefix}1.png"] = mask(0, 1, 150)
    return files


def test_ade20k(make_folder):
    root = make_folder(ade())
    source = opened(root, "train")
    assert source.layout == "ADE20K"
    assert source.classes == ADE20K.classes
    assert len(source.classes) == 150
    assert columns(source) == [255, 0, 149]
    assert any("recognised from the layout; 0 is ignored, 1..150 become 0..149" in note for note in source.notes)
    kept = opened(root, "train", reduce_zero_label=False)
    assert kept.classes[:2] == ("other", "wall")
    assert columns(kept) == [0, 1, 150]
    own = opened(make_folder(ade("street"), "own"), "train")  # the folders' names alone are no proof
    assert columns(own) == [0, 1, 150]
    assert any("read as your own data" in note for note in own.notes)


@pytest.mark.parametrize("kind", ["labelTrainIds", "labelIds"])
def test_cityscapes(make_folder, kind):
    values = (0, 18, 255) if kind == "labelTrainIds" else (7, 33, 4)
    files = {}
    for split in ("train", "val"):
        files[f"leftImg8bit/{split}/ulm/ulm_000_leftImg8bit.png"] = picture()
        files[f"gtFine/{split}/ulm/ulm_000_gtFine_{kind}.png"] = mask(*values)
        files[f"gtFine/{split}/ulm/ulm_000_gtFine_color.png"] = coloured((1, 2, 3))
    source = opened(make_folder(files), "val")
    assert source.classes == CITYSCAPES.classes
    assert columns(source) == [0, 18, 255]
    assert kind in source.layout
    assert len(source) == 1


def voc(lists=True):
    files = {f"JPEGImages/{name}.jpg": jpeg(picture()) for name in ("a", "b", "unlabelled")}
    files |= {f"SegmentationClass/{name}.png": paletted(0, 15, 255) for name in "ab"}
    if lists:
        files |= {"ImageSets/Segmentation/train.txt": b"a\n", "ImageSets/Segmentation/val.txt": b"b\n"}
    return files


def test_voc_takes_the_index_not_the_colour(make_folder):
    root = make_folder(voc())
    train, val = opened(root, "train"), opened(root, "val")
    assert train.classes == VOC.classes
    assert columns(train) == [0, 15, 255]
    assert [val[i].id for i in range(len(val))] == ["JPEGImages/b.jpg"]
    (root / "ImageSets/Segmentation/val.txt").write_text("b\nc\n")
    assert "c has no picture in JPEGImages/" in refused(root, "val")


def test_vocs_folders_without_its_lists_hold_ones_own_classes(make_folder):
    root = make_folder(voc(lists=False))
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nperson:192,128,128::\nignore:224,224,192::\n"
    )
    colours = VOC.palette.tolist() + [[0, 0, 0]] * 234 + [[224, 224, 192]]
    for name in "ab":
        paletted(0, 15, 255, colours=colours).save(root / f"SegmentationClass/{name}.png")
    source = opened(root)
    assert source.classes == ("background", "person")
    assert columns(source) == [0, 1, 255]  # by the palette's colours, since all of them are in the table
    assert len(source) == 2


TABLE = "name,r,g,b\nroad,128,64,128\ncar,0,0,142\nignore,0,0,0\n"


def test_masks_of_colours(make_folder):
    root = make_folder(a_set(a=coloured((128, 64, 128), (0, 0, 142), (0, 0, 0), (128, 64, 128))))
    assert "masks/a.png: a mask of colours (RGB), and no table" in refused(root)
    (root / "classes.csv").write_text(TABLE)
    source = opened(root)
    assert source.classes == ("road", "car")
    assert columns(source) == [0, 1, 255, 0]
    np.testing.assert_array_equal(source.palette, [[128, 64, 128], [0, 0, 142]])
    coloured((128, 64, 128), (0, 0, 141)).save(root / "masks/a.png")
    assert "masks/a.png: the colours (0, 0, 141) are not in classes.csv" in refused(root)
    (root / "classes.csv").write_text(TABLE + "sky,128,64,128\n")
    assert "line 5: the colour (128, 64, 128) appears twice" in refused(root)
    (root / "classes.csv").write_text(TABLE + "sky,70,130\n")
    assert "line 5 is not of the form name,r,g,b" in refused(root)


def test_a_table_of_colours_beside_labels_gives_names_and_colours_alone(make_folder):
    root = make_folder(a_set(a=mask(0, 1, 255), b=mask(1, 0)))
    (root / "classes.csv").write_text(TABLE)
    source = opened(root)
    assert columns(source) == [0, 1, 255]
    assert source.notes == ("2 classes by classes.csv",)


@pytest.mark.parametrize(
    ("file", "text"), [("classes.csv", "name\nsky\nsea\n"), ("classes.txt", "sky\nsea\n"), ("classes.csv", "sky\nsea")]
)
def test_names(make_folder, file, text):
    root = make_folder(a_set(a=mask(0, 1), b=mask(1, 255)))
    (root / file).write_text(text)
    assert opened(root).classes == ("sky", "sea")
    mask(0, 1, 2, 7).save(root / "masks/b.png")
    told = refused(root)
    assert told.startswith("masks/b.png: the values 0, 1, 2, 7 are found, but the 2 classes")
    assert "0..1" in told
    mask(0, 1, 2).save(root / "masks/b.png")
    assert "ask for reduce_zero_label, else name all 3 classes" in refused(root)
    reduced = opened(make_folder(a_set(a=mask(0, 1, 2), b=mask(2, 255)), "other"), reduce_zero_label=True)
    assert columns(reduced) == [255, 0, 1]
    assert reduced.classes == ("1", "2")


def test_binary_masks(make_folder):
    root = make_folder(a_set(a=mask(0, 255), b=mask(255)))
    assert "only 0 and 255, and 255 is ignored" in refused(root)
    (root / "classes.txt").write_text("background\nobject\n")
    assert "only 0 and 255, and 255 is ignored" in refused(root)
    # What the error proposes works:
    (root / "classes.csv").write_text("background,0,0,0\nobject,255,255,255\n")
    source = opened(root)
    assert columns(source) == [0, 1]
    assert source.classes == ("background", "object")


def test_grey_of_few_bits_is_its_label(make_folder):
    root = make_folder(a_set(a=mask(0, 1, 3), b=mask(0, 255).convert("1")))
    packed = np.repeat(np.array([0b00000000, 0b01010101, 0b11111111, 0b11111111], np.uint8)[None], H, 0)
    (root / "masks/a.png").write_bytes(png_of_two_bits(packed))
    assert np.asarray(Image.open(root / "masks/a.png")).max() == 255  # how a viewer shows it
    source = opened(root)
    assert columns(source, 0) == [0, 1, 3]
    assert columns(source, 1) == [0, 1]


def png_of_two_bits(packed):
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", W, H, 2, 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


FAULTS = {
    "values": (mask(0, 9), "masks/b.png: the values 0, 9 are found, but the 2 classes (classes.txt) are 0..1"),
    "palette": (paletted(0, 5), "masks/b.png: the indexes 0, 5 are found"),
    "colours": (coloured((1, 2, 3)), "masks/b.png: a mask of colours (RGB), and no table"),
    "three grey channels": (mask(0, 1).convert("RGB"), "masks/b.png: a mask of three equal channels"),
    "size": (mask(0, 1, width=W - 1), "masks/b.png: the mask has 15 x 12 pixels, its picture images/b.jpg has 16 x 12"),
    "jpeg": (jpeg(mask(0, 1)), "masks/b.png: a mask saved as JPEG"),
    "16 bits": (
        Image.fromarray(np.asarray(mask(0, 1)).astype(np.uint16) * 300),
        "masks/b.png: a mask of more than 8 bits (values 0..300)",
    ),
    "empty": (b"", "masks/b.png: the file is empty"),
    "no picture": (b"hello", "masks/b.png: not an image"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_told_before_training_and_by_the_check(make_folder, fault):
    content, line = FAULTS[fault]
    root = make_folder(a_set(a=mask(0, 1), b=content, c=mask(0, 1, 255)))
    (root / "classes.txt").write_text("sky\nsea\n")
    assert refused(root).startswith(line)
    seen = []
    found = check_masks(opened(root, checked=0), lambda done, total: seen.append((done, total)))
    assert len(found.problems) == 1
    assert found.problems[0].startswith(line)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert found.sizes.tolist() == [[H, W]] * 2
    assert found.pixels.tolist() == [H * (8 + 6), H * (8 + 5)]
    assert found.ignored == H * 5
    assert found.masks.tolist() == [2, 2]
    assert found.shares.sum() + found.ignored_share == pytest.approx(1)


def test_lossy_webp_and_damaged_files(make_folder):
    buffer = io.BytesIO()
    mask(0, 1).convert("RGB").save(buffer, "WEBP", quality=80)
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 2, (H, W), np.uint8)).save(whole, "PNG")
    root = make_folder(a_set(a=mask(0, 1), b=mask(0, 1)))
    (root / "masks/a.png").write_bytes(buffer.getvalue())
    assert "masks/a.png: a mask saved as lossy WebP" in refused(root)
    (root / "masks/a.png").write_bytes(whole.getvalue()[:-30])
    assert "masks/a.png: the mask is damaged or cut short" in refused(root)


def test_orientation_of_the_picture_counts(make_folder, encode):
    exif = Image.Exif()
    exif[0x0112] = 6
    root = make_folder(a_set(a=mask(0, 1, height=W, width=H)))
    (root / "images/a.jpg").write_bytes(encode(picture(), "JPEG", exif=exif))
    source = opened(root)
    assert source.size(0) == (W, H)
    assert source[0].target.shape == (W, H)
    mask(0, 1).save(root / "masks/a.png")
    (root / "classes.txt").write_text("sky\nsea\n")
    assert "turn the mask as the picture's EXIF orientation says" in refused(root)


def test_pictures_without_masks_and_masks_without_pictures(make_folder):
    files = a_set(a=mask(0, 1), b=mask(0, 1)) | {"images/c.jpg": picture(), "masks/d.png": mask(0, 1)}
    root = make_folder(files)
    told = refused(root)
    assert f"{root}/images/c.jpg: a picture without a mask (2 files have no counterpart)" in told
    found = check_masks(opened(root, checked=0))
    assert found.problems == ("images/c.jpg: a picture without a mask", "masks/d.png: a mask without a picture")
    twice = make_folder(a_set(a=mask(0, 1)) | {"images/a.png": picture()}, "twice")
    assert "images/a.png: has the name of images/a.jpg" in refused(twice)


def test_a_broken_picture_is_found_by_the_check(make_folder):
    root = make_folder(a_set(a=mask(0, 1), b=mask(0, 1)))
    whole = (root / "images/b.jpg").read_bytes()
    (root / "images/b.jpg").write_bytes(whole[: whole.index(b"\xff\xda") + 40])
    source = opened(root)  # the header is sound
    assert check_masks(source, pictures=False).problems == ()
    (problem,) = check_masks(source).problems
    assert problem.startswith("images/b.jpg: the file is truncated")


def test_too_many_classes_smoothed_masks_and_one_class(make_folder):
    root = make_folder(a_set(a=mask(0, 1)))
    (root / "classes.txt").write_text("\n".join(f"class {number}" for number in range(256)))
    assert "256 classes; masks of 8 bits hold 1 to 255" in refused(root)
    smoothed = make_folder(a_set(**{f"b{n}": mask(*range(16 * n, 16 * n + 16)) for n in range(16)}), "smoothed")
    assert "the masks hold 255 different values, as smoothed edges or pictures do" in refused(smoothed)
    assert "no two classes to tell apart" in refused(make_folder(a_set(a=mask(0)), "one"))


def test_values_that_no_mask_holds_are_said(make_folder):
    source = opened(make_folder(a_set(a=mask(0, 1, 4))))
    assert len(source.classes) == 5
    assert "no mask holds the values 2, 3" in source.notes


def test_the_check_passes_over_what_it_cannot_read_when_it_counts_the_classes(make_folder):
    root = make_folder(a_set(a=mask(0, 1, 2), b=jpeg(mask(0, 1)), c=coloured((1, 2, 3))))
    assert refused(root).startswith("masks/b.png: a mask saved as JPEG")
    source = opened(root, checked=0)
    assert len(source.classes) == 3
    assert "in 1 of 3 masks" in source.notes[0]
    assert [line.split(":")[0] for line in check_masks(source).problems] == ["masks/b.png", "masks/c.png"]
    only = make_folder(a_set(a=coloured((1, 2, 3))), "only")
    assert "no table says which class each one is" in refused(only, checked=0)


def test_a_trained_models_classes_stand_in_for_names(make_folder):
    root = make_folder(a_set(a=mask(0, 1)))
    source = opened(root, classes=["sky", "sea", "ship"])
    assert source.classes == ("sky", "sea", "ship")
    assert columns(source) == [0, 1]
    assert opened(root, classes=["a", "b"], reduce_zero_label=True).reduce_zero_label
    (root / "classes.txt").write_text("dog\ncat\n")  # what the data says of itself comes first
    assert opened(root, classes=["sky", "sea", "ship"]).classes == ("dog", "cat")
    assert opened(make_folder(ade(), "ade"), "val").reduce_zero_label


def test_nothing_is_held_out_where_that_is_asked_for(make_folder):
    root = make_folder(a_set(a=mask(0, 1), b=mask(0, 1)))
    parts = [open_masks(root, split, val_fraction=0, seed=0) for split in ("train", "val")]
    assert [len(part) for part in parts] == [2, 0]
    with pytest.raises(RequestError, match="val_fraction=1"):
        open_masks(root, "train", val_fraction=1, seed=0)


def test_where_no_layout_is_recognised(make_folder):
    root = make_folder({f"deep/{path}": content for path, content in a_set(a=mask(0, 1)).items()})
    assert f"but {root}/deep holds some" in refused(root)
    assert not is_mask_folder(root)
    assert "no such folder" in refused(root / "gone")
    assert "no pictures with masks are recognised" in refused(make_folder({"cats/a.png": picture()}, "cats"))
    json = make_folder({"images/a.jpg": picture(), "annotations/instances.json": b"{}"}, "coco")
    assert "COCO's .json is not read" in refused(json)
    halves = {"images/train/a.jpg": picture(), "masks/train/a.png": mask(0, 1), "images/val/b.jpg": picture()}
    assert "images/val has no counterpart in masks/" in refused(make_folder(halves, "halves"), "train")


def test_usual_short_side(make_folder):
    root = make_folder(a_set(a=mask(0, 1), b=mask(0, 1), c=mask(0, 1)))
    Image.new("RGB", (300, 100)).save(root / "images/c.jpg")
    assert usual_short_side(opened(root, checked=0)) == H
