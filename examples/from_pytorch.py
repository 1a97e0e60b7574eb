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
# # From PyTorch to JAX, on one page
#
# You know PyTorch. This notebook trains a CrossViT in plain JAX and says at each step what you would have written there.
#
# | PyTorch | here |
# |---|---|
# | a module holds its parameters | the module holds none: `variables` is a dictionary of arrays beside it |
# | `model(x)` | `model.apply(variables, x)` |
# | `model.train()`, `model.eval()` | an argument: `train=True` |
# | (B, C, H, W) | (B, H, W, C) |
# | a global random state | keys that you pass: `jax.random.key(0)` |
# | `loss.backward()`, `x.grad` | `jax.value_and_grad(loss)` gives a function |
# | `optimizer.step()` changes the parameters | `optimizer.update` gives new ones |
# | `torch.compile` | `jax.jit` |
# | `state_dict()` | the dictionary itself; `crosscale.save_weights` writes it |
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
# ## A model, and its parameters
#
# The module is a description. `init` makes the parameters from a random key and an example input.

# %%
import jax.numpy as jnp
import numpy as np

model = crosscale.CrossViT(
    img_size=16,
    patch_size=[4, 8],
    in_channels=1,
    embed_dim=[16, 24],
    depth=[[1, 1, 0]],
    num_heads=[2, 2],
    mlp_ratio=[2, 2, 1],
    num_classes=10,
)
variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 1)))
print(jax.tree.map(jnp.shape, variables["params"]["head"]))

# %% [markdown]
# ## Data
#
# Any NumPy arrays will do. These are the handwritten digits of scikit-learn, enlarged to 16 x 16 pixels.

# %%
from sklearn.datasets import load_digits

digits = load_digits()
images = (digits.images / 16).astype(np.float32).repeat(2, axis=1).repeat(2, axis=2)[..., None]  # (B, H, W, C)
labels = digits.target
train_images, train_labels, val_images, val_labels = images[:1400], labels[:1400], images[1400:], labels[1400:]

# %% [markdown]
# ## A training step
#
# The loss is a function of the parameters. `value_and_grad` makes a function that also gives the gradient; `jit` compiles
# the whole step once. Nothing is changed in place: the step returns new parameters.

# %%
import optax

EPOCHS = 15

optimizer = optax.adamw(3e-3, weight_decay=0.05)


def loss(variables, images, labels, key):
    logits = model.apply(variables, images, train=True, rngs={"dropout": key})
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@jax.jit
def step(variables, state, images, labels, key):
    value, gradient = jax.value_and_grad(loss)(variables, images, labels, key)
    updates, state = optimizer.update(gradient, state, variables)
    return optax.apply_updates(variables, updates), state, value


@jax.jit
def predict(variables, images):
    return model.apply(variables, images).argmax(axis=-1)


# %%
state = optimizer.init(variables)
rng, key = np.random.default_rng(0), jax.random.key(1)
for _ in range(EPOCHS):
    for rows in rng.permutation(len(train_images)).reshape(-1, 50):
        key, used = jax.random.split(key)  # a key is used once
        variables, state, value = step(variables, state, train_images[rows], train_labels[rows], used)
top1 = float((predict(variables, val_images) == val_labels).mean())
print(f"loss {float(value):.3f}, top-1 on {len(val_labels)} held-out digits {top1:.3f}")

# %% [markdown]
# ## Weights, both ways
#
# `save_weights` writes the names of another project; `names="timm"` gives a file that timm's `CrossVit` loads.

# %%
crosscale.save_weights("digits.safetensors", variables, model)
again = crosscale.load_weights("digits.safetensors", model)
assert np.array_equal(predict(again, val_images[:50]), predict(variables, val_images[:50]))

# %% [markdown]
# With `flax.nnx`, `nnx.bridge.ToNNX(model, rngs=nnx.Rngs(0)).lazy_init(images)` gives an object that holds its parameters,
# as a PyTorch module does.
