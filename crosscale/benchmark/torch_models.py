"""Runs as a program of its own, in any Python that has torch and timm: one measurement of one of their models.

    python torch_models.py '{"mode": "infer", "model": "crossvit_9_240", "variant": "eager", ...}'

Answers with one JSON line: the fields of `crosscale.benchmark.stopwatch.timed`, "first_call", "peak_bytes", "device",
"settings" and "matmul_flops"; or {"error": reason} where the variant cannot run.
"""

import contextlib
import importlib.util
import json
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter()


def _module(name: str, path: Path) -> Any:
    """A file as a module of its own, which torch.compile finds under its name."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _sibling(name: str) -> Any:
    """A module beside this file, which is no part of a package here."""
    return _module(name, Path(__file__).with_name(f"{name}.py"))


# The files beside this one must not be taken for top-level modules of the same names.
sys.path[:] = [place for place in sys.path if Path(place).resolve() != Path(__file__).parent.resolve()]
stopwatch = _sibling("stopwatch")

# torchvision may come built for another torch; its operators are not needed here
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))

import torch  # noqa: E402
from torch import nn  # noqa: E402

Step = Callable[[], None]


def build(request: dict[str, Any]) -> nn.Module:
    """The model as its library makes it, or the torch twin of a segmentation; untrained, with no drop rates."""
    torch.manual_seed(0)
    if request["against"] == "official":
        fpn = _sibling("torch_fpn")
        fpn.stub_frameworks()
        released = _module("released_crossformer", Path(request["peer_repo"]) / request["peer_file"])
        network = released.CrossFormer(**request["peer_options"], drop_path_rate=0.0)
        head = request.get("peer_head")
        return network if head is None else fpn.SemanticFPN(network, **head)
    import timm

    return timm.create_model(request["peer_model"], pretrained=False, drop_rate=0.0, drop_path_rate=0.0)


class Bench:
    """One model with its batch, at one choice of settings."""

    def __init__(self, model: nn.Module, request: dict[str, Any], device: torch.device) -> None:
        self.request, self.device = request, device
        self.train = request["mode"] == "train"
        self.model = model.to(device).train(self.train)
        generator = torch.Generator().manual_seed(0)
        batch = request["batch_size"]
        images = torch.randint(0, 256, (batch, 3, *request["size"]), generator=generator, dtype=torch.uint8)
        mean, std = (torch.tensor(request[name]).reshape(1, 3, 1, 1) for name in ("mean", "std"))
        self.images = ((images.float() / 255 - mean) / std).to(device)
        places = (batch,) if request.get("peer_head") is None else (batch, *request["size"])
        self.labels = torch.randint(0, request["classes"], places, generator=generator).to(device)
        self.call: Any = self.model
        self.optimizer: Any = None

    def choose(self, channels_last: bool, cast: bool) -> None:
        """Puts the weights and the batch into a memory format, and into bfloat16 if `cast`."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        dtype = torch.bfloat16 if cast else torch.float32
        self.model.to(dtype=dtype, memory_format=layout)
        self.images = self.images.to(dtype=dtype, memory_format=layout)
        self.cast = cast

    @contextlib.contextmanager
    def precision(self) -> Iterator[None]:
        autocast = self.request["dtype"] == "bfloat16" and not self.cast
        with torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
            yield

    def infer(self) -> None:
        with torch.inference_mode(), self.precision():
            logits = self.call(self.images)
            self.wait(logits)

    def step(self) -> None:
        with self.precision():
            loss = nn.functional.cross_entropy(self.call(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.wait(loss)

    def wait(self, result: torch.Tensor) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        elif result.device.type != "cpu":
            result.cpu()

    def prepare(self) -> Step:
        if not self.train:
            return self.infer
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.05, fused=True)
        return self.step


def candidates(request: dict[str, Any], variant: str) -> list[tuple[bool, bool]]:
    """The (channels last, weights in bfloat16) pairs among which a short trial chooses."""
    bfloat16 = request["dtype"] == "bfloat16"
    # A training step keeps its weights in float32, as ours does.
    casts = [False, True] if bfloat16 and request["mode"] == "infer" else [False]
    if request["trial"] is not None:
        return [tuple(request["trial"])]
    return [(channels_last, cast) for cast in casts for channels_last in (False, True)]


def matmul_flops(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """FLOP/s of the quickest of several products of two square matrices."""
    with torch.inference_mode():
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

        def product() -> None:
            out = a @ b
            if device.type == "cuda":
                torch.cuda.synchronize()
            del out

        return 2 * side**3 / stopwatch.best(product, 8)


def measure(request: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(stopwatch.cores())
    cuda = torch.cuda.is_available() and request["platform"] != "cpu"
    device = torch.device("cuda" if cuda else "cpu")
    torch.set_float32_matmul_precision("high" if request["tf32"] else "highest")
    torch.backends.cudnn.allow_tf32 = request["tf32"]
    bench = Bench(build(request), request, device)
    imported = time.perf_counter() - BEGAN
    choice = _quickest(bench, candidates(request, request["variant"]))
    bench.choose(*choice)
    step = bench.prepare()
    settings = {"channels_last": choice[0], "bfloat16_weights": choice[1], "threads": torch.get_num_threads()}
    if request["variant"] == "compiled":
        settings |= _compile(bench, cuda)
    first = stopwatch.first_call(step)
    result = stopwatch.timed(step, request["seconds"])
    peak = torch.cuda.max_memory_allocated() if cuda else stopwatch.host_peak_bytes()
    dtype = torch.bfloat16 if request["dtype"] == "bfloat16" else torch.float32
    return {
        **result,
        "first_call": first,
        "start": imported,
        "peak_bytes": peak,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "settings": settings,
        "trial": list(choice),
        "matmul_flops": matmul_flops(device, dtype, request["matmul"] if not cuda else 8192),
        "versions": _versions(request),
    }


def _quickest(bench: Bench, choices: list[tuple[bool, bool]]) -> tuple[bool, bool]:
    """The settings under which eager inference is quickest; training takes the same memory format."""
    if len(choices) == 1:
        return choices[0]
    bench.model.eval()
    times = {}
    for choice in choices:
        bench.choose(*choice)
        times[choice] = stopwatch.best(bench.infer, 2)
    bench.choose(False, False)
    bench.model.train(bench.train)
    return min(times, key=lambda choice: times[choice])


def _compile(bench: Bench, cuda: bool) -> dict[str, Any]:
    settings: dict[str, Any] = {"dynamic": False}
    if not bench.train:
        import torch._inductor.config as inductor

        inductor.freezing = settings["freezing"] = True
        if cuda:
            settings["mode"] = "reduce-overhead"
    # A compiled program captures the model, so the model is compiled, not the step with its optimizer.
    bench.call = torch.compile(bench.model, dynamic=False, mode=settings.get("mode"))
    return settings


def _versions(request: dict[str, Any]) -> dict[str, str]:
    versions = {"torch": torch.__version__}
    timm = sys.modules.get("timm")
    return versions | ({"timm": timm.__version__} if timm is not None else {})


def main() -> None:
    request = json.loads(sys.argv[1])
    try:
        answer = measure(request)
    except Exception as error:  # whatever the variant fails with becomes its row
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        answer = {"error": f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
