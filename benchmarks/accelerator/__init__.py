"""The parts of benchmarks/accelerator.sh, each a program of its own: `python -m benchmarks.accelerator.PART`."""
