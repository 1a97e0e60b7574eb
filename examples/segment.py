# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Label every pixel
#
# A folder of pictures and masks, and a CrossFormer with a Semantic FPN that learns to label every pixel. The notebook draws
# its own data: squares and discs on grey. Set `DATA` to a folder of yours in any layout of `docs/segmentation.md`.
#
# **Where it runs.** On your machine, in a clone: `pip install '.[digits]'`, and every cell runs as it is. On Colab: choose
# Runtime > Change runtime type > T4 GPU or TPU; the next cell installs crosscale. On Kaggle: choose Settings > Accelerator >
# GPU T4 x2 or TPU, and switch the internet on. If the cell below names a CPU on a machine with an accelerator, install
# `jax[cuda13]` (GPU) or `jax[tpu]` (TPU) and restart. The project's tests run this notebook on a processor; nobody has
# tried it on Colab or Kaggle yet.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("crosscale") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "crosscale[digits]>=0.1,<0.2"], check=True)

import jax

import crosscale

assert crosscale.__version__.startswith("0.1."), f"this notebook is for crosscale 0.1, not {crosscale.__version__}"
print(f"crosscale {crosscale.__version__}, jax {jax.__version__}, {jax.devices()}")

# %% [markdown]
# The cells call the command line from Python, so that they run in this process. In a terminal, write
# `crosscale train ...` in place of `crosscale_command("train ...")`.

# %%
import shlex

from crosscale.cli.main import main


def crosscale_command(line):
    """Runs one command of crosscale and stops the notebook if it fails."""
    assert main(shlex.split(line)) == 0, line


# %%
from pathlib import Path

import numpy as np
from PIL import Image

DATA = "shapes"
PICTURES = {"train": 256, "val": 32}
EPOCHS = 12


def draw(rng, side=64):
    """A grey picture with a red square and a green disc, and its mask."""
    picture = rng.integers(90, 160, (side, side, 3)).astype(np.uint8)
    mask = np.zeros((side, side), np.uint8)
    y, x = np.mgrid[:side, :side]
    top, left = rng.integers(0, side // 2, 2)
    square = (y >= top) & (y < top + side // 3) & (x >= left) & (x < left + side // 3)
    disc = (y - rng.integers(side)) ** 2 + (x - rng.integers(side)) ** 2 < (side // 4) ** 2
    for label, (shape, colour) in enumerate(((square, (220, 30, 30)), (disc, (30, 200, 60))), 1):
        picture[shape], mask[shape] = colour, label
    return picture, mask


if not Path(DATA).exists():
    rng = np.random.default_rng(0)
    for split, count in PICTURES.items():
        for kind in ("images", "masks"):
            Path(DATA, kind, split).mkdir(parents=True)
        for number in range(count):
            picture, mask = draw(rng)
            Image.fromarray(picture).save(Path(DATA, "images", split, f"{number}.png"))
            Image.fromarray(mask).save(Path(DATA, "masks", split, f"{number}.png"))
    Path(DATA, "classes.txt").write_text("ground\nsquare\ndisc\n")

# %% [markdown]
# `--check` reads every picture and mask, prints each class's share of the pixels, and names what cannot be used.

# %%
crosscale_command(f"data {DATA} --check")

# %% [markdown]
# ## Train
#
# The recipe `scenes` has a narrow model that a processor trains in minutes. For photographs, use `--config segment`, which
# trains CrossFormer-S, and give it `--pretrained` weights of the backbone.

# %%
crosscale_command(
    f"train --config scenes --data-dir {DATA} --output-dir runs/shapes --train.epochs {EPOCHS} --train.eval_every {EPOCHS}"
)

# %% [markdown]
# ## Masks of new pictures

# %%
from crosscale.predictor import Predictor

predictor = Predictor.from_run("runs/shapes")
(result,) = predictor.predict([Path(DATA, "images", "val", "0.png")])
truth = np.asarray(Image.open(Path(DATA, "masks", "val", "0.png")))
print(f"{(result.mask == truth).mean():.1%} of the pixels are right; shares of the picture: {result.areas}")

# %%
Image.fromarray((result.mask * 100).astype(np.uint8)).resize((256, 256), Image.Resampling.NEAREST)
