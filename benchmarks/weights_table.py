"""Weights of every source, read, written back and loaded by the reference again: how far the logits are.

    python -m benchmarks.weights_table [--json]     # needs the parity extra: pip install -e '.[parity]'

The weights are seeded random ones. For timm, IBM's names and vit-pytorch the reference makes the file, we read it
and write it back, the reference loads that with strict=True, and its logits are compared with ours. The released
CrossFormer code and MindCV are no packages to install beside timm: their committed goldens stand in, and the round
trip is of the tensors alone.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import crosscale
from benchmarks.parity import deviation, import_timm
from crosscale.compat import vit_pytorch as compat
from crosscale.models.model import ImageModel
from crosscale.pretrained import from_variables, inspect_weights, load_weights, save_weights
from crosscale.weights.files import read_tensors
from tests.golden.crossformer import crossformer_seeded

ROOT = Path(__file__).parent.parent
MINDCV = {
    "img_size": (48, 32),
    "patch_size": (12, 16),
    "embed_dim": (8, 16),
    "depth": ((1, 2, 0), (1, 1, 0)),
    "num_heads": (2, 2),
    "mlp_ratio": (2.0, 1.5, 1.0),
    "num_classes": 5,
    "qkv_bias": True,
}


def logits_of(model: ImageModel, variables: Any, images: Any) -> Any:
    return jax.jit(model.apply)(variables, images.transpose(0, 2, 3, 1))


def through(source: str, reference: Any, model: ImageModel, file: Path, scheme: str) -> dict[str, Any]:
    """One row, for a reference that runs here: a torch module, and the file its weights were saved to."""
    import torch
    from safetensors.torch import load_file

    contents = inspect_weights(file, model)
    variables = load_weights(file, model)
    back = file.with_name("back.safetensors")
    save_weights(back, variables, model, scheme)
    reference.load_state_dict(load_file(back), strict=True)
    images = torch.randn(1, model.in_channels, *model.input_size)
    with torch.no_grad():
        theirs = reference(images).numpy()
    return row(source, file, contents, deviation(logits_of(model, variables, images.numpy()), theirs))


def row(source: str, file: Path, contents: Any, worst: float) -> dict[str, Any]:
    return {
        "source": source,
        "file": file.name,
        "scheme": contents.names,
        "recognised": contents.tensors,
        "deviation": worst,
    }


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    timm = import_timm()  # first: it makes torchvision importable, which vit-pytorch needs too
    import torch
    import vit_pytorch.cross_vit
    import vit_pytorch.crossformer
    from safetensors.torch import save_file

    torch.manual_seed(0)
    for name in ("crossvit_9_240", "crossvit_15_dagger_240"):
        reference, model = timm.create_model(name).eval(), crosscale.create_model(name)
        save_file(reference.state_dict(), folder / f"{name}.safetensors")
        yield through(f"timm {name}", reference, model, folder / f"{name}.safetensors", "timm")
    reference, model = timm.create_model("crossvit_9_240").eval(), crosscale.create_model("crossvit_9_240")
    ibm = {k.replace("embed_0", "embed.0").replace("embed_1", "embed.1"): v for k, v in reference.state_dict().items()}
    ibm = {k.replace("token_0", "token.0").replace("token_1", "token.1"): v for k, v in ibm.items()}
    torch.save({"model": ibm, "args": argparse.Namespace(lr=0.1)}, folder / "crossvit_9_224.pth")
    yield through("IBM's layout, timm's model", reference, model, folder / "crossvit_9_224.pth", "timm")
    fields: dict[str, Any] = {"image_size": 240, "num_classes": 10, "sm_dim": 96, "lg_dim": 192}
    reference = vit_pytorch.cross_vit.CrossViT(**fields).eval()
    torch.save(reference.state_dict(), folder / "cross_vit.pt")
    yield through("vit-pytorch CrossViT", reference, compat.CrossViT(**fields), folder / "cross_vit.pt", "vit_pytorch")
    reference = vit_pytorch.crossformer.CrossFormer(num_classes=10).eval()
    torch.save(reference.state_dict(), folder / "crossformer.pt")
    ours = compat.CrossFormer(num_classes=10)
    yield through("vit-pytorch CrossFormer", reference, ours, folder / "crossformer.pt", "vit_pytorch")
    yield official(folder)
    yield mindcv()


def official(folder: Path) -> dict[str, Any]:
    """The released CrossFormer's checkpoint layout, with the seeded weights whose logits its code computed."""
    import torch

    name = "crossformer_tiny_224"
    meta, arrays = crossformer_seeded.read(name)
    model, file = crosscale.create_model(name), folder / "crossformer-t.pth"
    flat = crossformer_seeded.weights(meta["shapes"])
    torch.save({"model": {k: torch.from_numpy(np.array(v)) for k, v in flat.items()}}, file)
    variables = load_weights(file, model)
    back = from_variables(variables, model, "official")
    assert {k: v.tobytes() for k, v in back.items()} == {k: np.asarray(flat[k], order="C").tobytes() for k in back}
    images = crossformer_seeded.images(meta["batch"], model.in_channels, meta["size"])
    worst = deviation(jax.jit(model.apply)(variables, images), arrays["logits"])
    return row("CrossFormer-T, official layout", file, inspect_weights(file, model), worst)


def mindcv() -> dict[str, Any]:
    golden = ROOT / "tests" / "golden" / "mindcv"
    model, file = crosscale.CrossViT(**MINDCV), golden / "narrow.ckpt"
    contents, variables, flat = inspect_weights(file, model), load_weights(file, model), read_tensors(file)
    back = from_variables(variables, model, "mindcv")
    assert {k: v.tobytes() for k, v in back.items()} == {k: v.tobytes() for k, v in flat.items()}
    with np.load(golden / "narrow.npz") as arrays:
        # the pictures of one colour, which its bilinear rescaling leaves as ours does
        worst = deviation(logits_of(model, variables, arrays["images"])[2:], arrays["logits"][2:])
    return row("MindCV 0.3.0 on MindSpore 2.10", file, contents, worst)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON list on standard output")
    args = parser.parse_args()
    table = []
    if not args.json:
        print(f"{'source':32} {'file':36} {'names':12} {'tensors':>8} {'deviation':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for line in rows(Path(folder)):
            table.append(line)
            if not args.json:
                text = "{source:32} {file:36} {scheme:12} {recognised:8} {deviation:10.1e}"
                print(text.format(**line), flush=True)
    if args.json:
        print(json.dumps(table))


if __name__ == "__main__":
    main()
