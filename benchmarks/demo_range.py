"""The top-1 that `crosscale demo` ends at, over five seeds on this machine and on those that were measured before.

    python -m benchmarks.demo_range
    XLA_FLAGS=--xla_cpu_max_isa=AVX2 python -m benchmarks.demo_range    # as on a processor with older vector units

It trains the recipe `digits` once per seed, keeps the numbers of this machine in benchmarks/results, and prints the
sentence for README.md of all machines that have results there. Some three minutes per seed on two processor cores.
"""

import json
import os
import re
import tempfile
import time
from pathlib import Path

from benchmarks.seeds import mean_and_range
from crosscale.benchmark.machine import describe_machine
from crosscale.recipe import load
from crosscale.runs.train import run_training

SEEDS = (0, 1, 2, 3, 4)
RESULTS = Path(__file__).parent / "results"


def machine() -> dict:
    """This machine; its processor with the vector units that XLA is held to, where these are not all that it has."""
    found = describe_machine()
    if held := re.search(r"--xla_cpu_max_isa=(\w+)", os.environ.get("XLA_FLAGS", "")):
        found["processor"] += f", held to {held[1]}"
    return found


def measured() -> dict:
    """This machine, and a row for each seed."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            found = run_training(load("digits", {"train.seed": str(seed)}), Path(folder) / str(seed))
            rows.append({"seed": seed, "top1": found["top1"], "seconds": found["seconds"]})
            print(json.dumps(rows[-1]), flush=True)
    return {"machine": machine(), "rows": rows}


def sentence(results: list[dict]) -> str:
    """What README.md says, of the results of all machines."""
    rows = [row for result in results for row in result["rows"]]
    seeds = {row["seed"] for row in rows}
    machines = {result["machine"]["processor"] for result in results}
    (top1,) = mean_and_range(rows, ("top1",))
    count = "one processor" if len(machines) == 1 else f"{len(machines)} processors"
    return (
        f"The demo ends at {top1} % top-1 on the held-out fifth (mean and range over {len(seeds)} seeds on {count}: "
        f"{'; '.join(sorted(machines))})."
    )


if __name__ == "__main__":
    found = measured()
    name = re.sub(r"\W+", "-", found["machine"]["processor"].lower()).strip("-")
    file = RESULTS / f"{time.strftime('%Y-%m-%d')}-demo-{name}.json"
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(sentence([json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("*-demo-*.json"))]))
