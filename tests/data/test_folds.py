"""Folds: each picture is held out once, each class has its share, and what belongs together stays together."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crosscale.data.arrays import ArraySource
from crosscale.data.class_map import map_classes
from crosscale.data.folds import Fold, cut
from crosscale.data.label_table import open_label_table
from crosscale.data.table import open_table
from crosscale.errors import RequestError

pytest.importorskip("sklearn")


def source(counts: dict[str, int]) -> ArraySource:
    """So many pictures of each class."""
    labels = np.repeat(np.arange(len(counts)), list(counts.values()))
    ids = [f"{label}/{index}" for index, label in enumerate(labels)]
    return ArraySource(counts, ids, np.zeros((len(ids), 2, 2), np.uint8), labels)


def parts(whole: Any, count: int, seed: int = 0, **how: Any) -> list[tuple[Any, Any]]:
    return [cut(whole, Fold(count, number, **how), seed) for number in range(1, count + 1)]


def test_each_picture_is_held_out_once_and_each_class_has_its_share() -> None:
    whole = source({"a": 10, "b": 20, "c": 7})
    found = parts(whole, 5)
    held_out = [name for _, part in found for name in part.ids]
    assert sorted(held_out) == sorted(whole.ids)
    for train, part in found:
        assert sorted([*train.ids, *part.ids]) == sorted(whole.ids)
        assert np.bincount(part.labels)[:2].tolist() == [2, 4]
        assert np.bincount(part.labels, minlength=3)[2] in (1, 2)


def test_the_cut_follows_the_seed_alone() -> None:
    whole = source({"a": 10, "b": 20})
    one, same, other = (parts(whole, 3, seed)[1][1].ids for seed in (0, 0, 1))
    assert one == same != other


def table(folder: Path, rows: list[tuple[str, str, str]]) -> Path:
    """A table of small pictures: (path, label, patient)."""
    for name, _, _ in rows:
        Image.new("L", (2, 2)).save(folder / name)
    file = folder / "scans.csv"
    file.write_text("path,label,patient\n" + "".join(f"{','.join(row)}\n" for row in rows))
    return file


def patients_of(part: Any) -> set[str]:
    return {str(int(part[i].id.removesuffix(".png")) // 6) for i in range(len(part))}


def test_pictures_of_one_patient_share_a_fold(tmp_path: Path) -> None:
    rows = [(f"{i}.png", "xyz"[i % 3], f"patient {i // 6}") for i in range(36)]
    file = table(tmp_path, rows)
    whole = open_label_table(file, "train", val_fraction=0.0, seed=0)
    # A class that is left out, and two that are one, must not shift the rows.
    mapped = map_classes(whole, {"x": None, "y": "z"}, "scans.csv")
    for kept in (whole, mapped):
        patients = []
        for train, part in parts(kept, 3, by="patient"):
            inside = patients_of(part)
            assert not inside & patients_of(train)
            assert len(train) + len(part) == len(kept)
            patients += sorted(inside)
        assert sorted(patients) == list("012345")


def test_what_cannot_be_cut_is_said(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"data.folds=5: the commonest class has only 3 pictures; 3 folds at most"):
        cut(source({"a": 3, "b": 3}), Fold(5, 1), 0)
    with pytest.raises(RequestError, match=r"data.folds=9: there are only 6 pictures to share out"):
        cut(source({"a": 3, "b": 3}), Fold(9, 1), 0)
    with pytest.raises(RequestError, match=r"data.folds_by=patient: is for a table of pictures"):
        cut(source({"a": 3, "b": 3}), Fold(2, 1, "patient"), 0)
    file = table(tmp_path, [(f"{i}.png", "ab"[i % 2], "one") for i in range(6)])
    whole = open_label_table(file, "train", val_fraction=0.0, seed=0)
    with pytest.raises(RequestError, match=r"has no column 'patients'; did you mean 'patient'\?"):
        cut(whole, Fold(2, 1, "patients"), 0)
    with pytest.raises(RequestError, match=r"data.folds=2: there are only 1 values of 'patient' to share out"):
        cut(whole, Fold(2, 1, "patient"), 0)


def test_a_class_with_fewer_pictures_than_folds_is_cut_all_the_same() -> None:
    found = parts(source({"a": 20, "b": 2}), 5)
    assert sum((part.labels == 1).sum() for _, part in found) == 2


def test_a_table_of_numbers_is_cut_by_a_column_too(tmp_path: Path) -> None:
    file = table(tmp_path, [(f"{i}.png", str(i), "abc"[i // 4]) for i in range(12)])
    whole = open_table(file, "all", val_fraction=0.2, seed=0, numbers=["label"])
    for _, held_out in parts(whole, 3, by="patient"):
        assert len({int(held_out[i].id.removesuffix(".png")) // 4 for i in range(len(held_out))}) == 1
