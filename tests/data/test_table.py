"""Tables of paths and numbers: what people's files look like, and which row an error names."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crosscale.data.table import open_table
from crosscale.data.table_rows import TableColumns
from crosscale.errors import RequestError

SPLIT = {"val_fraction": 0.25, "seed": 0}


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


def test_names_units_and_values(pictures):
    file = write(pictures, "path,area (mm2),mass [g]", *(f"img/{i}.png,{i}.5,{10 * i}" for i in range(8)))
    source = open_table(file, "all", **SPLIT)
    assert (source.names, source.units, len(source)) == (("area", "mass"), ("mm2", "g"), 8)
    record = source[3]
    assert record.id == "img/3.png"
    np.testing.assert_array_equal(record.target, [3.5, 30])
    assert record.image[:4] == b"\x89PNG"
    assert open_table(file, "all", numbers=("mass",), **SPLIT)[3].target.tolist() == [30]


@pytest.mark.parametrize("made_by", ["excel", "windows", "tab", "quoted"])
def test_what_programs_write(pictures, made_by):
    rows = [("img/1.png", "1"), ("img/2.png", "-2e-1")]
    lines = {
        "excel": ["path;x", *(f"{p};{v}" for p, v in rows), ";", ""],
        "windows": ["path,x", "", *(f"{p.replace('/', chr(92))},{v}" for p, v in rows)],
        "tab": ["path\tx", *(f"{p}\t{v}" for p, v in rows)],
        "quoted": ['"path","x"', *(f'"{p}", "{v}"' for p, v in rows)],
    }[made_by]
    encoding = "utf-8-sig" if made_by == "excel" else "utf-8"
    file = write(pictures, *lines, encoding=encoding, end="\r\n" if made_by == "windows" else "\n")
    source = open_table(file, "all", **SPLIT)
    assert [source[i].id for i in range(2)] == ["img/1.png", "img/2.png"]
    assert source.values.tolist() == [[1.0], [-0.2]]


def test_parquet(pictures):
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    table = pa.table({"file": [f"img/{i}.png" for i in range(8)], "y": [i / 4 for i in range(8)]})
    pq.write_table(table, pictures / "t.parquet")
    source = open_table(pictures / "t.parquet", "all", **SPLIT)
    assert source.names == ("y",)
    assert source.values[:, 0].tolist() == [i / 4 for i in range(8)]


def test_a_split_column_and_a_split_by_digests(pictures):
    told = write(pictures, "path,split,x", *(f"img/{i}.png,{'Val' if i > 5 else 'train'},{i}" for i in range(8)))
    parts = {split: open_table(told, split, **SPLIT) for split in ("train", "val", "all")}
    assert [parts["val"][i].id for i in range(2)] == ["img/6.png", "img/7.png"]
    assert (len(parts["train"]), len(parts["all"])) == (6, 8)
    drawn = write(pictures, "path,x", *(f"img/{i}.png,{i}" for i in range(8)), name="u.csv")
    train, val = (open_table(drawn, split, **SPLIT) for split in ("train", "val"))
    assert (len(train), len(val)) == (6, 2)
    assert not set(train.paths) & set(val.paths)
    assert list(open_table(drawn, "val", val_fraction=0.25, seed=0).paths) == list(val.paths)


BROKEN = [
    (["path,x", "img/1.png,1", "img/2.png,blue"], r"row 3: 'blue' in the column 'x' is no number; say which columns"),
    (["path;x", "img/1.png;1,5"], r"row 2: '1,5' in the column 'x' is no number; write decimals with a point"),
    (["path,x", "img/1.png,nan"], r"row 2: nan in the column 'x' is not finite"),
    (["path,x", "img/1.png,1", "img/2.png,inf"], r"row 3: inf"),
    (["path,x", "img/1.png,1,2"], r"line 2 has 3 cells, the headings 2"),
    (["path,x", "img/1.png,"], r"row 2: '' in the column 'x' is no number"),
    (["photo,x", "img/1.png,1"], r"none of its columns \(photo, x\) holds paths; call one 'path'"),
    (["path,x,x", "img/1.png,1,2"], r"the heading 'x' appears twice"),
    (["path,x"], r"holds no rows"),
    (["path", "img/1.png"], r"no column of numbers beside 'path'"),
    (["path,x", "img/1.png,1", "./img/1.png,2"], r"row 3 names ./img/1.png, which row 2 does too"),
    (["path,x", "img/1.png,1", "img/1.png,2"], r"row 3 names img/1.png, which row 2 does too"),
    (
        ["path,x", "img/1.png,1", *(f"gone/{i}.png,1" for i in range(12))],
        r"12 of its 13 pictures are missing: .* and 2",
    ),
    (["path,split,x", "img/1.png,train,1", "img/2.png,holdout,2"], r"row 3: the split 'holdout' is neither"),
    (["path,split,x", "img/1.png,train,1", "img/2.png,train,2"], r"no row of the column 'split' says val"),
    (["path,x", "img/1.png,1"], r"too few pictures to hold any out"),
]


@pytest.mark.parametrize(("lines", "message"), BROKEN)
def test_the_row_is_named(pictures, lines, message):
    file = write(pictures, *lines)
    with pytest.raises(RequestError, match=message) as raised:
        open_table(file, "train", **SPLIT)
    assert "\n" not in str(raised.value)
    assert str(file) in str(raised.value)


def test_columns_and_files_that_are_not_there(pictures):
    file = write(pictures, "path,mass", "img/1.png,1", "img/2.png,2", "img/3.png,2")
    with pytest.raises(RequestError, match="has no column 'mas'; did you mean 'mass'"):
        open_table(file, "train", numbers=("mas",), **SPLIT)
    with pytest.raises(RequestError, match="has no column 'photo'; it has path, mass"):
        open_table(file, "train", columns=TableColumns(path="photo"), **SPLIT)
    with pytest.raises(RequestError, match=r"no such file; give a \.csv"):
        open_table(pictures / "gone.csv", "train", **SPLIT)
    with pytest.raises(RequestError, match=r"not a table; give a \.csv"):
        open_table(pictures / "img", "train", **SPLIT)


@pytest.mark.parametrize("heading", ["", "Unnamed: 0"])
def test_the_row_numbers_that_pandas_writes_are_not_learnt(pictures, heading):
    file = write(pictures, f"{heading},path,mass", *(f"{i},img/{i}.png,{i}.5" for i in range(8)))
    source = open_table(file, "all", **SPLIT)
    assert source.names == ("mass",)
    assert source.notes == ("t.csv: path from 'path', number from 'mass'",)


def test_the_index_that_pandas_stores_in_parquet_is_not_learnt(pictures):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    columns = {"path": [f"img/{i}.png" for i in range(8)], "mass": [float(i) for i in range(8)]}
    pq.write_table(pa.table({**columns, "__index_level_0__": list(range(8))}), pictures / "t.parquet")
    assert open_table(pictures / "t.parquet", "all", **SPLIT).names == ("mass",)


def test_a_column_of_numbers_without_a_heading_that_counts_nothing_is_learnt(pictures):
    file = write(pictures, ",path,mass", *(f"{i}.5,img/{i}.png,{i}.5" for i in range(8)))
    assert open_table(file, "all", **SPLIT).names == ("", "mass")
