"""Every option of `train` arrives where it belongs: five steps against the same steps written out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from fmtutor.images import ImageModel, UNet, train
from fmtutor.images.run import Batches, load

OPTIONS: dict[str, Any] = {"steps": 5, "batch": 8, "lr": 0.01, "warmup": 0.4, "ema": 0.3, "clip": 0.05, "seed": 3}
OPTIONS |= {"schedule": "cosine", "labelled": True, "drop": 0.5, "times": "late", "flip": True, "dequantize": True}
SHAPE: dict[str, Any] = {"width": 8, "multipliers": (1, 2), "attention": True}


def by_hand(
    *, steps: int, batch: int, lr: float, warmup: float, ema: float, clip: float, seed: int, schedule: str,
    labelled: bool, shape: dict[str, Any] = SHAPE, **draws: Any,
) -> tuple[list[float], torch.Tensor]:  # fmt: skip
    """Losses, and how far the averaged weights came, of a loop that owes nothing to `fit`, the paths or the losses."""
    data, levels = load("digits")
    torch.manual_seed(seed)
    network = UNet(1, classes=10 if labelled else None, **shape).to(memory_format=torch.channels_last)
    batches = Batches(data, levels, batch, seed=seed, **draws)
    optimizer = torch.optim.Adam(network.parameters())
    weights = list(network.parameters())
    start, means = ([w.detach().clone() for w in weights] for _ in range(2))
    losses, rise = [], round(warmup * steps)
    for step in range(steps):
        x0, x1, t, label = batches()
        x1, s = x1.to(memory_format=torch.channels_last), t[:, None, None, None]
        a = s * math.pi / 2
        xt, ut = (
            (s * x1 + (1 - s) * x0, x1 - x0)
            if schedule == "linear"
            else (a.sin() * x1 + a.cos() * x0, math.pi / 2 * (a.cos() * x1 - a.sin() * x0))
        )
        loss = (network(t, xt, label=label if labelled else None) - ut).square().mean()
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        length = torch.stack([g.norm() for g in gradients if g is not None]).norm()
        for w, g in zip(weights, gradients, strict=True):
            w.grad = g if g is None else g * min(1.0, clip / (length + 1e-6))
        past = (step - rise) / (steps - rise)
        optimizer.param_groups[0]["lr"] = lr * (
            (step + 1) / rise if step < rise else (1 + math.cos(math.pi * past)) / 2
        )
        optimizer.step()
        decay = min(ema, (1 + step) / (10 + step))
        for mean, w in zip(means, weights, strict=True):
            mean.mul_(decay).add_(w.detach(), alpha=1 - decay)
        losses.append(loss.item())
    return losses, torch.cat([(mean - w0).flatten() for mean, w0 in zip(means, start, strict=True)])


def weights_of(network: UNet) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def same(a: tuple[list[float], torch.Tensor], b: tuple[list[float], torch.Tensor]) -> bool:
    """Where a gradient is zero but for rounding, Adam makes a step of it: so weights are compared as a whole."""
    if a[1].shape != b[1].shape:
        return False
    return a[0] == pytest.approx(b[0], rel=1e-4) and bool((a[1] - b[1]).norm() < 0.03 * b[1].norm())


def test_a_training_is_the_steps_written_out_and_every_option_counts(tmp_path: Path) -> None:
    model, history = train(tmp_path, "digits", **OPTIONS, **SHAPE, look_every=5, progress=False)
    torch.manual_seed(OPTIONS["seed"])
    start = weights_of(UNet(1, classes=10, **SHAPE))
    found = history.losses.tolist(), weights_of(model.network) - start
    assert same(found, by_hand(**OPTIONS))
    kept = ImageModel.load(tmp_path / "model.safetensors")
    assert weights_of(kept.network).equal(weights_of(model.network))
    assert kept.schedule == model.schedule == "cosine"
    others = {"lr": 0.02, "warmup": 0.0, "ema": 0.0, "clip": 10.0, "seed": 4, "schedule": "linear", "labelled": False}
    others |= {"drop": 0.1, "times": "uniform", "flip": False, "dequantize": False, "batch": 7}
    for name, other in others.items():  # unlabelled, the network itself is smaller
        assert not same(found, by_hand(**(OPTIONS | {name: other}))), f"{name} would not be missed"
