"""How each kind of block that a task's section holds becomes what the templates show."""

import base64
import json
from collections.abc import Sequence
from functools import singledispatch
from io import BytesIO
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from crosscale.data.bands import as_shown
from crosscale.report.charts import histogram, points_chart
from crosscale.tasks.sections import Block, Confusion, Gallery, Histogram, Picture, Scatter, Section, Table

TABLE_CLASSES = 25  # up to here the confusion matrix is a table of numbers, beyond a picture
THUMBNAIL = 160  # longest side in pixels
_DEEPEST = 45  # percent of the accent under a number, on which light and dark text keep a contrast of 4.5 to 1


def drawn_section(section: Section) -> dict[str, Any]:
    """A section with its blocks as the template takes them: each with its "kind"."""
    blocks = [{"kind": type(block).__name__.lower(), **drawn(block)} for block in section.blocks]
    return {**vars(section), "blocks": blocks}


@singledispatch
def drawn(block: Block) -> dict[str, Any]:
    """A block as the template takes it."""
    raise TypeError(f"no way to draw a {type(block).__name__}")


@drawn.register
def _(block: Table) -> dict[str, Any]:
    bars: Sequence[str | None] = block.bars or [None] * len(block.rows)
    return {"table": block, "rows": list(zip(block.rows, bars, strict=True))}


@drawn.register
def _(block: Confusion) -> dict[str, Any]:
    small = len(block.labels) <= TABLE_CLASSES
    return {
        "labels": block.labels,
        "matrix_rows": _matrix_rows(block) if small else None,
        "matrix_image": None if small else _matrix_image(block.counts),
        "matrix_data": None if small else _matrix_data(block),
    }


@drawn.register
def _(block: Gallery) -> dict[str, Any]:
    return {"pictures": [_thumbnail(picture) for picture in block.pictures], "empty": block.empty}


@drawn.register
def _(block: Scatter) -> dict[str, Any]:
    return {"chart": points_chart(block)}


@drawn.register
def _(block: Histogram) -> dict[str, Any]:
    return {"chart": histogram(block.title, block.edges, block.counts, x_label=block.x_label)}


def data_url(image: Image.Image, kind: str = "WEBP") -> str:
    """The picture inside the page."""
    buffer = BytesIO()
    image.save(buffer, kind, quality=85)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _matrix_rows(block: Confusion) -> list[tuple[str, list[dict[str, Any]]]]:
    rows = []
    for t, (name, counts) in enumerate(zip(block.labels, block.counts, strict=True)):
        total = max(int(counts.sum()), 1)
        cells = [
            {
                "count": int(n),
                "percent": f"{_DEEPEST * n / total:.0f}",
                "wrong": bool(n) and p != t,
                "taken": block.labels[p],
            }
            for p, n in enumerate(counts)
        ]
        rows.append((name, cells))
    return rows


def _matrix_image(confusion: np.ndarray) -> str:
    """One pixel a cell, or a whole number of them; a single mistake among a thousand is still seen."""
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    shade = np.where(confusion > 0, 0.25 + 0.75 * np.sqrt(share), 0.0)[..., None]
    right = np.eye(len(confusion), dtype=bool)[..., None]
    colour = np.where(right, np.array([29.0, 95, 208]), np.array([194.0, 65, 12]))
    pixels = np.rint(255 + shade * (colour - 255)).astype(np.uint8)
    image = Image.fromarray(pixels)
    factor = max(1, 720 // len(confusion))
    return data_url(image.resize((image.width * factor,) * 2, Image.Resampling.NEAREST), "PNG")


def _matrix_data(block: Confusion) -> Markup:
    cells = [[int(t), int(p), int(block.counts[t, p])] for t, p in np.argwhere(block.counts)]
    text = json.dumps({"classes": block.labels, "cells": cells}, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))  # a class name must not end the script element


def _thumbnail(picture: Picture) -> dict[str, Any]:
    pixels = as_shown(picture.pixels)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] < 3 else pixels[..., :3])
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return {
        "picture": picture,
        "image": data_url(image),
        "width": image.width,
        "height": image.height,
        "tiny": max(image.size) < THUMBNAIL // 2,
    }
