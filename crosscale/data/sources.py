"""Data by its address: each kind is recognised from the folder or file itself."""

import os
from pathlib import Path
from typing import Any, Literal

from crosscale.contracts import LabelledSource
from crosscale.data.arrays import ArraySource as ArraySource
from crosscale.data.arrays import open_digits, open_npz
from crosscale.data.image_folder import open_folder
from crosscale.data.label_table import open_label_table
from crosscale.data.names import split_of
from crosscale.data.parquet import open_parquet
from crosscale.data.scan import entries, is_dir, subfolders
from crosscale.data.shards import find_shards
from crosscale.data.table_rows import TableColumns, check_no_root, is_table
from crosscale.data.tar_shards import open_tar
from crosscale.errors import RequestError, WorkError

Split = Literal["train", "val", "all"]

HUB = "hf:"


def open_source(
    data_dir: str | Path,
    split: Split,
    *,
    val_fraction: float = 0.2,
    seed: int = 0,
    columns: TableColumns | None = None,
    root: str | Path | None = None,
) -> LabelledSource:
    """Opens one split of a data set.

    Args:
      data_dir: "digits" (the 1,797 handwritten digits that ship with scikit-learn); a folder with train/ and
        val/ that each hold one folder per class (ImageNet's flat val/ with its text file of labels, too); a
        folder of class folders; a folder of .tar (WebDataset) or .parquet shards; an .npz file; a table of paths and
        labels (.csv, .tsv, .jsonl or .parquet); or "hf:owner/name[@revision]", a data set of parquet shards on the
        Hugging Face hub.
      split: which part; "all" is everything in data that comes as one part.
      val_fraction: the share of each class that is held out where the data comes as one part, in [0, 1); with 0 the
        part "val" is empty.
      seed: of that split.
      columns: of a table, which are what; None recognises them.
      root: what a table's paths are relative to; None is its folder.

    Raises:
      RequestError: the data is missing, has no images, or its classes do not fit together.
      WorkError: a shard is damaged, or the hub cannot be reached.
    """
    if split not in ("train", "val", "all"):
        raise RequestError(f"split={split!r}: train or val, or all for data that comes as one part")
    if not 0 <= val_fraction < 1:
        raise RequestError(f"val_fraction={val_fraction}: the share that is held out lies in 0 <= value < 1")
    if is_table(data_dir):
        how: Any = {"val_fraction": val_fraction, "seed": seed, "columns": columns, "root": root}
        return open_label_table(data_dir, split, **how)
    check_no_root(root, data_dir)
    if str(data_dir) == "digits":
        if Path("digits").is_dir():
            raise RequestError(
                "digits: a folder of that name is here, and the word means the digits that ship with scikit-learn; "
                "give ./digits for the folder, or for the shipped ones rename it"
            )
        return open_digits(split, val_fraction, seed)
    if str(data_dir).startswith(HUB):
        return open_parquet(download(str(data_dir)), split, val_fraction, seed)
    root = Path(data_dir).expanduser()
    if root.suffix.lower() == ".npz" and root.is_file():
        return open_npz(root, split, val_fraction, seed)
    if has_shards(root, ".parquet"):
        return open_parquet(root, split, val_fraction, seed)
    if has_shards(root, ".tar"):
        return open_tar(root, split, val_fraction, seed)
    return open_folder(root, split, val_fraction, seed)


def has_shards(root: Path, suffix: str) -> bool:
    """Whether shards are what `root` holds; ImageNet's archives often stay beside the folders made from them."""
    folders = [entry.name for entry in entries(root) if is_dir(entry)]
    known = all(name == "data" or split_of(name) for name in folders)
    if not known or any(subfolders(root / name) for name in folders if name != "data"):
        return False
    return bool(find_shards(root, suffix))


def download(name: str) -> Path:
    """The local copy of a hub data set's parquet files, fetched or brought up to date.

    Args:
      name: "hf:owner/name[@revision]".

    Raises:
      RequestError: no such data set, or one without parquet files.
      WorkError: the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.removeprefix(HUB).partition("@")
    try:
        folder = snapshot_download(
            repository,
            repo_type="dataset",
            revision=revision or None,
            allow_patterns=["*.parquet", "classes.txt"],
            local_files_only=os.environ.get("HF_HUB_OFFLINE") == "1",
        )
    except HFValidationError:
        raise RequestError(f"{name}: not the name of a data set; write hf:owner/name") from None
    except LocalEntryNotFoundError:
        raise WorkError(f"{name}: the hub cannot be reached, and no copy is kept here") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403, 404):
            raise RequestError(f"{name}: no such data set on the hub, or it needs a log-in") from None
        raise WorkError(f"{name}: the hub answered with status {status}") from None
    except OSError as error:
        raise WorkError(f"{name}: cannot be fetched ({error.strerror or error})") from None
    if not find_shards(Path(folder), ".parquet"):
        raise RequestError(f"{name}: holds no .parquet files; convert it on the hub, or give a local folder")
    return Path(folder)
