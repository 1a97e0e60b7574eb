"""The predictor against the model applied by hand."""

from io import BytesIO

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from crosscale.artifact import WEIGHTS, read_artifact
from crosscale.contracts import InputSpec
from crosscale.data import BadImage
from crosscale.errors import RequestError, WorkError
from crosscale.predictor import Predictor
from crosscale.pretrained import load_weights, restore_model, save_weights

SPEC = InputSpec(size=(8, 8), crop_pct=1.0, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
NAMES = ("ant", "bee", "cat", "dog")


class Linear(nn.Module):
    """Logits that depend on every pixel."""

    @nn.compact
    def __call__(self, images, train: bool = False):
        return nn.Dense(len(NAMES), name="head")(images.reshape(len(images), -1))


@pytest.fixture(scope="module")
def predictor():
    variables = Linear().init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    return Predictor(Linear(), variables, SPEC, NAMES)


@pytest.fixture(scope="module")
def arrays():
    return list(np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8))


def by_hand(predictor, array):
    x = (array / 255 - np.asarray(SPEC.mean)) / np.asarray(SPEC.std)
    params = predictor.variables["params"]["head"]
    logits = x.reshape(-1) @ np.asarray(params["kernel"], np.float64) + np.asarray(params["bias"])
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


@pytest.mark.parametrize("batch_size", [1, 3, 7, 16])
def test_probabilities_whatever_the_batch(predictor, arrays, batch_size):
    predictions = list(predictor.predict(arrays, top_k=4, batch_size=batch_size))
    assert [item.source for item in predictions] == [f"image/{index}" for index in range(7)]
    for item, array in zip(predictions, arrays, strict=True):
        expected = by_hand(predictor, array)
        order = np.argsort(-expected)
        assert item.classes == tuple(NAMES[i] for i in order)
        np.testing.assert_allclose(item.probabilities, expected[order], rtol=1e-4, atol=1e-6)
        assert item.error is None


def test_one_shape_is_compiled(arrays):
    shapes = []

    class Spy(Linear):
        @nn.compact
        def __call__(self, images, train: bool = False):
            shapes.append(images.shape)
            return nn.Dense(2, name="head")(images.reshape(len(images), -1))

    variables = Spy().init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    spied = Predictor(Spy(), variables, SPEC)
    shapes.clear()
    assert len(list(spied.predict(arrays, batch_size=3))) == 7
    assert shapes == [(3, 8, 8, 3)]


def test_bad_files_are_reported_in_their_place_and_the_rest_go_on(predictor, arrays, tmp_path):
    good = tmp_path / "good.png"
    Image.fromarray(arrays[0]).save(good)
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    cut = tmp_path / "cut.jpg"
    Image.fromarray(np.kron(arrays[1], np.ones((40, 40, 1), np.uint8))).save(cut)
    cut.write_bytes(cut.read_bytes()[:900])
    paths = [text, good, tmp_path / "gone.png", cut, str(good), tmp_path]
    predictions = list(predictor.predict(paths, batch_size=2))
    assert [item.source for item in predictions] == list(map(str, paths))
    reasons = [item.error for item in predictions]
    assert reasons[1] is None
    assert reasons[4] is None
    assert "not an image" in reasons[0]
    assert reasons[2] == "no such file"
    assert "truncated" in reasons[3]
    assert "folder" in reasons[5]
    assert predictions[0].classes == ()
    assert predictions[0].probabilities == ()
    assert predictions[1].probabilities == predictions[4].probabilities
    np.testing.assert_allclose(
        predictions[1].probabilities, np.sort(by_hand(predictor, arrays[0]))[::-1], rtol=1e-4, atol=1e-6
    )


def test_bytes_and_arrays_go_through_the_same_door(predictor, arrays, tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(arrays[0]).save(file)
    items = list(predictor.predict([file, file.read_bytes(), arrays[0], np.zeros((2, 3, 4, 5), np.uint8)]))
    assert items[0].probabilities == items[1].probabilities == items[2].probabilities
    assert "not a picture" in items[3].error


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.5])
def test_floating_point_arrays_are_refused_in_their_place(predictor, arrays, value):
    floats = np.full((8, 8, 3), 0.25, np.float32)
    floats[1, 2, 0] = value
    bad, good = predictor.predict([floats, arrays[0]], batch_size=2)
    assert (bad.source, bad.classes, bad.probabilities) == ("image/0", (), ())
    assert "type float32 is not a picture; uint8" in bad.error
    assert good.error is None
    np.testing.assert_allclose(sum(good.probabilities), 1, atol=1e-5)


