"""`-` in place of an image file: the picture that comes on standard input."""

import sys
from io import BytesIO
from typing import Any

from crosscale.errors import RequestError

WORD = "-"  # a file of that name is ./-
_MOST_BYTES = 256 << 20  # of one picture's file; a device never ends


class StandardInput(BytesIO):
    """The bytes that came, with what the commands ask of a file's path."""

    name = WORD
    stem = "stdin"
    suffix = ""

    def __str__(self) -> str:
        return WORD


def read_standard_input() -> StandardInput:
    """All bytes of it. Raises RequestError where there are none, or too many."""
    stream: Any = sys.stdin
    if stream is None or stream.closed:
        raise RequestError("-: there is no standard input; send a picture, as in crosscale predict - < photo.jpg")
    if stream.isatty():
        raise RequestError(
            "-: standard input is a terminal; send a picture, as in crosscale predict - < photo.jpg (a file of that "
            "name is ./-)"
        )
    try:
        data = stream.buffer.read(_MOST_BYTES + 1)
    except OSError as error:
        raise RequestError(f"-: standard input cannot be read ({error.strerror or error})") from None
    if not data:
        raise RequestError("-: nothing came on standard input; the command that sends the picture may have failed")
    if len(data) > _MOST_BYTES:
        raise RequestError(f"-: more than {_MOST_BYTES >> 20} MiB came on standard input, which must be one picture")
    return StandardInput(data)
