"""What a validation of a run collects of each example, as JSON: `python collected_rows.py RUN [HOST:PORT N I]`."""

import json
import sys

from crosscale.cluster.hosts import Start, is_first, together

if __name__ == "__main__":
    run, *where = sys.argv[1:]
    start = Start(where[0], int(where[1]), int(where[2])) if where else None
    with together(start):
        from crosscale.engine.sharding import data_mesh
        from crosscale.predictor import Predictor
        from crosscale.runs.validate import HeldOut, measure, open_held_out, stored_data

        predictor = Predictor.from_run(run)
        source, _ = open_held_out(predictor.task, HeldOut(), stored_data(run), run)
        found = measure(predictor, predictor.spec, source, data_mesh(), batch_size=64, collect=True)
        rows = {"index": found.rows["index"], "label": found.targets["label"], "predicted": found.rows["predicted"]}
        if is_first():
            print(
                json.dumps({**{name: values.tolist() for name, values in rows.items()}, "top1": found.metrics["top1"]})
            )
