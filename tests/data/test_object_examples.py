"""Pictures with boxes as arrays: resize, padding, flips, crops, mosaic, masks."""

import pickle

import jax
import numpy as np
import pytest
from PIL import Image

from crosscale.contracts import InputSpec, Record
from crosscale.data.box_augment import BoxAugment
from crosscale.data.box_transforms import BoxTransform, resized
from crosscale.data.coco_masks import run_lengths
from crosscale.data.cut_masks import cut_out
from crosscale.data.decode import BadImage
from crosscale.data.object_examples import ObjectExamples
from crosscale.data.object_source import open_objects
from crosscale.data.objects import Objects
from crosscale.data.pipeline import eval_batches, train_batches
from crosscale.errors import RequestError
from tests.data.object_files import annotation, coco, image, jpeg, picture, write

STILL = BoxAugment.none()
FLIPPED = BoxAugment(hflip=1.0)


def objects(*boxes, labels=None, crowd=None, masks=None):
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    count = len(corners)
    areas = (corners[:, 2:] - corners[:, :2]).prod(1)
    return Objects(
        corners,
        np.arange(count) if labels is None else np.array(labels),
        np.zeros(count, bool) if crowd is None else np.array(crowd),
        areas,
        masks,
    )


def record(target, height=48, width=64, name="a.png"):
    return Record(name, np.asarray(picture(height, width)), target)


def examples(augment=None, size=(96, 128), scale=(128, 96), most=5, **options):
    return ObjectExamples(InputSpec(size=size), augment, scale=scale, max_objects=most, **options)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("size", "expected"), [((480, 640), (800, 1067)), ((640, 480), (1067, 800)), ((400, 2000), (267, 1333))]
)
def test_the_ratio_is_kept_as_mmdetection_keeps_it(size, expected):
    assert resized(size, (1333, 800)) == expected


