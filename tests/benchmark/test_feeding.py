"""Steps that wait for pictures and steps that do not: real trainings on real JPEG files."""

import json

import pytest

from crosscale.benchmark.data import Request, measure
from crosscale.benchmark.feeding import LOG_EVERY, FeedRequest, measure_feeding
from crosscale.benchmark.photos import write_jpegs
from crosscale.cli.bench_tables import print_data
from crosscale.errors import WorkError

TINY = {
    "img_size": [32],
    "patch_size": [16],
    "embed_dim": [16],
    "depth": [[1, 0]],
    "num_heads": [2],
    "mlp_ratio": [1],
    "fusion": "none",
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_jpegs(folder, 68)
    return folder


def test_shares_are_weighed_by_time(monkeypatch, photos):
    def train(folder, run, request):
        run.mkdir()
        rates = [(0.0, 0.0), (10.0, 0.5), (40.0, 0.0)]  # the first record holds the compiling step alone
        lines = [{"kind": "train", "images_per_second": rate, "data_wait": wait} for rate, wait in rates]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"kind": "epoch"}]))

    monkeypatch.setattr("crosscale.benchmark.feeding._train", train)
    monkeypatch.setattr("crosscale.benchmark.feeding._loader_rate", lambda folder, request: 30.0)
    found = measure_feeding(photos, FeedRequest(batch_size=10))
    # One step of 10 pictures in 1 s, of which half waited; two steps, 20 pictures, in half a second.
    assert (LOG_EVERY, found["steps"]) == (2, 3)
    assert found["data_wait"] == pytest.approx(0.5 / 1.5)
    assert found["step"] == pytest.approx(30 / 1.0)
    assert found["keeps_up"] is False


@pytest.mark.slow
def test_a_training_that_fails_is_told(photos):
    with pytest.raises(WorkError, match=r"the training of crossvit that should be fed failed: .*data\.decode"):
        measure_feeding(photos, FeedRequest("crossvit", batch_size=2, steps=1, decode="quick", options=TINY))


@pytest.mark.slow
def test_a_step_slower_than_its_source_hardly_waits(capsys):
    result = measure(Request(images=32, rounds=1, size=64, batch_size=8, train_steps=8))
    fed = result["feeding"]
    assert fed["model"] == "crossvit_9_240"
    assert fed["steps"] >= 7
    assert fed["keeps_up"]
    assert fed["data_wait"] < 0.02, fed
    print_data(result)
    assert f"{fed['data_wait']:.2%}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_step_quicker_than_its_source_waits(photos):
    fed = measure_feeding(photos, FeedRequest("crossvit", batch_size=16, steps=24, threads=1, options=TINY))
    assert not fed["keeps_up"], fed
    assert fed["data_wait"] > 0.2, fed
