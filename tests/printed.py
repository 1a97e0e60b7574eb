"""What a command prints for another program."""

import json
from typing import Any

import pytest

from crosscale.cli.main import main


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """The JSON of a command that succeeds, `words` without `--json`."""
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)
