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
# # Fine-tune on your photos
#
# From a folder of photos to a model that knows them: look at the data, start from published weights, read the report, and
# predict. Set `PHOTOS` to your folder with one folder of photos for each class. Without one, the notebook writes the
# handwritten digits of scikit-learn as files.
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

PHOTOS = "photos"
MODEL = "crossvit_9_240"
EPOCHS = 3
SHARE = 0.1  # of the training pictures; 1 for all

if not Path(PHOTOS).exists():
    crosscale_command(f"data digits --write {PHOTOS}")

# %% [markdown]
# ## What the data holds
#
# The command names the classes and counts their pictures. `--check` also reads every picture.

# %%
crosscale_command(f"data {PHOTOS}")

# %% [markdown]
# ## Train
#
# `--pretrained` fetches the preset's ImageNet weights from the Hugging Face hub. The classes are new, so the head is new;
# everything else starts from the weights. The recipe `finetune` has a low learning rate that falls towards the input.

# %%
crosscale_command(
    f"train --config finetune --model {MODEL} --pretrained --data-dir {PHOTOS} --output-dir runs/photos "
    f"--data.subset {SHARE} --train.epochs {EPOCHS} --schedule.warmup_epochs 0"
)

# %% [markdown]
# ## Look at it
#
# `runs/photos/report.html` shows the curves, the confusion matrix and the worst mistakes. Open it in a browser.

# %%
crosscale_command("validate --run runs/photos")

# %% [markdown]
# ## Use it

# %%
from crosscale.predictor import Predictor

predictor = Predictor.from_run("runs/photos")
pictures = sorted(Path(PHOTOS, "val").rglob("*.png"))[::60]
results = list(predictor.predict(pictures))
for picture, result in zip(pictures, results, strict=True):
    print(picture, "->", result.classes[0], f"{result.probabilities[0]:.2f}")
