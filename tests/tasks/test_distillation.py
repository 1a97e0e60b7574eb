"""The loss with a teacher against the formulas of the DeiT paper, and teachers of other order and normalisation."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from crosscale.contracts import InputSpec
from crosscale.errors import RequestError
from crosscale.predictor import Predictor
from crosscale.pretrained.teacher import load_teacher
from crosscale.tasks.classification import Classification
from crosscale.tasks.distillation import Distilled, DistillSettings


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def distilled(settings):
    return Distilled(Classification(4), lambda images: images, settings)


def total(task, outputs, targets, weight):
    """The sum of the loss's parts, and the weight."""
    parts, count = task.loss(outputs, targets, weight)
    return sum(parts.values()), count


@pytest.fixture
def numbers():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 3, (2, 6, 4))
    targets = np.eye(4)[rng.integers(0, 4, 6)] * 0.9 + 0.025
    return student.astype(np.float32), teacher.astype(np.float32), targets, np.array([1, 1, 1, 1, 0, 1], np.float32)


def test_soft(numbers):
    student, teacher, targets, weight = numbers
    settings = DistillSettings(teacher="x", temperature=2.0, share=0.3)
    loss, count = total(distilled(settings), student, (targets, teacher), weight)
    p, q = softmax(teacher / 2), softmax(student / 2)
    taught = 4 * (p * (np.log(p) - np.log(q))).sum(-1)
    labels = -(targets * np.log(softmax(student))).sum(-1)
    np.testing.assert_allclose(loss, ((0.7 * labels + 0.3 * taught) * weight).sum(), rtol=1e-5)
    assert count == 5


def test_hard_and_the_usual_shares(numbers):
    student, teacher, targets, weight = numbers
    log_q = np.log(softmax(student))
    taught = -log_q[np.arange(6), teacher.argmax(-1)]
    labels = -(targets * log_q).sum(-1)
    hard = distilled(DistillSettings(teacher="x", kind="hard"))
    np.testing.assert_allclose(
        total(hard, student, (targets, teacher), weight)[0], ((labels + taught) / 2 * weight).sum(), rtol=1e-5
    )
    same = distilled(DistillSettings(teacher="x"))
    np.testing.assert_allclose(
        total(same, student, (targets, student), weight)[0], 0.9 * (labels * weight).sum(), rtol=1e-5
    )
    none = distilled(DistillSettings(teacher="x", share=0.0))
    plain = total(Classification(4), student, targets, weight)[0]
    np.testing.assert_allclose(total(none, student, (targets, teacher), weight)[0], plain, rtol=1e-6)


def test_it_takes_any_task_with_logits_and_is_that_task_otherwise():
    """Of maps (B, H, W, classes) too: the mean over the places."""

    class Maps:
        name, has_logits, labels = "maps", True, ("a", "b", "c")

        def loss(self, outputs, targets, weight):
            return {"one": (targets * weight).sum(), "two": weight.sum()}, weight.sum()

    rng = np.random.default_rng(1)
    student, teacher = rng.normal(0, 2, (2, 5, 4, 4, 3)).astype(np.float32)
    weight = np.array([1, 1, 0, 1, 1], np.float32)
    task = Distilled(Maps(), None, DistillSettings(teacher="x", temperature=1.0, share=0.25))
    parts, count = task.loss(student, (np.arange(5.0), teacher), weight)
    p, q = softmax(teacher), softmax(student)
    taught = (p * (np.log(p) - np.log(q))).sum(-1).mean((1, 2))
    assert (task.labels, float(count)) == (("a", "b", "c"), 4)
    assert set(parts) == {"one", "two", "teacher"}
    np.testing.assert_allclose(parts["one"], 0.75 * 8, rtol=1e-6)
    np.testing.assert_allclose(parts["teacher"], 0.25 * (taught * weight).sum(), rtol=1e-5)
    Maps.has_logits = False
    with pytest.raises(RequestError, match="the task 'maps' has no logits"):
        Distilled(Maps(), None, DistillSettings(teacher="x"))


def test_the_teacher_sees_the_students_images_and_gets_no_gradient():
    seen = []

    def teacher(images):
        seen.append(images)
        return images.reshape(len(images), -1)[:, :3]

    task = Distilled(Classification(3), teacher, DistillSettings(teacher="x"))
    images = np.random.default_rng(0).standard_normal((2, 2, 2, 1)).astype(np.float32)
    batch = {"label": np.array([0, 2]), "weight": np.ones(2, np.float32)}
    augmented, (targets, logits) = task.augment(jax.random.key(0), images, batch)
    assert seen[0] is augmented
    assert targets.shape == logits.shape == (2, 3)
    gradient = jax.grad(lambda x: task.augment(jax.random.key(0), x, batch)[1][1].sum())(images)
    assert not np.abs(gradient).any()


@pytest.mark.parametrize(("field", "value"), [("temperature", 0), ("share", 1.5)])
def test_refused_settings(field, value):
    with pytest.raises(RequestError, match=f"distill.{field}"):
        DistillSettings(**{field: value})


@pytest.mark.slow
def test_a_run_as_teacher(tiny_run):
    predictor = Predictor.from_run(tiny_run)
    spec = replace(predictor.spec, mean=(0.1,), std=(0.9,), size=(8, 8))
    classes = [str(digit) for digit in (3, 1, 4, 9)]
    teacher = load_teacher(str(tiny_run), None, classes, spec)
    pixels = np.random.default_rng(0).random((2, 16, 16, 1)).astype(np.float32)
    own = predictor.model.apply(predictor.variables, (pixels - 0.3) / np.float32(0.4))
    logits = jax.jit(teacher)((pixels - 0.1) / np.float32(0.9))
    np.testing.assert_allclose(logits, np.asarray(own)[:, [3, 1, 4, 9]], rtol=1e-4, atol=1e-5)


def test_refused_teachers(tiny_run, tmp_path):
    spec = InputSpec(size=(16, 16), channels=1, mean=(0.3,), std=(0.4,))
    with pytest.raises(RequestError, match="does not know the class 'ten'"):
        load_teacher(str(tiny_run), None, ["1", "ten"], spec)
    with pytest.raises(RequestError, match="takes 1 channels, the model 3"):
        load_teacher(str(tiny_run), None, ["1"], InputSpec())
    with pytest.raises(RequestError, match="no run folder"):
        load_teacher(str(tmp_path), None, ["1"], spec)
    with pytest.raises(RequestError, match="did you mean 'crossvit_9_240'"):
        load_teacher("crossvit_9_204", None, ["1"], spec)
    with pytest.raises(RequestError, match="a run brings its own"):
        load_teacher(str(tiny_run), "file", ["1"], spec)
    assert json.loads((tiny_run / "best" / "config.json").read_text())["classes"][3] == "3"
