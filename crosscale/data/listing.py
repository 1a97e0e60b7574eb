"""What a source holds, in a few numbers that change when pictures come, go, or change their labels."""

import os
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, TypedDict

import numpy as np

from crosscale.contracts import Source


class Listing(TypedDict):
    """What is said of one part of a data set.

    Keys:
      images: how many examples.
      digest: SHA-256, in hexadecimal digits, of their ids and labels in order; "" where the source has no ids to say.
      objects: the same of boxes with their labels and masks; "" where the source has none.
    """

    images: int
    digest: str
    objects: str


def listing(source: Source) -> Listing:
    """The listing of a source, without reading a picture.

    An id is relative to the data's folder, so that data that was moved as a whole has the same listing.
    """
    record_id = getattr(source, "record_id", None)
    if record_id is None:
        return Listing(images=len(source), digest="", objects="")
    digest = sha256()
    for index in range(len(source)):
        digest.update(os.fsencode(record_id(index)) + b"\0")
    targets: Any = getattr(source, "targets", getattr(source, "labels", None))
    if isinstance(targets, np.ndarray):
        digest.update(np.ascontiguousarray(targets).tobytes())
    annotated: Any = getattr(source, "annotated", None)
    objects = "" if annotated is None else annotated.table.digest()
    return Listing(images=len(source), digest=digest.hexdigest(), objects=objects)


def same(begun: Mapping[str, Any], now: Listing) -> bool:
    """Whether a listing that was kept is of this data, as far as it says: an older one may say less."""
    return all(not begun.get(key) or begun[key] == value for key, value in now.items())
