"""What the pages and the notebooks run in: an empty folder, narrow models, and a hub on loopback."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jax
import pytest
from flax import linen as nn

import crosscale
from crosscale.data import scenes
from crosscale.models import registry
from crosscale.pretrained import suggest
from crosscale.runs import device_memory
from tests.hub_server import Hub
from tests.pages import stand_ins


def compiled(method: Callable[..., Any]) -> Callable[..., Any]:
    """Linen's `init` or `apply` as one program: called as it is, it compiles some hundred small ones."""

    def call(module: nn.Module, *arguments: Any, **options: Any) -> Any:
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((arguments, options))):
            return method(module, *arguments, **options)
        return jax.jit(lambda *given: method(module, *given, **options))(*arguments)

    return call


def hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Hub:
    """A hub on loopback in the place of Hugging Face's: it makes a preset's weights when somebody asks for them."""
    from huggingface_hub import constants

    server = Hub()
    server.files = stand_ins.HubFiles(folder)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub-cache"))
    return server


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty current folder, in which every name of a model builds a narrow one."""
    for family, row in stand_ins.narrow_families().items():
        monkeypatch.setitem(registry.FAMILIES, family, row)
    # It remembers the shapes of presets, by name.
    monkeypatch.setattr(suggest, "_expected", cache(suggest._expected.__wrapped__))
    monkeypatch.setattr(crosscale, "create_model", stand_ins.narrow_model, raising=False)
    for split in scenes.COUNTS:
        monkeypatch.setitem(scenes.COUNTS, split, 4)
    for name in ("init", "apply"):
        monkeypatch.setattr(nn.Module, name, compiled(getattr(nn.Module, name)))
    # It traces the backward pass twice, and tests/engine/test_compiler.py holds what it says.
    monkeypatch.setattr(device_memory, "estimate_memory", lambda made: {"parameters": 0, "batch": 0})
    monkeypatch.chdir(tmp_path)
    server = hub(monkeypatch, tmp_path)
    jax.config.update("jax_disable_most_optimizations", True)  # the models are too small to gain from them
    yield tmp_path
    server.close()
    jax.config.update("jax_disable_most_optimizations", False)
