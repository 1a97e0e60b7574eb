"""timm's models in bfloat16 on the same card: training steps and forwards, eager and compiled.

    python -m benchmarks.accelerator.peer --mode train --out peer.json

Needs torch and timm, and nothing of this package.
"""

import contextlib
import math
import sys
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.accelerator.common import Results, arguments, left, timed, told

# torchvision may come built for another torch; its operators are not needed here
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))

import timm  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

MODELS = ("crossvit_9_240", "crossvit_15_240", "crossvit_18_dagger_240", "crossvit_base_240")
CLASSES = 1000


class Peer:
    """One model with a random batch that stays on the device.

    Attributes:
      pure: weights and pictures in bfloat16; autocast from float32 weights otherwise.
      channels_last: the pictures' and the convolutions' memory format.
    """

    def __init__(self, name: str, batch: int, train: bool, pure: bool, channels_last: bool, smoke: bool) -> None:
        torch.manual_seed(0)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.pure, self.train, self.channels_last = pure, train, channels_last
        options = {"embed_dim": [16, 32], "num_heads": [2, 2], "depth": [[1, 1, 0]], "img_size": 120} if smoke else {}
        model = timm.create_model(name, pretrained=False, num_classes=CLASSES, drop_path_rate=0.0, **options)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        dtype = torch.bfloat16 if pure else torch.float32
        self.model: Any = model.to(self.device, dtype=dtype, memory_format=layout).train(train)
        images = torch.randn(batch, 3, *[options.get("img_size", 240)] * 2, device=self.device)
        self.images = images.to(dtype=dtype, memory_format=layout)
        self.labels = torch.randint(0, CLASSES, (batch,), device=self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.05, fused=True)

    @contextlib.contextmanager
    def precision(self) -> Iterator[None]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=not self.pure):
            yield

    def step(self) -> None:
        if not self.train:
            with torch.inference_mode(), self.precision():
                self.model(self.images)
            return
        with self.precision():
            loss = nn.functional.cross_entropy(self.model(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def choice(self) -> dict[str, bool]:
        return {"pure": self.pure, "channels_last": self.channels_last}


def quickest(make: Callable[..., Peer], choices: list[tuple[bool, bool]]) -> tuple[bool, bool]:
    """The (pure, channels last) whose few eager steps take least."""
    seconds = {}
    for choice in choices:
        seconds[choice] = math.inf  # what fails is never the quickest
        with contextlib.suppress(RuntimeError):
            peer = make(*choice)
            for count in (2, 5):
                began = time.perf_counter()
                for _ in range(count):
                    peer.step()
                peer.wait()
                seconds[choice] = (time.perf_counter() - began) / count
            del peer
    return min(seconds, key=lambda choice: seconds[choice])


def measure(name: str, batch: int, given: Any, results: Results) -> None:
    """Eager with the settings that are quickest there, then compiled with the same."""
    train = given.mode == "train"

    def make(pure: bool, channels_last: bool) -> Peer:
        return Peer(name, batch, train, pure, channels_last, given.smoke)

    choices = [(pure, last) for pure in (False, True) for last in (False, True)]
    choice = quickest(make, choices[:1] if given.smoke else choices)
    for variant in ("eager", "compiled"):
        head = {"model": name, "case": f"{variant} batch {batch}", "batch": batch}
        if variant == "compiled" and left(given) < (0 if given.smoke else 30):
            results.add(**head, error="no time left")
            continue
        try:
            peer = make(*choice)
            if variant == "compiled":
                peer.model = torch.compile(peer.model, dynamic=False)
            began = time.perf_counter()
            peer.step()
            peer.wait()
            first = time.perf_counter() - began
            times = timed(peer.step, peer.wait, given.smoke)
            peak = torch.cuda.max_memory_allocated() if peer.device.type == "cuda" else None
            results.add(
                **head,
                images_per_second=batch / times["best"],
                median_images_per_second=batch / times["median"],
                milliseconds=1e3 * times["best"],
                peak_bytes=peak,
                compile_seconds=first,
                **peer.choice(),
            )
        except Exception as error:  # the other variant may still run
            results.add(**head, error=told(error))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def main() -> None:
    given = arguments(__doc__ or "", MODELS, mode="train")
    torch.set_float32_matmul_precision("high")
    if given.smoke:
        torch.set_num_threads(1)  # several on a busy processor wait for each other
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    results = Results(given.out, device=device, torch=torch.__version__, timm=timm.__version__, mode=given.mode)
    models = [MODELS[0]] if given.smoke else [name for name in given.models if name in MODELS]
    for name in models:
        for batch in [given.batch_size] if given.mode == "train" or given.smoke else [given.batch_size, 1, 8]:
            if left(given) > 0:
                measure(name, batch, given, results)
    results.table("model", "case", "images_per_second", "median_images_per_second", "pure", "channels_last",
                  "peak_bytes", "compile_seconds")  # fmt: skip


if __name__ == "__main__":
    main()
