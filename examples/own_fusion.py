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
# # Build your own fusion
#
# A fusion is one function: it takes the tokens of every branch and gives them back. This notebook writes one that gives every
# CLS token a share of the other branches' mean patch, and compares it with the paper's cross-attention on handwritten digits.
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
# ## The function
#
# `tokens` has one entry per branch, (B, 1 + N, C), with the CLS token first. `settings` knows the stage: heads, grids,
# norms and drop rates. `Project` is the paper's norm, GELU and linear layer, from one width to another. A name for each
# projection keeps the weights apart.

# %%
import jax.numpy as jnp

from crosscale.models.crossvit.fusion import Project


def mean_patch(tokens, settings, train):
    """Every CLS token gets the projected mean patch of the next branch."""
    fused = []
    for branch, own in enumerate(tokens):
        other = tokens[(branch + 1) % len(tokens)]
        project = Project(own.shape[-1], settings.norm_layer, settings.dtype, name=f"mean_{branch}")
        cls = own[:, :1] + project(other[:, 1:].mean(axis=1, keepdims=True))
        fused.append(jnp.concatenate([cls, own[:, 1:]], axis=1))
    return tuple(fused)


# %% [markdown]
# ## Register it
#
# In a clone, add the function to `FUSIONS` in `crosscale/models/crossvit/fusion.py` and its name to `Fusion` in
# `crosscale/models/crossvit/config.py`. In a notebook, the same two entries can be made from outside.

# %%
from typing import Literal, get_args

from crosscale.models.crossvit import config, fusion

fusion.FUSIONS["mean_patch"] = mean_patch
config.Fusion = Literal[(*get_args(config.Fusion), "mean_patch")]

# %% [markdown]
# ## Count and train
#
# The recipe `smoke` trains a very small CrossViT on the digits; `model.options.fusion` names the fusion.

# %%
from pathlib import Path

from crosscale.contracts import InputSpec
from crosscale.measure import count_costs
from crosscale.recipe import load
from crosscale.runs.train import run_training

EPOCHS = 10

for name in ("cross_attention", "mean_patch"):
    recipe = load("smoke", {"train.epochs": str(EPOCHS), "model.options.fusion": name})
    model = crosscale.create_model(recipe.model.name, **recipe.model.options, num_classes=10)
    costs = count_costs(model, InputSpec(size=(16, 16), channels=1, mean=(0.3,), std=(0.4,)))
    result = run_training(recipe, Path("runs", name))
    print(
        f"{name:<16} {costs.parameters:>7,} parameters, {costs.macs:>9,} multiply-accumulates, top-1 {result['top1']:.3f}"
    )

# %% [markdown]
# One run of a few epochs decides nothing: repeat it with several `train.seed` before you believe a difference. To draw the
# attention through a fusion of your own, add how shares pass through it to `_FUSIONS` in
# `crosscale/models/crossvit/attention_maps.py`.
