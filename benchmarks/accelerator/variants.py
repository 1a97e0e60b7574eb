"""Each kernel's forms, one exchanged at a time, as images per second of the whole training step, in one process.

python -m benchmarks.accelerator.variants --models crossvit_9_240 --out variants.json
python -m benchmarks.accelerator.variants --labels "default,tokens carried" --compile 1 --out compiled.json  # only that
"""

import os
from typing import Any

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

MODELS = ("crossvit_9_240", "crossvit_15_240", "crossformer_small_224")
FIRST = {"tokens": "own", "parts": "joint", "squares": "each", "resample": "products"}
XLA_S_OWN = {"xla_gpu_enable_triton_gemm": True, "xla_gpu_enable_cudnn_layer_norm": False}
WRITTEN = {"gelu": "written", "layer_norm": "written"}

# Programs that compile side by side, and how long they take, with what their measurement takes. One alone takes 20 s
# on 16 cores, eight take 77 s for the first five.
AT_ONCE, SECONDS = 4, 80

# label: (kernels, the model's options, XLA's options), most valuable first
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}, {}),
    "tokens carried": ({"tokens": "carried"}, {}, {}),
    "qkv joint": ({"parts": "joint"}, {}, {}),
    "squares each": ({"squares": "each"}, {}, {}),
    "resample products": ({"resample": "products"}, {}, {}),
    "as first measured": (FIRST, {}, XLA_S_OWN),
    "generated products": ({}, {}, {"xla_gpu_enable_triton_gemm": True}),
    "XLA's norm": ({}, {}, {"xla_gpu_enable_cudnn_layer_norm": False}),
    "attention whole": ({"attention": "whole"}, {}, {}),
    "attention plain": ({"attention": "plain"}, {}, {}),
    "attention cudnn_padded": ({"attention": "cudnn_padded"}, {}, {}),
    "gelu, norm written": (WRITTEN, {}, {}),
    "attention padded": ({"attention": "padded"}, {}, {}),
    "gelu written": ({"gelu": "written"}, {}, {}),
    "norm written": ({"layer_norm": "written"}, {}, {}),
    "convolution only": ({"convolution": "convolution"}, {}, {}),
    "convolution products": ({"convolution": "products"}, {}, {}),
    "dense wide": ({"dense": "wide"}, {}, {}),
    "no command buffers": ({}, {}, {"xla_gpu_enable_command_buffer": ""}),
    "attention chunked": ({"attention": "chunked"}, {}, {}),
    "remat": ({}, {"remat": True}, {}),
}
ON_A_GPU = {"attention cudnn_padded", "as first measured", "generated products", "XLA's norm", "no command buffers"}


def cases(model: str, batch: int, platform: str, asked: str) -> list[Case]:
    named = [label for label in asked.split(",") if label]
    labels = [label for label in named or VARIANTS if platform == "gpu" or label not in ON_A_GPU]
    if "former" not in model:  # the default there
        labels = [label for label in labels if label != "attention cudnn_padded"]
    found = []
    for label in labels:
        kernels, options, compiler = VARIANTS[label]
        found.append(Case(label, model, batch, options=options, kernels=kernels, compiler=compiler))
    return found


def measure(model: str, given: Any, seconds: float, results: Results, peak: float) -> None:
    """All variants of one model, in two turns, so that a drift of the machine shows."""
    asked = cases(model, given.batch_size, results.about["platform"], given.labels)
    in_time = AT_ONCE * max(int(min(seconds, 3600) // SECONDS), 1)
    programs = compile_all(asked[:2] if given.smoke else asked[:in_time], 0.7 * seconds)
    if given.compile:  # the programs are in JAX's cache now
        for case, _, compiled, error in programs:
            results.add(model=model, case=case.label, compile_seconds=compiled, **({"error": error} if error else {}))
        return
    # Their compilations go on, and disturb the measurements.
    results.about["unfinished"] = sum("in time" in error for *_, error in programs)
    built, spec = asked[0].build()
    batch, macs, state = pictures(asked[0], spec), formula_macs(asked[0]), trees(built, True)
    turns: dict[str, list[dict[str, float]]] = {}
    losses: dict[str, float] = {}  # after so many steps; not finite means that a form is wrong
    for _ in range(2):
        for case, program, _, _ in programs:
            if program is None or left(given) < 5:
                continue
            try:
                running = Running(program, state, batch, True)
                turns.setdefault(case.label, []).append(running.timed(given.smoke))
                state = running.given
                losses[case.label] = float(running.last["loss"])
            except Exception as error:
                results.add(model=model, case=case.label, error=told(error))
                state = trees(built, True)  # the step had taken it
    for case, program, compiled, error in programs:
        found = turns.get(case.label)
        if not found:
            results.add(model=model, case=case.label, error=error or "no time left")
            continue
        best = min(found, key=lambda times: times["best"])
        other = [case.batch / times["best"] for times in found]
        row = speed(case, best, macs, peak) | {"loss": losses[case.label], "turns": other}
        results.add(model=model, case=case.label, **row, peak_bytes=memory(program), compile_seconds=compiled)


def main() -> None:
    given = arguments(__doc__ or "", MODELS, labels="", compile=0)
    peak = matmul_peak(given.smoke)
    results = Results(given.out, **about(), matmul_tflops=peak / 1e12)
    for i, model in enumerate(given.models):
        measure(model, given, left(given) / (len(given.models) - i), results, peak)
    results.table(
        "model",
        "case",
        "images_per_second",
        "median_images_per_second",
        "of_peak",
        "loss",
        "peak_bytes",
        "compile_seconds",
    )
    os._exit(0)  # a compilation that was given up would be waited for


if __name__ == "__main__":
    main()
