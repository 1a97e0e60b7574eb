"""What a task has to say in a report, as plain data; the report knows how to draw each kind of block."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Chart:
    """A chart of numbers over the epochs, as the report draws it.

    Attributes:
      names: of the measures, a line each.
      y_label: of the axis.
      share: the numbers are fractions, drawn as percent.
    """

    title: str
    names: tuple[str, ...]
    y_label: str
    share: bool = False


@dataclass(frozen=True)
class Examined:
    """A pass over held-out examples, for the report.

    Attributes:
      rows: what the task's metric collected of each example, (N, ...) by name.
      targets: the examples' target arrays, (N, ...) by name.
      index: (N,) positions in the source.
      name: position in the source -> the example's id.
      picture: position in the source -> (H, W, C) uint8, as the model saw it.
      target: position in the source -> the record's target.
      result: position in the source -> what the model says of the picture, a `Result`.
      state: the metric's, of all examples.
    """

    rows: Mapping[str, np.ndarray]
    targets: Mapping[str, np.ndarray]
    index: np.ndarray
    name: Callable[[int], str]
    picture: Callable[[int], np.ndarray]
    target: Callable[[int], Any] = lambda position: None
    result: Callable[[int], Any] = lambda position: None
    state: Any = None


@dataclass(frozen=True)
class Table:
    """Rows of cells.

    Attributes:
      id: of the element, unique on the page.
      label: what a screen reader calls it.
      columns: headers.
      rows: cells as text, one per column.
      numeric: positions of the columns that are set to the right.
      bars: a percentage per row, drawn as a bar behind it; none where empty.
      filter_label: of the field that filters the rows, which there is where they are many; "" for none.
      empty: the sentence that stands there without rows.
    """

    id: str
    label: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()
    bars: Sequence[str] = ()
    filter_label: str = ""
    empty: str = ""
    title: str = ""


@dataclass(frozen=True)
class Confusion:
    """How often each label was taken for each other.

    Attributes:
      labels: names.
      counts: (labels, labels); rows are the truth, columns what was predicted.
    """

    labels: Sequence[str]
    counts: np.ndarray


@dataclass(frozen=True)
class Picture:
    """One picture of a gallery.

    Attributes:
      pixels: (H, W, C) uint8.
      id: of the example.
      text: below it: a word in the usual type, one in the faint, and what follows.
    """

    pixels: np.ndarray
    id: str
    truth: str
    said: str
    more: str = ""


@dataclass(frozen=True)
class Gallery:
    """Pictures with a line each."""

    pictures: Sequence[Picture]
    empty: str


@dataclass(frozen=True)
class Scatter:
    """Points of two numbers each.

    Attributes:
      points: (N, 2).
      diagonal: draws the line on which both are equal.
      counts: (N,) images behind each point, which sizes it and is named where one points at it; None for one each.
    """

    title: str
    points: np.ndarray
    x_label: str
    y_label: str
    diagonal: bool = False
    counts: np.ndarray | None = None


@dataclass(frozen=True)
class Histogram:
    """How many values fall between neighbouring edges: `counts` has one entry fewer than `edges`."""

    title: str
    edges: np.ndarray
    counts: np.ndarray
    x_label: str


Block = Table | Confusion | Gallery | Scatter | Histogram


@dataclass(frozen=True)
class Section:
    """A headed part of the page.

    Attributes:
      id: of the heading, unique on the page.
      short: its name in the table of contents.
      note: a sentence below the heading.
      side_by_side: whether the blocks share a line where the page is wide.
      charts: whether they are charts, which have a grid of their own.
    """

    id: str
    short: str
    title: str
    blocks: Sequence[Block]
    note: str = ""
    side_by_side: bool = False
    charts: bool = False
