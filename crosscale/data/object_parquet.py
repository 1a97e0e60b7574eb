"""Hugging Face parquet shards with a column of pictures and one of their objects, with masks where there are some."""

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crosscale.data.annotated import Annotated, crowded
from crosscale.data.coco_json import read_area, read_segmentation
from crosscale.data.coco_masks import usable_runs
from crosscale.data.mask_parquet import PICTURE_NAMES
from crosscale.data.object_table import Fault, box_faults, make_table
from crosscale.data.once import shared
from crosscale.data.parquet import RowGroups, first_schema, import_parquet
from crosscale.data.shards import choose_shards, find_shards
from crosscale.data.strings import Strings
from crosscale.errors import RequestError, WorkError

OBJECTS = ("objects", "annotations")
BOXES = ("bbox", "bboxes", "boxes")
CATEGORIES = ("category", "categories", "category_id", "label", "labels", "class")

MASKS = ("segmentation", "segmentations")

_FEW = 8  # boxes: fewer allow no conclusion


class _Columns(NamedTuple):
    """Columns of pictures and of objects, and in these the fields of boxes, categories and masks ("" for none)."""

    picture: str
    objects: str
    box: str
    category: str
    mask: str


class _Entry(NamedTuple):
    """One object as its row has it."""

    box: Any
    category: Any
    crowd: bool
    area: Any
    mask: Any


def has_object_shards(root: Path) -> bool:
    """Whether a folder holds parquet shards with a column of objects.

    Raises:
      RequestError: pyarrow is not installed.
    """
    schema = first_schema(root)
    return schema is not None and _columns(schema) is not None


def open_object_shards(root: Path, masks: bool) -> dict[str, tuple[RowGroups, Annotated]]:
    """The parts of a folder of shards: "train" and "val", or "all" where they come as one.

    A box is x, y, width, height, as COCO has it, unless all of them can only be two corners. Masks are polygons or run
    lengths, as COCO has them, or the text of JSON that holds them.

    Args:
      masks: whether masks are kept, if there are any.

    Raises:
      RequestError: no such columns, or boxes that cannot be used.
      WorkError: a shard is cut short.
    """
    found = find_shards(root, ".parquet")
    files, one_part = choose_shards(root, found, "all" if len(found) == 1 else "train")
    if one_part:
        return {"all": _read(files, masks)}
    return {"train": _read(files, masks), "val": _read(choose_shards(root, found, "val")[0], masks)}


@shared
def _read(files: Sequence[Path], masks: bool) -> tuple[RowGroups, Annotated]:
    rows, tables, columns, names = _tables(files)
    group = RowGroups(list(files), [columns.picture], np.asarray(rows, np.int64))
    entries = [_entries(value, columns) for table in tables for value in table.column(columns.objects).to_pylist()]
    sizes = np.zeros((len(entries), 2), np.int32)
    for axis, name in enumerate(("height", "width")):
        if all(name in table.column_names for table in tables):
            sizes[:, axis] = [side or 0 for table in tables for side in table.column(name).to_pylist()]
    ids = [group.record_id(index) for index in range(len(entries))]
    owners, numbers, told, refused = _usable(entries, ids)
    classes, labels = _classes([entry.category for entry in told], names, files[0])
    of = np.array(owners, np.int64)
    boxes = np.array([entry.box for entry in told], np.float64).reshape(-1, 4)
    corners, notes = _corners(boxes, sizes[of], ids[owners[0]] if owners else "")
    segments = [read_segmentation(_parsed(entry.mask)) for entry in told] if masks and columns.mask else []
    segments, more = usable_runs(segments, sizes[of], lambda i: f"{ids[owners[i]]}: object {numbers[i]}")
    refused += more
    areas = [read_area(*pair) for pair in zip_longest([entry.area for entry in told], segments)]
    without_area = np.array([area <= 0 for area in areas], bool)
    table = make_table(
        of,
        len(entries),
        boxes=corners,
        labels=labels,
        ids=np.array(numbers, np.int64),
        crowd=np.array([entry.crowd for entry in told], bool),
        areas=np.array(areas, np.float64),
        faults=box_faults(corners, sizes[of]) | without_area * np.uint8(Fault.EMPTY),
        masks=segments if any(segments) else None,
    )
    read = Annotated(
        pictures=Strings.of(ids),
        table=table,
        sizes=sizes,
        image_ids=np.arange(1, len(entries) + 1),
        classes=classes,
        category_ids=tuple(range(len(classes))),
        files=Strings.of(ids),
        kind="object",
        refused=tuple(refused),
        notes=notes,
    )
    return group, read.refusing(crowded(read))


def _usable(
    entries: Sequence[Sequence[_Entry]], ids: Sequence[str]
) -> tuple[list[int], list[int], list[_Entry], list[str]]:
    """The objects that have a box and a category: positions of their rows, their numbers in these from 1, themselves,
    and a line for each other one."""
    owners, numbers, told, refused = [], [], [], []
    for position, row in enumerate(entries):
        for number, entry in enumerate(row, 1):
            if not _is_box(entry.box) or entry.category is None:
                what = f"bbox {entry.box!r}"[:80] if not _is_box(entry.box) else "no category"
                refused.append(f"{ids[position]}: object {number} has {what}; write four finite numbers and a category")
                continue
            owners.append(position)
            numbers.append(number)
            told.append(entry)
    return owners, numbers, told, refused


