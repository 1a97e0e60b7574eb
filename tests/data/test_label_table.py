"""Tables of paths and classes: what people's files look like, and what an error or a warning names."""

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crosscale.data import open_source, train_batches
from crosscale.data.class_map import map_classes
from crosscale.data.table_rows import TableColumns
from crosscale.errors import RequestError

NAMES = ["cat", "dog", "cat", "dog", "cat", "dog", "cat", "dog"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "img").mkdir()
    for i in range(8):
        Image.fromarray(np.full((4, 4, 3), 20 * i, np.uint8)).save(tmp_path / "img" / f"{i}.png")
    return tmp_path


def write(folder: Path, *lines: str, name: str = "t.csv", encoding: str = "utf-8", end: str = "\n") -> Path:
    file = folder / name
    file.write_bytes((end.join(lines) + end).encode(encoding))
    return file


def rows(form: str = "{path},{label}") -> list[str]:
    return [form.format(path=f"img/{i}.png", label=name) for i, name in enumerate(NAMES)]


def test_classes_labels_and_columns(pictures):
    source = open_source(write(pictures, "image,breed,photographer", *rows("{path},{label},me")), "all",
                         columns=TableColumns(label="breed"))  # fmt: skip
    assert (source.classes, len(source)) == (("cat", "dog"), 8)
    assert [source[i].target for i in range(4)] == [0, 1, 0, 1]
    assert source[3].id == "img/3.png"
    assert source.notes == ("t.csv: path from 'image', label from 'breed'; not read: photographer",)
    assert pickle.loads(pickle.dumps(source))[5].target == 1


@pytest.mark.parametrize("made_by", ["excel", "excel-sep", "utf-16", "windows", "tab", "quoted", "two-lines", "blank"])
def test_what_programs_write(pictures, made_by):
    found = [("img/1.png", "big, grey"), ("img/2.png", "small")]
    lines = {
        "excel": ["path;label", *(f"{p};{v}" for p, v in found), ";", ""],
        "excel-sep": ["sep=;", "path;label", *(f"{p};{v}" for p, v in found)],
        "utf-16": ["path\tlabel", *(f"{p}\t{v}" for p, v in found)],
        "windows": ["path,label", "", *(f'{p.replace("/", chr(92))},"{v}"' for p, v in found)],
        "tab": ["path\tlabel", *(f"{p}\t{v}" for p, v in found)],
        "quoted": ['"path","label"', *(f'"{p}", "{v}"' for p, v in found)],
        "two-lines": ["path,note,label", *(f'{p},"one\ntwo","{v}"' for p, v in found)],
        "blank": ["", "path,label", "  ", *(f'{p} ,"{v} "' for p, v in found), ","],
    }[made_by]
    encoding = {"excel": "utf-8-sig", "utf-16": "utf-16"}.get(made_by, "utf-8")
    file = write(pictures, *lines, encoding=encoding, end="\r\n" if made_by in ("windows", "excel") else "\n")
    source = open_source(file, "all")
    assert [(source[i].id, source.classes[source[i].target]) for i in range(2)] == found


def test_json_lines_and_parquet(pictures):
    lines = [json.dumps({"file_name": f"img/{i}.png", "label": i % 3}) for i in range(8)]
    source = open_source(write(pictures, *lines, "", name="metadata.jsonl"), "all")
    assert (source.classes, source.labels.tolist()) == (("0", "1", "2"), [0, 1, 2, 0, 1, 2, 0, 1])
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    table = pa.table({"path": [f"img/{i}.png" for i in range(8)], "label": [10.0 if i % 2 else 9.0 for i in range(8)]})
    pq.write_table(table, pictures / "t.parquet")
    assert open_source(pictures / "t.parquet", "all").classes == ("9", "10")  # by size, and without the float's ".0"
    pq.write_table(pa.table({"image": [b"x"], "label": [1]}), pictures / "shard.parquet")
    assert open_source(pictures / "t.parquet", "all").labels.tolist() == [0, 1] * 4


def test_split_weight_and_root(pictures):
    parts = ["train", "train", "train", "Training", "val", "dev", "test", "test"]
    lines = [f"{i}.png,{NAMES[i]},{parts[i]},{i + 1}" for i in range(8)]
    file = write(pictures, "path,label,split,weight", *lines)
    train, val = (open_source(file, split, root=pictures / "img") for split in ("train", "val"))
    assert (list(train.paths), list(val.paths)) == (["0.png", "1.png", "2.png", "3.png"], ["4.png", "5.png"])
    assert train.weights.tolist() == [1, 2, 3, 4]
    with pytest.raises(RequestError, match=r"data.root=.*: is for the paths of a table"):
        open_source(pictures / "img", "train", root=pictures)


def test_weights_reach_the_training_with_a_mean_of_one(pictures):
    from crosscale.contracts import InputSpec
    from crosscale.data.augment import Augment
    from crosscale.data.examples import ImageExamples

    lines = [f"img/{i}.png,{NAMES[i]},{2 if i < 4 else 6}" for i in range(8)]
    source = open_source(write(pictures, "path,label,weight", *lines), "all")
    examples = ImageExamples(InputSpec((4, 4), 3, crop_pct=1.0), Augment.none())
    with train_batches(source, examples, batch_size=8, seed=0, epochs=1) as batches:
        (batch,) = batches
    assert dict(zip(batch.index.tolist(), batch.weight.tolist(), strict=True)) == {
        i: 0.5 if i < 4 else 1.5 for i in range(8)
    }


