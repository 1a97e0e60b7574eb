"""How pictures become results: in order, the next batch given to the device before the last is read, none kept."""

import threading

import pytest

from crosscale.engine.read_ahead import read_ahead

SIZE, COUNT = 3, 26


class Told:
    """Work on numbers that says what it does when, and how far the pictures were read."""

    def __init__(self):
        self.done, self.taken = [], 0

    def pictures(self, count=COUNT):
        for number in range(count):
            self.taken += 1
            yield number

    def load(self, index, picture):
        assert threading.current_thread() is not threading.main_thread()
        assert index == picture
        return picture

    def start(self, loaded):
        self.done.append(("start", loaded[0]))
        return [10 * number for number in loaded]

    def read(self, loaded, started):
        self.done.append(("read", loaded[0]))
        assert started == [10 * number for number in loaded]
        yield from started

    def run(self):
        return read_ahead(self.pictures(), SIZE, self.load, self.start, self.read)


def test_results_come_in_order_and_the_device_has_the_next_batch_already():
    told = Told()
    assert list(told.run()) == [10 * number for number in range(COUNT)]
    starts = [place for place, (what, _) in enumerate(told.done) if what == "start"]
    reads = [place for place, (what, _) in enumerate(told.done) if what == "read"]
    assert len(starts) == len(reads) == 9
    assert all(later < read for later, read in zip(starts[1:], reads, strict=False))


def test_no_more_is_read_than_is_needed_soon():
    told = Told()
    for results, _ in enumerate(told.run(), 1):
        assert told.taken - results < 4 * SIZE


def test_nobody_waits_for_what_nobody_wants():
    told = Told()
    results = told.run()
    assert next(results) == 0
    results.close()
    assert told.taken <= 4 * SIZE
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]


def test_an_error_of_a_batch_comes_after_the_results_before_it():
    told = Told()

    def read(loaded, started):
        if loaded[0] >= 2 * SIZE:
            raise ValueError("damaged")
        yield from started

    found = []
    with pytest.raises(ValueError, match="damaged"):
        found.extend(read_ahead(told.pictures(), SIZE, told.load, told.start, read))
    assert list(read_ahead([], SIZE, told.load, told.start, told.read)) == []
