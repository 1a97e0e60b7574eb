"""What is known of public sets of masks: their classes, their colours, and what their stored values mean."""

from dataclasses import dataclass

import numpy as np

# The 150 classes of the scene parsing benchmark, in the order of its values 1..150 (the first of each one's names).
_ADE20K = """\
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth,
door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug,
field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column,
signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path,
stairs, runway, case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table,
toilet, flower, book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar,
arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth,
television receiver, airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet,
poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel,
basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot,
animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray,
ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag"""

# Name, value in *_labelIds.png, colour; in the order of the values of *_labelTrainIds.png, 0..18.
_CITYSCAPES = (
    ("road", 7, "804080"), ("sidewalk", 8, "f423e8"), ("building", 11, "464646"), ("wall", 12, "66669c"),
    ("fence", 13, "be9999"), ("pole", 17, "999999"), ("traffic light", 19, "faaa1e"), ("traffic sign", 20, "dcdc00"),
    ("vegetation", 21, "6b8e23"), ("terrain", 22, "98fb98"), ("sky", 23, "4682b4"), ("person", 24, "dc143c"),
    ("rider", 25, "ff0000"), ("car", 26, "00008e"), ("truck", 27, "000046"), ("bus", 28, "003c64"),
    ("train", 31, "005064"), ("motorcycle", 32, "0000e6"), ("bicycle", 33, "770b20"),
)  # fmt: skip
CITYSCAPES_IDS = 34  # values of *_labelIds.png are 0..33

_VOC = """\
background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse,
motorbike, person, pottedplant, sheep, sofa, train, tvmonitor"""


@dataclass(frozen=True)
class KnownSet:
    """A public set of masks.

    Attributes:
      name: as people call it.
      classes: in label order.
      palette: (classes, 3) uint8, the colour in which each is drawn.
    """

    name: str
    classes: tuple[str, ...]
    palette: np.ndarray


def distinct_colours(count: int, first: int = 0) -> np.ndarray:
    """Colours as Pascal VOC numbers them: the bits of the number, dealt to red, green and blue from the highest down.

    Args:
      first: number of the first colour; 0 is black.

    Returns:
      (count, 3) uint8, all different for numbers up to 255.
    """
    numbers = np.arange(first, first + count)
    colours = np.zeros((count, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (numbers >> (3 * bit + channel) & 1) << (7 - bit)
    return colours.astype(np.uint8)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


ADE20K = KnownSet("ADE20K", _names(_ADE20K), distinct_colours(150, first=1))
CITYSCAPES = KnownSet(
    "Cityscapes",
    tuple(name for name, _, _ in _CITYSCAPES),
    np.array([tuple(bytes.fromhex(colour)) for _, _, colour in _CITYSCAPES], np.uint8),
)
VOC = KnownSet("Pascal VOC", _names(_VOC), distinct_colours(21))

# Value in *_labelIds.png -> label; what is not here is ignored.
CITYSCAPES_LABELS = {value: label for label, (_, value, _) in enumerate(_CITYSCAPES)}
