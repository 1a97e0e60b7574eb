"""Draws the architectures from the models themselves: every number comes from a model's configuration or shapes.

python docs/make_drawings.py        # writes docs/models/*.svg; needs matplotlib (the dev extra)
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "crosscale"  # the same drawing gives the same file

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch  # noqa: E402

import crosscale  # noqa: E402

HERE = Path(__file__).parent / "models"
COLOURS = ("#cfe3f5", "#f7d9c4", "#d5ecd4", "#e6d8ef")


def features_of(model: Any) -> Any:
    """Shapes of what the backbone returns, without computing anything."""
    images = jnp.zeros((1, *model.input_size, model.in_channels))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    return jax.eval_shape(lambda v, x: model.apply(v, x, method="features"), variables, images)


def box(axes: Any, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.02", fc=colour, ec="#444444", lw=0.8))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8)


def arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], **style: Any) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, lw=0.9, color="#444444", **style))


def canvas(width: float, height: float, title: str) -> tuple[Any, Any]:
    figure, axes = plt.subplots(figsize=(width, height))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.axis("off")
    axes.set_title(title, fontsize=10)
    return figure, axes


def save(figure: Any, name: str) -> None:
    figure.savefig(HERE / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def draw_crossvit(name: str) -> None:
    model = crosscale.create_model(name)
    maps = features_of(model).maps
    stages, branches = len(model.depth), len(model.patch_size)
    width, row = 3.3 + 3.0 * stages + 1.9, 1.5
    figure, axes = canvas(width, row * branches + 0.6, f"{name}: {branches} branches, {stages} stages")
    for b in range(branches):
        y, colour = row * (branches - 1 - b) + 0.35, COLOURS[b % len(COLOURS)]
        height, wide = model.img_size[b]
        grid = maps[b].shape[1:3]
        seen = f"{height} x {wide} px, patches of {model.patch_size[b]}"
        text = f"{seen}\n{grid[0]} x {grid[1]} + CLS, width {model.embed_dim[b]}"
        box(axes, 0.1, y, 2.7, 0.8, text, colour)
        end = 2.8
        for s, stage in enumerate(model.depth):
            x = 3.2 + 3.0 * s
            arrow(axes, (end, y + 0.4), (x, y + 0.4))
            plural = "block" if stage[b] == 1 else "blocks"
            box(axes, x, y, 1.3, 0.8, f"{stage[b]} {plural}\n{model.num_heads[b]} heads", colour)
            arrow(axes, (x + 1.3, y + 0.4), (x + 1.75, y + 0.4))
            box(axes, x + 1.75, y, 0.85, 0.8, "fuse\nCLS", colour)
            other = row * (branches - 1 - (b + 1) % branches) + 0.35
            arrow(axes, (x + 1.3, other + 0.4), (x + 1.9, y + (0 if other < y else 0.8)), linestyle="--")
            end = x + 2.6
        x = 3.2 + 3.0 * stages
        arrow(axes, (end, y + 0.4), (x, y + 0.4))
        box(axes, x, y, 1.1, 0.8, f"norm, CLS\n-> {model.num_classes}", colour)
    axes.text(width - 0.45, row * branches / 2, "mean of\nlogits", ha="center", va="center", fontsize=8)
    axes.text(
        width / 2,
        0.08,
        "dashed: the other branch's patches, which the CLS token queries (cross-attention)",
        ha="center",
        fontsize=7,
    )
    save(figure, "crossvit")


def draw_crossformer(name: str) -> None:
    model = crosscale.create_model(name)
    features = features_of(model)
    stages = len(model.depths)
    figure, axes = canvas(3.0 * stages + 2.2, 2.6, f"{name}: {stages} stages, a pyramid of maps")
    for s, spatial in enumerate(features.maps):
        x, colour = 3.0 * s + 0.1, COLOURS[s % len(COLOURS)]
        kernels = model.patch_size if s == 0 else model.merge_size[s - 1]
        stride = model.patch_size[0] if s == 0 else 2
        listed = "/".join(map(str, kernels))
        box(axes, x, 1.5, 1.0, 0.8, f"kernels\n{listed}\nstride {stride}", colour)
        arrow(axes, (x + 1.0, 1.9), (x + 1.25, 1.9))
        group, interval = model.group_size[s], model.interval[s]
        kinds = f"short {group} x {group}\nlong, every {interval}" if spatial.shape[1] > group else "whole map"
        box(axes, x + 1.25, 1.5, 1.4, 0.8, f"{model.depths[s]} blocks\n{kinds}", colour)
        height, wide, channels = spatial.shape[1:]
        arrow(axes, (x + 1.95, 1.5), (x + 1.95, 0.9))
        box(axes, x + 1.25, 0.35, 1.4, 0.55, f"{height} x {wide} x {channels}", "#ffffff")
        arrow(axes, (x + 2.65, 1.9), (x + 3.1, 1.9))
    box(
        axes,
        3.0 * stages + 0.1,
        1.5,
        1.6,
        0.8,
        f"norm, mean\n{features.pooled[0].shape[1]} -> {model.num_classes}",
        "#eeeeee",
    )
    save(figure, "crossformer")


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    draw_crossvit("crossvit_15_240")
    draw_crossformer("crossformer_small_224")
