"""What training code wraps around weights comes off alike, whatever the file."""

import numpy as np
import pytest

from crosscale.errors import RequestError
from crosscale.weights.files import read_tensors, write_safetensors

WEIGHTS = {"norm.weight": np.arange(4.0, dtype=np.float32), "norm.bias": np.ones(4, np.float32)}
OTHERS = {name: value + 100 for name, value in WEIGHTS.items()}


@pytest.fixture(params=["safetensors", pytest.param("pth", marks=pytest.mark.parity)])
def write(request, tmp_path):
    """Writes {key: state dict or more keys} (or a state dict) as that kind of file, and returns it."""

    def save(content):
        file = tmp_path / f"x.{request.param}"
        if request.param == "safetensors":
            write_safetensors(file, flattened(content))
        else:
            torch = pytest.importorskip("torch")
            torch.save(tensors(torch, content), file)
        return file

    return save


def flattened(content, prefix=""):
    flat = {}
    for name, value in content.items():
        flat |= flattened(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def tensors(torch, content):
    return {k: tensors(torch, v) if isinstance(v, dict) else torch.from_numpy(v) for k, v in content.items()}


def prefixed(prefix, state=WEIGHTS):
    return {prefix + name: value for name, value in state.items()}


def check(flat, expected=WEIGHTS):
    assert flat.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(flat[name], value)


PREFIXES = ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.", "model.module."]
PREFIXES += ["_forward_module.", "_fsdp_wrapped_module.", "_forward_module._orig_mod."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes(write, prefix):
    check(read_tensors(write(prefixed(prefix))))


def test_a_number_that_the_wrapper_keeps_is_no_weight(write):
    counters = {"n_averaged": np.array(5)}  # PyTorch's AveragedModel
    check(read_tensors(write(prefixed("module.") | counters)))
    check(read_tensors(write({"averaged_model": prefixed("module.") | counters})))
    both = prefixed("online_model.") | prefixed("ema_model.", OTHERS) | {"step": np.array(7), "on": np.array([True])}
    with pytest.raises(RequestError, match=r"several sets of weights \((online|ema)_model, (online|ema)_model\)"):
        read_tensors(write(both))
    check(read_tensors(write(both), "ema_model"), OTHERS)
    check(read_tensors(write(WEIGHTS | counters)), WEIGHTS | counters)  # nothing is wrapped: they are what they are


@pytest.mark.parametrize("prefix", ["module.", "model._orig_mod."])
@pytest.mark.parametrize("key", ["state_dict", "model", "ema", "weights"])
def test_prefixes_below_a_key(write, prefix, key):
    file = write({key: prefixed(prefix)})
    if key == "weights" and file.suffix == ".safetensors":  # not known as a key, so it may belong to the name
        check(read_tensors(file), prefixed(f"weights.{prefix}"))
        check(read_tensors(file, "weights"))
    else:
        check(read_tensors(file))


@pytest.mark.parametrize("average", ["state_dict_ema", "model_ema"])
@pytest.mark.parametrize("raw", ["state_dict", "model"])
def test_timms_average_is_taken_and_the_rest_named(write, caplog, average, raw):
    file = write({raw: OTHERS, average: prefixed("module.")})
    check(read_tensors(file))
    assert f"took the weights under '{average}'; there are also {raw} (--weights-key chooses)" in caplog.text
    check(read_tensors(file, raw), OTHERS)
    check(read_tensors(file, average))


def test_others_averages_are_named_and_not_taken(write, caplog):
    file = write({"model": prefixed("module."), "ema": OTHERS})
    check(read_tensors(file))
    assert "there are also ema" in caplog.text
    check(read_tensors(file, "ema"), OTHERS)


def test_several_of_which_none_is_preferred(write):
    file = write({"student": WEIGHTS, "teacher": prefixed("_orig_mod.", OTHERS)})
    with pytest.raises(RequestError, match=r"several sets of weights \(.*student.*\); say which: --weights-key"):
        read_tensors(file)
    check(read_tensors(file, "teacher"), OTHERS)
    check(read_tensors(file, "student"))


def test_lightning_keeps_both_below_one_key(write):
    file = write({"state_dict": prefixed("model.") | prefixed("ema_model.", OTHERS)})
    check(read_tensors(file))
    check(read_tensors(file, "state_dict.ema_model"), OTHERS)


def test_what_was_asked_for_may_stand_beside_other_things(write):
    file = write(prefixed("encoder.") | {"criterion.weight": np.ones(3, np.float32)})
    assert len(read_tensors(file)) == 3
    check(read_tensors(file, "encoder"))


@pytest.mark.parametrize("key", ["ema", "model.x", "norm.weight.x"])
def test_a_key_that_is_not_there(write, key):
    with pytest.raises(RequestError, match=r"x\.\w+: holds no weights under '(ema|x|weight.x)'"):
        read_tensors(write({"model": WEIGHTS}), key)
    with pytest.raises(RequestError, match="holds no weights under"):
        read_tensors(write(WEIGHTS), key)


@pytest.mark.parity
def test_nested_averages_and_optimizers_states(tmp_path):
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.Adam([parameter])
    parameter.sum().backward()
    optimizer.step()
    content = {
        "optimizer": optimizer.state_dict(),
        "ema": {"decay": 0.9, "state_dict": tensors(torch, OTHERS)},
        "model": tensors(torch, WEIGHTS),
    }
    torch.save(content, tmp_path / "x.pth")
    check(read_tensors(tmp_path / "x.pth"))
    check(read_tensors(tmp_path / "x.pth", "ema"), OTHERS)


@pytest.mark.parity
def test_names_that_share_a_few_bytes(tmp_path):
    torch = pytest.importorskip("torch")
    one = torch.ones(1000)
    torch.save({"a": one, "b": one}, tmp_path / "tied.pth")
    assert read_tensors(tmp_path / "tied.pth").keys() == {"a", "b"}
    torch.save({f"x{i}": one for i in range(400)}, tmp_path / "x.pth")
    with pytest.raises(RequestError, match=r"refused: 400 tensors of 1,600,000 bytes in all, where the file holds 4,0"):
        read_tensors(tmp_path / "x.pth")
    torch.save({f"x{i}": one[:500] for i in range(400)}, tmp_path / "x.pth")
    with pytest.raises(RequestError, match="refused: 400 tensors"):
        read_tensors(tmp_path / "x.pth")
