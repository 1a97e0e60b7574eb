"""Where a training step's time goes: shares by kind, and the kernels that take most, from JAX's own trace.

    python -m benchmarks.accelerator.profiling --models crossvit_9_240 --out profile.json

Without command buffers, inside which a trace may not tell kernels apart. Also keeps the compiled program's text.
"""

import gzip
import re
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from benchmarks.accelerator.common import Results, arguments, told
from benchmarks.accelerator.ours import Case, Running, about, lower, pictures, trees

MODELS = ("crossvit_9_240", "crossvit_15_240")
STEPS = 3
TOP, SHOWN = 500, 25
# The first that a kernel's name matches. Names: XLA's fusions and library calls; cuBLAS's, cuDNN's, CUTLASS's kernels.
KINDS = {
    "attention": r"sdpa|fmha|flash|mha",
    "products": r"gemm|dot|cutlass|nvjet|xmma|cublas|matmul|custom-call|conv|wgrad|dgrad",
    "copies": r"memcpy|memset|copy|transpose|concatenate|slice|pad|bitcast|broadcast",
    "reductions": r"reduce|softmax|norm",
    "elementwise": r"fusion|wrapped|add|multiply|select|exponential|loop|rng|threefry|while|sort",
}


def kind(name: str) -> str:
    """Of work a kernel does, by its name."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name.lower())), "other")


def spans(folder: Path) -> list[tuple[str, str, int, int]]:
    """(kernel, operation of the program, start, end in nanoseconds) of all that ran on the device."""
    files = sorted(folder.rglob("*.xplane.pb"))
    if not files:
        raise FileNotFoundError("the profiler has written no *.xplane.pb")
    planes = list(jax.profiler.ProfileData.from_file(str(files[-1])).planes)
    on_device = [plane for plane in planes if "/device:GPU" in plane.name or "/device:TPU" in plane.name]
    found = []
    for plane in on_device or [plane for plane in planes if "CPU" in plane.name]:
        for line in plane.lines:
            # A GPU's lines beside the streams repeat the same time by module and operation.
            if on_device and "GPU" in plane.name and not line.name.startswith("Stream"):
                continue
            for event in line.events:
                stats = {str(key): value for key, value in event.stats}
                if on_device or "hlo_op" in stats:
                    start = int(event.start_ns)
                    found.append((event.name, str(stats.get("hlo_op", "")), start, start + int(event.duration_ns)))
    return found


def covered(intervals: Iterable[tuple[int, int]]) -> int:
    """Nanoseconds in which at least one of them runs."""
    total, reached = 0, 0
    for start, end in sorted(intervals):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total


def summary(found: list[tuple[str, str, int, int]]) -> dict[str, Any]:
    """Milliseconds of a step, shares by kind, and the dearest kernels."""
    if not found:
        raise ValueError("the trace holds nothing that ran on the device")
    wall = max(end for *_, end in found) - min(start for _, _, start, _ in found)
    busy = covered((start, end) for _, _, start, end in found)
    by_kind, by_kernel, calls = Counter[str](), Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for name, operation, start, end in found:
        by_kind[kind(operation if kind(name) == "other" else name)] += end - start
        by_kernel[name, operation] += end - start
        calls[name, operation] += 1
    total = sum(by_kind.values())
    top = [
        {"kernel": name[:120], "operation": op, "share": ns / total, "calls": calls[name, op] / STEPS}
        for (name, op), ns in by_kernel.most_common(TOP)
    ]
    shares = {name: ns / total for name, ns in by_kind.most_common()}
    return {"milliseconds": wall / STEPS / 1e6, "idle": 1 - busy / wall, "shares": shares, "top": top,
            "kernels": len(found) / STEPS}  # fmt: skip


def measure(case: Case, text: Path) -> dict[str, Any]:
    program, _ = lower(case)()
    with gzip.open(text, "wt") as file:
        file.write(program.as_text())
    model, spec = case.build()
    running = Running(program, trees(model, True), pictures(case, spec), True)
    for _ in range(3):
        running.step()
    running.wait()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(STEPS):
                running.step()
            running.wait()
        return summary(spans(Path(folder)))


def main() -> None:
    given = arguments(__doc__ or "", MODELS)
    results = Results(given.out, **about(), steps=STEPS)
    gpu = results.about["platform"] == "gpu"
    for name in given.models:
        case = Case("bare", name, given.batch_size, compiler={"xla_gpu_enable_command_buffer": ""} if gpu else {})
        try:
            found = measure(case, given.out.with_name(f"{given.out.stem}-{name}.hlo.gz"))
        except Exception as error:  # the next model may still run
            results.add(model=name, error=told(error))
            continue
        results.add(model=name, **found)
        for label, share in {**found["shares"], "idle (of the wall)": found["idle"]}.items():
            print(f"  {share:6.1%}  {label}")
        for row in found["top"][:SHOWN]:
            print(f"  {row['share']:6.1%}  {row['calls']:6.1f} x  {row['kernel'][:70]}  {row['operation'][:60]}")


if __name__ == "__main__":
    main()
