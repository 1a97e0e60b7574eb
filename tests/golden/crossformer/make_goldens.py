"""Makes the golden files beside this script by running the released CrossFormer code.

    python make_goldens.py --official CHECKOUT [--only NAME ...]

CHECKOUT is a checkout of the released repository (github.com/cheerss/CrossFormer, branch main); PyTorch and
timm must be installed. Nothing of that code is kept here: a file holds the configuration, the parameters' names
and shapes, and what came out. Weights and images are those of `crossformer_seeded.py`.
"""

import argparse
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import crossformer_seeded as seeded  # noqa: E402

_MAX_VALUES = 4_000  # kept of one map; more channels than that are thinned out evenly
_SCALES = {"patch_size": (4, 8, 16, 32), "merge_size": ((2, 4), (2, 4), (2, 4))}
_V1 = {
    "embed_dim": 32,
    "depths": (2, 2, 2, 2),
    "num_heads": (2, 4, 8, 16),
    "group_size": (7, 7, 7, 7),
    "interval": (8, 4, 2, 1),
    "num_classes": 10,
    **_SCALES,
}
_PP = {**_V1, "depths": (2, 2, 6, 2), "group_size": (4, 4, 14, 7), "interval": (4, 2, 1, 1), "use_acl": True}
_TYPED = {**_V1, "depths": (1, 1, 6, 1)}
_ODD = {
    **_V1,
    "depths": (2, 1, 2),
    "num_heads": (1, 2, 4),
    "group_size": (5, 3, 4),
    "interval": (2, 3, 1),
    "patch_size": (4, 10),
    "merge_size": ((2,), (2, 4, 8)),
    "in_channels": 1,
    "mlp_ratio": 2.5,
    "qkv_bias": False,
    "qk_scale": 0.3,
    "patch_norm": False,
}


def _preset(embed_dim: int, depths: tuple[int, ...], heads: int, pp: bool) -> dict[str, Any]:
    config = {**(_PP if pp else _V1), "embed_dim": embed_dim, "depths": depths, "num_classes": 1000}
    return {**config, "num_heads": tuple(heads * 2**i for i in range(4))}


# name: (which of the released codes, configuration, image size)
MODELS: dict[str, tuple[str, dict[str, Any], tuple[int, int]]] = {
    "v1_224": ("classification", _V1, (224, 224)),
    "v1_160": ("classification", _V1, (160, 160)),
    "v1_130": ("classification", _V1, (130, 130)),
    "v1_96x128": ("detection", _V1, (96, 128)),
    "v1_256x320": ("detection", _V1, (256, 320)),
    "pp_224": ("classification", _PP, (224, 224)),
    "pp_160": ("classification", _PP, (160, 160)),
    "pp_128x288": ("detection", _PP, (128, 288)),
    "linear_128": ("classification", {**_TYPED, "group_type": "linear"}, (128, 128)),
    "linear_div_128": ("classification", {**_TYPED, "group_type": "linear_div"}, (128, 128)),
    "alter_128": ("classification", {**_TYPED, "group_type": "alter"}, (128, 128)),
    "7_14_128": (
        "classification",
        {**_TYPED, "group_type": "7_14", "group_size": (7, 7, 6, 7)},
        (128, 128),
    ),
    "odd_112": ("classification", _ODD, (112, 112)),
    "crossformer_tiny_224": ("classification", _preset(64, (1, 1, 8, 6), 2, False), (224, 224)),
    "crossformer_small_224": ("classification", _preset(96, (2, 2, 6, 2), 3, False), (224, 224)),
    "crossformer_base_224": ("classification", _preset(96, (2, 2, 18, 2), 3, False), (224, 224)),
    "crossformer_large_224": ("classification", _preset(128, (2, 2, 18, 2), 4, False), (224, 224)),
    "crossformer_pp_small_224": ("classification", _preset(64, (2, 2, 18, 2), 2, True), (224, 224)),
    "crossformer_pp_base_224": ("classification", _preset(96, (2, 2, 18, 2), 3, True), (224, 224)),
    "crossformer_pp_large_224": ("classification", _preset(128, (2, 2, 18, 2), 4, True), (224, 224)),
    "crossformer_pp_huge_224": ("classification", _preset(128, (6, 6, 18, 2), 4, True), (224, 224)),
}
WITH_GRADIENTS = ("v1_160", "pp_160")