def test_a_training_example_is_pillows_resize_filled_up_with_the_mean():
    found = examples(STILL, size=(96, 160)).train(record(objects((8, 12, 40, 36))), rng())
    assert found["image"].shape == (96, 160, 3)
    assert found["size"].tolist() == [96, 128]
    expected = np.asarray(picture().resize((128, 96), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(found["image"][:, :128], expected)
    assert (found["image"][:, 128:] == [124, 116, 104]).all()
    np.testing.assert_array_equal(found["boxes"][0], [16, 24, 80, 72])
    assert found["labels"].tolist() == [0, -1, -1, -1, -1]
    assert not found["crowd"].any()
    assert {name: array.dtype.name for name, array in found.items()} == {
        "image": "uint8", "size": "int32", "boxes": "float32", "labels": "int32", "crowd": "bool",
    }  # fmt: skip


def test_a_picture_always_fits_into_the_training_size():
    upright = examples(STILL, size=(96, 128)).train(record(objects((0, 0, 48, 64)), height=64, width=48), rng())
    assert upright["size"].tolist() == [96, 72]
    np.testing.assert_array_equal(upright["boxes"][0], [0, 0, 72, 96])


def test_a_flip_moves_boxes_with_the_pixels():
    still = examples(STILL).train(record(objects((8, 12, 40, 36))), rng())
    flipped = examples(FLIPPED).train(record(objects((8, 12, 40, 36))), rng())
    np.testing.assert_array_equal(flipped["image"], still["image"][:, ::-1])
    np.testing.assert_array_equal(flipped["boxes"][0], [128 - 80, 24, 128 - 16, 72])


def test_boxes_beyond_the_picture_end_at_its_edge_and_crowds_stay_crowds():
    found = examples(STILL).train(record(objects((-5, -5, 10, 10), (50, 40, 90, 60), crowd=[False, True])), rng())
    np.testing.assert_array_equal(found["boxes"][:2], [[0, 0, 20, 20], [100, 80, 128, 96]])
    assert found["crowd"].tolist() == [False, True, False, False, False]


class TestCrops:
    """Large-scale jitter: a picture twice as large as its window is cropped."""

    augment = BoxAugment(ratio=(2.0, 2.0), hflip=0.0)

    @pytest.mark.parametrize("seed", range(4))
    def test_what_is_left_of_an_object_is_what_is_seen_of_it(self, seed):
        # A white rectangle on black: its box after the crop is where white is.
        pixels = np.zeros((48, 64, 3), np.uint8)
        pixels[12:36, 16:48] = 255
        target = objects((16, 12, 48, 36))
        found = examples(self.augment, size=(48, 64), scale=(64, 48)).train(Record("a", pixels, target), rng(seed))
        assert found["size"].tolist() == [48, 64]
        ys, xs = (np.flatnonzero((found["image"][..., 0] > 127).any(axis)) for axis in (1, 0))
        np.testing.assert_array_equal(found["boxes"][0], [xs[0], ys[0], xs[-1] + 1, ys[-1] + 1])

    def test_an_object_that_is_not_seen_is_left_out(self):
        corners = [(0, 0, 4, 4), (60, 0, 64, 4), (0, 44, 4, 48), (60, 44, 64, 48)]
        target = objects(*corners, labels=[0, 1, 2, 3])
        seen = [
            examples(self.augment, size=(48, 64), scale=(64, 48)).train(record(target), rng(seed))["labels"]
            for seed in range(20)
        ]
        assert all((labels >= 0).sum() <= 1 for labels in seen)

    def test_the_box_of_a_cut_object_with_a_mask_is_that_of_its_rest(self):
        pytest.importorskip("faster_coco_eval")
        mask = np.zeros((48, 64), bool)
        mask[10, 0:64] = True  # a thin bar over the whole width, and a foot at its right end
        mask[10:40, 60:64] = True
        target = objects((0, 10, 64, 40), masks=(run_lengths(mask),))
        cut = 0
        for seed in range(8):
            one = examples(self.augment, size=(48, 64), scale=(64, 48), masks=True).train(record(target), rng(seed))
            if one["labels"][0] < 0:
                continue
            ys, xs = (np.flatnonzero(laid_back(one, 0).any(axis)) for axis in (1, 0))
            np.testing.assert_array_equal(one["boxes"][0], [xs[0], ys[0], xs[-1] + 1, ys[-1] + 1])
            cut += 1
        assert cut > 2


def test_smaller_by_jitter_leaves_the_rest_to_the_mean():
    augment = BoxAugment(ratio=(0.5, 0.5), hflip=0.0)
    found = examples(augment).train(record(objects((8, 12, 40, 36))), rng())
    assert found["size"].tolist() == [48, 64]
    assert (found["image"][48:] == [124, 116, 104]).all()
    np.testing.assert_array_equal(found["boxes"][0], [8, 12, 40, 36])


def laid_back(found, place):
    """A mask of an example that fits its cells, in the example's pixels."""
    height, width = found["image"].shape[:2]
    x0, y0, x1, y1 = found["frames"][place].astype(int)
    cells = np.unpackbits(found["masks"][place], axis=-1).astype(bool)
    assert not cells[y1 - y0 :].any()
    assert not cells[:, x1 - x0 :].any()
    whole = np.zeros((height + 2, width + 2), bool)
    whole[y0 + 1 : y1 + 1, x0 + 1 : x1 + 1] = cells[: y1 - y0, : x1 - x0]
    return whole[1:-1, 1:-1]


def test_masks_are_cut_out_of_the_example():
    pytest.importorskip("faster_coco_eval")
    mask = rng(3).random((48, 50)) < 0.5
    mask = np.concatenate([np.zeros((48, 14), bool), mask], 1)
    target = objects((0, 0, 64, 48), (8, 12, 40, 36), masks=(run_lengths(mask), [[8, 12, 40, 12, 40, 36, 8, 36]]))
    found = examples(FLIPPED, size=(96, 140), masks=True).train(record(target), rng())
    assert found["masks"].shape == (5, 112, 14)
    bits = laid_back(found, 0)
    np.testing.assert_array_equal(bits[:, :128], np.repeat(np.repeat(mask, 2, 0), 2, 1)[:, ::-1])
    assert not bits[:, 128:].any()
    expected = np.zeros((96, 140), bool)
    expected[24:72, 48:112] = True
    np.testing.assert_array_equal(laid_back(found, 1), expected)
    assert not found["masks"][2:].any()
    assert not found["frames"][2:].any()


def test_a_mask_that_is_larger_than_its_cells_is_shrunk():
    """A disc keeps its centre, its area and a rim of background; at the picture's edge the rim is as the edge is."""
    y, x = np.mgrid[:300, :400]
    disc = np.hypot(y - 149.5, x - 260) < 100
    cells, frames = cut_out(np.stack([disc, np.ones((300, 400), bool), np.zeros((300, 400), bool)]))
    bits = np.unpackbits(cells, axis=-1).astype(bool)
    assert frames.tolist() == [[159, 48, 362, 252], [-4, -3, 404, 303], [0] * 4]
    sides = frames[0, 2:] - frames[0, :2]
    rows, columns = np.argwhere(bits[0]).T
    centre = (columns.mean() + 0.5, rows.mean() + 0.5) * sides / 112 + frames[0, :2]
    np.testing.assert_allclose(centre, [260.5, 150], atol=0.5)
    np.testing.assert_allclose(bits[0].sum() * sides.prod() / 112**2, disc.sum(), rtol=0.01)
    assert not bits[0][[0, -1]].any()
    assert not bits[0][:, [0, -1]].any()
    assert bits[1].all()
    assert not bits[2].any()


def test_a_damaged_mask_names_the_picture():
    pytest.importorskip("faster_coco_eval")
    target = objects((0, 0, 64, 48), masks=({"size": [48, 64], "counts": [5, 5]},))
    with pytest.raises(BadImage, match=r"a.png: the mask of its object 1 is damaged"):
        examples(STILL, masks=True).train(record(target), rng())


def test_of_too_many_objects_the_largest_are_learnt_and_an_evaluation_refuses():
    target = objects((0, 0, 4, 4), (0, 0, 20, 20), (0, 0, 10, 10))
    found = examples(STILL, most=2).train(record(target), rng())
    assert found["labels"].tolist() == [1, 2]
    with pytest.raises(BadImage, match=r"3 objects, and there is room for 2; .* raise max_objects"):
        examples(most=2).validation(record(target))


class TestMosaic:
    augment = BoxAugment(mosaic=1.0, hflip=0.5, ratio=(0.5, 1.5))

    def source(self, colours=((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))):
        return [
            Record(f"{i}", np.full((48, 64, 3), colour, np.uint8), objects((0, 0, 64, 48), labels=[i]))
            for i, colour in enumerate(colours)
        ]

    @pytest.mark.parametrize("seed", range(4))
    def test_each_picture_is_where_its_box_is(self, seed):
        source = self.source()
        made = examples(self.augment, size=(96, 96), scale=(96, 72), source=source)
        found = made.train(source[0], rng(seed))
        assert found["size"].tolist() == [96, 96]
        assert (found["labels"] >= 0).sum() == 4
        assert found["labels"][0] == 0
        painted = np.zeros((96, 96), bool)
        for box, label in zip(found["boxes"], found["labels"], strict=True):
            if label >= 0:
                x0, y0, x1, y1 = box.astype(int)
                assert (found["image"][y0:y1, x0:x1] == source[label].image[0, 0]).all()
                painted[y0:y1, x0:x1] = True
        assert (found["image"][~painted] == [124, 116, 104]).all()

    def test_it_depends_on_the_draw_alone(self):
        source = self.source()
        made = pickle.loads(pickle.dumps(examples(self.augment, source=source)))
        first, second = (made.train(source[1], rng(7)) for _ in range(2))
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])

    def test_masks_go_with_their_pictures(self):
        pytest.importorskip("faster_coco_eval")
        whole = [[0, 0, 64, 0, 64, 48, 0, 48]]
        source = [Record(r.id, r.image, objects((0, 0, 64, 48), masks=(whole,))) for r in self.source()]
        found = examples(self.augment, size=(96, 96), scale=(96, 72), source=source, masks=True).train(source[0], rng())
        for place, box in enumerate(found["boxes"][:4]):
            ys, xs = (np.flatnonzero(laid_back(found, place).any(axis)) for axis in (1, 0))
            np.testing.assert_allclose(box, [xs[0], ys[0], xs[-1] + 1, ys[-1] + 1])

    def test_without_room_for_all_objects_the_picture_alone_is_learnt(self):
        source = self.source()
        found = examples(self.augment, source=source, most=3).train(source[2], rng())
        assert found["labels"].tolist() == [2, -1, -1]

    def test_it_needs_a_source(self):
        with pytest.raises(RequestError, match="a mosaic takes three more pictures; give their source"):
            examples(self.augment)


