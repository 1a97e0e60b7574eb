"""Boxes in YOLO's, Pascal VOC's and parquet's layouts: the same objects, and one line for what cannot be used."""

import json
import pathlib

import numpy as np
import pytest

from crosscale.data.coco_masks import bitmap, compressed, run_lengths
from crosscale.data.object_layouts import has_objects
from crosscale.data.object_source import open_objects
from crosscale.errors import RequestError
from tests.data.object_files import H, W, jpeg, picture, write

DATA = "names: [cat, dog]\nnc: 2\n"
LINE = "1 0.25 0.5 0.125 0.25\n"  # x 0.1875..0.3125, y 0.375..0.625
CORNERS = [12, 18, 20, 30]


def opened(root, split="train", **options):
    return open_objects(root, split, val_fraction=0.25, seed=0, **options)


def refused(root, split="train", **options):
    with pytest.raises(RequestError) as caught:
        opened(root, split, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestYolo:
    def folder(self, root, lines=LINE, data=DATA, images="images/{}", labels="labels/{}", splits=("train", "val")):
        for split in splits:
            write(root, {f"{images.format(split)}/{n}.jpg": jpeg(picture(seed=n)) for n in range(2)})
            write(root, {f"{labels.format(split)}/0.txt": lines})
        return write(root, {"data.yaml": data}) if data else root

    @pytest.mark.parametrize(
        ("images", "labels", "splits"),
        [
            ("images/{}", "labels/{}", ("train", "val")),
            ("{}/images", "{}/labels", ("train", "valid")),
            ("images/{}", "labels/{}", ("train2017", "val2017")),
            ("images/{}", "labels/{}", ("train", "test")),
        ],
    )
    def test_parts(self, tmp_path, images, labels, splits):
        root = self.folder(tmp_path, images=images, labels=labels, splits=splits)
        assert has_objects(root)
        for split, folder in zip(("train", "val"), splits, strict=True):
            source = opened(root, split)
            assert source.layout == "YOLO"
            assert source.classes == ("cat", "dog")
            assert source[0].id == f"{images.format(folder)}/0.jpg"
            np.testing.assert_allclose(source[0].target.boxes, [CORNERS])
            assert source[0].target.labels.tolist() == [1]
            assert source[0].target.areas.tolist() == [96]
            assert source.counts.tolist() == [1, 0]  # a picture without a text file has no objects

    def test_folders_in_another_case(self, tmp_path):
        root = self.folder(tmp_path, images="Images/{}", labels="LABELS/{}")
        assert has_objects(root)
        assert opened(root).counts.tolist() == [1, 0]

    def test_names_are_texts(self, tmp_path):
        root = self.folder(tmp_path, data="names: [on, 'no']\nnc: 2\ntest:\n")
        assert opened(root).classes == ("on", "no")

    def test_key_points_are_left_out(self, tmp_path):
        data = DATA + "kpt_shape: [2, 3]\n"
        root = self.folder(tmp_path, LINE.strip() + " 0.2 0.3 2 0.4 0.5 1\n", data)
        source = opened(root, masks=None)
        np.testing.assert_allclose(source[0].target.boxes, [CORNERS])
        assert not source.has_masks
        assert "data.yaml tells of key points (kpt_shape): only the boxes are learnt" in source.notes
        (root / "data.yaml").write_text(DATA + "kpt_shape: 17\n")
        assert "kpt_shape is 17; it says how many key points a line has" in refused(root)

    def test_one_part_is_parted(self, tmp_path):
        write(tmp_path, {f"images/{n}.jpg": jpeg(picture(seed=n)) for n in range(8)})
        write(tmp_path, {f"labels/{n}.txt": LINE for n in range(8)} | {"classes.txt": "cat\ndog\n"})
        assert [len(opened(tmp_path, split)) for split in ("train", "val")] == [6, 2]
        assert opened(tmp_path).classes == ("cat", "dog")

    @pytest.mark.parametrize(
        ("data", "classes"),
        [
            ("names:\n  0: cat\n  1: dog\n", ("cat", "dog")),
            ("names: [cat, dog, cow]\n", ("cat", "dog", "cow")),
            ("", ("0", "1")),
        ],
    )
    def test_classes(self, tmp_path, data, classes):
        assert opened(self.folder(tmp_path, data=data)).classes == classes

    @pytest.mark.parametrize("said", ["photos/images/a", "../photos/images/a", "lists/a.txt", "[photos/images/a]"])
    def test_the_yaml_says_where_pictures_are(self, tmp_path, said):
        for part in ("a", "b"):
            write(tmp_path, {f"photos/images/{part}/0.jpg": jpeg(picture()), f"photos/labels/{part}/0.txt": LINE})
        write(tmp_path, {"lists/a.txt": "photos/images/a/0.jpg\n"})
        write(tmp_path, {"my.yaml": f"{DATA}train: {said}\nval: photos/images/b\n"})
        assert has_objects(tmp_path)
        assert opened(tmp_path)[0].id == "photos/images/a/0.jpg"
        np.testing.assert_allclose(opened(tmp_path, "val")[0].target.boxes, [CORNERS])

    def test_outlines_give_boxes_and_masks(self, tmp_path):
        outline = "0 0.25 0.25 0.5 0.25 0.5 0.75\n"
        root = self.folder(tmp_path, lines=LINE + outline)
        target = opened(root)[0].target
        np.testing.assert_allclose(target.boxes, [CORNERS, [16, 12, 32, 36]])
        assert target.areas.tolist() == [96, 16 * 24 / 2]
        masks = opened(root, masks=None)[0].target.masks
        assert masks == ([[16, 12, 32, 12, 32, 36]],)  # what has no outline is not learnt as a mask

    def test_equal_lines_count_once_and_lonely_texts_are_told(self, tmp_path):
        root = self.folder(tmp_path, lines=LINE + LINE)
        write(root, {"labels/train/9.txt": LINE})
        source = opened(root)
        assert len(source[0].target) == 1
        assert "1 lines that appear twice in their file count once" in source.notes
        assert "1 text files have no picture of their name, such as labels/train/9.txt" in source.notes

    def test_a_box_without_area_is_not_learnt_but_counted(self, tmp_path):
        root = self.folder(tmp_path, lines=LINE + "0 0.5 0.5 0 0.25\n0 0.98 0.5 0.1 0.1\n")
        assert opened(root).counts[0] == 2
        assert opened(root, "val").counts[0] == 3
        lines = opened(root).annotated.faults()
        assert lines[0].startswith("labels/train/0.txt: line 2: the box 0.5 0.375 0.5 0.625 is 0 wide")
        assert lines[1].startswith("labels/train/0.txt: line 3: the box 0.93 0.45 1.03 0.55 reaches beyond its picture")

    @pytest.mark.parametrize(
        ("lines", "told"),
        [
            (
                "0 120 80 40 30\n",
                "labels/train/0.txt:1: 120 is not in 0..1: YOLO's boxes are shares of",
            ),
            (LINE + "\n2 0.5 0.5 0.1 0.1\n", "labels/train/0.txt:3: class 2, but data.yaml has 2 classes, 0..1"),
            ("0 0.5 0.5 0.1\n", "labels/train/0.txt:1: 4 numbers; a line is a class and 4 for a box"),
            ("0 0.5 0.5 0.1 0.1 0.93\n", "labels/train/0.txt:1: 6 numbers;"),
            ("cat 0.5 0.5 0.1 0.1\n", "labels/train/0.txt:1: not a line of numbers"),
            ("0 nan 0.5 0.1 0.1\n", "labels/train/0.txt:1: not a line of numbers"),
            ("0.5 0.5 0.5 0.1 0.1\n", "labels/train/0.txt:1: class 0.5, but"),
        ],
    )
    def test_lines_that_cannot_be_used(self, tmp_path, lines, told):
        assert refused(self.folder(tmp_path, lines=lines)).startswith(told)

    @pytest.mark.parametrize(
        ("data", "told"),
        [
            ("names: [cat, dog]\nnc: 3\n", "data.yaml: nc is 3, but names has 2; make them equal"),
            ("names: [cat, cat]\n", "the class 'cat' appears twice"),
            ("names: {0: cat, 2: dog}\n", "names has the numbers 0, 2; number them 0, 1, 2, ..."),
            ("names: cat\n", "names is neither a list nor a mapping"),
            ("names: [cat\n", "data.yaml: cannot be read"),
        ],
    )
    def test_descriptions_that_cannot_be_used(self, tmp_path, data, told):
        assert told in refused(self.folder(tmp_path, data=data))

    def test_pictures_without_texts(self, tmp_path):
        root = self.folder(tmp_path)
        (root / "labels/val/0.txt").unlink()
        write(root, {"labels/val/other.txt": LINE})
        line = refused(root)
        assert "none of the 2 pictures of val has a text file of its name, such as labels/val/0.txt" in line


def xml(*objects, width=W, height=H):
    entries = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin>"
        f"<ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, box, difficult in objects
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>a.jpg</filename>{size}{entries}</annotation>"


class TestVoc:
    def folder(self, root, count=4, lists=True, content=None):
        content = content or xml(("dog", (13, 19, 20, 30), 0), ("cat", (1, 1, W, H), 1))
        write(root, {f"JPEGImages/{n}.jpg": jpeg(picture(seed=n)) for n in range(count)})
        write(root, {f"Annotations/{n}.xml": content for n in range(count)})
        if lists:
            write(root, {"ImageSets/Main/train.txt": "0\n2\n", "ImageSets/Main/val.txt": "1  1\n"})
        return root

    def test_parts_boxes_and_difficult_objects(self, tmp_path):
        root = self.folder(tmp_path)
        assert has_objects(root)
        train, val = (opened(root, split) for split in ("train", "val"))
        assert train.layout == "Pascal VOC"
        assert [train[i].id for i in range(2)] == ["JPEGImages/0.jpg", "JPEGImages/2.jpg"]
        assert val[0].id == "JPEGImages/1.jpg"
        assert train.classes == ("cat", "dog")
        target = train[0].target
        np.testing.assert_array_equal(target.boxes, [CORNERS, [0, 0, W, H]])  # pixels 1..W are the whole picture
        assert target.labels.tolist() == [1, 0]
        assert target.crowd.tolist() == [False, True]

    def test_two_pictures_of_one_name(self, tmp_path):
        root = self.folder(tmp_path, lists=False)
        write(root, {"JPEGImages/more/0.png": jpeg(picture(seed=9))})
        assert "JPEGImages/more/0.png: has the name of JPEGImages/0.jpg, and one file would be of both" in refused(root)

    def test_pixels_that_are_counted_from_0(self, tmp_path):
        source = opened(self.folder(tmp_path, content=xml(("dog", (0, 0, 20, 30), 0))))
        np.testing.assert_array_equal(source[0].target.boxes, [[0, 0, 20, 30]])
        assert source.notes[0].startswith("boxes begin at 0, so that pixels are counted from 0")

    def test_without_lists_it_is_one_part(self, tmp_path):
        assert [len(opened(self.folder(tmp_path, 8, lists=False), split)) for split in ("train", "val")] == [6, 2]

    @pytest.mark.parametrize(
        ("files", "told"),
        [
            ({"Annotations/9.xml": xml()}, "Annotations/9.xml: there is no picture 9 in JPEGImages/; add it"),
            ({"ImageSets/Main/train.txt": "0\n7\n"}, "ImageSets/Main/train.txt: 7 has no picture with a file in"),
            ({"Annotations/0.xml": xml()[:40]}, "0.xml: no XML, or damaged"),
            (
                {"Annotations/0.xml": "<?xml version='1.0' encoding='ANSI'?><annotation/>"},
                "0.xml: its encoding is not read",
            ),
            ({"Annotations/0.xml": "<?xml version='1.0' encoding='gb2312'?><annotation/>"}, "save it as UTF-8"),
            ({"Annotations/0.xml": xml(("dog", ("a", 1, 2, 3), 0))}, "0.xml: object 1 has no bndbox of four numbers"),
            ({"Annotations/0.xml": xml(("", (1, 1, 2, 3), 0))}, "0.xml: object 1 has no name"),
            ({"classes.txt": "dog\n"}, "classes.txt: has no class 'cat', which an object in Annotations/ has"),
        ],
    )
    def test_what_cannot_be_used(self, tmp_path, files, told):
        assert told in refused(write(self.folder(tmp_path), files))

    def test_pictures_without_a_file_are_told(self, tmp_path):
        root = write(self.folder(tmp_path), {"JPEGImages/x.jpg": jpeg(picture())})
        assert "1 pictures have no file in Annotations/ and are left out, such as x" in opened(root).notes

    @pytest.mark.parametrize("folders", [("",), ("train", "valid"), ("train", "test")])
    def test_files_beside_their_pictures(self, tmp_path, folders):
        for number, folder in enumerate(folders):
            place = tmp_path / folder
            write(place, {f"{n}.jpg": jpeg(picture(seed=n)) for n in range(4)})
            write(place, {f"{n}.xml": xml((("dog", "cat")[number], (13, 19, 20, 30), 0)) for n in range(4)})
        assert has_objects(tmp_path)
        train, val = (opened(tmp_path, split) for split in ("train", "val"))
        assert train.layout == "Pascal VOC"
        assert [len(train), len(val)] == ([3, 1] if folders == ("",) else [4, 4])
        assert train[0].id == str(pathlib.PurePath(folders[0], train[0].id.rpartition("/")[2]))
        np.testing.assert_array_equal(train[0].target.boxes, [CORNERS])
        assert train.classes == val.classes == (("dog",) if folders == ("",) else ("cat", "dog"))
        assert val[0].target.labels.tolist() == [0]

    @pytest.mark.parametrize(
        ("files", "told"),
        [
            ({"9.xml": xml()}, "9.xml: there is no picture 9 beside it; add it, or take the file out"),
            ({"0.xml": xml()[:40]}, "0.xml: no XML, or damaged"),
            ({"classes.txt": "cat\n"}, "classes.txt: has no class 'dog', which an object in a .xml file has"),
        ],
    )
    def test_what_cannot_be_used_beside_pictures(self, tmp_path, files, told):
        root = write(tmp_path, {f"{n}.jpg": jpeg(picture(seed=n)) for n in range(4)})
        write(root, {f"{n}.xml": xml(("dog", (1, 1, 9, 9), 0)) for n in range(4)})
        write(root, {"lonely.jpg": jpeg(picture())})
        assert "1 pictures have no .xml file beside them and are left out, such as lonely" in opened(root).notes
        assert told in refused(write(root, files))

    def test_other_xml_beside_pictures_is_none(self, tmp_path):
        root = write(tmp_path, {"0.jpg": jpeg(picture()), "0.xml": "<PcGts><Page/></PcGts>"})
        assert not has_objects(root)

    def test_a_size_that_is_not_the_pictures(self, tmp_path):
        root = self.folder(tmp_path, content=xml(("dog", (1, 1, 9, 9), 0), width=10, height=10))
        assert "JPEGImages/0.jpg: has 64 x 48 pixels, and Annotations/0.xml says 10 x 10" in refused(root)


class TestParquet:
    def shards(self, root, rows, names=("cat", "dog"), splits=("train", "validation"), nested=False):
        objects = [
            [{"bbox": list(map(float, box)), "category": c} for box, c in row]
            if nested
            else {"bbox": [list(map(float, box)) for box, _ in row], "category": [c for _, c in row]}
            for row in rows
        ]
        return self.write_shards(root, objects, names, splits)

    def write_shards(self, root, objects, names, splits):
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        table = pa.table(
            {
                "image": [{"bytes": jpeg(picture(seed=n)), "path": None} for n in range(len(objects))],
                "objects": objects,
                "width": [W] * len(objects),
                "height": [H] * len(objects),
            }
        )
        label = {"names": list(names), "_type": "ClassLabel"}
        kind = {"feature": {"bbox": {}, "category": label}, "_type": "Sequence"}
        info = {"info": {"features": {"image": {"_type": "Image"}, "objects": kind}}}
        if names:
            table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
        (root / "data").mkdir()
        for split in splits:
            pq.write_table(table, root / "data" / f"{split}-00000-of-00001.parquet", row_group_size=2)
        return root

    @pytest.mark.parametrize("nested", [False, True])
    def test_boxes_and_names(self, tmp_path, nested):
        root = self.shards(
            tmp_path, [[((12, 18, 8, 12), 1)], [], [((1, 2, 3, 4), 0), ((5, 6, 3, 4), 1)]], nested=nested
        )
        assert has_objects(root)
        source = opened(root, "val")
        assert source.layout == "parquet shards"
        assert source.classes == ("cat", "dog")
        assert source.counts.tolist() == [1, 0, 2]
        np.testing.assert_array_equal(source[0].target.boxes, [CORNERS])
        assert source[2].target.labels.tolist() == [0, 1]
        assert source[0].image == jpeg(picture(seed=0))
        assert source.blocks.tolist() == [0, 2, 3]
        assert source.size(2) == (H, W)

    @pytest.mark.parametrize("nested", [False, True])
    @pytest.mark.parametrize("kind", ["polygons", "one polygon", "run lengths", "packed", "text"])
    def test_masks(self, tmp_path, nested, kind):
        pytest.importorskip("faster_coco_eval")
        square = np.zeros((H, W), bool)
        square[18:30, 12:20] = True
        polygon = [12.0, 18.0, 20.0, 18.0, 20.0, 30.0, 12.0, 30.0]
        mask = {
            "polygons": [polygon],
            "one polygon": polygon,
            "run lengths": run_lengths(square),
            "packed": compressed(square),
            "text": json.dumps(run_lengths(square)),
        }[kind]
        objects = {"bbox": [[12.0, 18.0, 8.0, 12.0], [1.0, 2.0, 3.0, 4.0]], "category": [1, 0], "iscrowd": [0, 1]}
        objects |= {"segmentation": [mask, None], "area": [90.0, None]}
        rows = [dict(zip(objects, values, strict=True)) for values in zip(*objects.values(), strict=True)]
        root = self.write_shards(tmp_path, [rows if nested else objects], ("cat", "dog"), ("train", "validation"))
        found = opened(root, "val", masks=True)[0].target
        np.testing.assert_array_equal(bitmap(found.masks[0], (H, W)), square)
        assert found.crowd.tolist() == [False, True]
        assert found.areas.tolist() == [90, 12]  # as the row says, else of the mask, else of the box
        assert len(found.masks[1]) == 0
        assert opened(root)[0].target.masks is None

    def test_run_lengths_of_another_size_are_named(self, tmp_path):
        objects = {"bbox": [[1.0, 2.0, 9.0, 9.0]], "category": [0]}
        objects["segmentation"] = [json.dumps({"size": [200_000, 200_000], "counts": [40_000_000_000]})]
        root = self.write_shards(tmp_path, [objects], ("cat", "dog"), ("train", "validation"))
        assert "parquet/0: object 1: its run lengths say the size [200000, 200000], not" in refused(root, masks=True)

    def test_a_row_without_a_mask_is_named(self, tmp_path):
        pytest.importorskip("faster_coco_eval")
        objects = {"bbox": [[1.0, 2.0, 9.0, 9.0]] * 3, "category": [0, 1, 1]}
        objects["segmentation"] = [json.dumps([[1, 2, 10, 2, 10, 11]]), "[[1, 2", None]
        root = self.write_shards(tmp_path, [objects], ("cat", "dog"), ("train", "validation"))
        source = opened(root, masks=True)
        assert source.counts.tolist() == [1]
        assert source.annotated.faults()[0].startswith("train-00000-of-00001.parquet/0: object 2: has no mask; where")
        assert source.target(0, (H, W)).areas.tolist() == [40.5]

    def test_corners_are_told_by_what_fits(self, tmp_path):
        source = opened(self.shards(tmp_path, [[((12, 18, 20, 30), 1), ((40, 30, 60, 44), 0)]] * 4))
        np.testing.assert_array_equal(source[0].target.boxes, [CORNERS, [40, 30, 60, 44]])
        assert source.notes[0].startswith("the boxes are read as x0, y0, x1, y1")

    def test_names_as_categories(self, tmp_path):
        rows = [[((1, 2, 3, 4), "dog")], [((1, 2, 3, 4), "ape")]]
        source = opened(self.shards(tmp_path, rows, names=()))
        assert source.classes == ("ape", "dog")
        assert source[0].target.labels.tolist() == [1]

    @pytest.mark.parametrize(
        ("rows", "told"),
        [
            (
                [[((0.1, 0.2, 0.3, 0.4), 1)]],
                "00001.parquet/0: bbox [0.1, 0.2, 0.3, 0.4], like all others",
            ),
            ([[((1, 2, 3, 4), 7)]], "the category 7 is not one of the shard's 2 classes"),
            ([[((1, 2, 3), 1)]], "train-00000-of-00001.parquet/0: object 1 has bbox [1.0, 2.0, 3.0]"),
        ],
    )
    def test_what_cannot_be_used(self, tmp_path, rows, told):
        assert told in refused(self.shards(tmp_path, rows))

    def test_shards_of_labels_are_none(self, tmp_path):
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        table = pa.table({"image": [{"bytes": b"", "path": None}], "label": [0]})
        pq.write_table(table, tmp_path / "train.parquet")
        assert not has_objects(tmp_path)
