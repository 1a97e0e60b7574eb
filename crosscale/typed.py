"""Dataclasses from plain values, strictly: an unknown key or a wrong type is one line that names it.

Nothing is guessed: a text is no number, a number no text, 64.5 no whole number, null only where the type
allows it. YAML files and command-line values go through the same conversion.
"""

import re
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from crosscale.errors import RequestError, did_you_mean
from crosscale.ranges import ranges_of

T = TypeVar("T")

MOST_VALUES = 1_000_000  # in a YAML file, aliases written out
MOST_DEEP = 100  # sections and lists in one another
_TOO_DEEP = "brackets or sections are nested too deeply"

_MAPPINGS = (dict, Mapping)  # origins of dict[str, ...] and Mapping[str, ...]

_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"

# YAML 1.1, which PyYAML speaks, calls 1e-4 a text because it has no dot.
_FLOAT = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+")


class _Loader(yaml.SafeLoader):
    """Safe YAML, with 1e-4 as a number and a key that appears twice as an error."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._own_keys: set[int] = set()  # the nodes whose own keys were looked at

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Puts what a "<<" names among the node's keys; before that, its own are looked at, which may repeat those."""
        if id(node) not in self._own_keys:
            self._own_keys.add(id(node))
            seen: set[str] = set()
            for key, _ in node.value:
                if key.tag not in (_TEXT, _MERGE):
                    continue
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key '{key.value}' appears twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        super().flatten_mapping(node)

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _count(node, {}, set())
        return node


def _count(node: yaml.Node, counts: dict[int, int], around: set[int]) -> int:
    """How many values a node is, written out: aliases can make millions of a few lines, or one that holds itself."""
    if len(around) > MOST_DEEP:
        raise yaml.MarkedYAMLError(problem=_TOO_DEEP, problem_mark=node.start_mark)
    if id(node) in around:
        raise yaml.MarkedYAMLError(problem="an alias lies inside what it names", problem_mark=node.start_mark)
    if id(node) not in counts:
        inner = [] if isinstance(node, yaml.ScalarNode) else node.value
        parts = [part for pair in inner for part in (pair if isinstance(pair, tuple) else (pair,))]
        counts[id(node)] = 1 + sum(_count(part, counts, around | {id(node)}) for part in parts)
    if counts[id(node)] > MOST_VALUES:
        raise yaml.MarkedYAMLError(
            problem=f"aliases turn it into more than {MOST_VALUES:,} values", problem_mark=node.start_mark
        )
    return counts[id(node)]


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back equal: a text such as "1e-4" is quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, flow_style=True)


# A date is a text like any other: no setting is one, and 2026-02-30 would be none.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


@dataclass(frozen=True)
class Key:
    """One field of a section: its dotted name's type, default, description, and its range in words ("" for none)."""

    type: Any
    default: Any
    doc: str
    range: str = ""


@dataclass(frozen=True)
class Pair:
    """At a field of two whole numbers: one number is meant for both; errors show `example`."""

    example: str


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises:
      RequestError: the file cannot be read, is no YAML or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read ({error})") from None
    try:
        plain = _load(text)
    except yaml.YAMLError as error:
        raise RequestError(f"{path}: not YAML ({_where(error)})") from None
    if plain is None:
        return {}
    if not isinstance(plain, dict):
        raise RequestError(f"{path}: holds {shown(plain)}, not 'section: ...' lines")
    return plain


def parse_scalar(kind: Any, text: str) -> Any:
    """A command-line value as YAML reads it, or as it is where `kind` is a text."""
    choices = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    plain_text = str in choices and not _is_null(kind, text) and not _is_bool(kind, text)
    if plain_text:
        return text
    try:
        return _load(text)
    except yaml.YAMLError:
        return text


def _load(text: str) -> Any:
    """The values in YAML text. Raises yaml.YAMLError."""
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise yaml.YAMLError(_TOO_DEEP) from None
    except (ValueError, OverflowError) as error:  # a tag that the value is not, such as !!timestamp 2026-02-30
        raise yaml.YAMLError(str(error)) from None


def dump_yaml(plain: Mapping[str, Any]) -> str:
    """One key a line, lists in brackets, in the order given."""
    return yaml.dump(dict(plain), Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=100)


