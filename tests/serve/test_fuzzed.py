"""A public fuzzer for OpenAPI, schemathesis, holds the service against its own document."""

import subprocess
import sys

import pytest
from client import metric, serving

# 413 answers too many pictures, which the document's "maxItems" names as well.
CONFIG = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_a_fuzzer_sends_is_answered_as_the_document_says(tiny_run, tmp_path):
    pytest.importorskip("schemathesis")
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    with serving(tiny_run, "--max-batch", 2) as service:
        # Text that fits the document is no picture: that it is accepted is not asked.
        words = ["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--continue-on-failure"]
        words += ["--phases", "examples,coverage,fuzzing", "--max-examples", "400", "--generation-deterministic"]
        call = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", *words, "--no-color"]
        ended = subprocess.run([*call, f"{service.url}/openapi.json"], capture_output=True, text=True, cwd=tmp_path)
        assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
        assert metric(service.url, "crosscale_requests_total") > 500
        assert not [line for line in service.errors if "Traceback" in line]
