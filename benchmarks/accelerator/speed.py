"""Training steps and forwards per second: this package's models in bfloat16, as the engine runs them.

python -m benchmarks.accelerator.speed --mode train --out train.json
"""

import os

from benchmarks.accelerator.common import Results, arguments, left, told
from benchmarks.accelerator.ours import (
    Case,
    Running,
    about,
    compile_all,
    formula_macs,
    matmul_peak,
    memory,
    pictures,
    speed,
    trees,
)

MODELS = ("crossvit_9_240", "crossvit_15_240", "crossvit_18_dagger_240", "crossformer_small_224", "crossvit_base_240")


def cases(mode: str, models: list[str], batch: int, smoke: bool) -> list[Case]:
    """Training: bare, as the peers run it, then as a recipe has it. Inference: batches large, 1 and 8."""
    if mode == "infer":
        sizes = (batch, 1) if smoke else (batch, 1, 8)
        return [Case(f"batch {size}", model, size, train=False) for model in models for size in sizes]
    recipes = [Case("recipe", model, batch, recipe=True) for model in models[: 1 if smoke else None]]
    return [Case("bare", model, batch) for model in models] + recipes


def main() -> None:
    given = arguments(__doc__ or "", MODELS, mode="train")
    peak = matmul_peak(given.smoke)
    results = Results(given.out, **about(), matmul_tflops=peak / 1e12, mode=given.mode)
    programs = compile_all(cases(given.mode, given.models, given.batch_size, given.smoke), 0.7 * left(given))
    for case, program, seconds, error in programs:
        head = {"model": case.model, "case": case.label, "batch": case.batch}
        if program is None:
            results.add(**head, error=error)
            continue
        try:
            model, spec = case.build()
            running = Running(program, trees(model, case.train), pictures(case, spec), case.train)
            found = speed(case, running.timed(given.smoke), formula_macs(case), peak)
            results.add(**head, **found, peak_bytes=memory(program), compile_seconds=seconds)
        except Exception as error:  # the next case may still run
            results.add(**head, error=told(error))
    results.table("model", "case", "batch", "images_per_second", "median_images_per_second", "tflops", "of_peak",
                  "peak_bytes", "compile_seconds")  # fmt: skip
    os._exit(0)  # a compilation that was given up would be waited for


if __name__ == "__main__":
    main()
