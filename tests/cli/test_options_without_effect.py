"""An option that would do nothing beside the others is refused, before the work."""

import pytest

from crosscale.cli.main import main
from crosscale.contracts import InputSpec
from crosscale.errors import RequestError
from crosscale.predictor import Predictor
from crosscale.runs.validate import _cropped
from crosscale.tasks.registry import TASKS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("validate --run RUN --split all --val-fraction 0.5", "--val-fraction chooses what is held out; --split all"),
        ("validate --run RUN --split all --seed 3", "--seed chooses what is held out; --split all"),
        ("validate --run RUN --details --json", "--details prints tables for people; leave --json out"),
        ("data scenes --write OUT --check", "--check says how to read data, and scenes are composed"),
        ("data scenes --write OUT --draw 3", "--draw says how to read data"),
        ("data scenes --write OUT --val-fraction 0.5", "--val-fraction says how to read data"),
        ("data scenes --write OUT --reduce-zero-label no", "--reduce-zero-label says how to read data"),
        ("data scenes --write OUT --label-column x", "--label-column says how to read data"),
        ("data digits --root x", "is for the paths of a table, and digits is not one"),
        ("data digits --statistics --check", "--statistics measures and does nothing else"),
        ("predict IMAGE --run RUN --resume", "--resume goes with --output results.csv"),
        ("predict IMAGE --model crossvit_9_240 --weights F --task.test_flip true", "--task.test_flip goes with --run"),
        ("embed IMAGE --run RUN --output OUT.npz --weights-key model", "--weights-key goes with --model"),
        ("demo segment --masks --output-dir OUT", "--masks goes with crosscale demo detect"),
        ("report RUN --output OUT.html", "--output goes with several runs"),
        ("sweep --resume --output-dir OUT --config digits", "leave --config out"),
        ("train --config digits --data.folds_by patient", "data.fold and data.folds_by go with data.folds"),
        ("calibrate --run RUN --precision 0.9 --coverage 0.9", "not allowed with argument"),
    ],
)
def test_refused(capsys, tiny_run, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    image = tmp_path / "IMAGE"
    image.touch()
    places = {"RUN": str(tiny_run), "IMAGE": str(image)}
    verb, *rest = [places.get(word, word) for word in words.split()]
    if verb == "sweep":
        pytest.importorskip("optuna")
    assert main([verb, *rest]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == [image]


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_a_crop_of_pictures_that_are_not_cropped(tiny_run, task):
    spec = InputSpec(size=(64, 64), channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
    predictor = Predictor.from_run(tiny_run)
    assert _cropped(predictor, 0.5, None).crop_pct == 0.5
    object.__setattr__(predictor, "task", TASKS[task].from_artifact(["a", "b"], {}))
    object.__setattr__(predictor, "spec", spec)
    with pytest.raises(RequestError, match=f"crop_pct=0.5: the task {task} shows whole pictures; leave it out"):
        _cropped(predictor, 0.5, None)
