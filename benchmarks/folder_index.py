"""How long it takes to list an image folder of ImageNet's shape, and to open it again from the kept index.

    python -m benchmarks.folder_index --files 1281167 --classes 1000

The files are empty: an index reads names alone. The listing that is timed comes after one that does not count, so
that the disc's answers lie in the system's memory; a cold disc or a network is slower by what it takes to answer.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

from crosscale.data import open_source
from crosscale.data.index_cache import RACY_NS


def make(root: Path, files: int, classes: int) -> None:
    """Empty files named as ImageNet's, in train/<class>/ and a few in val/<class>/."""
    for number in range(classes):
        for split, count in (("train", files // classes + (number < files % classes)), ("val", 1)):
            folder = root / split / f"n{number:08d}"
            folder.mkdir(parents=True)
            for index in range(count):
                os.close(os.open(folder / f"{folder.name}_{index}.JPEG", os.O_CREAT | os.O_WRONLY))
    # As if it had been left alone for a while: what has just changed is not trusted to be whole.
    settled = time.time_ns() - 10 * RACY_NS
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        os.utime(folder, ns=(settled, settled))


def measure(root: Path, cache: Path) -> dict[str, float]:
    """Seconds of listing and of opening again."""
    os.environ["CROSSCALE_CACHE"] = str(cache / "first")
    open_source(root, "train")
    os.environ["CROSSCALE_CACHE"] = str(cache / "second")
    began = time.perf_counter()
    source = open_source(root, "train")
    listed = time.perf_counter() - began
    began = time.perf_counter()
    again = open_source(root, "train")
    kept = time.perf_counter() - began
    size = sum(path.stat().st_size for path in (cache / "second").rglob("*") if path.is_file())
    began = time.perf_counter()
    (root / "train" / "n00000000" / "new.JPEG").touch()
    noticed = len(open_source(root, "train")) - len(again)
    return {
        "files": len(source),
        "listing_seconds": listed,
        "files_per_second": len(source) / listed,
        "kept_seconds": kept,
        "index_bytes": size,
        "noticed_new_files": noticed,
        "seconds_after_a_change": time.perf_counter() - began,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_281_167)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--output", help="write the result as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="crosscale-index-") as folder:
        make(Path(folder) / "data", options.files, options.classes)
        result = measure(Path(folder) / "data", Path(folder) / "cache")
    text = json.dumps(result, indent=1)
    print(text)
    if options.output:
        Path(options.output).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
