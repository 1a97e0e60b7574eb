"""`crosscale models`: the presets and what they cost."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from crosscale.cli.arguments import EXIT_STATUS, Parser
from crosscale.cli.output import print_json, print_table, progress_bar
from crosscale.errors import RequestError, did_you_mean

if TYPE_CHECKING:
    from crosscale.models.presets import Preset

HELP = """\
Lists the presets: parameters, GMACs, input size, published accuracy and where the weights are.

Parameters and GMACs (10^9 multiply-accumulates of one image) are counted from the model itself, at its
own input size and number of classes; top-1 (percent, ImageNet-1k validation), mIoU (percent, ADE20K
validation, at one scale and at several) and AP (percent, COCO validation) are the published figures.
A preset's full name, or one of its aliases, shows that preset in full."""

EPILOG = f"""\
examples:
  crosscale models
  crosscale models 'crossvit_*_dagger_*'
  crosscale models crossvit_9_240 --json

{EXIT_STATUS}"""


def run(argv: Sequence[str], *, as_json: bool) -> int:
    """Prints the presets that match, or one in full. Raises RequestError if none matches."""
    parser = Parser("models", description=HELP, epilog=EPILOG)
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", default="*", help="a name, or names with * and ?")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    pattern = parser.parse(argv).pattern

    from crosscale.models.registry import get_preset, list_models

    if not any(mark in pattern for mark in "*?["):
        return _print_one(_describe(get_preset(pattern)), as_json)
    names = list_models(pattern)
    if not names:
        hint = did_you_mean(pattern.strip("*"), list_models("*"))
        raise RequestError(f"no model matches '{pattern}'{hint or '; `crosscale models` lists all'}")
    with progress_bar("counting") as report:
        models = []
        for done, name in enumerate(names):
            report(done, len(names))
            models.append(_describe(get_preset(name)))
    if as_json:
        print_json({"models": models})
    else:
        _print_all(models)
    return 0


def _describe(preset: "Preset") -> dict[str, Any]:
    from crosscale.measure import preset_costs
    from crosscale.models.registry import FAMILIES

    family = next(name for name, (_, presets) in FAMILIES.items() if preset in presets)
    costs = preset_costs(preset.name)
    return {
        "name": preset.name,
        "aliases": list(preset.aliases),
        "family": family,
        "parameters": costs.parameters,
        "macs": costs.macs,
        "formula_macs": costs.formula_macs,
        "activation_bytes": costs.activations,
        "input_spec": asdict(preset.input_spec),
        "published": asdict(preset.published),
        "hub": preset.hub,
        "config": dict(preset.config),
    }


def _print_all(models: Sequence[dict[str, Any]]) -> None:
    """A table for each kind of published figures."""
    segmenters, detectors = ([m for m in models if key in m["published"]] for key in ("miou", "box_ap"))
    _print_table([model for model in models if model not in (*segmenters, *detectors)], {"top-1": "top1"})
    _print_table(segmenters, {"mIoU": "miou", "multi-scale": "miou_multi_scale"})
    _print_table(detectors, {"box AP": "box_ap", "mask AP": "mask_ap"})


def _print_table(models: Sequence[dict[str, Any]], measures: dict[str, str]) -> None:
    """`measures`: a published figure's key, by its column's heading."""
    if not models:
        return
    numbers = ["parameters", "GMACs", "as run", "activations", "input", *measures]
    rows = [
        [
            model["name"],
            f"{model['parameters']:,}",
            f"{model['formula_macs'] / 1e9:.2f}",
            f"{model['macs'] / 1e9:.2f}",
            f"{model['activation_bytes'] / 2**20:.1f} MiB",
            _size(model),
            *(_exact(model["published"][key], "") for key in measures.values()),
            model["published"]["source"] or "",
            model["hub"] or "",
        ]
        for model in models
    ]
    optional = ("weights", "source", "activations", "as run", "input", *list(measures)[1:])
    print_table(["model", *numbers, "source", "weights"], rows, right=numbers, optional=optional)


def _print_one(model: dict[str, Any], as_json: bool) -> int:
    if as_json:
        print_json(model)
        return 0
    spec, published = model["input_spec"], model["published"]
    rows = [
        ["model", model["name"]],
        ["aliases", ", ".join(model["aliases"]) or "none"],
        ["family", model["family"]],
        ["parameters", f"{model['parameters']:,}"],
        ["GMACs", f"{model['formula_macs'] / 1e9:.3f} by the paper's formulas ({_published_macs(published)})"],
        ["GMACs as run", f"{model['macs'] / 1e9:.3f}"],
        ["activations", f"{model['activation_bytes'] / 2**20:.1f} MiB alive at once for one image in float32"],
        [
            "input",
            f"{_size(model)}, {spec['channels']} channels, {spec['interpolation']}, crop {spec['crop_pct']}",
        ],
        ["mean, std", f"{_numbers(spec['mean'])}, {_numbers(spec['std'])}"],
        ["published", _published(published)],
        ["source", published["source"] or "none"],
        ["weights", model["hub"] or "none"],
        *([name, str(value)] for name, value in model["config"].items()),
    ]
    print_table(["", ""], rows)
    return 0


def _published_macs(published: dict[str, Any]) -> str:
    if published["gmacs"] is None:
        return "none published"
    at = " of {} x {}".format(*published["gmacs_size"]) if "gmacs_size" in published else ""
    return f"published {published['gmacs']}{at}"


def _published(published: dict[str, Any]) -> str:
    if "miou" in published:
        return f"mIoU {_exact(published['miou'])}, at several scales {_exact(published['miou_multi_scale'])}"
    if "box_ap" in published:
        return f"AP of boxes {_exact(published['box_ap'])}, of masks {_exact(published['mask_ap'])}"
    return f"top-1 {_exact(published['top1'])}, top-5 {_exact(published['top5'])}"


def _size(model: dict[str, Any]) -> str:
    height, width = model["input_spec"]["size"]
    return f"{height} x {width}"


def _exact(value: float | None, missing: str = "none") -> str:
    """A figure with as many places as were published."""
    return missing if value is None else f"{value:g}"


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
