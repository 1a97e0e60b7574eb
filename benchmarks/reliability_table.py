"""Faults tried on real runs and what was lost, and the memory that rematerialisation saves: docs/reliability.md.

    python -m benchmarks.reliability_table                  # runs the tests (some ten minutes), then writes
    python -m benchmarks.reliability_table --records FILE   # writes what tests recorded before

The tests append a JSON line to the file that the environment variable CROSSCALE_RELIABILITY_RECORDS names.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from crosscale.contracts import InputSpec
from crosscale.engine.compiler import compiler_options
from crosscale.engine.forward import forward
from crosscale.engine.sharding import data_mesh
from crosscale.models.registry import create_model
from tests.reliability.record import RECORDS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reliability.md"
TESTS = ("tests/reliability", "tests/cluster/test_hosts.py", "tests/engine/test_sharding.py")
PRESETS = (("crossvit_tiny_240", 8), ("crossformer_tiny_224", 8))
MIB = 2**20


def run_tests(records: Path) -> int:
    """Runs the tests that record faults; returns pytest's status."""
    tests = [test for test in TESTS if (ROOT / test).exists()]
    command = [sys.executable, "-m", "pytest", "-n", "0", "-m", "not parity and not gpu", *tests]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, RECORDS: str(records)}).returncode


def fault_table(records: Path) -> list[str]:
    """One row per fault, in the order in which they were tried."""
    rows: dict[str, dict[str, Any]] = {}
    for line in map(json.loads, records.read_text(encoding="utf-8").splitlines()):
        row = rows.setdefault(line["fault"], {"tried": 0, "recovered": 0, "lost": {}})
        row["tried"] += line["tried"]
        row["recovered"] += line["recovered"]
        if line["lost"]:
            row["lost"][line["lost"]] = None
    return [
        "| fault | times tried | times recovered | what was lost |",
        "|---|---:|---:|---|",
        *(
            f"| {fault} | {row['tried']} | {row['recovered']} | {'; '.join(row['lost']) or 'not known: failed'} |"
            for fault, row in rows.items()
        ),
    ]


def activation_bytes(preset: str, batch: int, *, remat: bool) -> int:
    """Temporary memory of a compiled gradient, by the compiler's own account."""
    model = create_model(preset, remat=remat, drop_path_rate=0.1)
    spec = InputSpec(size=model.input_size)
    images = jax.ShapeDtypeStruct((batch, *spec.size, spec.channels), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]

    def loss(params: Any, images: Any, key: Any) -> Any:
        return forward(model, {"params": params}, images, spec, train=True, rng=key).sum()

    step = jax.jit(jax.grad(loss), compiler_options=compiler_options(model, data_mesh()))
    return step.lower(params, images, jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes


def memory_table() -> list[str]:
    lines = ["| model | images | `none`, MiB | `blocks`, MiB | share |", "|---|---:|---:|---:|---:|"]
    for preset, batch in PRESETS:
        none, blocks = (activation_bytes(preset, batch, remat=remat) for remat in (False, True))
        share = f"{100 * blocks / none:.0f} %"
        lines.append(f"| `{preset}` | {batch} | {none / MIB:,.0f} | {blocks / MIB:,.0f} | {share} |")
    return lines


def replace_table(text: str, name: str, lines: Sequence[str]) -> str:
    """The page with what stands between the two comments of this name replaced."""
    begin, end = f"<!-- {name}: written by python -m benchmarks.reliability_table -->", f"<!-- end of {name} -->"
    before, rest = text.split(begin)
    return f"{before}{begin}\n" + "\n".join(lines) + f"\n{end}" + rest.split(end)[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, help="what tests recorded; without it they are run now")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        records = options.records or Path(folder) / "records.jsonl"
        status = 0 if options.records else run_tests(records)
        text = replace_table(PAGE.read_text(encoding="utf-8"), "faults", fault_table(records))
    text = replace_table(text, "memory", memory_table())
    PAGE.write_text(text, encoding="utf-8")
    print(f"{PAGE} written")
    return status


if __name__ == "__main__":
    sys.exit(main())
