"""Weights from the Hugging Face hub: fetched into its usual cache, checked before they are used."""

import hashlib
import logging
import os
import re
from pathlib import Path
from typing import Any

from crosscale.errors import RequestError, WorkError

log = logging.getLogger("crosscale")

FILE = "model.safetensors"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BY_HAND = "or give a file by hand: --pretrained FILE on the command line, load_weights(FILE, model) in Python"


def fetch(
    repo: str,
    revision: str = "main",
    *,
    filename: str = FILE,
    sha256: str = "",
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The path of a hub file in the local cache; downloads it where the cache lacks it.

    The server is `HF_ENDPOINT`, or the hub; the cache is the hub client's own (`HF_HUB_CACHE`). Without a network, or
    with `HF_HUB_OFFLINE=1`, the cache alone answers. Whatever comes is compared with the size and the hash that the
    hub records, and with `sha256` where that is given.

    Args:
      repo: "owner/name".
      revision: branch, tag or commit.
      sha256: the file's, in hex; "" leaves it to the hub's record.
      cache_dir: another cache.
      local_files_only: never ask the network.

    Raises:
      RequestError: no such repository, revision or file.
      WorkError: it cannot be had: no network and nothing cached, a server that does not answer or breaks off, or
        content that is not what it should be.
    """
    from huggingface_hub import constants

    if filename.startswith(("/", "\\")) or ".." in Path(filename).parts or ".." in repo.split("/"):
        raise RequestError(f"{repo}/{filename}: leads out of the cache; give owner/name and a plain file name")
    cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
    what = f"{repo}/{filename} at {revision}"
    size = None
    if not (local_files_only or constants.HF_HUB_OFFLINE):
        size = _announced_size(repo, revision, filename, what, cache)
    path = _download(repo, revision, filename, cache, online=size is not None, what=what)
    _check(path, cache, size, sha256, what)
    return path


def _announced_size(repo: str, revision: str, filename: str, what: str, cache: Path) -> int | None:
    """The file's size as the server states it; None where no server answers."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    url = ""
    try:
        url = hf_hub_url(repo, filename, revision=revision, endpoint=_endpoint())
        return get_hf_file_metadata(url, timeout=_timeout(), endpoint=_endpoint()).size
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise RequestError(f"{what}: {_answer(error)} from {_server()} ({url}); {_BY_HAND}") from None
    except errors.HfHubHTTPError as error:
        log.warning("%s: the server answered %s; looking in %s", what, _answer(error), cache)
    except errors.HFValidationError as error:
        raise RequestError(f"{what}: {error}") from None
    except Exception as error:  # whatever the HTTP client calls a network that does not work
        if not _is_network(error):
            raise
        log.warning("%s: no answer from %s (%s); looking in %s", what, _server(), _short(error), cache)
    return None


def _download(repo: str, revision: str, filename: str, cache: Path, *, online: bool, what: str) -> Path:
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(
            hf_hub_download(
                repo,
                filename,
                revision=revision,
                cache_dir=cache,
                local_files_only=not online,
                endpoint=_endpoint(),
                etag_timeout=_timeout(),
            )
        )
    except errors.LocalEntryNotFoundError:
        place = cache / f"models--{repo.replace('/', '--')}" / "snapshots"
        raise WorkError(
            f"{what}: not in the cache ({place}) and {_server()} cannot be asked; connect once, {_BY_HAND}"
        ) from None
    except errors.HFValidationError as error:
        raise RequestError(f"{what}: {error}") from None
    except OSError as error:
        raise WorkError(
            f"{what}: the download from {_server()} failed ({_short(error)}); try again, {_BY_HAND}"
        ) from None
    except Exception as error:  # as above
        if not _is_network(error):
            raise
        raise WorkError(f"{what}: {_server()} broke off ({_short(error)}); try again, {_BY_HAND}") from None


def _check(path: Path, cache: Path, size: int | None, sha256: str, what: str) -> None:
    """Raises WorkError unless the file lies in the cache and is what the hub says; a wrong one is taken out."""
    real, root = path.resolve(), cache.resolve()
    if not real.is_relative_to(root):
        raise WorkError(f"{what}: {path} leads out of the cache, to {real}; remove it and try again")
    # The cache calls a file by the hub's hash of it: SHA-256 for large files, git's own for small ones.
    recorded = Path(os.readlink(path)).name if path.is_symlink() else ""
    problem = ""
    if size is not None and real.stat().st_size != size:
        problem = f"{real.stat().st_size:,} bytes instead of {size:,}"
    elif _SHA256.fullmatch(sha256) and _digest(real) != sha256:
        problem = f"its SHA-256 is {_digest(real)}, not {sha256}"
    elif _SHA256.fullmatch(recorded) and _digest(real) != recorded:
        problem = f"its SHA-256 is not the recorded {recorded}"
    elif _COMMIT.fullmatch(recorded) and _git_digest(real) != recorded:
        problem = f"its git hash is not the recorded {recorded}"
    if problem:
        path.unlink(missing_ok=True)
        real.unlink(missing_ok=True)
        raise WorkError(f"{what}: damaged or not the right file: {problem}; removed from the cache, try again")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_digest(path: Path) -> str:
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _server() -> str:
    return _endpoint() or "the Hugging Face hub"


def _timeout() -> float:
    """Seconds to wait for an answer; the hub client's own setting."""
    try:
        return float(os.environ.get("HF_HUB_ETAG_TIMEOUT", "10"))
    except ValueError:
        return 10.0


def _answer(error: Any) -> str:
    status = getattr(getattr(error, "response", None), "status_code", "")
    return f"{status} {type(error).__name__.removesuffix('Error')}".strip()


def _is_network(error: Exception) -> bool:
    """Whether the HTTP client raised it; that library has changed with the hub client's versions."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in (
        "httpx",
        "httpx2",
        "httpcore",
        "requests",
    )


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
