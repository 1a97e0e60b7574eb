"""The photographs on which programs are compared: the package's own, or the user's."""

from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from crosscale.contracts import InputSpec
from crosscale.data import eval_transform, open_image
from crosscale.data.decode import decode
from crosscale.data.reading import read_picture


def load_pictures(spec: InputSpec, paths: Sequence[Path] = ()) -> np.ndarray:
    """(N, H, W, C), prepared as for prediction; the package's own four where none are named. Raises BadImage."""
    transform = eval_transform(spec)
    if paths:
        return np.stack([transform(read_picture(spec, _repeated(open_image(path), spec), str(path))) for path in paths])
    found = []
    for entry in sorted(files("crosscale.export").joinpath("pictures").iterdir(), key=lambda item: item.name):
        if entry.name.endswith(".jpg"):
            with as_file(entry) as path:
                found.append(transform(read_picture(spec, _repeated(_own(path, spec), spec), entry.name)))
    return np.stack(found)


def _own(path: Path, spec: InputSpec) -> bytes | np.ndarray:
    """One of the package's own pictures, its colours repeated for as many channels as the model takes."""
    data = open_image(path)
    if spec.pixels == "uint8":
        return data
    return np.take(np.asarray(decode(data, 3, path.name)), np.arange(spec.channels // spec.pictures) % 3, axis=2)


def _repeated(image: bytes | np.ndarray, spec: InputSpec) -> Any:
    """The picture for each of those that the model looks at together."""
    return image if spec.pictures == 1 else (image,) * spec.pictures
