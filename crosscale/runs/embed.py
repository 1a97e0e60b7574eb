"""Pooled features of pictures: one vector per branch of the model, and all of them joined."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from crosscale.contracts import Variables
from crosscale.data.pictures import Picture
from crosscale.engine.forward import forward
from crosscale.errors import RequestError, WorkError
from crosscale.predictor import Predictor
from crosscale.runs.results_file import as_column

SUFFIXES = (".npz", ".parquet")


@dataclass(frozen=True)
class Embedded:
    """What was found.

    Attributes:
      paths: of the pictures that could be used.
      branches: of each branch of the model (N, C) float32, in its order.
      failures: a line for each picture that could not be used.
    """

    paths: tuple[str, ...]
    branches: tuple[np.ndarray, ...]
    failures: tuple[str, ...]

    @property
    def joined(self) -> np.ndarray:
        """(N, sum of C) float32, the branches side by side."""
        return np.concatenate(self.branches, axis=1)


def embed(
    predictor: Predictor,
    files: Sequence[Picture],
    *,
    batch_size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Embedded:
    """Features of image files, prepared as in validation.

    Args:
      files: named by their `str`.
      batch_size: pictures per forward; the last batch is filled up.
      progress: told (pictures done, all pictures).

    Raises:
      WorkError: a feature is not finite.
    """
    spec = predictor.spec

    @jax.jit
    def features(variables: Variables, images: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(forward(predictor.model, variables, images, spec, method="features").pooled)

    paths: list[str] = []
    failures: list[str] = []
    found: list[tuple[np.ndarray, ...]] = []
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        for start in range(0, len(files), batch_size):
            part = files[start : start + batch_size]
            loaded = list(pool.map(predictor.load, range(start, start + len(part)), part))
            failures += [f"{item.source}: {item.error}" for item in loaded if item.error is not None]
            vectors: dict[int, tuple[np.ndarray, ...]] = {}  # of each picture of the part
            for items, batch, _ in predictor.batches(loaded, batch_size):
                pooled = [np.asarray(branch, np.float32) for branch in features(predictor.variables, batch)]
                vectors |= {id(item): tuple(branch[row] for branch in pooled) for row, item in enumerate(items)}
            paths += [item.source for item in loaded if item.error is None]
            found += [vectors[id(item)] for item in loaded if item.error is None]
            progress(min(start + batch_size, len(files)), len(files))
    branches = tuple(np.stack(parts) for parts in zip(*found, strict=True))
    if not all(np.isfinite(branch).all() for branch in branches):
        raise WorkError(f"{predictor.source}: the model's features are not finite; use other weights")
    return Embedded(tuple(paths), branches, tuple(failures))


def write_embedded(found: Embedded, file: Path) -> None:
    """As .npz ("paths", "branch_0", ..., "joined") or else .parquet (a row per picture, the same columns).

    Raises:
      RequestError: pyarrow is not installed.
      WorkError: the file cannot be written.
    """
    arrays = {f"branch_{i}": branch for i, branch in enumerate(found.branches)} | {"joined": found.joined}
    try:
        if file.suffix.lower() == ".npz":
            with file.open("wb") as stream:
                np.savez(stream, allow_pickle=False, paths=np.array(found.paths), **arrays)
            return
        from crosscale.data.parquet import import_parquet

        pq = import_parquet()
        import pyarrow as pa  # type: ignore[import-untyped]

        lists = pa.FixedSizeListArray.from_arrays
        columns = {name: lists(pa.array(array.ravel()), array.shape[1]) for name, array in arrays.items()}
        pq.write_table(pa.table({"path": [as_column(str, path) for path in found.paths], **columns}), file)
    except OSError as error:
        raise WorkError(f"{file}: cannot be written ({error.strerror or error})") from None


def check_output(file: Path) -> None:
    """Raises RequestError unless the file can be written: before the work, not after it."""
    if file.suffix.lower() not in SUFFIXES:
        raise RequestError(f"--output {file}: give a name that ends in {' or '.join(SUFFIXES)}")
    if file.suffix.lower() == ".parquet":
        from crosscale.data.parquet import import_parquet

        import_parquet()  # refused now where it is not installed
    if not file.parent.is_dir():
        raise RequestError(f"--output {file}: there is no folder {file.parent}")
    there = file.exists()
    try:
        file.open("ab").close()  # writes nothing, and leaves what is there as it is
        if not there:
            file.unlink()
    except OSError as error:
        raise RequestError(f"--output {file}: cannot be written ({error.strerror or error})") from None
