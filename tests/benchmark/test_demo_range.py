"""The sentence of README.md on the demo's number."""

from benchmarks.demo_range import sentence


def result(processor, *top1):
    return {"machine": {"processor": processor}, "rows": [{"seed": n, "top1": x} for n, x in enumerate(top1)]}


def test_the_sentence_names_range_seeds_and_machines():
    one = result("A 1", 0.98, 0.99)
    assert sentence([one]) == (
        "The demo ends at 98.5 (98.0 to 99.0) % top-1 on the held-out fifth "
        "(mean and range over 2 seeds on one machine: A 1)."
    )
    assert "97.7 (96.0 to 99.0) % top-1" in sentence([one, result("B", 0.96)])
    assert sentence([one, result("B", 0.96)]).endswith("over 2 seeds on 2 machines: A 1; B).")