def to_plain(value: Any) -> Any:
    """Tuples as lists, throughout."""
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    return [to_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def from_plain(kind: type[T], plain: Any, key: str = "") -> T:
    """A dataclass from nested mappings.

    Raises:
      RequestError: an unknown key (with the nearest known one), or a value of the wrong type.
    """
    if plain is None:
        plain = {}
    if not isinstance(plain, Mapping):
        raise RequestError(f"{key}: expected a section of 'key: value' lines, got {shown(plain)}")
    hints, defaults = get_type_hints(kind, include_extras=True), _defaults(kind)
    values: dict[str, Any] = {}
    for name, value in plain.items():
        dotted = f"{key}.{name}" if key else str(name)
        if name not in hints:
            hint = did_you_mean(str(name), hints)
            raise RequestError(f"unknown key '{dotted}'{hint or '; one of: ' + ', '.join(hints)}")
        try:
            values[name] = convert(hints[name], value, dotted)
        except RequestError as error:
            raise RequestError(f"{error}{_example(hints[name], defaults[name])}") from None
    return kind(**values)


def convert(kind: Any, value: Any, key: str) -> Any:
    """A value as one of a type, which may be a dataclass; `key` is what errors name.

    Raises:
      RequestError: the value is of another type.
    """
    return from_plain(kind, value, key) if isinstance(kind, type) and is_dataclass(kind) else _convert(kind, value, key)


def describe(kind: Any) -> str:
    """A type in words, as errors and the help name it."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(map(str, args))
    if origin in (Union, types.UnionType):
        return " or ".join(map(describe, args))
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return f"a list, each {describe(args[0])}"
        return "a list of " + ", ".join(map(describe, args))
    if origin in _MAPPINGS or kind is dict:
        return "key: value pairs"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return "null" if kind is type(None) else words.get(kind, "anything")


@cache
def keys_of(kind: type, section: str) -> dict[str, Key]:
    """Every field of a dataclass as a dotted key below `section`."""
    hints, docs, ranges = get_type_hints(kind), _field_docs(kind), ranges_of(kind)
    result = {}
    for item in fields(kind):
        _, words = ranges.get(item.name, (None, ""))
        result[f"{section}.{item.name}"] = Key(hints[item.name], _default(item), docs.get(item.name, ""), words)
    return result


def _convert(kind: Any, value: Any, key: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        pair = type(value) is int and any(isinstance(item, Pair) for item in kind.__metadata__)
        return _convert(args[0], (value, value) if pair else value, key)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        for option in args:
            try:
                return _convert(option, value, key)
            except RequestError:
                continue
    elif kind is type(None):
        if value is None:
            return None
    elif origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in args):
            return value
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            return _convert_sequence(kind, args, value, key)
    elif origin in _MAPPINGS:
        if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
            return {name: to_plain(item) for name, item in value.items()}
    elif kind is float:
        if isinstance(value, float) or (type(value) is int and abs(value) <= sys.float_info.max):
            return float(value)
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    near = did_you_mean(value, map(str, args)) if origin is Literal and isinstance(value, str) else ""
    raise RequestError(f"{key}: expected {describe(kind)}, got {shown(value)}{near}")


def _convert_sequence(kind: Any, args: tuple[Any, ...], value: Sequence[Any], key: str) -> tuple[Any, ...]:
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_convert(args[0], item, f"{key}[{i}]") for i, item in enumerate(value))
    if len(value) != len(args):
        raise RequestError(f"{key}: expected {describe(kind)}, got {shown(value)}")
    pairs = enumerate(zip(args, value, strict=True))
    return tuple(_convert(arg, item, f"{key}[{i}]") for i, (arg, item) in pairs)


def _example(kind: Any, default: Any) -> str:
    """How a field of a fixed number of entries is written; "" for any other."""
    kind, *metadata = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    for item in metadata:
        if isinstance(item, Pair):
            return f"; write it as '{item.example}', or one number for both"
    if get_origin(kind) is tuple and Ellipsis not in get_args(kind):
        return f"; write it as '{shown(default)}'"
    return ""


def shown(value: Any) -> str:
    """A value as YAML writes it, with quotes round a text, and short."""
    if isinstance(value, str):
        text = repr(value)
    else:
        text = (
            yaml.dump(to_plain(_head(value)), Dumper=_Dumper, default_flow_style=True)
            .strip()
            .removesuffix("...")
            .strip()
        )
    return text if len(text) <= 60 else text[:57] + "..."


def _head(value: Any) -> Any:
    """The first entries of lists and mappings, more than are shown: writing out millions takes minutes."""
    if isinstance(value, Mapping):
        return {key: _head(item) for key, item in islice(value.items(), 25)}
    return [_head(item) for item in islice(value, 25)] if isinstance(value, (list, tuple)) else value


def _where(error: yaml.YAMLError) -> str:
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}: " if mark is not None else ""
    return f"{place}{problem or ' '.join(str(error).split())}"


def _is_null(kind: Any, text: str) -> bool:
    return type(None) in get_args(kind) and text in ("null", "~", "")


def _is_bool(kind: Any, text: str) -> bool:
    return bool in get_args(kind) and text in ("true", "false")


def _default(item: "Field[Any]") -> Any:
    if item.default is not MISSING:
        return item.default
    return item.default_factory() if item.default_factory is not MISSING else None


def _defaults(kind: type) -> dict[str, Any]:
    return {item.name: _default(item) for item in fields(kind)}


def _field_docs(kind: type) -> dict[str, str]:
    """The text below each field of a dataclass and of those that it inherits from, from their source."""
    import docstring_parser

    found: dict[str, str] = {}
    for part in (base for base in reversed(kind.__mro__) if is_dataclass(base)):
        try:
            parsed = docstring_parser.parse_from_object(part)
        except OSError:  # no source, as in a frozen program
            continue
        found |= {param.arg_name: " ".join((param.description or "").split()) for param in parsed.params}
    return found
