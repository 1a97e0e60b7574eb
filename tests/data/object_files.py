"""Small data sets of boxes in the formats that people have, for the tests."""

import io
import json

import numpy as np
from PIL import Image

H, W = 48, 64


def picture(height=H, width=W, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def jpeg(img, **options):
    buffer = io.BytesIO()
    img.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def write(root, files):
    """{path: bytes, text, or what JSON holds} below a folder; the folder."""
    for path, content in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, (bytes, str)):
            content = json.dumps(content)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def image(number, name, **changes):
    return {"id": number, "file_name": name, "height": H, "width": W} | changes


def annotation(number, image_id=1, category_id=3, bbox=(4, 6, 20, 10), **changes):
    area = bbox[2] * bbox[3] if len(bbox) == 4 else 0
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(bbox),
        "area": area,
        "iscrowd": 0,
    } | changes


def coco(images, annotations, categories=((3, "cat"), (90, "dog"))):
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in categories],
    }


def coco_folder(root, annotations, pictures=2, height=H, width=W, **changes):
    """train.json and val.json of the same annotations, beside train/ and val/."""
    numbers = range(1, pictures + 1)
    for split in ("train", "val"):
        images = [image(number, f"{number}.jpg", height=height, width=width) for number in numbers]
        write(root, {f"{split}/{number}.jpg": jpeg(picture(height, width, seed=number)) for number in numbers})
        write(root, {f"{split}.json": coco(images, annotations) | changes})
    return root
