"""The sentence of README.md on the demo's number."""

from benchmarks.demo_range import machine, sentence


def result(processor, *top1):
    return {"machine": {"processor": processor}, "rows": [{"seed": n, "top1": x} for n, x in enumerate(top1)]}


def test_the_sentence_names_range_seeds_and_machines():
    one = result("A 1", 0.98, 0.99)
    assert sentence([one]) == (
        "The demo ends at 98.5 (98.0 to 99.0) % top-1 on the held-out fifth "
        "(mean and range over 2 seeds on one processor: A 1)."
    )
    assert "97.7 (96.0 to 99.0) % top-1" in sentence([one, result("B", 0.96)])
    assert sentence([one, result("B", 0.96)]).endswith("over 2 seeds on 2 processors: A 1; B).")


def test_a_processor_held_to_fewer_units_is_named_so(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1 --xla_cpu_max_isa=AVX2")
    held = machine()["processor"]
    monkeypatch.delenv("XLA_FLAGS")
    assert held == f"{machine()['processor']}, held to AVX2"