def test_a_validation_example_keeps_the_boxes_of_the_picture_as_it_came():
    target = objects((8, 12, 40, 36), (-3, 0, 70, 50), (5, 5, 5, 9), crowd=[False, True, False])
    found = examples(scale=(160, 96)).validation(record(target))
    assert found["image"].shape == (96, 128, 3)
    assert found["size"].tolist() == [96, 128]
    assert found["original"].tolist() == [48, 64]
    np.testing.assert_array_equal(found["boxes"][:3], target.boxes)
    np.testing.assert_array_equal(found["areas"][:3], target.areas)
    assert found["crowd"][:3].tolist() == [False, True, False]
    assert found["labels"].tolist() == [0, 1, 2, -1, -1]
    blank = examples(scale=(160, 96)).blank((96, 128))
    assert {n: (a.shape, a.dtype) for n, a in blank.items()} == {n: (a.shape, a.dtype) for n, a in found.items()}


def test_validation_pictures_come_in_few_sizes():
    made = ObjectExamples(InputSpec(), scale=(1333, 800), max_objects=1)
    sides = rng().integers(40, 3000, (300, 2)).tolist()
    keys = {made.shape_key((h, w)) for h, w in sides}
    assert keys <= {(800, 800), (800, 1088), (1088, 800), (800, 1344), (1344, 800)}
    for h, w in sides:
        fitted, fed = made.fitted_size((h, w)), made.network_size((h, w))
        assert fitted[0] <= fed[0]
        assert fitted[1] <= fed[1]
    least = ObjectExamples(InputSpec(), scale=(1333, 800), max_objects=1, shapes="least")
    assert least.network_size((480, 640)) == (800, 1088)
    assert least.network_size((400, 2000)) == (288, 1344)


