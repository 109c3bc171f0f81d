"""The U-Net a second time, as one straight line of arithmetic over its weights: both must give the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from fmtutor.images import UNet

F64 = torch.float64
MISTAKES = [
    "scale without its 1",
    "max for average",
    "label after the activation",
    "label before the clock's network",
    "half the highest frequency",
    "shift before scale",
    "no shortcut",
    "bridge below",
    "smooth upsampling",
    "one group",
]


def swish(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def by_hand(net: UNet, t: Tensor, x: Tensor, label: Tensor | None, mistake: str = "") -> Tensor:
    """What `UNet.forward` should compute, from its state_dict and the formulas alone."""
    w = dict(net.state_dict())

    def linear(name: str, h: Tensor) -> Tensor:
        return h @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def normal(name: str, h: Tensor) -> Tensor:
        groups = 1 if mistake == "one group" else 8
        parts = h.reshape(len(h), groups, -1)
        centred = parts - parts.mean(2, keepdim=True)
        h = (centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()).reshape(h.shape)
        return h * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    def conv(name: str, h: Tensor, padding: int = 1) -> Tensor:
        return conv2d(h, w[f"{name}.weight"], w[f"{name}.bias"], padding=padding)

    def block(name: str, h: Tensor) -> Tensor:
        both = linear(f"{name}.modulate", active)[:, :, None, None]
        half = both.shape[1] // 2
        scale, shift = both[:, :half], both[:, half:]
        between = normal(f"{name}.norm2", conv(f"{name}.conv1", swish(normal(f"{name}.norm1", h))))
        if mistake == "scale without its 1":
            between = between * scale + shift
        elif mistake == "shift before scale":
            between = (between + shift) * (1 + scale)
        else:
            between = between * (1 + scale) + shift
        beside = conv(f"{name}.shortcut", h, 0) if f"{name}.shortcut.weight" in w else h
        return conv(f"{name}.conv2", swish(between)) + (0 if mistake == "no shortcut" else beside)

    highest = 50.0 if mistake == "half the highest frequency" else 100.0
    angle = t[:, None] * highest ** (torch.arange(32, dtype=x.dtype) / 31)
    clock = torch.cat([torch.sin(angle), torch.cos(angle)], 1)
    said = 0 if label is None and net.classes == 0 else w["label.weight"][net.classes if label is None else label]
    embedding = linear("time.mlp.2", swish(linear("time.mlp.0", clock)))
    if mistake == "label before the clock's network":
        embedding = linear("time.mlp.2", swish(linear("time.mlp.0", clock) + said))
        active = swish(embedding)
    else:
        active = swish(embedding) + said if mistake == "label after the activation" else swish(embedding + said)

    h, seen = conv("first", x), []
    for level in range(len(net.down)):
        if level:
            b, c, height, width = h.shape
            cells = h.reshape(b, c, height // 2, 2, width // 2, 2)
            h = cells.amax((3, 5)) if mistake == "max for average" else cells.mean((3, 5))
        h = block(f"down.{level}", h)
        seen.append(h)
    h = block("middle", h)
    for level in range(len(net.up)):
        if level:
            h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
            if mistake == "smooth upsampling":
                h = (h + h.roll(1, 3)) / 2
        bridge = seen.pop()
        h = block(f"up.{level}", torch.cat([bridge, h] if mistake == "bridge below" else [h, bridge], 1))
    return conv("last.2", swish(normal("last.0", h)))


def shaken(**arguments: object) -> UNet:
    """A network none of whose weights is where it starts: no 1 of a norm, no 0 of a bias hides a mistake."""
    net = UNet(**arguments).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    net.time.frequencies.copy_(100.0 ** (torch.arange(32, dtype=F64) / 31))  # they are made in float32
    return net


@pytest.mark.parametrize(
    "arguments",
    [
        {"width": 8, "classes": 3},
        {"width": 16, "channels": 3, "classes": 2, "multipliers": (1, 2, 3, 1)},
        {"width": 8, "multipliers": (1, 2)},
        {"width": 8, "multipliers": (2,), "classes": 1},
    ],
    ids=repr,
)
def test_the_network_is_its_formulas(arguments: dict) -> None:
    net = shaken(**arguments)
    t, x = torch.rand(5, dtype=F64), torch.randn(5, net.channels, 16, 8, dtype=F64)
    torch.testing.assert_close(net(t, x), by_hand(net, t, x, None), rtol=1e-9, atol=1e-9)
    if net.classes:
        label = torch.randint(net.classes + 1, (5,))
        torch.testing.assert_close(net(t, x, label), by_hand(net, t, x, label), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_planted_mistake_changes_the_numbers(mistake: str) -> None:
    net = shaken(width=16, channels=3, classes=2, multipliers=(1, 2, 3, 1))
    t, x, label = torch.rand(5, dtype=F64), torch.randn(5, 3, 16, 8, dtype=F64), torch.tensor([0, 1, 2, 0, 1])
    right, wrong = net(t, x, label), by_hand(net, t, x, label, mistake)
    assert (right - wrong).abs().max() > 1e-2 * right.abs().max()


def test_the_clock_runs_from_one_to_a_hundred_radians() -> None:
    frequencies = UNet(width=8).time.frequencies
    torch.testing.assert_close(frequencies, 100.0 ** (torch.arange(32) / 31), rtol=1e-5, atol=0)
