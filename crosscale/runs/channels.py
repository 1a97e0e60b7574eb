"""How many channels a run's pictures have and at which depth they are read, by the recipe or by the data."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from crosscale.contracts import InputSpec, Record, Source
from crosscale.data.augment import Augment
from crosscale.data.decode import BadImage
from crosscale.data.full_depth import is_npy, is_tiff, read_stored
from crosscale.data.transforms import check_colours
from crosscale.errors import RequestError
from crosscale.recipe import Recipe

log = logging.getLogger("crosscale")

_READ = (".npy", ".tif", ".tiff")  # the first picture says how many channels; all others have 1, 3 or 4


def with_channels(recipe: Recipe, source: Source | None = None) -> Recipe:
    """The recipe with `data.channels`, `data.pixels` and the model's `in_channels` and `pictures` in agreement.

    Args:
      source: of the pictures to train on; None where they are not at hand. Where the recipe names no number, the first
        picture of a folder or table of .npy files or TIFFs says it.

    Raises:
      RequestError: they contradict each other.
    """
    data, options = recipe.data, recipe.model.options
    pictures = _pictures(options.get("pictures"), source)
    given = options.get("in_channels")
    if isinstance(given, int) and "pictures" in options and pictures > 1:  # counts all pictures together
        given = given // pictures
    if data.channels is not None and given not in (None, data.channels):
        raise RequestError(f"data.channels={data.channels}, but model.options.in_channels={given}; leave one out")
    channels, pixels = data.channels or given, data.pixels
    if source is not None and channels is None and (found := _read(source)) is not None:
        channels, full = found
        pixels = pixels or ("float32" if full else None)
    channels = 3 if channels is None and pictures > 1 else channels
    if not isinstance(channels, int) or channels < 1:  # the model refuses any other value
        return recipe
    if channels not in (1, 3):
        if pixels == "uint8":
            raise RequestError(
                f"data.pixels=uint8: pictures of 8 bits have 1 or 3 channels, not {channels}; set it to float32"
            )
        pixels = "float32"
    if channels == given and pictures == 1:
        return replace(recipe, data=replace(data, pixels=pixels))
    options = {**options, "in_channels": channels * pictures, **({"pictures": pictures} if pictures > 1 else {})}
    data = replace(data, channels=channels, pixels=pixels)
    return replace(recipe, data=data, model=replace(recipe.model, options=options))


def _pictures(given: Any, source: Source | None) -> int:
    """How many pictures an example has, by the data where it says so. Raises RequestError."""
    found = getattr(source, "pictures", None)
    if found is not None and given not in (None, found):
        raise RequestError(
            f"model.options.pictures={given}, but a row of the table has {found} picture{'s' * (found > 1)}; their "
            "columns are path, path_2, path_3 and so on"
        )
    return found or (given if isinstance(given, int) and given > 0 else 1)


def check_pixels(recipe: Recipe, spec: InputSpec) -> None:
    """Raises RequestError for what does not go with pictures at full depth: colours, and ImageNet's statistics."""
    if isinstance(recipe.augment, Augment):
        check_colours(spec, recipe.augment)
    if recipe.data.decode == "fast" and (spec.pixels != "uint8" or spec.pictures > 1):
        raise RequestError("data.decode=fast: works on one 8-bit JPEG per example; leave it out")
    missing = [name for name in ("mean", "std") if getattr(recipe.data, name) is None]
    if spec.pixels != "uint8" and missing:
        raise RequestError(
            f"data.{missing[0]} is not set, and no photographs' fits {spec.channels} channels of data.pixels float32; "
            f"crosscale data {recipe.data.dir or 'DATA'} --statistics measures it"
        )


def _read(source: Source) -> tuple[int, bool] | None:
    """Channels of the first picture, and whether it has to be read at full depth; None where it does not say."""
    paths: Sequence[str] = getattr(source, "paths", ())
    if not len(paths) or not paths[0].lower().endswith(_READ):
        return None
    try:
        record: Record = source[0]
        image = record.image[0] if isinstance(record.image, tuple) else record.image
        array = read_stored(image, None, record.id)
    except BadImage:  # the loader reports or skips it
        return None
    channels = int(array.shape[2])
    full = array.dtype.name != "uint8" or channels not in (1, 3, 4)
    if not (is_npy(image) or (is_tiff(image) and channels not in (1, 3, 4))):
        return None  # a TIFF that Pillow reads is an ordinary picture unless the recipe asks for more
    channels = channels if full or channels != 4 else 3
    log.info("%s: %d channel%s of %s, as its first picture has", record.id, channels, "s" * (channels > 1), array.dtype)
    return channels, full