@pytest.mark.parametrize("wrong", [{"scale": (10, 20)}, {"most": 0}, {"size": (0, 5)}])
def test_what_cannot_work_is_refused(wrong):
    with pytest.raises(RequestError, match="the scale is a longest and a shortest side"):
        examples(**wrong)


def test_a_transform_can_be_pickled():
    made = BoxTransform((8, 8), (8, 8), STILL)
    assert pickle.loads(pickle.dumps(made)) == made


class TestBatches:
    """Through the loader, from a COCO folder with pictures of several sizes."""

    @pytest.fixture
    def root(self, tmp_path):
        images, annotations = [], []
        for number, (height, width) in enumerate([(48, 64), (64, 48), (48, 64), (50, 50), (40, 90)], 1):
            images.append(image(number, f"{number}.jpg", height=height, width=width))
            annotations += [annotation(10 * number + k, number, bbox=(k, k, 9, 9)) for k in range(number)]
            for part in ("train", "val"):
                write(tmp_path, {f"{part}/{number}.jpg": jpeg(picture(height, width, seed=number))})
        for part in ("train", "val"):
            write(tmp_path, {f"{part}.json": coco(images, annotations)})
        return tmp_path

    def opened(self, root, split):
        return open_objects(root, split, val_fraction=0.2, seed=0)

    def test_training_batches_have_one_shape_and_depend_on_the_step_alone(self, root):
        source = self.opened(root, "train")
        made = examples(BoxAugment(mosaic=0.5), size=(64, 96), scale=(96, 64), most=source.most_objects, source=source)

        def steps(first):
            with train_batches(source, made, batch_size=2, seed=1, start_step=first) as batches:
                return [next(batches) for _ in range(3)]

        early, late = steps(0), steps(2)
        assert {name: a.shape for name, a in early[0].arrays.items()} == {
            "image": (2, 64, 96, 3), "size": (2, 2), "boxes": (2, 5, 4), "labels": (2, 5), "crowd": (2, 5),
        }  # fmt: skip
        for name, array in early[2].arrays.items():
            np.testing.assert_array_equal(array, late[0].arrays[name])

    def test_validation_batches_hold_every_picture_once_by_shape(self, root):
        source = self.opened(root, "val")
        made = examples(scale=(128, 64), most=8)
        seen = {}
        with eval_batches(source, made, batch_size=2) as batches:
            for batch in batches:
                for row in np.flatnonzero(batch.weight):
                    index = int(batch.index[row])
                    assert index not in seen
                    seen[index] = batch.image.shape[1:3]
                    assert made.network_size(source.size(index)) == seen[index]
                    assert (batch.arrays["labels"][row] >= 0).sum() == index + 1
                    assert batch.arrays["original"][row].tolist() == list(source.size(index))
        assert seen == {0: (64, 96), 1: (96, 64), 2: (64, 96), 3: (64, 64), 4: (64, 128)}

    def oriented(self, source, mosaic=0.3):
        how = {"size": (128, 128), "scale": (96, 64), "most": source.most_objects, "source": source}
        return examples(BoxAugment(mosaic=mosaic), batches="oriented", **how)

    def test_oriented_batches_have_two_shapes_and_lose_no_picture(self, root):
        source = self.opened(root, "train")
        made = self.oriented(source)
        assert made.train_shapes == ((64, 96), (96, 64))
        program = jax.jit(lambda images: images.sum())
        counts, shapes = np.zeros(5, int), []
        with train_batches(source, made, batch_size=2, seed=1, epochs=15) as batches:
            for batch in batches:
                portrait = {source.size(int(index))[0] > source.size(int(index))[1] for index in batch.index}
                assert portrait == {batch.image.shape[1:3] == (96, 64)}
                assert (batch.arrays["size"] <= batch.image.shape[1:3]).all()
                np.add.at(counts, batch.index, 1)
                shapes.append(batch.image.shape[1:3])
                program(batch.image)
        assert set(shapes) == set(made.train_shapes)
        assert program._cache_size() == 2  # as many programs as shapes
        assert counts.sum() == 60
        assert counts.min() >= 11  # of twelve; a batch of portraits is their one picture twice

    def test_oriented_batches_depend_on_the_step_alone(self, root):
        source = self.opened(root, "train")
        made = self.oriented(source)

        def steps(first, last, **options):
            with train_batches(source, made, batch_size=4, seed=3, start_step=first, **options) as batches:
                return [next(batches) for _ in range(first, last)]

        whole = steps(0, 6)
        halves = [steps(3, 6, host_index=host, host_count=2) for host in (0, 1)]
        for step, *parts in zip(whole[3:], *halves, strict=True):
            for name, array in step.arrays.items():
                np.testing.assert_array_equal(array, np.concatenate([part.arrays[name] for part in parts]))
        assert len({batch.image.shape for batch in whole}) == 2

    def test_a_broken_picture_has_the_shape_of_its_batch(self, root):
        (root / "train/2.jpg").write_bytes(b"none")
        source = open_objects(root, "train", val_fraction=0.2, seed=0, checked=0)
        made = self.oriented(source, mosaic=0)
        with train_batches(source, made, batch_size=1, seed=1, epochs=2, on_bad_image="skip") as batches:
            shapes = {int(batch.index[0]): (batch.image.shape[1:3], float(batch.weight[0])) for batch in batches}
        assert shapes[1] == ((96, 64), 0.0)
        assert shapes[0] == ((64, 96), 1.0)

    def test_several_shapes_come_once_each(self, root):
        source = self.opened(root, "train")
        with pytest.raises(RequestError, match="come once each: neither repeats nor groups"):
            train_batches(source, self.oriented(source), batch_size=2, seed=1, repeats=2)
