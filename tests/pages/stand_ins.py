"""What the pages' commands and code find when a test runs them: the one place where stand-ins are declared.

Runs with the installed package alone (`make dist` uses it outside the repository), so nothing here imports a test.
"""

from pathlib import Path

import numpy as np

CLASSES = ("ant", "bee")


def write_photos(folder: Path, splits: dict[str, int] | None = None) -> None:
    """An image folder of two classes: JPEGs of noise, 64 x 48, one class dark and one light."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (splits or {"train": 8, "val": 4}).items():
        for label, name in enumerate(CLASSES):
            place = folder / split / name
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                noise = rng.integers(0, 100, (48, 64, 3), dtype=np.uint8) + 150 * label
                Image.fromarray(noise.astype(np.uint8)).save(place / f"{number}.jpg")


def write_weights(path: Path, preset: str) -> None:
    """Weights of a preset's own shapes with small random values, under our own names."""
    import crosscale
    from crosscale.pretrained import parameter_shapes
    from crosscale.trees import unflatten

    model = crosscale.create_model(preset)
    rng = np.random.default_rng(0)
    shapes = parameter_shapes(model)
    values = {name: rng.standard_normal(shape, dtype=np.float32) * 0.02 for name, shape in shapes.items()}
    crosscale.save_weights(path, {"params": unflatten(values)}, model)
