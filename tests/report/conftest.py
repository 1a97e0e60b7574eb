"""Run folders for the report: one that `crosscale train` left, and the means to write others."""

import json

import pytest

from crosscale.cli.main import main
from crosscale.report.records import read_run
from crosscale.report.write import LiveReport

REFRESHED = []


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A real run: two epochs of the smoke recipe on the digits. REFRESHED has what its page held after each refresh."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    refresh = LiveReport.refresh

    def noted(live, *, final=False):
        refresh(live, final=final)
        REFRESHED.append((final, read_run(folder).epochs, "Confusion matrix" in (folder / "report.html").read_text()))

    words = ["train", "--config", "smoke", "--train.epochs", "2", "--output-dir", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LiveReport, "refresh", noted)
        assert main(words) == 0
    return folder


@pytest.fixture
def refreshed(trained):
    """(final, epochs, whether the classes were shown) of each refresh during the run."""
    return REFRESHED


@pytest.fixture
def written(tmp_path):
    """Writes a run folder that has only a recipe and metrics."""

    def write(name, lines, recipe="train: {epochs: 4}\nmodel: {name: crossvit_9_240}\ndata: {dir: photos}\n"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recipe.yaml").write_text(recipe)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    return write
