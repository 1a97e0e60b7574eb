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
# # Find objects
#
# A folder of pictures and boxes in COCO's format, and a CrossFormer with RetinaNet that learns to find the objects. The
# notebook draws its own data. Set `DATA` to a folder of yours in any layout of `docs/detection.md`.
#
# **Where it runs.** On your machine, in a clone: `pip install '.[digits,detect]'`, and every cell runs as it is. On Colab: choose
# Runtime > Change runtime type > T4 GPU or TPU; the next cell installs crosscale. On Kaggle: choose Settings > Accelerator >
# GPU T4 x2 or TPU, and switch the internet on. If the cell below names a CPU on a machine with an accelerator, install
# `jax[cuda13]` (GPU) or `jax[tpu]` (TPU) and restart. The project's tests run this notebook on a processor; nobody has
# tried it on Colab or Kaggle yet.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("crosscale") is None:
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "crosscale[digits,detect]>=0.1,<0.2"], check=True
    )

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
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

DATA = "objects"
PICTURES = {"train": 256, "val": 32}
EPOCHS = 12
SIDE = 64

if not Path(DATA).exists():
    rng = np.random.default_rng(0)
    for split, count in PICTURES.items():
        Path(DATA, split).mkdir(parents=True)
        images, annotations = [], []
        for number in range(1, count + 1):
            picture = Image.fromarray(rng.integers(90, 150, (SIDE, SIDE, 3)).astype(np.uint8))
            pen = ImageDraw.Draw(picture)
            for _ in range(rng.integers(1, 3)):
                label, size = int(rng.integers(2)), int(rng.integers(20, 34))
                x, y = (int(place) for place in rng.integers(0, SIDE - size, 2))
                shape, colour = ((pen.rectangle, (30, 200, 60)), (pen.ellipse, (220, 30, 30)))[label]
                shape((x, y, x + size - 1, y + size - 1), fill=colour)
                box = {"bbox": [x, y, size, size], "area": size * size, "iscrowd": 0}
                annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, **box})
            picture.save(Path(DATA, split, f"{number}.png"))
            images.append({"id": number, "file_name": f"{number}.png", "height": SIDE, "width": SIDE})
        categories = [{"id": 1, "name": "square"}, {"id": 2, "name": "disc"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        Path(DATA, f"{split}.json").write_text(json.dumps(content))

# %% [markdown]
# `--check` names every annotation that is wrong.

# %%
crosscale_command(f"data {DATA} --check")

# %% [markdown]
# ## Train
#
# The recipe `objects` has a narrow model that a processor trains in minutes. For photographs, use `--config detect`, which
# trains CrossFormer-S, and give it `--pretrained` weights of the backbone.

# %%
crosscale_command(
    f"train --config objects --data-dir {DATA} --output-dir runs/objects --train.epochs {EPOCHS} "
    f"--train.eval_every {EPOCHS} --schedule.warmup_epochs 0"
)

# %% [markdown]
# ## Boxes in new pictures

# %%
from crosscale.predictor import Predictor

predictor = Predictor.from_run("runs/objects")
(result,) = predictor.predict([Path(DATA, "val", "1.png")])
print(json.dumps(result.json(), indent=1)[:600])