def _tables(
    files: Sequence[Path],
) -> tuple[list[tuple[int, int, int]], list[Any], _Columns, tuple[str, ...] | None]:
    """Row groups, each file's columns except the pictures, which columns are what, and the classes' names."""
    pq = import_parquet()
    rows: list[tuple[int, int, int]] = []
    tables: list[Any] = []
    columns: _Columns | None = None
    names: tuple[str, ...] | None = None
    for number, file in enumerate(files):
        try:
            with pq.ParquetFile(file) as opened:
                schema, metadata = opened.schema_arrow, opened.metadata
                columns = columns or _columns(schema)
                if columns is None or not {*columns[:2]} <= {*schema.names}:
                    raise RequestError(
                        f"{file}: has the columns {', '.join(schema.names)}; a picture ({', '.join(PICTURE_NAMES)}) "
                        f"and objects ({', '.join(OBJECTS)}) with {BOXES[0]} and {CATEGORIES[0]} are needed"
                    )
                names = names or _names(schema, columns)
                rows += [(number, g, metadata.row_group(g).num_rows) for g in range(metadata.num_row_groups)]
                wanted = [columns.objects, *({"width", "height"} & {*schema.names})]
                tables.append(opened.read(columns=wanted))
        except RequestError:
            raise
        except Exception as error:  # ArrowInvalid, OSError
            reason = " ".join(str(error).split())[:200]
            raise WorkError(f"{file}: the shard is cut short or no parquet file ({reason}); copy it again") from None
    if columns is None or not sum(count for _, _, count in rows):
        raise RequestError(f"{files[0].parent}: the {len(files)} .parquet files hold no rows")
    return rows, tables, columns, names


def _columns(schema: Any) -> _Columns | None:
    """Which columns and fields are what; None where there are none of pictures and their objects."""
    picture = next((name for name in PICTURE_NAMES if name in schema.names), None)
    for name in OBJECTS:
        if name not in schema.names or picture is None:
            continue
        kind = schema.field(name).type
        kind = getattr(kind, "value_type", kind)  # a list of objects, or an object of lists
        fields = [kind.field(i).name for i in range(getattr(kind, "num_fields", 0))]
        box = next((field for field in BOXES if field in fields), None)
        category = next((field for field in CATEGORIES if field in fields), None)
        if box is not None and category is not None:
            return _Columns(picture, name, box, category, next((field for field in MASKS if field in fields), ""))
    return None


def _names(schema: Any, columns: _Columns) -> tuple[str, ...] | None:
    """The classes' names from the file's own metadata, however deep they stand there."""
    try:
        kind: Any = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][columns.objects]
    except (KeyError, ValueError, TypeError):
        return None
    waiting = [kind]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, Mapping):
            if isinstance(kind.get("names"), list):
                return tuple(map(str, kind["names"]))
            waiting += [kind[columns.category]] if columns.category in kind else list(kind.values())
        elif isinstance(kind, list):
            waiting += kind
    return None


def _entries(value: Any, columns: _Columns) -> list[_Entry]:
    """A row's objects."""
    if value is None:
        return []
    fields = (columns.box, columns.category, "iscrowd", "area", columns.mask)
    if isinstance(value, list):
        told = [[entry.get(field) for field in fields] for entry in value]
    else:
        told = [list(one) for one in zip_longest(*(value.get(field) or [] for field in fields))]
    return [_Entry(box, category, bool(crowd), area, mask) for box, category, crowd, area, mask in told]


def _parsed(mask: Any) -> Any:
    """A mask as COCO's JSON has it."""
    if isinstance(mask, str):
        try:
            return json.loads(mask)
        except ValueError:
            return None
    if isinstance(mask, dict) and isinstance(mask.get("counts"), bytes):
        return {**mask, "counts": mask["counts"].decode("ascii", "replace")}
    if isinstance(mask, list) and mask and not any(isinstance(part, list) for part in mask):
        return [mask]  # one polygon, without the list that COCO puts around it
    return mask


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and None not in value and bool(np.isfinite(value).all())


def _classes(given: Sequence[Any], names: tuple[str, ...] | None, file: Path) -> tuple[tuple[str, ...], np.ndarray]:
    if given and all(isinstance(value, str) for value in given):
        classes = names or tuple(sorted(set(given)))
        positions = {name: label for label, name in enumerate(classes)}
        labels = [positions.get(value, -1) for value in given]
    else:
        labels = [value if isinstance(value, int) else -1 for value in given]
        classes = names or tuple(str(number) for number in range(max(labels, default=-1) + 1))
    wrong = next((value for value, label in zip(given, labels, strict=True) if not 0 <= label < len(classes)), None)
    if wrong is not None:
        raise RequestError(f"{file}: the category {wrong!r} is not one of the shard's {len(classes)} classes")
    if not classes:
        raise RequestError(f"{file}: there are no objects, and no names of classes")
    return classes, np.array(labels, np.int64)


def _corners(boxes: np.ndarray, sizes: np.ndarray, first: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Boxes as two corners, and a line where they were so in the file. Raises RequestError."""
    if not len(boxes):
        return boxes, ()
    if 0 < boxes.max() <= 1:
        raise RequestError(
            f"{first}: bbox {boxes[0].tolist()}, like all others, lies in 0..1: shares of the picture's sides, where "
            "pixels are meant; multiply x and width by the picture's width, y and height by its height"
        )
    limits = np.where(sizes > 0, sizes, np.inf)[:, ::-1] + 1
    as_corners = ((boxes[:, 2:] > boxes[:, :2]) & (boxes[:, 2:] <= limits)).all()
    beyond = (boxes[:, :2] + boxes[:, 2:] > limits).any() if (sizes > 0).all() else len(boxes) >= _FEW
    if as_corners and beyond:
        return boxes, ("the boxes are read as x0, y0, x1, y1: as x, y, width, height they do not fit their pictures",)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1), ()
