"""Keys that mean nothing without another one are refused; a recipe's own may stand idle."""

import pytest

from crosscale.cli.main import main
from crosscale.errors import RequestError
from crosscale.recipe import Recipe, load, shipped_recipes
from crosscale.runs.partners import check_given, check_partners


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"distill.share": "0.5"}, "distill.share is for a teacher; name one with distill.teacher"),
        ({"distill.kind": "hard"}, "distill.kind is for a teacher; name one with distill.teacher"),
        ({"distill.weights": "w.safetensors"}, "distill.weights is for a teacher; name one with distill.teacher"),
        ({"model.pretrained_only": "['.*']"},
         "model.pretrained_only is for pretrained weights; name them with model.pretrained"),
        ({"optimizer.nesterov": "true"},
         "optimizer.nesterov means nothing with optimizer.name=adamw; it goes with optimizer.name=sgd"),
        ({"optimizer.name": "sgd", "optimizer.betas": "[0.9, 0.9]"},
         "optimizer.betas means nothing with optimizer.name=sgd; it goes with optimizer.name=adamw or "
         "optimizer.name=lamb"),
        ({"schedule.power": "2"},
         "schedule.power means nothing with schedule.name=cosine; it goes with schedule.name=poly"),
        ({"train.ema_decay": "null", "train.ema_ramp": "none"},
         "train.ema_ramp means nothing with train.ema_decay=null; it goes with a train.ema_decay"),
    ],
)  # fmt: skip
def test_a_key_without_its_partner_is_one_line(tmp_path, capsys, given, line):
    words = [word for key, value in given.items() for word in (f"--{key}", value)]
    for more in (["--dry-run"], ["--output-dir", str(tmp_path / "run")]):
        assert main(["train", "--config", "smoke", *words, *more]) == 2
        assert capsys.readouterr().err.strip() == f"crosscale train: error: {line}"
    assert not (tmp_path / "run").exists()
    assert main(["recipe", "check", "smoke", *words]) == 2
    assert capsys.readouterr().err.strip().endswith(line)


def test_what_a_recipe_sets_may_stand_idle():
    for name in shipped_recipes():
        check_partners(load(name))
    check_given(load("segment", given := {"schedule.name": "cosine"}), given)  # its power is poly's
    check_given(Recipe(), {"optimizer.momentum": "0.9"})  # as it is anyway
    with pytest.raises(RequestError, match=r"schedule\.cycles means nothing"):
        check_given(load("smoke", given := {"schedule.name": "constant", "schedule.cycles": "2"}), given)
