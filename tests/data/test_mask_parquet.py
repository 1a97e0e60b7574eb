"""Parquet shards of pictures and masks: the same source as a folder's."""

import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from crosscale.cli.main import main
from crosscale.contracts import InputSpec
from crosscale.data import train_batches
from crosscale.data.joint_augment import JointAugment
from crosscale.data.mask_examples import SegmentationExamples
from crosscale.data.mask_folder import has_masks, open_masks
from crosscale.errors import RequestError, WorkError

pa = pytest.importorskip("pyarrow")


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def rows(count, first=0):
    pictures = [png(np.full((6, 8, 3), first + number, np.uint8)) for number in range(count)]
    masks = [png(np.full((6, 8), (first + number) % 3, np.uint8)) for number in range(count)]
    return pictures, masks


@pytest.fixture
def write(tmp_path):
    import pyarrow.parquet as pq

    def write(name, pictures, masks, columns=("image", "annotation"), typed=False, **further):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cells = [[{"bytes": data, "path": None} for data in part] for part in (pictures, masks)]
        table = pa.table(dict(zip(columns, cells, strict=True)) | further)
        if typed:
            info = {"info": {"features": {column: {"_type": "Image"} for column in columns}}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
        pq.write_table(table, path, row_group_size=4)
        return path.parent

    return write


def opened(root, split, **options):
    return open_masks(root, split, val_fraction=0.25, seed=0, **options)


def test_two_parts(write, tmp_path):
    write("h/data/train-00000-of-00002.parquet", *rows(6), typed=True)
    write("h/data/train-00001-of-00002.parquet", *rows(3, 6), typed=True)
    write("h/data/validation-00000-of-00001.parquet", *rows(2, 100), typed=True)
    root = tmp_path / "h"
    assert has_masks(root)
    train, val = opened(root, "train"), opened(root, "val")
    assert (len(train), len(val)) == (9, 2)
    assert train.classes == val.classes == ("0", "1", "2")
    assert train[7].id == "train-00001-of-00002.parquet/1"
    assert train[7].target.tolist() == np.full((6, 8), 1).tolist()
    assert train.size(7) == (6, 8)
    assert train.layout == "parquet shards"
    again = pickle.loads(pickle.dumps(train))
    assert again[7].image == train[7].image


@pytest.mark.parametrize("columns", [("image", "mask"), ("pixel_values", "label"), ("img", "segmentation")])
def test_one_part_and_names_of_columns(write, tmp_path, columns):
    root = write("h/x.parquet", *rows(12), columns, scene_category=[0] * 12)
    (root / "classes.txt").write_text("sky\nsea\nship\n")
    parts = [opened(root, split) for split in ("train", "val", "all")]
    assert [len(part) for part in parts] == [9, 3, 12]
    assert parts[0].classes == ("sky", "sea", "ship")
    ids = [[part[i].id for i in range(len(part))] for part in parts]
    assert sorted(ids[0] + ids[1]) == sorted(ids[2])


def test_training_reads_each_row_group_once_an_epoch(write, tmp_path, monkeypatch):
    root = write("h/x-train-0.parquet", *rows(20))
    write("h/x-val-0.parquet", *rows(1))
    source = opened(root, "train", checked=0)
    monkeypatch.setattr("crosscale.data.parquet.CACHED_BYTES", 1)
    monkeypatch.setattr("crosscale.data.order.WINDOW", 4)
    reads = []
    kind = type(source.pairs.rows)
    original = kind._group
    monkeypatch.setattr(
        kind, "_group", lambda self, g: (reads.append(g) if g not in self._cached else None, original(self, g))[1]
    )
    examples = SegmentationExamples(InputSpec(size=(4, 4)), JointAugment.none(), scale=(8, 6))
    with train_batches(source, examples, batch_size=4, seed=1, epochs=1, threads=0) as batches:
        arrays = [batch.arrays for batch in batches]
    assert len(reads) == 5
    assert arrays[0]["image"].shape == (4, 4, 4, 3)
    for batch in arrays:
        assert (batch["mask"][:, 0, 0] == batch["image"][:, 0, 0, 0] % 3).all()


def test_check_and_refusals(write, tmp_path, capsys):
    pictures, masks = rows(12)
    masks[5] = png(np.full((6, 7), 1, np.uint8))
    root = write("h/x.parquet", pictures, masks)
    told = "x.parquet/5 (annotation): the mask has 7 x 6 pixels, its picture x.parquet/5 has 8 x 6"
    with pytest.raises(RequestError, match="7 x 6 pixels"):
        opened(root, "all")
    assert main(["data", str(root), "--check", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"] == {"count": 1, "lines": [f"{told}; make them equal"]}
    paths = write("paths/x.parquet", pictures, [None] * 12)
    with pytest.raises(RequestError, match=r"x\.parquet/0: the row holds no image bytes"):
        opened(paths, "all", checked=0)
    labels = write("labels/x.parquet", pictures, masks, ("image", "other"), label=list(range(12)))
    assert not has_masks(labels)
    with pytest.raises(RequestError, match=r"one of image, .* with the picture and one of mask"):
        opened(labels, "train")
    file = root / "x.parquet"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(WorkError, match="cut short or no parquet file"):
        opened(root, "train")
