"""How fast images are trained on, and which share of what the device can multiply that is.

`python benchmarks/images.py` measures in one run, and writes `book/results/images_speed_DEVICE.json`:

- the device's matrix rate, in float32 and in bfloat16: the best of several large products;
- our training step, as `fmtutor.images.train` takes it (times, noise, labels, flips and images drawn on the device,
  channels-last, clipping, fused Adam, averaged weights), in float32, in bfloat16, and compiled, without attention and
  with it; beside it the plain loop that a tutorial would write, with the same network: eager, float32, as torch lays
  images out, no average;
- the U-Nets of torchcfm and of flow_matching's image example in that plain loop, and ours with as many weights. They
  are measured where they can be imported, and called "not installed" elsewhere: `pip install torchcfm`; the package
  flow_matching has no network, so put the folder `examples/image` of its repository on PYTHONPATH;
- what the convolutions of our network reach by themselves, forwards and backwards, in bfloat16.

`--size small` (what a CPU gets unless told otherwise) takes a minute or two, `--size large` is for a GPU. A CPU works
with one thread, whose own time is counted. Without `--compile yes`, which a GPU gets by itself, no compiler is needed.
The images are random: speed does not look at them.

On a GPU, this is what remains to be measured there, each with the card's own torch:

    make test                                 # the suite, and every notebook as a reader first opens it
    python benchmarks/images.py               # this file
    OPTIONS="--data fashion_mnist --dequantize --width 64 --attention --batch 256 --precision bf16 --compiled"
    for path in linear vp; do for seed in 0 1 2; do
    python -m fmtutor.images train runs/$path-$seed $OPTIONS --schedule $path --seed $seed --steps 20000
    python -m fmtutor.images evaluate runs/$path-$seed --samples 5000 --inception --out runs/$path-$seed.json
    done; done                                # quality against wall-clock is in each run's log.jsonl
    python -m fmtutor.images train runs/cifar --data cifar10 --flip --width 128 --precision bf16 --compiled
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from record import record
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fmtutor import fit
from fmtutor.images import Images, UNet
from fmtutor.images.run import Batches, _loss, accelerator, released

SIZES: dict[str, dict[str, Any]] = {
    "small": {"shape": (1, 28, 28), "batch": 16, "width": 16, "other": 32, "steps": 5, "windows": 5, "product": 1024},
    "large": {
        "shape": (3, 32, 32),
        "batch": 256,
        "width": 128,
        "other": 128,
        "steps": 20,
        "windows": 6,
        "product": 8192,
    },
}
MULTIPLIERS = (1, 2, 2)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def now() -> float:
    """The time, when the device has done all that it was asked for; on a CPU that of the one thread that works."""
    if DEVICE == "cpu":
        return time.process_time()  # whatever else the machine does
    torch.cuda.synchronize()
    return time.perf_counter()


def rate(step: Callable[[], object], *, steps: int, windows: int) -> float:
    """Calls a second: the median over windows of so many, after one that warms up."""
    found = []
    for _ in range(windows + 1):
        began = now()
        for _ in range(steps):
            step()
        found.append(steps / (now() - began))
    return statistics.median(found[1:])


def matrix_rate(dtype: torch.dtype, side: int) -> float:
    """Floating-point operations a second in the product of two square matrices, the best of three sizes."""
    rates = []
    for n in (side // 2, side, 2 * side):
        a, b = (torch.randn(n, n, device=DEVICE).to(dtype) for _ in range(2))
        rates.append(2 * n**3 * rate(lambda a=a, b=b: a @ b, steps=3, windows=3))
    return max(rates)


def operations(network: nn.Module, shape: tuple[int, ...]) -> float:
    """Floating-point operations for an image in a training step, by torch's own count."""
    n = 4
    with FlopCounterMode(display=False) as counter:
        asked(network)(torch.rand(n, device=DEVICE), torch.randn(n, *shape, device=DEVICE)).sum().backward()
    network.zero_grad(set_to_none=True)
    return counter.get_total_flops() / n