# name: (width, heads, map, group, interval of long distance or None, cooling)
BLOCKS: dict[str, tuple[int, int, tuple[int, int], int, int | None, bool]] = {
    "short": (32, 2, (14, 14), 7, None, False),
    "short_padded": (32, 2, (10, 17), 7, None, False),
    "long": (32, 2, (12, 24), 3, 4, False),
    "long_padded": (32, 2, (10, 17), 4, 3, False),
    "long_whole": (32, 2, (6, 6), 7, 3, True),
    "cooling": (64, 4, (9, 11), 5, None, True),
}
GROUP_TYPES = ("constant", "linear", "linear_div", "alter", "7_14")


def load(official: Path) -> tuple[Any, Any]:
    """The released classification and detection modules."""
    # torchvision, which timm touches when it is imported, may lack these in a CPU-only installation
    sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))
    for name in ("mmdet", "mmcv"):  # loggers and checkpoint helpers: no part of the forward
        sys.modules[name] = mock.MagicMock()
    for name in ("mmdet.utils", "mmcv.runner", "mmcv.cnn", "mmcv.cnn.bricks", "mmcv.cnn.bricks.transformer"):
        sys.modules[name] = mock.MagicMock()
    sys.modules["mmcv.cnn.utils"] = sys.modules["mmcv.cnn.utils.weight_init"] = mock.MagicMock()
    modules = []
    for stem in ("crossformer", "crossformer_backbone_det"):
        spec = importlib.util.spec_from_file_location(stem, official / "models" / f"{stem}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        modules.append(module)
    return modules[0], modules[1]


def build(code: str, modules: tuple[Any, Any], config: dict[str, Any], size: tuple[int, int]) -> Any:
    detection = code == "detection"
    given = {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}
    given["crs_interval"] = given.pop("interval")
    given["in_chans"] = given.pop("in_channels", 3)
    ratio = given.pop("mlp_ratio", 4.0)
    given["mlp_ratio"] = ratio if detection else [ratio] * len(config["depths"])
    module = modules[1] if detection else modules[0]
    return module.CrossFormer(img_size=224 if detection else size[0], **given).eval()


def load_seeded(module: Any) -> dict[str, list[int]]:
    """Puts seeded values into a torch module; returns the names and shapes of its parameters."""
    import torch

    shapes = {name: list(value.shape) for name, value in module.state_dict().items()}
    values = seeded.weights(shapes)
    module.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in values.items()})
    return shapes


