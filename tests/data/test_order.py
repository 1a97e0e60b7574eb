"""Repeated augmentation, block-wise order, and batches of one shape."""

import pickle

import numpy as np
import pytest

from crosscale.contracts import InputSpec, Record
from crosscale.data import Augment, train_batches
from crosscale.data.examples import ImageExamples
from crosscale.data.order import EpochOrder, ShapedOrder
from crosscale.errors import RequestError

SPEC = InputSpec(size=(4, 4), channels=1, mean=(0.0,), std=(1.0,))


class Numbered:
    classes = ("x",)

    def __init__(self, count, blocks=None):
        self.count = count
        if blocks is not None:
            self.blocks = np.asarray(blocks)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return Record(f"x/{index}", np.full((8, 8), index % 256, np.uint8), 0)


def epochs(source, augment, count, batch_size=6, **options):
    with train_batches(
        source,
        ImageExamples(SPEC, augment),
        repeats=augment.repeats,
        batch_size=batch_size,
        seed=5,
        epochs=count,
        **options,
    ) as batches:
        steps = [batch.index for batch in batches]
    return np.stack(steps).reshape(count, -1)


def repeated_sampler(order, world, epoch_length, repeats=3):
    """What each of `world` ranks gets in DeiT's sampler, from an epoch's shuffle of the data set."""
    tripled = np.repeat(order, repeats)
    return [tripled[rank::world][: epoch_length // world] for rank in range(world)]


def test_repeats_follow_the_reference_sampler():
    source, augment = Numbered(24), Augment(repeats=3, auto_augment=None)
    seen = epochs(source, augment, 2)
    assert seen.shape == (2, 24)
    for epoch in seen:
        order = epoch[::3]
        assert len(set(order)) == 8  # a third of the examples, each thrice
        for world in (1, 2, 3, 6):
            ranks = repeated_sampler(order, world, 24)
            for rank, expected in enumerate(ranks):
                np.testing.assert_array_equal(epoch[rank::world], expected)
    assert set(seen[0]) != set(seen[1])


def test_repeats_are_augmented_differently_and_alike_on_any_number_of_hosts():
    source = Numbered(24)
    augment = Augment(repeats=3, auto_augment=None, color_jitter=0.9, erase_prob=0.0)
    options = {"batch_size": 6, "seed": 5, "epochs": 1}
    with train_batches(source, ImageExamples(SPEC, augment), repeats=augment.repeats, **options) as batches:
        whole = [(batch.index, batch.image) for batch in batches]
    parts = []
    for host in range(3):
        with train_batches(
            source, ImageExamples(SPEC, augment), repeats=augment.repeats, host_index=host, host_count=3, **options
        ) as batches:
            parts.append([(batch.index, batch.image) for batch in batches])
    for step, (index, image) in enumerate(whole):
        for host in range(3):
            np.testing.assert_array_equal(parts[host][step][0], index[2 * host : 2 * host + 2])
            np.testing.assert_array_equal(parts[host][step][1], image[2 * host : 2 * host + 2])
    distinct = {tuple(row.ravel()) for row in whole[0][1][:3]}
    assert len(distinct) > 1


@pytest.mark.slow
def test_repeats_resume_and_workers():
    source, augment = Numbered(24), Augment(repeats=3, auto_augment=None)
    whole = epochs(source, augment, 2).reshape(-1, 6)
    with train_batches(
        source,
        ImageExamples(SPEC, augment),
        repeats=augment.repeats,
        batch_size=6,
        seed=5,
        start_step=3,
        epochs=2,
        workers=2,
    ) as batches:
        np.testing.assert_array_equal(np.stack([batch.index for batch in batches]), whole[3:])
    with train_batches(
        source, ImageExamples(SPEC, augment), repeats=augment.repeats, batch_size=6, seed=5, start_step=6, epochs=None
    ) as batches:
        np.testing.assert_array_equal(np.stack([next(batches).index for _ in range(2)]), whole[6:])


def test_blocks_come_whole_and_in_another_order_each_epoch(monkeypatch):
    monkeypatch.setattr("crosscale.data.order.WINDOW", 10)
    source = Numbered(40, blocks=[0, 10, 20, 30, 40])
    seen = epochs(source, Augment.none(), 3, batch_size=10)
    for epoch in seen:
        assert sorted(epoch) == list(range(40))
        assert {len({index // 10 for index in epoch[begin : begin + 10]}) for begin in (0, 10, 20, 30)} == {1}
        assert not any((np.diff(epoch[begin : begin + 10]) == 1).all() for begin in (0, 10, 20, 30))
    assert len({tuple(epoch[::10] // 10) for epoch in seen}) > 1


def test_first_third_is_drawn_evenly():
    counts = np.zeros(30)
    order = EpochOrder(30, 30, 0, 3, None)
    for position in range(0, 30 * 300, 3):
        counts[order(position)] += 1
    assert counts.sum() == 3000
    assert 60 < counts.min() <= counts.max() < 145  # 100 expected, standard deviation 8


def test_repeats_must_be_positive():
    with pytest.raises(RequestError, match=r"augment\.repeats=0"):
        Augment(repeats=0)


class TestShaped:
    """Batches of one shape each."""

    shapes = np.array([0] * 30 + [1] * 11 + [2] * 3)[np.random.default_rng(0).permutation(44)]

    def order(self):
        return ShapedOrder(self.shapes, batch_size=4, per_epoch=44, seed=7, blocks=None)

    def test_every_batch_has_one_shape_and_every_example_comes_equally_often(self):
        order = self.order()
        seen = np.array([order(position) for position in range(44 * 30)])
        batches = self.shapes[seen].reshape(-1, 4)
        assert (batches == batches[:, :1]).all()
        counts = np.bincount(seen, minlength=44)
        for shape in range(3):
            own = counts[self.shapes == shape]
            assert own.max() - own.min() <= 1
        assert abs(counts - 30).max() <= 1
        epochs = batches[:, 0].reshape(30, 11)
        assert len({tuple(epoch) for epoch in epochs}) == 30  # the batches are shuffled too

    def test_a_position_alone_tells_the_example(self):
        whole = [self.order()(position) for position in range(200)]
        later = pickle.loads(pickle.dumps(self.order()))
        assert [later(position) for position in range(150, 200)] == whole[150:]

    def test_blocks_are_read_one_after_another(self, monkeypatch):
        monkeypatch.setattr("crosscale.data.order.WINDOW", 11)
        shapes = np.arange(44) % 2  # eleven of each shape in both blocks
        order = ShapedOrder(shapes, batch_size=11, per_epoch=44, seed=7, blocks=np.array([0, 22, 44]))
        batches = np.array([order(position) for position in range(44 * 3)]).reshape(-1, 11)
        assert {len({index // 22 for index in batch}) for batch in batches.tolist()} == {1}
        assert sorted(batches[:4].ravel()) == list(range(44))
        assert not any((np.diff(batch) == 2).all() for batch in batches)