def test_a_row_twice_counts_once_and_is_told(pictures):
    source = open_source(write(pictures, "path,label", *rows(), "img/1.png,dog", "img/2.png,cat"), "all")
    assert len(source) == 8
    assert "2 rows name a picture again with the same label" in source.notes[1]


BROKEN = [
    (["path,label", "img/1.png,cat", "./img//1.png,dog"], r"give a picture another label: ./img//1.png \(rows 2"),
    (["path,label", "img/1.png,cat", "img/1.png,dog"], r"1 rows give a picture another label: img/1.png \(rows 2 and"),
    (
        ["path,label", "img/1.png,cat", *(f"gone/{i}.png,dog" for i in range(12))],
        r"12 of its 13 pictures .* and 2 more",
    ),
    (["path,label", "img/1.png,", "img/2.png,dog"], r"1 rows have no label: row 2; give one"),
    (["path,a,b", "img/1.png,1,2"], r"which column is the label \(a, b\)\? say so with task.label_column"),
    (["path,split", "img/1.png,train"], r"which column is the label \(none is left"),
    (["path,label,weight", "img/1.png,a,-1"], r"row 2: the weight -1 is not above 0 \(1 such\)"),
    (["path,label,weight", "img/1.png,a,heavy"], r"row 2: 'heavy' in the column 'weight' is no number"),
    (
        ["path,label,split", "img/1.png,a,train", "img/2.png,b,train", "img/3.png,c,val"],
        r"row 4: the class 'c' is held out but nowhere to train on",
    ),
    (
        ["path,label,split", "img/1.png,a,train", "img/2.png,b,hold"],
        r"row 3: the split 'hold' is neither train nor val",
    ),
    (["picture,label", "img/1.png,a"], r"none of its columns \(picture, label\) holds paths"),
    (["path,label", "img/1.png,a,b"], r"line 2 has 3 cells, the headings 2; quote a cell that holds a ','"),
]


@pytest.mark.parametrize(("lines", "message"), BROKEN)
def test_the_row_is_named(pictures, lines, message):
    file = write(pictures, *lines)
    with pytest.raises(RequestError, match=message) as raised:
        open_source(file, "train")
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(str(file))


def test_json_lines_that_are_none(pictures):
    for line, message in (("{", "line 2 is no JSON"), ("[1]", "line 2 is no object such as")):
        with pytest.raises(RequestError, match=message):
            open_source(write(pictures, '{"path": "img/1.png", "label": "a"}', line, name="t.jsonl"), "train")


def test_names_that_may_be_one_class_are_warned_of(pictures, caplog):
    lines = ["img/0.png,Cat", "img/1.png,cat", "img/2.png,cat", "img/3.png,sea  lion", "img/4.png,Sea lion"]
    with caplog.at_level(logging.WARNING, "crosscale.data"):
        open_source(write(pictures, "path,label", *lines), "train")
    first, second = caplog.messages
    assert (
        "'Cat' (1) and 'cat' (2) differ only in case or white space; if they are one: task.class_map: {'Cat'" in first
    )
    assert "'Sea lion' (1) and 'sea  lion' (1)" in second


def test_classes_are_renamed_merged_and_left_out(pictures):
    source = open_source(write(pictures, "path,label", *(f"img/{i}.png,{'abcd'[i % 4]}" for i in range(8))), "all")
    mapped = map_classes(source, {"a": "x", "c": "x", "d": None}, "t.csv")
    assert mapped.classes == ("x", "b")
    assert [(mapped[i].id, mapped[i].target) for i in range(len(mapped))] == [
        (f"img/{i}.png", 0 if i % 2 == 0 else 1) for i in (0, 1, 2, 4, 5, 6)
    ]
    assert map_classes(source, {}, "t.csv") is source
    known = r"task.class_map: 'e' is not one of the classes of t.csv; they are a, b, c, d"
    with pytest.raises(RequestError, match=known):
        map_classes(source, {"e": "x"}, "t.csv")
    assert map_classes(source, {"e": "x"}, "t.csv", lenient=True).classes == source.classes
    with pytest.raises(RequestError, match="leaves out every class"):
        map_classes(source, dict.fromkeys("abcd"), "t.csv")


def test_a_picture_as_text_in_the_column_of_paths(tmp_path):
    (tmp_path / "t.csv").write_text(f"image,label\n{'A' * 5000},a\n{'B' * 300},b\n")
    with pytest.raises(RequestError) as raised:
        open_source(tmp_path / "t.csv", "all")
    line = str(raised.value)
    assert f"2 of its 2 pictures are missing: '{'A' * 40}...' of 5,000 letters (row 2), '{'B' * 40}...' of 300" in line
    assert line.endswith("a cell holds the path of a file, not the picture itself as text")
