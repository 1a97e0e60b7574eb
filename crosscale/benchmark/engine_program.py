"""Runs as a program of its own: writes the program that `engine_peer.py` measures, a model of ours as an ONNX file.

    python -m crosscale.benchmark.engine_program '{"file": "m.onnx", "model": "crossvit_9_240", ...}'

The program takes normalised float32 pictures and gives the outputs, as `ours.py` measures the model.
"""

import json
import sys
from pathlib import Path

from crosscale.benchmark.ours import build, seeded_variables
from crosscale.export.onnx import write_onnx
from crosscale.export.program import Program
from crosscale.predictor import Predictor


def main() -> None:
    request = json.loads(sys.argv[1])
    model, spec = build(request)
    predictor = Predictor(model, seeded_variables(model), spec)
    write_onnx(Program(predictor, preprocessing=False), Path(request["file"]))
    print(json.dumps({"bytes": Path(request["file"]).stat().st_size}), flush=True)


if __name__ == "__main__":
    main()
