"""Weight files of every kind: told apart by content, damaged ones refused with a line that names them."""

import json
import struct
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save

from crosscale.errors import RequestError
from crosscale.weights.files import read_tensors, write_tensors
from crosscale.weights.mindspore_file import _message

FLAT = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float32([1, 2])}


def test_content_decides_not_the_suffix(tmp_path):
    path = tmp_path / "weights.ckpt"
    path.write_bytes(save(FLAT))
    flat = read_tensors(path)
    assert {k: v.tolist() for k, v in flat.items()} == {k: v.tolist() for k, v in FLAT.items()}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".ckpt", ".bin", ".weights", ""])
def test_empty_file(tmp_path, suffix):
    path = tmp_path / f"empty{suffix}"
    path.touch()
    with pytest.raises(RequestError, match=r"is empty \(0 bytes\)"):
        read_tensors(path)


def test_no_tensors_and_no_known_kind(tmp_path):
    (tmp_path / "none.safetensors").write_bytes(save({}))
    (tmp_path / "text.weights").write_text("not weights")
    with pytest.raises(RequestError, match="holds no tensors"):
        read_tensors(tmp_path / "none.safetensors")
    with pytest.raises(RequestError, match="neither a safetensors, a PyTorch nor a MindSpore file"):
        read_tensors(tmp_path / "text.weights")
    with pytest.raises(RequestError, match="no such weight file"):
        read_tensors(tmp_path)


def header(entries, data=b""):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


ENTRY = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (save(FLAT)[:20], "header is cut off"),
        (save(FLAT)[:-1], "not a whole safetensors file"),
        (struct.pack("<Q", 2**60) + b"{", "header is cut off"),
        (header(f'{{"a":{ENTRY},"a":{ENTRY}}}'.encode(), bytes(4)), "key 'a' twice"),
        (header({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}}, bytes(4)), "not a whole"),
        (header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}}, bytes(4)), "not a whole"),
        (header(b'{"a":'), "not a whole"),
    ],
)
def test_damaged_safetensors(tmp_path, content, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=message) as error:
        read_tensors(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2"])
def test_numbers_of_a_type_that_numpy_lacks(tmp_path, kind):
    header = f'{{"a":{{"dtype":"{kind}","shape":[8],"data_offsets":[0,8]}}}}'.encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(RequestError, match=r"a type that is not read \(.*float8.*\); save them as float32 or bfloat16"):
        read_tensors(path)


def test_torch_file_without_torch(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
    with pytest.raises(RequestError, match=r"pip install 'crosscale\[torch\]'"):
        read_tensors(path)
    with pytest.raises(RequestError, match=r"/y\.pth: writing .* pip install 'crosscale\[torch\]'"):
        write_tensors(tmp_path / "y.pth", FLAT)
    assert not (tmp_path / "y.pth").exists()


# ---- MindSpore ----


def test_mindspore_file_without_protobuf(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "google.protobuf.message", None)
    path = tmp_path / "x.ckpt"
    path.write_bytes(b"\n\x00")
    with pytest.raises(RequestError, match=r"pip install 'crosscale\[mindspore\]'"):
        read_tensors(path)


def entry(message, name, array, kind="Float32", dims=None):
    value = message.value.add(tag=name)
    value.tensor.dims.extend(array.shape if dims is None else dims)
    value.tensor.tensor_type = kind
    value.tensor.tensor_content = array.tobytes()
    return value


def written(tmp_path, fill, tail=b""):
    message = _message()()
    fill(message)
    path = tmp_path / "x.ckpt"
    path.write_bytes(message.SerializeToString() + tail)
    return path


def test_mindspore_types_scalars_and_parts(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(4, 3)

    def fill(message):
        entry(message, "half", array.astype(np.float16), "Float16")
        entry(message, "long", array[:3], dims=(4, 3))
        entry(message, "long", array[3:], dims=(4, 3))
        entry(message, "scalar", np.float32(3), dims=(0,))
        entry(message, "note", np.array("hello"), "str", dims=())

    flat = read_tensors(written(tmp_path, fill))
    assert set(flat) == {"half", "long", "scalar"}
    np.testing.assert_array_equal(flat["long"], array)
    np.testing.assert_array_equal(flat["half"], array)
    assert flat["half"].dtype == np.float16
    assert flat["scalar"].shape == ()


def twice(message):
    for name in ("a", "b", "a"):
        entry(message, name, np.zeros(1, np.float32))


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (twice, "'a' appears twice"),
        (lambda m: entry(m, "a", np.zeros(1, np.float32), dims=(10**12,)), "needs 4000000000000"),
        (lambda m: entry(m, "a", np.zeros(1, np.float32), dims=(-1,)), "4 bytes"),
        (lambda m: entry(m, "a", np.zeros(1, np.float32), "Int4"), "of type Int4"),
        (lambda m: m.value.add(tag="a").maptensor.SetInParent(), "map of tensors"),
    ],
)
def test_bad_mindspore(tmp_path, fill, message):
    with pytest.raises(RequestError, match=message):
        read_tensors(written(tmp_path, fill))


def test_cut_off_and_wrong_checksum(tmp_path):
    path = written(tmp_path, lambda m: entry(m, "a", np.zeros(100, np.float32)))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RequestError, match="not a whole MindSpore checkpoint"):
        read_tensors(path)
    path = written(tmp_path, lambda m: entry(m, "a", np.zeros(1, np.float32)), b"crc_num" + (7).to_bytes(10, "big"))
    with pytest.raises(RequestError, match="checksum"):
        read_tensors(path)