def run_model(model: Any, code: str, images: Any) -> dict[str, np.ndarray]:
    import torch

    out, maps = {}, []
    if code == "detection":
        maps = [m.permute(0, 2, 3, 1) for m in model(images)]
    else:
        for layer in model.layers:  # the map before the merging, which a stage does not return
            layer.blocks[-1].register_forward_hook(lambda block, _, y: maps.append(_map(block, y)))
        model.head.register_forward_pre_hook(lambda _, args: out.update(pooled=args[0].detach().numpy()))
        out["logits"] = model(images).detach().numpy()
    for i, m in enumerate(torch.as_tensor(m).detach().numpy() for m in maps):
        step = -(-m.size // _MAX_VALUES)
        out[f"map_{i}"], out[f"step_{i}"] = m[..., ::step], np.array(step)
    return out


def _map(block: Any, tokens: Any) -> Any:
    return tokens.reshape(tokens.shape[0], *block.input_resolution, -1)


def gradients(model: Any, images: Any, names: list[str]) -> dict[str, np.ndarray]:
    """Per parameter: the gradient's norm, and its product with the parameter's seeded array."""
    import torch

    images = images.clone().requires_grad_()
    logits = model(images)
    (logits * torch.from_numpy(seeded.cotangent(logits.shape))).sum().backward()
    grads = {name: p.grad.numpy() for name, p in model.named_parameters()}
    dots = [float((grads[n] * seeded.array(f"probe/{n}", grads[n].shape)).sum()) for n in names]
    norms = [float(np.linalg.norm(grads[n])) for n in names]
    return {
        "grad_dots": np.float64(dots),
        "grad_norms": np.float64(norms),
        "grad_images": images.grad.numpy().transpose(0, 2, 3, 1)[:, ::7, ::7],
    }


def make_model(name: str, modules: tuple[Any, Any]) -> None:
    import torch

    code, config, size = MODELS[name]
    model = build(code, modules, config, size)
    shapes = load_seeded(model)
    batch = 1 if config["num_classes"] == 1000 else 2
    nhwc = seeded.images(batch, config.get("in_channels", 3), size)
    images = torch.from_numpy(np.ascontiguousarray(nhwc.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        out = run_model(model, code, images)
    if name in WITH_GRADIENTS:
        out |= gradients(model, images, list(shapes))
    _save(name, {"code": code, "config": config, "size": size, "batch": batch, "shapes": shapes}, out)


def make_blocks(modules: tuple[Any, Any]) -> None:
    import torch

    out, described = {}, {}
    for name, (dim, heads, size, group, interval, cooling) in BLOCKS.items():
        block = (
            modules[0]
            .CrossFormerBlock(
                dim,
                size,
                heads,
                group,
                interval=interval or 1,
                lsda_flag=0 if interval is None else 1,
                use_extra_conv=cooling,
            )
            .eval()
        )
        shapes = load_seeded(block)
        x = torch.from_numpy(seeded.array("x", (2, size[0] * size[1], dim)))
        with torch.no_grad():
            out[name] = block(x).numpy().reshape(2, *size, dim)
            bias = block.attn.pos(block.attn.biases)[block.attn.relative_position_index].permute(2, 0, 1)
            out[f"{name}_bias"] = bias.numpy()
        described[name] = {
            "dim": dim,
            "heads": heads,
            "size": size,
            "group": group,
            "interval": interval,
            "cooling": cooling,
            "shapes": shapes,
        }
    _save("blocks", described, out)


def make_group_sizes(modules: tuple[Any, Any]) -> None:
    rows = []
    compute = modules[0].CrossFormer.compute_group_size
    for kind in GROUP_TYPES:
        for depths in ((1, 1, 8, 6), (2, 2, 6, 2), (2, 2, 18, 2), (6, 6, 18, 2)):
            for side in (24, 40, 48, 56, 64, 96):
                given = (7, 7, 14, 7) if kind == "7_14" else (4, 4, 14, 7)
                result = compute(None, list(given), list(depths), [side, side], kind)
                rows.append({"type": kind, "given": given, "depths": depths, "rows": side, "result": result})
    (HERE / "group_sizes.json").write_text("[\n" + ",\n".join(json.dumps(r) for r in rows) + "\n]\n")


def _save(name: str, meta: dict[str, Any], out: dict[str, np.ndarray]) -> None:
    path = HERE / f"{name}.npz"
    np.savez_compressed(path, meta=np.array(json.dumps(meta)), **out)
    print(f"{path.name}: {path.stat().st_size // 1024} kB", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--official", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=None)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(2)
    modules = load(args.official)
    for name in MODELS:
        if args.only is None or name in args.only:
            make_model(name, modules)
    if args.only is None or "blocks" in args.only:
        make_blocks(modules)
    if args.only is None or "group_sizes" in args.only:
        make_group_sizes(modules)


if __name__ == "__main__":
    main()
