"""Runs as a program of its own, in any Python that has torch and timm: rounds of their input path, on request.

Reads one JSON line {"stage", "folder", "size", "count", "batch_size", "workers"} per round from standard input and
answers {"cpu", "wall", "images"} on standard output. The stages are those of `crosscale.benchmark.data`.
"""

import json
import resource
import sys
import time
import types
from collections.abc import Callable
from typing import Any

# torchvision may come built for another torch; its operators are not needed here
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image, ImageOps  # noqa: E402
from timm.data import create_dataset, create_transform  # noqa: E402

_posterize = ImageOps.posterize


def _posterize_at_least_one(img: Any, bits: int) -> Any:
    return _posterize(img, max(bits, 1))


# timm asks for 0 bits now and then, which newer Pillow refuses; the picture would be black
ImageOps.posterize = _posterize_at_least_one  # type: ignore[assignment]


def transform(size: int, full: bool, uint8: bool) -> Any:
    """The CrossViT recipe's transform: in the loader as a whole, or up to uint8 as timm's prefetcher takes it."""
    options: dict[str, Any] = {"auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.0 if uint8 else 0.25}
    if not full:
        options = {"auto_augment": None, "color_jitter": None, "re_prob": 0.0}
    return create_transform(
        size, is_training=True, interpolation="bicubic", re_mode="pixel", re_count=1, use_prefetcher=uint8, **options
    )


def prepare(request: dict[str, Any]) -> Callable[[], int]:
    """What one round does; it returns the number of pictures."""
    folder, stage, count = request["folder"], request["stage"], request["count"]
    if stage == "decode":
        paths = [path for path, _ in create_dataset("", root=folder).reader.samples][:count]

        def decode() -> int:
            for path in paths:
                Image.open(path).convert("RGB")
            return len(paths)

        return decode
    full = stage != "crop"
    uint8 = stage in ("crop", "recipe_uint8", "loader_uint8")
    dataset = create_dataset("", root=folder, transform=transform(request["size"], full, uint8))
    if not stage.startswith("loader"):

        def one_by_one() -> int:
            for index in range(count):
                np.asarray(dataset[index][0])
            return count

        return one_by_one
    subset = torch.utils.data.Subset(dataset, range(count))

    def load() -> int:
        loader = torch.utils.data.DataLoader(
            subset,
            batch_size=request["batch_size"],
            shuffle=True,
            num_workers=request["workers"],
            drop_last=True,
            collate_fn=_collate_uint8 if uint8 else None,
        )
        return sum(len(labels) for _, labels in loader)

    return load


def _collate_uint8(examples: list[tuple[np.ndarray, int]]) -> tuple[Any, Any]:
    images = torch.from_numpy(np.stack([np.asarray(image) for image, _ in examples]))
    return images, torch.tensor([label for _, label in examples])


def cpu_seconds() -> float:
    """The seconds of this process, its threads, and the child processes that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def main() -> None:
    torch.set_num_threads(1)
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        work = prepare(json.loads(line))
        cpu, wall = cpu_seconds(), time.perf_counter()
        images = work()
        answer = {"cpu": cpu_seconds() - cpu, "wall": time.perf_counter() - wall, "images": images}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
