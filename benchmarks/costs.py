"""Writes crosscale/models/costs.json: what every preset costs, counted from its traces on a processor.

python -m benchmarks.costs
"""

import json
from dataclasses import asdict
from pathlib import Path

from crosscale.measure import count_costs
from crosscale.models.registry import create_model, get_preset, list_models

FILE = Path(__file__).parents[1] / "crosscale" / "models" / "costs.json"


def main() -> None:
    rows = {}
    for name in list_models():
        rows[name] = asdict(count_costs(create_model(name), get_preset(name).input_spec))
        print(name, rows[name], flush=True)
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    FILE.write_text("{\n" + lines + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
