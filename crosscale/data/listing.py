"""What a source holds, in a few numbers that change when pictures come, go, or change their labels."""

import os
from hashlib import sha256
from typing import Any, TypedDict

import numpy as np

from crosscale.contracts import Source


class Listing(TypedDict):
    """What is said of one part of a data set.

    Keys:
      images: how many examples.
      digest: SHA-256, in hexadecimal digits, of their ids and labels in order; "" where the source has no ids to say.
    """

    images: int
    digest: str


def listing(source: Source) -> Listing:
    """The listing of a source, without reading a picture.

    An id is relative to the data's folder, so that data that was moved as a whole has the same listing.
    """
    record_id = getattr(source, "record_id", None)
    if record_id is None:
        return Listing(images=len(source), digest="")
    digest = sha256()
    for index in range(len(source)):
        digest.update(os.fsencode(record_id(index)) + b"\0")
    targets: Any = getattr(source, "labels", None)
    values = getattr(source, "values", targets)
    if isinstance(values, np.ndarray):
        digest.update(np.ascontiguousarray(values).tobytes())
    return Listing(images=len(source), digest=digest.hexdigest())