def asked(network: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """Any of the networks as `v(t, x)`; flow_matching's wants x first, and a dictionary."""
    if type(network).__module__.startswith("models."):
        return lambda t, x: network(x, t, extra={})
    return network


def plain(network: nn.Module, images: Images, size: dict[str, Any]) -> float:
    """Images a second of the loop that a tutorial would write."""
    network, velocity = network.to(DEVICE).train(), asked(network)
    optimizer, batch, data = torch.optim.Adam(network.parameters(), lr=1e-4), size["batch"], images.images.to(DEVICE)

    def step() -> None:
        x1 = data[torch.randint(len(data), (batch,), device=DEVICE)]
        x0, t = torch.randn_like(x1), torch.rand(batch, device=DEVICE)
        at = t[:, None, None, None]
        loss = (velocity(t, (1 - at) * x0 + at * x1) - (x1 - x0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    return batch * rate(step, steps=size["steps"], windows=size["windows"])


def ours(network: UNet, images: Images, size: dict[str, Any], precision: str = "no", compiled: bool = False) -> float:
    """Images a second of `fit`, in the way in which `fmtutor.images.train` calls it."""
    network.to(DEVICE, memory_format=torch.channels_last)  # type: ignore[call-overload]
    engine, model = accelerator(precision), torch.compile(network) if compiled else network
    model = engine.prepare(model) if engine else model
    batches = Batches(images, 256, size["batch"], device=DEVICE, flip=True, dequantize=True)
    stamps: list[float] = []
    fit(
        model, _loss(model, batches, "linear", labelled=True), steps=size["steps"] * (size["windows"] + 1), lr=1e-4,
        clip=1.0, generators=[batches.generator], callback=lambda _: stamps.append(now()), log_every=size["steps"],
        progress=False, accelerator=engine,
    )  # fmt: skip
    released(network)
    spans = [b - a for a, b in pairwise(stamps)]
    return size["batch"] * size["steps"] / statistics.median(spans)


def convolutions(network: UNet, size: dict[str, Any]) -> float:
    """Floating-point operations a second of all its convolutions by themselves, in bfloat16, channels last."""
    inputs: list[tuple[nn.Conv2d, Tensor]] = []
    found = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    hooks = [m.register_forward_pre_hook(lambda m, given: inputs.append((m, given[0].detach()))) for m in found]
    with torch.no_grad():
        network(0.5, torch.randn(size["batch"], *size["shape"], device=DEVICE))
    for hook in hooks:
        hook.remove()
    work = seconds = 0.0
    for module, given in inputs:
        layer = nn.Conv2d(module.in_channels, module.out_channels, module.kernel_size, padding=module.padding)
        layer.to(DEVICE, torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = given.to(torch.bfloat16, memory_format=torch.channels_last).requires_grad_()
        out = torch.randn_like(layer(x))
        step = lambda x=x, layer=layer, out=out: layer(x).backward(out)  # noqa: E731
        with FlopCounterMode(display=False) as counter:
            step()
        work, seconds = work + counter.get_total_flops(), seconds + 1 / rate(step, steps=size["steps"], windows=3)
    return work / seconds


def torchcfm(size: dict[str, Any]) -> nn.Module:
    from torchcfm.models.unet import UNetModel

    return UNetModel(size["shape"], size["other"], 1, channel_mult=MULTIPLIERS, attention_resolutions="7")


def flow_matching(size: dict[str, Any]) -> nn.Module:
    from models.unet import UNetModel

    channels = size["shape"][0]
    return UNetModel(in_channels=channels, model_channels=size["other"], out_channels=channels, num_res_blocks=1,
                     attention_resolutions=(4,), channel_mult=MULTIPLIERS)  # fmt: skip


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def as_large(weights: int, channels: int) -> UNet:
    """Ours, with attention where theirs has it, of the width that comes nearest to so many weights."""
    return min(
        (unet(w, channels, attention=True) for w in range(8, 264, 8)), key=lambda network: abs(count(network) - weights)
    )


def unet(width: int, channels: int, attention: bool = False) -> UNet:
    return UNet(channels, width, MULTIPLIERS, classes=10, attention=attention)


@contextmanager
def told(rows: list[dict[str, Any]], best: float) -> Iterator[Callable[..., None]]:
    """What takes down a row and prints it."""

    def row(what: str, network: nn.Module, per_second: float, shape: tuple[int, ...]) -> None:
        work = operations(network, shape)
        share = round(per_second * work / best, 4)
        rows.append({"what": what, "weights": count(network), "images_per_second": round(per_second, 1),
                     "operations_per_image": work, "share_of_matrix_rate": share})  # fmt: skip
        print(f"{what:60} {count(network):>10,} {per_second:10.1f}/s {share:7.1%}", flush=True)

    yield row


def measure(size: dict[str, Any], compiled: bool) -> dict[str, Any]:
    """All rows, in one run."""
    rates = {str(dtype)[6:]: matrix_rate(dtype, size["product"]) for dtype in (torch.float32, torch.bfloat16)}
    rows: list[dict[str, Any]] = []
    shape, channels = size["shape"], size["shape"][0]
    images = Images(torch.rand(2000, *shape).mul(255).round() / 127.5 - 1, torch.arange(2000) % 10)
    with told(rows, max(rates.values())) as row:
        for attention in (False, True):
            network, name = unet(size["width"], channels, attention), ", attention" if attention else ""
            row(f"ours{name}, plain loop, eager float32", network, plain(network, images, size), shape)
            for precision, fast in (("no", False), ("bf16", False), ("bf16", True))[: 3 if compiled else 2]:
                words = f"ours{name}, fit, {'bfloat16' if precision == 'bf16' else 'float32'}{', compiled' * fast}"
                network = unet(size["width"], channels, attention)
                row(words, network, ours(network, images, size, precision, fast), shape)
        for build in (torchcfm, flow_matching):
            try:
                network = build(size)
            except ImportError:
                rows.append({"what": build.__name__, "images_per_second": "not installed"})
                continue
            row(f"{build.__name__}, plain loop, eager float32", network, plain(network, images, size), shape)
            like = as_large(count(network), channels)
            row(f"ours as large as {build.__name__}, plain loop, eager float32", like, plain(like, images, size), shape)
            like = as_large(count(network), channels)
            words = f"ours as large as {build.__name__}, fit, bfloat16{', compiled' * compiled}"
            row(words, like, ours(like, images, size, "bf16", compiled), shape)
    share = convolutions(unet(size["width"], channels).to(DEVICE), size) / rates["bfloat16"]
    described = {name: value for name, value in size.items() if name in ("shape", "batch", "steps", "windows")}
    described["clock"] = "of the processor, one thread" if DEVICE == "cpu" else "of the wall"
    return {**described, "matrix_rate": rates, "rows": rows, "convolutions_share_of_bfloat16_rate": round(share, 4)}


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--size", choices=SIZES, default="large" if DEVICE == "cuda" else "small")
    options.add_argument("--compile", choices=("yes", "no"), default="yes" if DEVICE == "cuda" else "no")
    options.add_argument("--note", default="", help="what else the machine was doing")
    given = options.parse_args()
    torch.manual_seed(0)
    if DEVICE == "cpu":
        torch.set_num_threads(1)
    found = measure(SIZES[given.size], given.compile == "yes") | {"note": given.note}
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    print(record(f"images_speed_{re.sub('[^a-z0-9]+', '_', name.lower())}", found))
