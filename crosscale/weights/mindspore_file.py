"""MindSpore's `.ckpt` files: a protobuf message of named tensors, read without MindSpore."""

import binascii
import math
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from crosscale.errors import RequestError
from crosscale.weights.rules import Flat

_CHECKSUM = b"crc_num"  # followed by the CRC-32 of all before it, 10 bytes, at the end of a file that has one
_DTYPES = {
    **{name: np.dtype(name.lower()) for name in ("Float16", "Float32", "Float64", "Int8", "Int16", "Int32", "Int64")},
    **{name: np.dtype(name.lower()) for name in ("UInt8", "UInt16", "UInt32", "UInt64", "Bool")},
    "BFloat16": np.dtype(ml_dtypes.bfloat16),
}
_TEXT = "str"  # notes that training saves beside the tensors


def read_mindspore(path: Path) -> Flat:
    """The tensors by name.

    Raises:
      RequestError: protobuf is not installed, the file is damaged or encrypted, its checksum is wrong, a name is there
        twice, or a tensor is of a kind that no model here has.
    """
    try:
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError:
        raise RequestError(
            f"{path}: reading a MindSpore file needs protobuf, which is not installed: "
            "pip install 'crosscale[mindspore]' (.safetensors files need nothing)"
        ) from None
    data = path.read_bytes()
    if data[-17:-10] == _CHECKSUM:
        data, stored = data[:-17], int.from_bytes(data[-10:], "big")
        if binascii.crc32(data) != stored:
            raise RequestError(f"{path}: damaged: its checksum is not that of its content")
    try:
        entries = _message().FromString(data).value
    except DecodeError:
        raise RequestError(f"{path}: not a whole MindSpore checkpoint (or an encrypted one)") from None
    flat: Flat = {}
    # A tensor of more than 512 MB is written in parts that follow one another, each with the whole tensor's shape.
    for name, group in groupby(entries, key=lambda entry: entry.tag):
        parts = list(group)
        if name in flat:
            raise RequestError(f"{path}: the tensor '{name}' appears twice")
        if any(not part.HasField("tensor") for part in parts):
            raise RequestError(f"{path}: '{name}' is a map of tensors; only plain tensors can be read")
        if parts[0].tensor.tensor_type != _TEXT:
            flat[name] = _array(name, [part.tensor for part in parts], path)
    return flat


def _array(name: str, parts: list[Any], path: Path) -> np.ndarray:
    kind, shape = parts[0].tensor_type, tuple(parts[0].dims)
    if kind not in _DTYPES:
        raise RequestError(f"{path}: '{name}' is of type {kind}; known: {', '.join(_DTYPES)}")
    if shape == (0,):  # how a scalar's shape is written
        shape = ()
    content = b"".join(part.tensor_content for part in parts)
    wanted = math.prod(shape) * _DTYPES[kind].itemsize
    if min(shape, default=0) < 0 or len(content) != wanted:
        raise RequestError(f"{path}: '{name}' has {len(content)} bytes; its shape {shape} needs {wanted}")
    return np.frombuffer(content, _DTYPES[kind]).reshape(shape)


@cache
def _message() -> Any:
    """The class of MindSpore's `Checkpoint` message (mindspore/ccsrc/utils/checkpoint.proto)."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="mindspore_checkpoint.proto", syntax="proto2")

    def add(parent: Any, name: str, number: int, kind: Any, label: Any, type_name: str | None = None) -> Any:
        return parent.field.add(name=name, number=number, type=kind, label=label, type_name=type_name)

    tensor = file.message_type.add(name="TensorProto")
    add(tensor, "dims", 1, field.TYPE_INT64, field.LABEL_REPEATED)
    add(tensor, "tensor_type", 2, field.TYPE_STRING, field.LABEL_REQUIRED)
    add(tensor, "tensor_content", 3, field.TYPE_BYTES, field.LABEL_REQUIRED)
    tensors = file.message_type.add(name="MapTensorProto")
    add(tensors, "tensor", 1, field.TYPE_MESSAGE, field.LABEL_REPEATED, ".TensorProto")
    checkpoint = file.message_type.add(name="Checkpoint")
    value = checkpoint.nested_type.add(name="Value")
    value.oneof_decl.add(name="value")
    add(value, "tag", 1, field.TYPE_STRING, field.LABEL_REQUIRED)
    add(value, "tensor", 2, field.TYPE_MESSAGE, field.LABEL_OPTIONAL, ".TensorProto").oneof_index = 0
    add(value, "maptensor", 3, field.TYPE_MESSAGE, field.LABEL_OPTIONAL, ".MapTensorProto").oneof_index = 0
    add(checkpoint, "value", 1, field.TYPE_MESSAGE, field.LABEL_REPEATED, ".Checkpoint.Value")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Checkpoint"))
