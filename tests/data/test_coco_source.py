"""COCO's files as people have them: ids with gaps, crowds, empty pictures, and one line for what cannot be used."""

import pickle

import numpy as np
import pytest

from crosscale.data.object_layouts import has_objects
from crosscale.data.object_source import open_objects, told_summary
from crosscale.data.once import read_once
from crosscale.errors import RequestError
from tests.data.object_files import H, W, annotation, coco, coco_folder, image, jpeg, picture, write


def opened(root, split="train", **options):
    return open_objects(root, split, val_fraction=0.25, seed=0, **options)


def refused(root, split="train", **options):
    with pytest.raises(RequestError) as caught:
        opened(root, split, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


A, B = annotation(1), annotation(2, image_id=1, category_id=90, bbox=(1, 2, 3, 4))


class TestLayouts:
    def files(self, root, where):
        """The two parts of one picture each, as `where` places them: {json: folder of pictures}."""
        for number, (file, folder) in enumerate(where.items(), 1):
            write(root, {file: coco([image(number, "a.jpg")], [annotation(1, image_id=number)])})
            write(root, {f"{folder}/a.jpg": jpeg(picture(seed=number))})
        return root

    @pytest.mark.parametrize(
        "where",
        [
            {"annotations/instances_train2017.json": "train2017", "annotations/instances_val2017.json": "val2017"},
            {"annotations/instances_train.json": "images/train", "annotations/instances_val.json": "images/val"},
            {"train.json": "train", "val.json": "val"},
            {"annotations/train.json": "images", "annotations/valid.json": "images/valid"},
            {"train/_annotations.coco.json": "train", "valid/_annotations.coco.json": "valid"},
            {"train/annotations.json": "train/images", "test/annotations.json": "test/images"},
        ],
        ids=lambda where: next(iter(where)),
    )
    def test_two_parts(self, tmp_path, where):
        root = self.files(tmp_path, where)
        assert has_objects(root)
        with read_once():
            parts = [opened(root, split) for split in ("train", "val")]
        for number, (source, folder) in enumerate(zip(parts, where.values(), strict=True), 1):
            assert source.layout == "COCO"
            assert source[0].id == f"{folder}/a.jpg"
            assert source[0].image == jpeg(picture(seed=number))
            assert source.image_ids.tolist() == [number]

    def test_coco_itself_has_other_files_beside(self, tmp_path):
        where = {"annotations/instances_train2017.json": "train2017", "annotations/instances_val2017.json": "val2017"}
        root = self.files(tmp_path, where)
        others = ("captions_train2017", "person_keypoints_train2017", "image_info_test2017")
        write(root, {f"annotations/{name}.json": coco([], []) for name in others})
        assert len(opened(root)) == 1

    @pytest.mark.parametrize("name", ["_annotations.coco.json", "annotations.json", "result.json"])
    def test_one_file_is_parted_by_the_pictures_names(self, tmp_path, name):
        images = [image(i, f"images\\{i}.jpg") for i in range(8)]  # as Label Studio writes them on Windows
        write(tmp_path, {name: coco(images, [annotation(i, image_id=i) for i in range(8)])})
        write(tmp_path, {f"images/{i}.jpg": jpeg(picture(seed=i)) for i in range(8)})
        train, val, whole = (opened(tmp_path, split) for split in ("train", "val", "all"))
        assert len(train) == 6
        assert len(val) == 2
        assert {r for s in (train, val) for r in s.annotated.pictures} == {*whole.annotated.pictures}
        for source in (train, val):
            for i in range(len(source)):
                assert source.image_ids[i] == int(source[i].id.removeprefix("images/").removesuffix(".jpg"))
        assert len(opened(tmp_path / name, "all")) == 8  # the file itself

    def test_the_file_is_parsed_once_for_both_parts(self, tmp_path, monkeypatch):
        write(tmp_path, {"annotations.json": coco([image(i, f"{i}.jpg") for i in range(4)], [annotation(1, 1)])})
        write(tmp_path, {f"{i}.jpg": jpeg(picture()) for i in range(4)})
        from crosscale.data import coco_json

        parsed = []
        monkeypatch.setattr(
            coco_json, "_parsed", lambda file, real=coco_json._parsed: parsed.append(file) or real(file)
        )
        with read_once():
            for split in ("train", "val"):
                opened(tmp_path, split, checked=0)
        assert len(parsed) == 1

    def test_other_folders_are_none(self, tmp_path):
        write(tmp_path, {"cat/a.jpg": jpeg(picture()), "labels.json": {"a.jpg": "cat"}})
        assert not has_objects(tmp_path)
        assert "no pictures with boxes are recognised; give a folder with annotations/" in refused(tmp_path)
        assert "no such folder" in refused(tmp_path / "nothing")
        (tmp_path / "t.zip").write_bytes(b"PK")
        assert "t.zip: a file, not a folder (packed: unpack it first); give a folder with" in refused(
            tmp_path / "t.zip"
        )

    def test_two_files_of_one_part(self, tmp_path):
        root = self.files(tmp_path, {"train.json": "train", "val.json": "val"})
        write(root, {"train-old.json": coco([], [])})
        assert "train-old.json and train.json are both of the part train; keep one" in refused(root)


class TestObjects:
    def test_ids_with_gaps_become_labels_in_their_order(self, tmp_path):
        root = coco_folder(tmp_path, [A, B], categories=[{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}])
        source = opened(root)
        assert source.classes == ("cat", "dog")
        assert source.category_ids == (3, 90)
        target = source[0].target
        assert target.labels.tolist() == [0, 1]
        np.testing.assert_array_equal(target.boxes, [[4, 6, 24, 16], [1, 2, 4, 6]])
        assert target.areas.tolist() == [200, 12]

    def test_pictures_without_objects_stay(self, tmp_path):
        source = opened(coco_folder(tmp_path, [A], pictures=3))
        assert source.counts.tolist() == [1, 0, 0]
        assert len(source[2].target) == 0
        assert source.summary["pictures without objects"] == 2
        assert source.most_objects == 1

    def test_crowds_are_told(self, tmp_path):
        runs = {"size": [H, W], "counts": [0, 100, H * W - 100]}
        crowd = annotation(2, iscrowd=1, segmentation=runs)
        polygon = [[4, 6, 24, 6, 24, 16, 4, 16]]
        pytest.importorskip("faster_coco_eval")
        source = opened(coco_folder(tmp_path, [annotation(1, segmentation=polygon), crowd]), masks=True)
        assert source[0].target.crowd.tolist() == [False, True]
        assert source[0].target.masks == (polygon, runs)
        assert source.has_masks
        assert source.summary["are crowds"] == 1

    BAD = (
        annotation(11, bbox=(5, 5, 0, 9)),
        annotation(12, bbox=(20, 20, -4, 9)),
        annotation(13, bbox=(5, 5, 0.5, 9)),
        annotation(14, bbox=(W + 2, 5, 9, 9)),
        annotation(15, ignore=1),
        annotation(16, area=0),
    )

    def test_what_mmdetection_leaves_out_is_not_learnt_and_what_coco_counts_is_counted(self, tmp_path):
        beyond = annotation(17, bbox=(W - 5, 5, 20, 9))
        root = coco_folder(tmp_path, [A, *self.BAD, beyond])
        train, val = (opened(root, split) for split in ("train", "val"))
        assert train.annotated.table.ids[train.annotated.table.kept(learn=True)].tolist() == [1, 17]
        assert len(train[0].target) == 2
        assert len(val[0].target) == 8
        assert val[0].target.areas[1] == 0
        told = told_summary(train)
        assert train.notes == (f"to train on: {told}",)
        assert "4 are less than a pixel wide or high, or of no area (not learnt)" in told
        assert "1 lie outside their picture (not learnt)" in told
        assert "1 are marked to be ignored (not learnt)" in told
        assert "1 reach beyond their picture;" in told
        assert "(counted, as COCO's evaluation does)" in told_summary(val)

    def test_without_an_area_it_is_the_masks_or_the_boxs(self, tmp_path):
        triangle = annotation(2, area=None, bbox=(0, 0, 10, 10), segmentation=[[0, 0, 10, 0, 0, 10]])
        runs = annotation(3, area=None, segmentation={"size": [H, W], "counts": [10, 7, 100, 5, H * W - 122]})
        source = opened(coco_folder(tmp_path, [annotation(1, area=None), triangle, runs]))
        assert source[0].target.areas.tolist() == [200, 50, 12]

    def test_the_area_of_packed_run_lengths(self, tmp_path):
        library = pytest.importorskip("faster_coco_eval.core.mask")
        mask = np.zeros((H, W), np.uint8)
        mask[10:13, 20:25] = 1
        packed = {"size": [H, W], "counts": library.encode(np.asfortranarray(mask))["counts"].decode()}
        wrong = {"size": [H, W], "counts": "zzz"}
        objects = [annotation(n, area=None, segmentation=one) for n, one in enumerate((packed, wrong), 1)]
        assert opened(coco_folder(tmp_path, objects))[0].target.areas.tolist() == [15, 200]

    @pytest.mark.parametrize(
        ("size", "counts"),
        [
            ([200_000, 200_000], [40_000_000_000]),
            ([200_000, 20_000], "PPZfVg3"),
            ([W, H], [W * H]),
            ([str(H), W], [H * W]),
        ],
    )
    @pytest.mark.parametrize("sides", [{}, {"height": None}])
    def test_run_lengths_of_another_size_are_named_before_they_are_unpacked(self, tmp_path, size, counts, sides):
        entry = annotation(7, area=None, segmentation={"size": size, "counts": counts})
        write(tmp_path, {"train/a.jpg": jpeg(picture()), "train.json": coco([image(1, "a.jpg", **sides)], [entry])})
        write(tmp_path, {"val/a.jpg": jpeg(picture()), "val.json": coco([image(1, "a.jpg")], [A])})
        if sides and size == [W, H]:  # nobody says otherwise before the picture is decoded
            assert opened(tmp_path)[0].target.areas.tolist() == [0]
            return
        wanted = "the picture's height and width" if sides else f"[{H}, {W}]"
        line = f"annotation 7 of a.jpg: its run lengths say the size {size}, not {wanted}; draw the mask anew"
        assert line in refused(tmp_path)

    def test_sizes_of_run_lengths_may_be_written_as_tables_write_whole_numbers(self, tmp_path):
        runs = {"size": [float(H), float(W)], "counts": [10, 7, H * W - 17]}
        root = coco_folder(tmp_path, [annotation(1, area=None, segmentation=runs)])
        assert opened(root)[0].target.areas.tolist() == [7]

    def test_masks_only_where_asked_for(self, tmp_path):
        root = coco_folder(tmp_path, [annotation(1, segmentation=[[4, 6, 24, 6, 24, 16]]), annotation(2)])
        plain, both = opened(root), opened(root, masks=None)
        assert plain[0].target.masks is None
        assert len(plain[0].target) == 2
        assert both[0].target.masks == ([[4, 6, 24, 6, 24, 16]],)
        assert both.summary["have no mask"] == 1

    def test_a_polygon_of_two_points_is_left_out_of_its_mask(self, tmp_path):
        good = [4, 6, 24, 6, 24, 16]
        two = annotation(2, segmentation=[[1, 1, 5, 5]])
        root = coco_folder(tmp_path, [annotation(1, segmentation=[good, [1, 1, 5, 5]]), two])
        source = opened(root, masks=None)
        assert source[0].target.masks == ([good],)
        assert source.summary["have polygons of fewer than three corners"] == 2
        lines = source.annotated.faults()
        assert f"{root}/train.json: annotation 2 of train/1.jpg: has a polygon of fewer than three corners" in lines[-1]
        assert len(opened(root)[0].target) == 2  # boxes alone are learnt of both

    def test_it_can_be_pickled_and_parted(self, tmp_path):
        source = pickle.loads(pickle.dumps(opened(coco_folder(tmp_path, [A, annotation(5, image_id=2)]), masks=None)))
        part = source.select(np.array([1]))
        assert part[0].id == "train/2.jpg"
        assert part[0].target.boxes.tolist() == [[4, 6, 24, 16]]
        assert part.annotated.table.ids.tolist() == [5]

    def test_roboflows_category_of_all_is_left_out(self, tmp_path):
        categories = [{"id": 0, "name": "pets", "supercategory": "none"}]
        categories += [{"id": n, "name": name, "supercategory": "pets"} for n, name in ((3, "cat"), (90, "dog"))]
        source = opened(coco_folder(tmp_path, [A], categories=categories))
        assert source.classes == ("cat", "dog")
        assert "the category 'pets' (id 0) holds all others and has no object: left out" in source.notes

    def test_names_decide_where_the_parts_number_them_differently(self, tmp_path):
        root = coco_folder(tmp_path, [A, B])
        swapped = coco([image(1, "1.jpg")], [annotation(1, category_id=1)], categories=((1, "dog"), (2, "cat")))
        write(root, {"val.json": swapped})
        val = opened(root, "val")
        assert val.classes == ("cat", "dog")
        assert val[0].target.labels.tolist() == [1]
        assert val.category_ids == (2, 1)


class TestRefused:
    def test_a_missing_picture(self, tmp_path):
        root = coco_folder(tmp_path, [A], pictures=4)
        (root / "train/2.jpg").unlink()
        (root / "train/3.jpg").unlink()
        line = refused(root)
        assert line.startswith(f"{root}/train.json: image 2 is 2.jpg, which is not in {root}/train; add the picture")
        assert "(2 such lines; crosscale data FOLDER --check prints them)" in line
        assert len(opened(root, checked=0)) == 2

    def test_no_picture_at_all(self, tmp_path):
        write(tmp_path, {"train.json": coco([image(1, "a.jpg")], [A]), "val.json": coco([], [])})
        assert (
            "none of its pictures is found, 'a.jpg' among them (looked in train/, training/, images/train/"
            in refused(tmp_path)
        )

    @pytest.mark.parametrize("name", ["x" * 400 + ".jpg", "a\0.jpg", "/", "../../a.jpg"])
    def test_a_name_that_no_file_can_have(self, tmp_path, name):
        root = coco_folder(tmp_path / "a" / "b" / "c", [A])
        assert "image 1 is " in refused(write(root, {"train.json": coco([image(1, name), image(2, "2.jpg")], [A])}))

    @pytest.mark.parametrize(
        ("wrong", "line"),
        [
            (
                annotation(7, category_id=4),
                "annotation 7 of 1.jpg: category_id 4 is not one of the categories' ids (3, 90)",
            ),
            (annotation(7, image_id=99), "annotation 7 is of image 99, which images does not list; list it"),
            (annotation(7, bbox=(1, 2, 3)), "annotation 7 of 1.jpg: bbox is [1, 2, 3]; it must be four numbers"),
            (annotation(7) | {"bbox": [1, 2, 3, float("nan")]}, "bbox is [1, 2, 3, NaN]; it must be four numbers"),
            (annotation(7) | {"bbox": None}, "annotation 7 of 1.jpg: bbox is null"),
            (
                annotation(1, image_id=2),
                "annotation id 1 appears twice, for objects of '1.jpg' and '2.jpg'; give each",
            ),
            (annotation(7) | {"bbox": [1, 2, 1e300, 4]}, "annotation 7 of 1.jpg: bbox is [1, 2, 1e+300, 4]"),
        ],
    )
    def test_an_annotation_that_cannot_be_used(self, tmp_path, wrong, line):
        root = coco_folder(tmp_path, [A, wrong])
        assert line in refused(root)
        assert refused(root).startswith(f"{root}/train.json: ")
        assert len(opened(root, checked=0)[0].target) == 1

    def test_shares_in_place_of_pixels(self, tmp_path):
        line = refused(coco_folder(tmp_path, [annotation(n, bbox=(0.1, 0.2, 0.3, 0.4)) for n in range(1, 4)]))
        assert "annotation 1 of 1.jpg: bbox [0.1, 0.2, 0.3, 0.4], like all others, lies in 0..1: shares" in line
        assert "multiply x and width by the picture's width" in line

    def test_corners_in_place_of_sides(self, tmp_path):
        corners = [annotation(n, bbox=(20 + n, 10 + n, 40 + n, 30 + n)) for n in range(9)]
        assert "write bbox as x0, y0, x1 - x0, y1 - y0" in refused(coco_folder(tmp_path, corners))

    def test_ten_thousand_objects(self, tmp_path):
        line = refused(coco_folder(tmp_path, [annotation(n, bbox=(1, 1, 5, 5)) for n in range(10_000)]))
        assert "train.json: image 1 (1.jpg) has 10,000 objects, and a batch holds at most 2,000" in line
        assert "cut the picture into tiles, or mark a group as one crowd" in line

    def test_other_classes_held_out(self, tmp_path):
        root = coco_folder(tmp_path, [A])
        write(root, {"val.json": coco([image(1, "1.jpg")], [A], categories=((3, "cat"), (4, "cow")))})
        line = refused(root, "val")
        assert line.startswith(f"{root}/val.json: not the classes to train on: it has 'cow'; it lacks 'dog'")

    @pytest.mark.parametrize(
        ("changes", "line"),
        [
            (
                {"categories": [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]},
                "category id 3 appears twice ('a', 'b')",
            ),
            ({"categories": [{"id": 3, "name": "a"}, {"id": 4, "name": "a"}]}, "two categories are called 'a'"),
            ({"categories": [{"name": "a"}]}, "each has a whole number id and a name"),
            ({"categories": []}, "categories is empty"),
            ({"images": []}, "images is empty"),
            ({"images": [image(1, "1.jpg"), image(1, "2.jpg")]}, "image id 1 appears twice, for '1.jpg' and '2.jpg'"),
            ({"images": [{"id": 1}]}, "image 1 has no file_name"),
            ({"annotations": {"a": 1}}, "annotations is no list of objects"),
        ],
    )
    def test_what_a_file_must_have(self, tmp_path, changes, line):
        whole = coco([image(1, "1.jpg")], [A]) | changes
        assert line in refused(write(coco_folder(tmp_path, [A]), {"train.json": whole}))

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ('{"images": [], "annotations": [', "no JSON, or cut short"),
            ('{"images": [], "annotations": []}', "has no categories; a COCO file has images, annotations, categories"),
            ('["images", "annotations"]', "a JSON list; COCO's is an object"),
        ],
    )
    def test_damaged_files(self, tmp_path, text, line):
        root = coco_folder(tmp_path, [A])
        write(root, {"train.json": text})
        assert line in refused(root)

    def test_a_picture_of_another_size(self, tmp_path):
        root = coco_folder(tmp_path, [A])
        write(root, {"train/2.jpg": jpeg(picture(24, 32))})
        line = refused(root)
        assert f"train/2.jpg: has 32 x 24 pixels, and {root}/train.json says 64 x 48: boxes are in pixels" in line
        assert "--check looks at every picture" in line

    def test_a_picture_that_stands_by_its_orientation_alone(self, tmp_path):
        root = coco_folder(tmp_path, [A])
        exif = picture().getexif()
        exif[0x0112] = 6  # a quarter turn
        write(root, {"train/1.jpg": jpeg(picture(), exif=exif)})
        line = refused(root)
        assert "its EXIF orientation turns it, and boxes are of the upright picture; where they are, exchange" in line
        write(root, {"train.json": coco([image(1, "1.jpg", width=H, height=W)], [A])})
        assert opened(root).size(0) == (W, H)  # boxes of the upright picture

    def test_masks_that_are_not_there(self, tmp_path):
        pytest.importorskip("faster_coco_eval")
        assert "its objects have no masks; give data with segmentations" in refused(
            coco_folder(tmp_path, [A]), masks=True
        )

    def test_the_library_that_is_not_there(self, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "faster_coco_eval.core", None)
        assert "pip install 'crosscale[detect]'" in refused(coco_folder(tmp_path, [A]), masks=True)
