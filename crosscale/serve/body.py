"""From a request to the pictures in it: JSON with base64, a multipart form, or one picture as it is."""

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from crosscale.data.pictures import SEPARATOR
from crosscale.serve.settings import Refused, Settings
from crosscale.tasks.task import ResultOption

_LONGEST_NAME = 100
_FIELDS = 8  # of a form, beside its files
_SIGNS = 16  # of JSON's structure, for each picture: some four are needed, and names may hold others
_URL_SAFE = str.maketrans("-_", "+/")
LARGEST = 999_999_999  # of an option

Options = Mapping[str, ResultOption]


@dataclass(frozen=True)
class Upload:
    """One picture of a request: its name, for the answer only, and the bytes of its file.

    Where a model looks at several pictures together, it is all of their names and a tuple of their bytes (`together`).
    """

    name: str
    data: Any


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
      uploads: the pictures, one or more.
      options: of the results, as the task has them.
      position: (y, x) as fractions of height and width; None asks of no place in particular.
    """

    uploads: tuple[Upload, ...]
    options: Mapping[str, int] = field(default_factory=dict)
    position: tuple[float, float] | None = None


def body_kind(request: Request) -> str:
    """ "json", "multipart" or "picture". Raises Refused (415)."""
    kind = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if kind == "application/json":
        return "json"
    if kind == "multipart/form-data":
        return "multipart"
    if kind.startswith("image/") or kind == "application/octet-stream":
        return "picture"
    raise Refused(
        415,
        f"content type '{kind or 'none'}': send multipart/form-data with image files, one file as image/png or the "
        'like, or application/json as {"images": ["<base64>", ...]}',
    )


def check_length(request: Request, settings: Settings) -> None:
    """Raises Refused (413) where the request declares a body that is too long."""
    text = request.headers.get("content-length")
    if text is not None and text.isascii() and text.isdigit() and int(text[:20]) > settings.max_bytes:
        raise _too_long(settings)


async def read_body(request: Request, settings: Settings, hold: Callable[[int], None]) -> bytes:
    """The whole body. Raises Refused: 408 sent too slowly, 413 too long, 400 cut off.

    Args:
      hold: told of the bytes as they arrive: what a client only declares takes no room from the others.
    """
    body = bytearray()  # a list of parts would take some fifty bytes for each, and a part may be of one byte
    try:
        async with asyncio.timeout(settings.body_seconds):
            async for part in request.stream():
                if len(body) + len(part) > settings.max_bytes:
                    raise _too_long(settings)
                hold(len(part))
                body += part
    except TimeoutError:
        raise Refused(408, f"the body did not arrive within {settings.body_seconds:g} s") from None
    except ClientDisconnect:
        raise Refused(400, "the connection ended before the body did") from None
    return bytes(body)


async def parse(
    kind: str,
    headers: Any,
    body: bytes,
    settings: Settings,
    options: Options,
    query: Iterable[tuple[str, str]] = (),
) -> Asked:
    """The pictures and options in a request. Raises Refused: 400 malformed, 413 too many pictures.

    Args:
      options: of the task's results.
      query: names and values behind the address's question mark: options too, whatever the body is.
    """
    if kind == "picture":
        asked = Asked((Upload("image/0", body),))
    elif kind == "json":
        asked = await asyncio.to_thread(_parse_json, body, settings, options)
    else:
        asked = await _parse_multipart(headers, body, settings, options)
    asked = _with_query(asked, list(query), options)
    if not asked.uploads:
        raise Refused(400, 'no pictures in the request; send files, or {"images": ["<base64>", ...]}')
    _check_count(len(asked.uploads), settings)
    return asked


def together(asked: Asked, pictures: int) -> Asked:
    """The uploads of one answer as one: so many one after another. Raises Refused where some are left over."""
    if pictures == 1:
        return asked
    if len(asked.uploads) % pictures:
        raise Refused(
            400,
            f"{len(asked.uploads)} pictures: the model looks at {pictures} together; send as many for each answer, one "
            "after another",
        )
    starts = range(0, len(asked.uploads), pictures)
    groups = [asked.uploads[start : start + pictures] for start in starts]
    joined = [Upload(SEPARATOR.join(u.name for u in group), tuple(u.data for u in group)) for group in groups]
    return replace(asked, uploads=tuple(joined))


def _with_query(asked: Asked, query: list[tuple[str, str]], options: Options) -> Asked:
    """What is asked for, with the options in the address. Raises Refused for one that is unknown, or given twice."""
    texts = dict(query)
    if unknown := sorted(set(texts) - {*options, "position"}):
        known = ", ".join((*options, "position"))
        raise Refused(400, f"unknown option '{_shown(unknown[0])}' in the address; there are {known}")
    given, position = _given(texts, options), _position_text(texts.get("position"))
    both = sorted(set(given) & set(asked.options))
    if position is not None and asked.position is not None:
        both.append("position")
    if len(texts) < len(query) or both:
        raise Refused(400, f"{both[0] if both else 'an option in the address'}: given twice; give it once")
    return replace(asked, options={**asked.options, **given}, position=asked.position or position)


def _check_count(pictures: int, settings: Settings) -> None:
    if pictures > settings.max_images:
        raise Refused(413, f"{pictures} pictures; the limit is {settings.max_images} a request")


def _parse_json(body: bytes, settings: Settings, options: Options) -> Asked:
    # Empty lists and keys by the million would take seconds and a multiple of the body's room.
    if sum(body.count(sign) for sign in (b"]", b"}", b":")) > _SIGNS * (settings.max_images + 4):
        raise Refused(413, f"too many values in the body; the limit is {settings.max_images} pictures a request")
    try:
        found = json.loads(body, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise Refused(400, f"the body is not JSON ({reason}); it may have been cut off") from None
    if not isinstance(found, dict) or not isinstance(found.get("images"), list):
        raise Refused(400, 'the body must be {"images": ["<base64>", ...]}')
    if unknown := sorted(set(found) - {"images", *options, "position"}):
        known = ", ".join(["images", *options])
        raise Refused(400, f"unknown key '{_shown(unknown[0])}'; there are {known} and position")
    _check_count(len(found["images"]), settings)  # before any of them costs anything
    uploads = tuple(_json_upload(index, entry) for index, entry in enumerate(found["images"]))
    return Asked(uploads, _given(found, options), _position(found.get("position")))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, of whose equal keys the last one would win without a word. Raises Refused."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise Refused(400, f"the key '{_shown(next(k for k in keys if keys.count(k) > 1))}' occurs twice; give it once")
    return found


def _json_upload(index: int, entry: Any) -> Upload:
    name, text = f"image/{index}", entry
    if isinstance(entry, dict):
        if unknown := sorted(set(entry) - {"name", "data"}):
            raise Refused(400, f"images[{index}]: unknown key '{_shown(unknown[0])}'; there are name and data")
        name, text = clean_name(entry.get("name"), index), entry.get("data")
    if not isinstance(text, str):
        raise Refused(400, f'images[{index}] must be base64 text, or {{"name": ..., "data": base64 text}}')
    # Line breaks as encoders write them, the alphabet for addresses, and padding left out are base64 too.
    text = "".join(text.split())
    if text[:5].lower() == "data:":
        text = unquote(text.partition(",")[2])
    text = text.translate(_URL_SAFE)
    try:
        return Upload(name, base64.b64decode(text + "=" * (-len(text) % 4), validate=True))
    except (ValueError, binascii.Error):
        raise Refused(400, f"images[{index}] is not base64; encode the bytes of the image file") from None


async def _parse_multipart(headers: Any, body: bytes, settings: Settings, options: Options) -> Asked:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    # The parser takes a body that stops inside a part for a complete one.
    if not body.rstrip(b"\r\n").endswith(b"--"):
        raise Refused(400, "the form is cut off: it has no closing boundary")
    _check_parts(headers, body, settings)
    try:
        parser = MultiPartParser(
            headers, stream(), max_files=settings.max_images, max_fields=_FIELDS, max_part_size=1024
        )
        # Kept in memory, where the body is already: a second copy on disc would serve nobody.
        parser.spool_max_size = settings.max_bytes
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        reason = getattr(error, "message", None) or str(error)
        if "Too many files" in reason:
            raise Refused(413, f"too many pictures; the limit is {settings.max_images} a request") from None
        raise Refused(400, f"the form is malformed ({reason})") from None
    try:
        return await _read_form(form, options)
    finally:
        await form.close()


def _check_parts(headers: Any, body: bytes, settings: Settings) -> None:
    """Refuses a form of too many parts before the parser, which is slow, walks through them."""
    _, parameters = parse_options_header(headers.get("content-type", ""))
    boundary = parameters.get(b"boundary")
    if boundary and body.count(b"--" + boundary) > settings.max_images + _FIELDS + 2:
        raise Refused(413, f"too many parts in the form; the limit is {settings.max_images} pictures a request")


async def _read_form(form: FormData, options: Options) -> Asked:
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    uploads = [Upload(clean_name(file.filename, index), await file.read()) for index, file in enumerate(files)]
    known = (*options, "position")
    fields = [(key, value) for key, value in form.multi_items() if isinstance(value, str)]
    texts = dict(fields)
    if unknown := sorted(set(texts) - set(known)):
        raise Refused(400, f"unknown field '{_shown(unknown[0])}'; beside the files there are {', '.join(known)}")
    if len(texts) < len(fields):
        raise Refused(400, "an option occurs twice in the form; give it once")
    return Asked(tuple(uploads), _given(texts, options), _position_text(texts.get("position")))


def clean_name(name: Any, index: int) -> str:
    """The last part of a file name, printable and short: it is shown, and never opened."""
    text = PurePosixPath(str(name or "").replace("\\", "/")).name
    text = "".join(letter for letter in text if letter.isprintable())[-_LONGEST_NAME:]
    return text or f"image/{index}"


def _shown(text: str) -> str:
    """What a client called something, printable and short enough for a line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_LONGEST_NAME])


