"""A share of the training data: of every class, the same everywhere, with all that belongs to an example."""

import numpy as np
import pytest
from PIL import Image

from crosscale.data import open_source
from crosscale.data.class_map import Relabelled, map_classes
from crosscale.data.parquet import ParquetShards
from crosscale.data.subset import subset
from crosscale.data.tag_table import open_tag_table
from crosscale.errors import RequestError
from crosscale.recipe import load
from crosscale.runs.experiment import build

HOW = {"val_fraction": 0.2, "seed": 0}


@pytest.fixture(scope="module")
def digits():
    return open_source("digits", "train")


def ids(source):
    return [source[i].id for i in range(len(source))]


def test_each_class_keeps_its_share(digits):
    part = subset(digits, 0.1, 0)
    whole, kept = np.bincount(digits.labels), np.bincount(part.labels)
    assert kept.tolist() == np.round(whole * 0.1).astype(int).tolist()
    assert [part[i].target for i in range(len(part))] == part.labels.tolist()
    assert ids(part) == sorted(ids(part), key=ids(digits).index)  # in the source's order
    # It must not move with versions, as runs record no more than the share.
    assert ids(part)[:4] == ["digits/0286", "digits/0305", "digits/0571", "digits/0694"]


def test_a_larger_share_holds_a_smaller_one_and_another_seed_takes_others(digits):
    small, large, other = (set(ids(subset(digits, *how))) for how in ((0.1, 0), (0.3, 0), (0.1, 1)))
    assert small < large
    assert len(small & other) < 0.3 * len(small)
    assert ids(subset(digits, 1.0, 0)) == ids(digits)


def test_mapped_classes_and_blocks(digits):
    mapped = map_classes(digits, {"0": "round", "8": "round", "1": None}, "digits")
    part = subset(mapped, 0.1, 0)
    assert isinstance(part, Relabelled)
    assert np.bincount(part.labels).tolist() == np.round(np.bincount(mapped.labels) * 0.1).astype(int).tolist()
    assert [part[i].target for i in range(len(part))] == part.labels.tolist()

    class Rows:
        blocks, columns = np.array([0, 5, 12, 20]), ["image"]

        def record_id(self, index):
            return f"row/{index}"

        def select(self, indices):
            chosen = Rows()
            chosen.blocks = np.searchsorted(indices, self.blocks)
            return chosen

    shards = ParquetShards(["a", "b"], Rows(), np.arange(20) % 2)
    part = subset(shards, 0.3, 0)
    assert len(part) == 6
    mapped = subset(map_classes(shards, {"a": "c"}, "shards"), 0.3, 0)
    assert mapped.blocks.tolist() == part.blocks.tolist()


def test_tables_keep_what_belongs_to_a_row(tmp_path):
    """Of a class with one picture, that one; weights and tags go with their pictures."""
    rows = ["path,label,weight,split"]
    for number in range(21):
        Image.new("L", (4, 4), number).save(tmp_path / f"{number:02}.png")
        label = "rare" if number == 20 else "ab"[number % 2]
        rows.append(f"{number:02}.png,{label},{number + 1},train")
    Image.new("L", (4, 4)).save(tmp_path / "v.png")
    rows.append("v.png,a,1,val")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    source = open_source(str(tmp_path / "labels.csv"), "train", **HOW)
    part = subset(source, 0.2, 0)
    assert np.bincount(part.labels).tolist() == [2, 2, 1]
    for index in range(len(part)):
        number = int(part[index].id.removesuffix(".png"))
        assert part.weights[index] == number + 1
    tags = ["path,tags,split", "v.png,x,val"]
    tags += [f"{number:02}.png,{'x|y' if number % 7 == 0 else 'x'},train" for number in range(21)]
    (tmp_path / "tags.csv").write_text("\n".join(tags))
    part = subset(open_tag_table(str(tmp_path / "tags.csv"), "train", **HOW), 0.34, 0)
    assert part.tags.sum(0).tolist() == [7, 1]
    assert all((part[i].target[1] > 0) == (int(part[i].id[:2]) % 7 == 0) for i in range(len(part)))


def test_a_run_trains_on_it_validates_on_all_and_records_it():
    experiment = build(load("smoke", {"data.subset": "0.1"}))
    assert (len(experiment.train_source), len(experiment.val_source)) == (143, 359)
    assert experiment.steps_per_epoch == 2
    assert experiment.artifact.data["subset"] == 0.1
    assert "subset" not in build(load("smoke")).artifact.data
    with pytest.raises(RequestError, match=r"data.subset=1.5: must lie in 0 < value <= 1"):
        load("smoke", {"data.subset": "1.5"})