def test_its_parts_give_what_predict_gives(predictor, arrays, tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(np.kron(arrays[0], np.ones((3, 3, 1), np.uint8))).save(file)
    images = np.stack([predictor.prepare(file, "a"), predictor.prepare(file.read_bytes(), "b")])
    assert images.shape == (2, 8, 8, 3)
    assert images.dtype == np.uint8
    found = predictor.results(predictor.outputs(images), [str(file)] * 2, top_k=3)
    assert found == list(predictor.predict([file, file], top_k=3, batch_size=2))
    with pytest.raises(BadImage, match="b: too large"):
        predictor.prepare(file.read_bytes(), "b", max_pixels=24 * 24 - 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_give_no_numbers_are_named(predictor, arrays, tiny_run, tmp_path, value):
    model, variables, spec, options = loaded_by_hand(tiny_run)
    damaged = jax.tree.map(np.array, variables)
    jax.tree.leaves(damaged)[-1].flat[0] = value
    file = tmp_path / "damaged.safetensors"
    save_weights(file, damaged, model)
    loaded = Predictor.from_weights("crossvit", file, num_classes=10, **options)
    with pytest.raises(WorkError, match=r"damaged\.safetensors: the model's outputs are not finite") as raised:
        list(loaded.predict(arrays[:1]))
    assert "\n" not in str(raised.value)
    # What could not be read never reaches the model.
    (unread,) = loaded.predict([b""])
    assert unread.error == "the file is empty (0 bytes)"
    with pytest.raises(WorkError, match=r"^CrossViT: the model's outputs are not finite"):
        list(Predictor(model, damaged, spec).predict(arrays[:1]))


def test_top_k_stops_at_the_number_of_classes(predictor, arrays):
    (item,) = predictor.predict(arrays[:1], top_k=99)
    assert len(item.classes) == len(NAMES)
    assert sum(item.probabilities) == pytest.approx(1, abs=1e-5)
    (item,) = predictor.predict(arrays[:1], top_k=1)
    assert len(item.classes) == 1


def test_nothing_in_nothing_out(predictor):
    assert list(predictor.predict([])) == []


@pytest.mark.parametrize("option", ["top_k", "batch_size"])
def test_counts_below_one_are_refused_at_once(predictor, option):
    with pytest.raises(RequestError, match=f"{option}=0: at least 1"):
        predictor.predict([], **{option: 0})


def test_names_must_be_as_many_as_the_logits(predictor):
    with pytest.raises(RequestError, match="3 class names for a model of 4 classes"):
        Predictor(predictor.model, predictor.variables, SPEC, NAMES[:3])
    assert Predictor(predictor.model, predictor.variables, SPEC).classes == ("0", "1", "2", "3")


def loaded_by_hand(run):
    artifact = read_artifact(run / "best")
    model = restore_model(artifact, run)
    variables = load_weights(run / "best" / WEIGHTS, model)
    return model, variables, artifact.input_spec, artifact.options


def test_from_run_and_from_its_best_folder(tiny_run, arrays):
    model, variables, spec, _ = loaded_by_hand(tiny_run)
    direct = list(Predictor(model, variables, spec).predict(arrays[:2]))
    assert list(Predictor.from_run(tiny_run).predict(arrays[:2])) == direct
    assert list(Predictor.from_run(str(tiny_run / "best")).predict(arrays[:2])) == direct


def test_from_weights(tiny_run, arrays):
    model, variables, _, options = loaded_by_hand(tiny_run)
    file = tiny_run / "best" / "model.safetensors"
    loaded = Predictor.from_weights("crossvit", file, classes=list("abcdefghij"), **options)
    assert (loaded.spec.size, loaded.spec.channels) == ((16, 16), 1)
    direct = Predictor(model, variables, loaded.spec, list("abcdefghij"))
    assert list(loaded.predict(arrays[:2])) == list(direct.predict(arrays[:2]))
    with pytest.raises(
        RequestError, match=r"model\.safetensors: weights of 10 classes, and the preset has 1,000; give 10 names"
    ):
        Predictor.from_weights("crossvit", file, **options)
    with pytest.raises(RequestError, match=r"weights of 10 classes, and 2 names are given; give 10 names \(classes"):
        Predictor.from_weights("crossvit", file, classes=["a", "b"], **options)
    with pytest.raises(RequestError, match="not weights of this model"):
        Predictor.from_weights("crossformer_tiny_224", file)


class Tensor:
    """What is used of a PyTorch tensor."""

    __module__ = "torch"

    def __init__(self, values):
        self.values = values
        self.shape = values.shape

    def cpu(self):
        return self

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


def one_picture_forms(array, folder):
    file = folder / "one.png"
    Image.fromarray(array).save(file)
    written = BytesIO()  # stands at its end
    Image.fromarray(array).save(written, "PNG")
    return {
        "path": file,
        "str": str(file),
        "bytes": file.read_bytes(),
        "bytearray": bytearray(file.read_bytes()),
        "memoryview": memoryview(file.read_bytes()),
        "file": file.open("rb"),
        "BytesIO": BytesIO(file.read_bytes()),
        "BytesIO after writing": written,
        "Pillow": Image.fromarray(array),
        "Pillow, not loaded": Image.open(file),
        "array": array,
        "jax": jnp.asarray(array),
        "tensor": Tensor(array),
        "tensor, channels first": Tensor(np.moveaxis(array, 2, 0)),
    }


def test_one_picture_in_any_form_is_one_picture(predictor, arrays, tmp_path):
    (expected,) = predictor.predict([arrays[0]])
    for form, picture in one_picture_forms(arrays[0], tmp_path).items():
        (item,) = predictor.predict(picture)
        assert item.error is None, form
        assert item.probabilities == expected.probabilities, form


def test_a_list_of_pictures_in_any_form_is_a_list(predictor, arrays, tmp_path):
    (expected,) = predictor.predict([arrays[0]])
    forms = one_picture_forms(arrays[0], tmp_path)
    items = list(predictor.predict(iter(forms.values())))
    assert [item.error for item in items] == [None] * len(forms)
    assert {item.probabilities for item in items} == {expected.probabilities}
    assert [item.source for item in items[:2]] == [str(tmp_path / "one.png")] * 2
    assert items[5].source == str(tmp_path / "one.png")


def test_arrays_of_several_pictures_are_several(predictor, arrays):
    assert len(list(predictor.predict(np.stack(arrays)))) == 7
    assert len(list(predictor.predict(jnp.stack(arrays)))) == 7
    assert len(list(predictor.predict(np.stack(arrays)[..., 0]))) == 7  # (N, H, W) grey
    (grey,) = predictor.predict(arrays[0][..., 0])
    assert grey.error is None


@pytest.mark.parametrize("count", [3, 4])
def test_an_array_that_may_be_one_or_several_is_refused(predictor, count):
    with pytest.raises(RequestError, match=r"one picture with its channels first, or \d grey ones"):
        predictor.predict(np.zeros((count, 8, 8), np.uint8))


@pytest.mark.parametrize("value", [5, None, 1.5])
def test_what_is_no_picture_is_named(predictor, arrays, value):
    with pytest.raises(RequestError, match=r"is neither a picture nor a list of them"):
        predictor.predict(value)
    bad, good = predictor.predict([value, arrays[0]])
    assert f"an object of type {type(value).__name__} is not a picture" in bad.error
    assert good.error is None


@pytest.mark.parametrize("form", [list, np.ravel, np.max, lambda a: {"image": a}, lambda a: a[..., 0].tolist()])
def test_numbers_and_mappings_are_no_lists_of_pictures(predictor, arrays, form):
    value = form(arrays[0]) if form is not list else [1, 2, 3]
    with pytest.raises(RequestError, match=r"is neither a picture nor a list of them"):
        predictor.predict(value)


def test_files_that_cannot_be_read_are_named(predictor, tmp_path):
    file = tmp_path / "a.png"
    file.write_text("text")
    closed = file.open("rb")
    closed.close()
    with file.open() as text:
        opened_as_text, shut = predictor.predict([text, closed])
    assert "as text" in opened_as_text.error
    assert "cannot be read (read of closed file)" in shut.error
