"""Decodes a part of a JPEG alone, by nvImageCodec's CPU codec where that is installed.

libjpeg-turbo, which it carries, still has to read the bits above the part, but computes none of the pixels outside.
Those inside are the ones that decoding the whole gives.
"""

import os
import shutil
import tempfile
import threading
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

# A share of the picture's area. Beyond it the detour costs more than the pixels that it spares.
LARGEST_SHARE = 0.7

_EXTENSIONS = "NVIMGCODEC_EXTENSIONS_PATH"
_own = threading.local()
_importing = threading.Lock()


def can_decode_parts() -> bool:
    """Whether the library is installed."""
    return _library() is not None


def decode_part(data: bytes, top: int, left: int, height: int, width: int) -> np.ndarray | None:
    """A rectangle of an upright colour or grey JPEG.

    Returns:
      (height, width, 3) uint8, RGB; None where the library is missing or the file is not whole, which is then
      for the decoders of whole pictures to describe.
    """
    library = _library()
    if library is None or not data.endswith(b"\xff\xd9"):  # it silently decodes what comes before a cut
        return None
    stream = library.CodeStream(data)
    region = library.Region(top, left, top + height, left + width)
    decoded = _decoder(library).decode(stream.get_sub_code_stream(region=region), params=_own.params)
    return None if decoded is None else np.asarray(decoded.cpu())


def _decoder(library: Any) -> Any:
    """One for each thread: a decoder handles one call at a time."""
    if not hasattr(_own, "decoder"):
        _own.params = library.DecodeParams(
            apply_exif_orientation=False, sample_format=library.SampleFormat.I_RGB, allow_any_depth=False
        )
        _own.decoder = library.Decoder(
            device_id=library.NVIMGCODEC_DEVICE_CPU_ONLY,
            max_num_cpu_threads=1,
            backends=[library.Backend(library.BackendKind.CPU_ONLY)],
            options=":fancy_upsampling=1",
        )
    return _own.decoder


def _library() -> Any | None:
    with _importing:
        return _imported()


@lru_cache(maxsize=1)
def _imported() -> Any | None:
    """The package with only its JPEG codec: the others complain on standard error of missing GPU libraries."""
    try:
        found = find_spec("nvidia.nvimgcodec")
    except ModuleNotFoundError:  # no package of that namespace
        return None
    if found is None or not found.submodule_search_locations:
        return None
    codecs = (Path(found.submodule_search_locations[0]) / "extensions").glob("*jpeg_turbo*")
    before = os.environ.get(_EXTENSIONS)
    with tempfile.TemporaryDirectory(prefix="crosscale-codec-", ignore_cleanup_errors=True) as folder:
        for codec in codecs:
            shutil.copy(codec, folder)
        os.environ[_EXTENSIONS] = folder
        try:
            from nvidia import nvimgcodec  # type: ignore[import-untyped]
        except ImportError:
            return None
        finally:
            os.environ.pop(_EXTENSIONS)
            if before is not None:
                os.environ[_EXTENSIONS] = before
    return nvimgcodec
