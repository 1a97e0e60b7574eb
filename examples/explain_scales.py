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
# # What both scales look at
#
# A CrossViT sees a picture in small and in large patches, and its branches exchange their CLS tokens. This notebook trains a
# small one on handwritten digits, draws the attention of both scales and of the fusion, and asks a CrossFormer what one
# place of a picture looks at.
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
EPOCHS = 10

crosscale_command(f"train --config smoke --output-dir runs/digits --train.epochs {EPOCHS}")

# %% [markdown]
# ## The maps of a CrossViT
#
# The weights are those of the forward pass itself. `describe_maps` says which maps there are.

# %%
import numpy as np

from crosscale import explain
from crosscale.data import open_source
from crosscale.predictor import Predictor

predictor = Predictor.from_run("runs/digits")
digits = open_source("digits", "val", val_fraction=0.2, seed=0)
record = digits[7]
image = predictor.prepare(record.image, record.id)

for entry in explain.describe_maps(predictor.model):
    print(f"{entry.name:<18} {entry.kind}: {entry.scale}")

# %%
maps = explain.attention(predictor.model, predictor.variables, image[None], spec=predictor.spec)
for name, values in maps.items():
    print(f"{name:<18} shape {values.shape}, largest weight {values.max():.3f}")

# %% [markdown]
# One sheet holds all of them: a column for each scale, a row for each kind of attention.

# %%
from crosscale.explain.draw import figure

sheet = figure(image, explain.describe_maps(predictor.model), {name: values[0] for name, values in maps.items()})
sheet  # noqa: B018

# %% [markdown]
# ## One place of a CrossFormer
#
# A CrossFormer has no CLS token. Ask it what a place looks at: `position` is a fraction of height and width. Only the cells
# of the place's group can be bright: neighbours for short-distance attention, evenly spread cells for long-distance
# attention. This model has not learnt anything, so the maps show the groups and little else.

# %%
model = crosscale.create_model("crossformer_tiny_224", num_classes=10)
variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 224, 224, 3), np.float32))
noise = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype(np.float32)
maps = explain.attention(model, variables, noise, position=(0.4, 0.6), direction="given")
for name, values in maps.items():
    print(f"{name:<16} {np.count_nonzero(values):>6} of {values.size} pixels are in the place's group")
