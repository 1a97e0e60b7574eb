"""Makes the pictures of docs/images with the commands that the pages name: python -m docs.make_pictures [PAGE ...]

    python -m docs.make_pictures                 # every picture; about half an hour on two processor cores
    python -m docs.make_pictures labels metrics  # those of docs/labels.md and docs/metrics.md

Runs and data stay in runs/pictures, and a run that is there is not trained again. It needs the dev extra, and Chromium
for the pictures of pages.
"""

import argparse
import contextlib
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

IMAGES = Path(__file__).parent / "images"
KEPT = Path("runs") / "pictures"
PHONE = {"width": 390, "height": 844}
# Photographs that ship with scikit-image and scikit-learn, by the name of their class.
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "china.jpg", "flower.jpg")
CROPS, SIDE = 60, 160  # of each photograph, and their side in pixels


def crosscale(*words: str | Path) -> None:
    """Runs a command, which is shown first. Raises CalledProcessError."""
    print("$ crosscale", shlex.join(map(str, words)), flush=True)
    program = Path(sys.executable).with_name("crosscale")
    subprocess.run([program, *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def trained(name: str, *words: str | Path) -> Path:
    """The run of that name, trained with these words where it is not there."""
    run = KEPT / name
    if not (run / "report.html").exists():
        shutil.rmtree(run, ignore_errors=True)
        crosscale("train", *words, "--output-dir", run)
    return run


def digits() -> Path:
    return trained("digits", "--config", "digits")


def photos() -> Path:
    """A run on crops of photographs, which say from which photograph they are."""
    folder = KEPT / "photos-images"
    if not folder.exists():
        write_photographs(folder)
    return trained("photos", "--data-dir", folder)


def demo(*words: str) -> Path:
    """The run of `crosscale demo` with these words; its pictures lie beside it."""
    run = KEPT / "-".join(word.strip("-") for word in words)
    if not (run / "report.html").exists():
        for left in KEPT.glob(f"{run.name}*"):
            shutil.rmtree(left)
        crosscale("demo", *words, "--output-dir", run)
    return run


def held_out_digits() -> Path:
    """The digits as an image folder."""
    folder = KEPT / "digits-images"
    if not folder.exists():
        crosscale("data", "digits", "--write", folder)
    return folder / "val"


def write_photographs(folder: Path) -> None:
    """Square crops of each photograph, of half to all of its shorter side; the same at every call."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    rng = np.random.default_rng(0)
    for name in PHOTOGRAPHS:
        picture = Image.fromarray(load_sample_image(name) if "." in name else getattr(data, name)())
        place = folder / name.partition(".")[0]
        place.mkdir(parents=True)
        for number in range(CROPS):
            side = int(rng.uniform(0.5, 1) * min(picture.size))
            left, top = (int(rng.integers(0, room - side + 1)) for room in picture.size)
            picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE)).save(place / f"{number:02}.jpg")


@contextlib.contextmanager
def browser_page(address: str, viewport: dict[str, int]) -> Iterator[Any]:
    """A page in Chromium, drawn twice as fine on a phone."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            scale = 2 if viewport is PHONE else 1
            page = browser.new_page(viewport=viewport, color_scheme="light", device_scale_factor=scale)
            page.goto(address)
            yield page
        finally:
            browser.close()


def sections(file: Path, first: str | None, behind: str | None, name: str, width: int = 1000) -> None:
    """A picture of a page from the heading with one id, or its top, to before the heading with another, or its end."""
    with browser_page(file.resolve().as_uri(), {"width": width, "height": 900}) as page:
        whole = page.evaluate("document.documentElement.scrollHeight")
        top = page.locator(f"#{first}").bounding_box()["y"] - 12 if first else 0
        end = page.locator(f"#{behind}").bounding_box()["y"] - 12 if behind else whole
        area = {"x": 0, "y": top, "width": width, "height": end - top}
        page.screenshot(path=IMAGES / name, full_page=True, clip=area)


@contextlib.contextmanager
def served(run: Path) -> Iterator[str]:
    """The address of the service of a run. Raises CalledProcessError where it does not start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("crosscale")
    words = [program, "serve", "--run", str(run), "--port", str(port)]
    print("$ crosscale serve --run", run, flush=True)
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            address = f"http://127.0.0.1:{port}/"
            while process.poll() is None:
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}readyz"):
                    break
                time.sleep(0.2)
            if process.returncode is not None:
                raise subprocess.CalledProcessError(process.returncode, words)
            yield address
        finally:
            process.terminate()


def contact_sheet(files: Sequence[Path], name: str, columns: int = 2, gap: int = 12) -> None:
    """Pictures of equal size beside each other, as one file."""
    pictures = [Image.open(file).convert("RGB") for file in files]
    width, height = (max(sides) for sides in zip(*(picture.size for picture in pictures), strict=True))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        sheet.paste(picture, (column * (width + gap), row * (height + gap)))
    sheet.save(IMAGES / name, quality=88)


def explained(run: Path, picture: Path, name: str, *words: str) -> None:
    """The attention sheet of a picture."""
    folder = KEPT / "attention"
    shutil.rmtree(folder, ignore_errors=True)
    crosscale("explain", "--run", run, picture, "--output", folder, *words)
    (sheet,) = folder.glob("*.png")
    shutil.copyfile(sheet, IMAGES / name)


def explain() -> None:
    explained(photos(), KEPT / "photos-images" / "chelsea" / "07.jpg", "explain_crossvit.png")
    run = demo("segment")
    scene = sorted((KEPT / "segment-images" / "images" / "val").glob("*"))[0]
    explained(run, scene, "explain_crossformer.png", "--position", "0.5,0.5")


def report() -> None:
    sections(digits() / "report.html", None, "intervals", "report.png")
    other = trained("smoke", "--config", "smoke", "--train.epochs", "20")
    page = KEPT / "compared.html"
    crosscale("report", digits(), other, "--output", page)
    sections(page, None, None, "report_compare.png")


def serve() -> None:
    with served(photos()) as address:
        for viewport, name in (({"width": 1100, "height": 700}, "serve.png"), (PHONE, "serve_phone.png")):
            with browser_page(address, viewport) as page:
                page.set_input_files("#file", KEPT / "photos-images" / "chelsea" / "07.jpg")
                page.wait_for_selector("#maps canvas")
                page.screenshot(path=IMAGES / name)


def rare(name: str, *words: str) -> Path:
    """A run on the first set of benchmarks/rare_classes.py, where one digit has a hundred pictures and another one."""
    from benchmarks.rare_classes import SETTINGS, long_tailed

    file = KEPT / "rare.npz"
    long_tailed(file, seed=0)
    settings = [word for key, value in SETTINGS.items() for word in (f"--{key}", value)]
    return trained(name, "--config", "smoke", "--data-dir", file, *settings, *words)


def labels() -> None:
    for name, words in (("rare", []), ("balanced", ["--task.sampling", "balanced"])):
        sections(rare(name, *words) / "report.html", "confusion", "mistakes", f"labels_{name}.png", width=700)


def metrics() -> None:
    """Before and after `crosscale calibrate`, on a copy, so that the run stays as it is."""
    run = KEPT / "calibrated"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(rare("rare"), run)
    sections(run / "report.html", "calibration", "curves", "metrics_before.png")
    crosscale("calibrate", "--run", run, "--coverage", "0.8")
    crosscale("report", run)
    sections(run / "report.html", "calibration", "curves", "metrics_after.png")


def segmentation() -> None:
    run = demo("segment")
    folder = KEPT / "scenes-masks"
    shutil.rmtree(folder, ignore_errors=True)
    scenes = sorted((KEPT / "segment-images" / "images" / "val").glob("*"))[:4]
    crosscale("predict", "--run", run, *scenes, "--output", folder)
    contact_sheet(sorted(folder.glob("*overlay*")), "scenes_masks.jpg")


def detection() -> None:
    run = demo("detect", "--masks")
    folder = KEPT / "scenes-boxes"
    shutil.rmtree(folder, ignore_errors=True)
    data = KEPT / "detect-masks-images"
    scenes = sorted((data / "images" / "val").glob("*.jpg"))[:4]
    crosscale("predict", "--run", run, *scenes, "--output", folder)
    contact_sheet(sorted(folder.glob("*_boxes.*")), "objects_found.jpg")
    drawn = KEPT / "drawn"
    shutil.rmtree(drawn, ignore_errors=True)
    crosscale("data", data, "--draw", "1", "--write", drawn)
    shutil.copyfile(next(drawn.rglob("*.png")), IMAGES / "objects_drawn.png")


PAGES: dict[str, Callable[[], None]] = {
    made.__name__: made for made in (explain, report, serve, labels, metrics, segmentation, detection)
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Makes the pictures of docs/images.")
    parser.add_argument("pages", nargs="*", choices=[*PAGES, []], help="whose pictures; default all")
    KEPT.mkdir(parents=True, exist_ok=True)
    for chosen in parser.parse_args().pages or PAGES:
        PAGES[chosen]()
