"""How many channels a run's pictures have and at which depth they are read, by the recipe or by the data."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from crosscale.contracts import InputSpec, Record, Source
from crosscale.data.augment import Augment
from crosscale.data.decode import BadImage
from crosscale.data.full_depth import is_npy, is_tiff, read_stored
from crosscale.data.transforms import check_colours
from crosscale.errors import RequestError
from crosscale.recipe import Recipe

log = logging.getLogger("crosscale")

_READ = (".npy", ".tif", ".tiff")  # whose first picture is looked at; all others have 1, 3 or 4 channels


def with_channels(recipe: Recipe, source: Source | None = None) -> Recipe:
    """The recipe with `data.channels`, `data.pixels` and the model's `in_channels` in agreement.

    Args:
      source: of the pictures to train on; None where they are not at hand. Where the recipe names no number, the first
        picture of a folder or table of .npy files or TIFFs says it.

    Raises:
      RequestError: they contradict each other.
    """
    data, options = recipe.data, recipe.model.options
    given = options.get("in_channels")
    if data.channels is not None and given not in (None, data.channels):
        raise RequestError(f"data.channels={data.channels}, but model.options.in_channels={given}; leave one out")
    channels, pixels = data.channels or given, data.pixels
    if source is not None and channels is None and (found := _read(source)) is not None:
        channels, full = found
        pixels = pixels or ("float32" if full else None)
    if not isinstance(channels, int) or channels < 1:  # what else a model's option may be, the model refuses
        return recipe
    if channels not in (1, 3):
        if pixels == "uint8":
            raise RequestError(
                f"data.pixels=uint8: pictures of 8 bits have 1 or 3 channels, and these {channels}; set it to float32"
            )
        pixels = "float32"
    if channels == given:
        return replace(recipe, data=replace(data, pixels=pixels))
    model = replace(recipe.model, options={**options, "in_channels": channels})
    return replace(recipe, data=replace(data, channels=channels, pixels=pixels), model=model)


def check_pixels(recipe: Recipe, spec: InputSpec) -> None:
    """Raises RequestError for what does not go with pictures at full depth: colours, and ImageNet's statistics."""
    if isinstance(recipe.augment, Augment):
        check_colours(spec, recipe.augment)
    if spec.pixels != "uint8" and recipe.data.decode == "fast":
        raise RequestError(f"data.decode=fast: is for JPEGs of 8 bits, and data.pixels is {spec.pixels}; leave it out")
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
        array = read_stored(record.image, None, record.id)
    except BadImage:  # the loader says so, or passes it over
        return None
    channels = int(array.shape[2])
    full = array.dtype.name != "uint8" or channels not in (1, 3, 4)
    if not (is_npy(record.image) or (is_tiff(record.image) and channels not in (1, 3, 4))):
        return None  # a TIFF that Pillow reads is one as long as nobody asks for more
    channels = channels if full or channels != 4 else 3
    log.info("%s: %d channel%s of %s, as its first picture has", record.id, channels, "s" * (channels > 1), array.dtype)
    return channels, full