def _given(found: Mapping[str, Any], options: Options) -> dict[str, int]:
    """The options that are given: neither null nor an empty field."""
    return {
        name: _whole(name, found[name], option.minimum)
        for name, option in options.items()
        if found.get(name) not in (None, "")
    }


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if isinstance(value, float) and value.is_integer():  # as JSON Schema counts it
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST:
        raise Refused(400, f"{name}={_shown(str(value)[:20])}: a whole number of {least} to {LARGEST:,}")
    return value


def _position_text(text: str | None) -> tuple[float, float] | None:
    """From "y,x"; None from an empty text."""
    if not text:
        return None
    try:
        return _position([float(part) for part in text.split(",")])
    except ValueError:
        return _position([])


def _position(value: Any) -> tuple[float, float] | None:
    """Of JSON's [y, x]. The numbers are compared as they are: of 400 digits, one is no float."""
    if value is None:
        return None
    numbers = value if isinstance(value, list) and all(type(part) in (int, float) for part in value) else []
    if len(numbers) != 2 or not all(0 <= part <= 1 for part in numbers):
        raise Refused(400, "position: give y and x as fractions of height and width, each in 0..1")
    return float(numbers[0]), float(numbers[1])


def _too_long(settings: Settings) -> Refused:
    return Refused(413, f"the body exceeds the limit of {settings.max_bytes:,} bytes; send fewer or smaller files")
