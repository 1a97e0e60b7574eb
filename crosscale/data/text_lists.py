"""Text files of one entry a line, read in one way: class names, labels."""

from collections.abc import Sequence
from pathlib import Path

from crosscale.errors import RequestError

_ENCODINGS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def read_lines(file: Path) -> list[str]:
    """The lines of a text file, without the spaces around them and a pair of double quotes around the whole.

    UTF-8 or UTF-16, with or without a byte-order mark. Empty lines stay, so that positions are line numbers.

    Raises:
      RequestError: it is missing or no such text; the message names it.
    """
    try:
        text = _decoded(file.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{file}: cannot be read as text ({error})") from None
    # Not splitlines(), which also breaks at characters that may stand in a name (form feed, U+2028).
    return [_unquoted(line.strip()) for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]


def decoded(data: bytes, where: str) -> str:
    """The text of a table: UTF-8 or UTF-16, with or without a byte-order mark. Raises RequestError."""
    try:
        return _decoded(data)
    except UnicodeDecodeError:
        raise RequestError(f"{where}: not UTF-8 text; save the table as CSV UTF-8") from None


def read_names(file: Path) -> list[str]:
    """The lines that are not empty, each of them once.

    Raises:
      RequestError: as `read_lines` does, or a name appears twice.
    """
    names = [line for line in read_lines(file) if line]
    check_distinct(names, str(file))
    return names


def check_distinct(names: Sequence[str], where: str) -> None:
    """Raises RequestError for the first name that appears twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise RequestError(f"{where}: the class '{name}' appears twice")
        seen.add(name)


def _decoded(data: bytes) -> str:
    text = data.decode(next((name for mark, name in _ENCODINGS if data.startswith(mark)), "utf-8"))
    if "\0" in text:
        at = text.index("\0")
        raise UnicodeDecodeError("utf-8", data, at, at + 1, "a zero byte, as in UTF-16 without its mark")
    return text.replace("\ufeff", "")  # the mark, also of lists that were put one behind another


def _unquoted(line: str) -> str:
    if len(line) >= 2 and line[0] == line[-1] == '"' and '"' not in line[1:-1].replace('""', ""):
        return line[1:-1].replace('""', '"').strip()
    return line
