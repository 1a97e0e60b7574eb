"""PyTorch files, with PyTorch: the layouts that projects publish, and files that would run code or unfold."""

import argparse
import pickle
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from crosscale.errors import RequestError
from crosscale.weights.files import read_tensors, write_tensors

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")


def state(**extra):
    return OrderedDict({"fc.weight": torch.arange(6.0).reshape(2, 3).T, "fc.bias": torch.ones(2), **extra})


def check(flat):
    np.testing.assert_array_equal(flat["fc.weight"], np.arange(6.0).reshape(2, 3).T)
    assert flat["fc.weight"].flags.c_contiguous


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"model": s, "args": argparse.Namespace(lr=0.1, data="x"), "epoch": 3},
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {
            "meta": {
                "epoch": 1,
                "CLASSES": ("wall", "sky"),
                "PALETTE": [[120, 120, 120], [6, 230, 230]],
                "config": "a = 1",
            },
            "state_dict": s,
            "optimizer": {
                "state": {0: {"step": 3, "exp_avg": s["fc.bias"]}},
                "param_groups": [{"lr": 0.1, "params": [0]}],
            },
        },  # mmcv's
    ],
)
def test_layouts(tmp_path, wrap, legacy):
    torch.save(wrap(state()), tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    check(read_tensors(tmp_path / "x.pth"))


def test_configuration_saved_beside_the_weights(tmp_path, monkeypatch, caplog):
    module = types.ModuleType("yacs.config")

    class CfgNode(dict):
        pass

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module.CfgNode = CfgNode
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    node = CfgNode(TRAIN=CfgNode(EPOCHS=300))
    node.__dict__["__immutable__"] = True
    torch.save({"model": state(), "config": node, "max_accuracy": 81.5}, tmp_path / "x.pth")
    caplog.set_level("INFO", "crosscale")
    check(read_tensors(tmp_path / "x.pth"))
    assert "took the weights under 'model'; left config, max_accuracy" in caplog.text


def test_half_types(tmp_path):
    torch.save({"a": torch.tensor([1.5, 3]).bfloat16(), "b": torch.tensor([1.5, 3]).half()}, tmp_path / "x.pt")
    flat = read_tensors(tmp_path / "x.pt")
    assert flat["a"].tolist() == flat["b"].tolist() == [1.5, 3]


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, legacy):
    proof = tmp_path / "it-ran"
    torch.save(
        {"model": state(), "args": Malicious(str(proof))},
        tmp_path / "x.pth",
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(RequestError, match=r"refused, because it holds more than weights .*open") as error:
        read_tensors(tmp_path / "x.pth")
    assert not proof.exists()
    assert "\n" not in str(error.value)


def test_a_bare_pickle_that_would_run_code_is_refused(tmp_path):
    proof = tmp_path / "it-ran"
    (tmp_path / "x.pth").write_bytes(pickle.dumps(Malicious(str(proof))))
    with pytest.raises(RequestError):
        read_tensors(tmp_path / "x.pth")
    assert not proof.exists()


def test_zip_bomb(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    with pytest.raises(RequestError, match=r"refused: .* unpack to 50,000,000"):
        read_tensors(tmp_path / "x.pth")


def test_a_view_that_unfolds(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**9)}, tmp_path / "x.pth")
    with pytest.raises(RequestError, match="more than the file holds"):
        read_tensors(tmp_path / "x.pth")


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_cut_off(tmp_path, share):
    torch.save(state(), tmp_path / "x.pth")
    content = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(content[: int(share * len(content))])
    with pytest.raises(RequestError, match=r"not a whole PyTorch file|refused"):
        read_tensors(tmp_path / "x.pth")


def test_no_state_dict(tmp_path):
    torch.save({"epoch": 3, "weights": [torch.zeros(1)]}, tmp_path / "x.pth")
    with pytest.raises(RequestError, match=r"no state dict in it.* it holds epoch, weights"):
        read_tensors(tmp_path / "x.pth")


def test_written_and_read_by_torch(tmp_path):
    flat = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.float32(2)}
    write_tensors(tmp_path / "x.pth", flat)
    again = torch.load(tmp_path / "x.pth", weights_only=True)
    assert {k: v.numpy().tolist() for k, v in again.items()} == {k: v.tolist() for k, v in flat.items()}
