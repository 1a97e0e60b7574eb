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
# # Load timm's weights, and give them back
#
# crosscale reads the weight files of timm, IBM, MindCV, CrossFormer's authors and vit-pytorch, and writes them under the same
# names. This notebook loads a CrossViT of timm, changes its classes and its image size, and writes a file that timm reads.
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
# ## From the hub
#
# `load_pretrained` fetches `timm/<preset>.in1k` once, checks its size, hash, names and shapes, and keeps it.

# %%
MODEL = "crossvit_9_240"

model = crosscale.create_model(MODEL)
variables = crosscale.load_pretrained(MODEL)
print(f"{sum(leaf.size for leaf in jax.tree.leaves(variables)):,} parameters")

# %% [markdown]
# ## For your own classes and another image size
#
# The head is new, the position tables are resized, and everything else is kept.

# %%
adapted = crosscale.load_pretrained(MODEL, num_classes=10, img_size=480)
own = crosscale.create_model(MODEL, num_classes=10, img_size=480)
images = jax.numpy.zeros((1, 480, 480, 3))
print(jax.jit(own.apply)(adapted, images).shape)

# %% [markdown]
# ## Back to timm
#
# The round trip is exact to the last bit.

# %%
import numpy as np
from safetensors.numpy import load_file

crosscale.save_weights("for_timm.safetensors", variables, model, names="timm")
back = crosscale.load_weights("for_timm.safetensors", model)
assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(variables), jax.tree.leaves(back), strict=True))
print(*list(load_file("for_timm.safetensors"))[:5], sep="\n")

# %% [markdown]
# ## The same logits
#
# Where timm is installed, this cell compares both models on the same images.

# %%
if importlib.util.find_spec("timm") is not None:
    import timm
    import torch

    theirs = timm.create_model(MODEL, checkpoint_path="for_timm.safetensors").eval()
    images = np.random.default_rng(0).normal(size=(2, 240, 240, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    found = np.asarray(jax.jit(model.apply)(variables, images))
    print(f"largest difference: {np.abs(found - expected).max() / np.abs(expected).max():.1e} of the largest logit")
else:
    print("timm is not installed: pip install timm")
