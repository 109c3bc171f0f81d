"""Checks of the exercises of chapter 1, normalizing flows: densities of moved points, inverses and log-determinants.

Add an exercise by writing a function that returns what is wrong with an answer, and its name in `__all__`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fmtutor.check._diagnose import choose, diagnose
from fmtutor.check._exercise import exercise

__all__ = [
    "coupling_inverse",
    "forgotten_volume",
    "lognormal_log_prob",
    "network_passes",
    "pixel_bits",
    "planar_log_det",
    "untouched_half",
]


def _normal(z: Tensor) -> Tensor:
    return -0.5 * z**2 - 0.5 * math.log(2 * math.pi)


@exercise(
    chapter=1, right="Right: back to `z = log x`, and minus `log x`, because at `z` the map stretches by `exp(z)`."
)
def lognormal_log_prob(answer: Any) -> str | None:
    """Write `log_prob(x)`, the log-density at `x > 0` of `x = exp(z)` with standard normal `z`."""
    points = [(torch.linspace(0.1, 6, 40),)]
    mistakes = {
        "That is the density of the `z` it came from. The map stretched it on the way: the log of the stretch is "
        "missing.": lambda x: _normal(x.log()),
        "The stretch has the wrong sign: where the map pulls points apart, the density falls.": (
            lambda x: _normal(x.log()) + x.log()
        ),
        "The stretch is `exp(z)`, which is `x` itself; you subtracted it, but its *logarithm* is wanted.": (
            lambda x: _normal(x.log()) - x
        ),
        "`x` came from `z = log x`, so the normal density is taken there, not at `exp(x)`.": (
            lambda x: _normal(x.exp()) - x.log()
        ),
        "The normal density is taken at `x`; take it at the point that `x` came from.": lambda x: _normal(x) - x.log(),
        "That is the density; its logarithm is asked for.": lambda x: (_normal(x.log()) - x.log()).exp(),
        "The constant of the normal density is missing: without `log(2 pi) / 2` it does not integrate to one.": (
            lambda x: -0.5 * x.log() ** 2 - x.log()
        ),
    }
    return diagnose(answer, lambda x: _normal(x.log()) - x.log(), mistakes, points)


@exercise(
    chapter=1, right="Right: the first half is still there, so the same scale and shift can be computed and undone."
)
def coupling_inverse(answer: Any) -> str | None:
    """Write `inverse(x, log_scale, shift)`, which undoes `x = [a, b * exp(log_scale(a)) + shift(a)]`."""

    def log_scale(a: Tensor) -> Tensor:
        return torch.sin(2 * a)

    def shift(a: Tensor) -> Tensor:
        return a**2 - 1

    def undo(b: Any, seen: Any = lambda a, b: a) -> Any:
        """The version that moves the second half by `b(second, s, t)`, with s and t of what it has `seen`."""

        def inverse(x: Tensor) -> Tensor:
            first, second = x.chunk(2, 1)
            given = seen(first, second)
            return torch.cat([first, b(second, log_scale(given), shift(given))], 1)

        return inverse

    right = undo(lambda x, s, t: (x - t) * torch.exp(-s))
    mistakes = {
        "Undo the last step first: subtract the shift, then divide by the scale.": undo(
            lambda x, s, t: x * torch.exp(-s) - t
        ),
        "That multiplies by the scale once more; divide by it: `exp(-log_scale)`.": undo(
            lambda x, s, t: (x - t) * torch.exp(s)
        ),
        "`log_scale` is a logarithm: divide by its exponential.": undo(lambda x, s, t: (x - t) / s),
        "That adds the shift once more; subtract it.": undo(lambda x, s, t: (x + t) * torch.exp(-s)),
        "Scale and shift were computed from the half that did not move, the first one; you gave them the second.": undo(
            lambda x, s, t: (x - t) * torch.exp(-s), lambda a, b: b
        ),
        "That goes forwards once more: the order of the steps and both signs turn round.": undo(
            lambda x, s, t: x * torch.exp(s) + t
        ),
        "That is the second half alone; put the first one, which did not move, back in front.": (
            lambda x: right(x)[:, 2:]
        ),
        "The halves are swapped: what stood first stands first again.": lambda x: right(x).roll(2, 1),
    }
    given = (lambda x: answer(x, log_scale, shift)) if callable(answer) else answer
    return diagnose(given, right, mistakes, [(torch.randn(16, 4),)])


@exercise(chapter=1, right="Right: one direction is stretched, by `1 + u.w h'`, and all the others are left alone.")
def planar_log_det(answer: Any) -> str | None:
    """Write `log_det(z, u, w, b)` of `x = z + u tanh(w.z + b)`, for `z` of shape `(batch, dim)`; one number a row."""
    z = torch.randn(16, 3)
    points = [(z, torch.tensor([1.0, -0.5, 0.8]), torch.tensor([0.7, 1.2, 1.0]), torch.tensor(b)) for b in (-0.4, 0.3)]

    def slope(z: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return 1 - torch.tanh(z @ w + b) ** 2

    mistakes = {
        "That is the determinant; its logarithm is asked for.": lambda z, u, w, b: 1 + (u @ w) * slope(z, w, b),
        "The 1 is missing: the Jacobian is the identity *plus* `h' u w^T`, because `x` starts with `z`.": (
            lambda z, u, w, b: torch.log(((u @ w) * slope(z, w, b)).abs())
        ),
        "A Jacobian holds derivatives: that of tanh is `1 - tanh^2`.": (
            lambda z, u, w, b: torch.log((1 + (u @ w) * torch.tanh(z @ w + b)).abs())
        ),
        "The sign is turned: that is the log-determinant of the way back.": (
            lambda z, u, w, b: -torch.log(1 + (u @ w) * slope(z, w, b))
        ),
        "`u` and `w` meet as `u.w`; `w.w` belongs to a push along `w` itself.": (
            lambda z, u, w, b: torch.log(1 + (w @ w) * slope(z, w, b))
        ),
        "The derivative of tanh is one minus its *square*.": (
            lambda z, u, w, b: torch.log((1 + (u @ w) * (1 - torch.tanh(z @ w + b))).abs())
        ),
        "The slope is taken at `w.z` without `b`.": lambda z, u, w, b: torch.log(1 + (u @ w) * slope(z, w, 0 * b)),
        "The determinant is that of one number a row, not one for each coordinate: multiply `u` and `w` as vectors.": (
            lambda z, u, w, b: torch.log((1 + u * w * slope(z, w, b)[:, None]).abs()).sum(1)
        ),
    }
    return diagnose(answer, lambda z, u, w, b: torch.log(1 + (u @ w) * slope(z, w, b)), mistakes, points)


@exercise(chapter=1, right="Right: the half that decides never moves, however many layers keep the same half.")
def untouched_half(answer: Any) -> str | None:
    """Say which coordinates of `z` come out of two couplings in a row as they went in, if neither flips the halves."""
    mistakes = {
        "the second half": "The second half is the one that moves, in both layers.",
        "both halves": "A coupling does move something: the half that it scales and shifts.",
        "neither half": "So it is with a flip between the two. Without one, which half does the second layer keep?",
    }
    return choose(answer, "the first half", mistakes)


@exercise(
    chapter=1,
    right="Right: the cell of a whole number has volume `levels ** -dims`, which is `log2(levels)` bits each.",
)
def pixel_bits(answer: Any) -> str | None:
    """Write `bits(log_prob, dims, levels)`: bits per dimension of whole numbers from their dequantised log-density."""
    log_prob = torch.tensor([-120.0, -10.0, 0.0, 35.5, 130.0])
    points = [(log_prob, dims, levels) for dims, levels in ((64, 17), (3, 256))]
    mistakes = {
        "The density of numbers in [0, 1) is not enough: a whole number owns a cell. Add `log2(levels)`.": (
            lambda log_prob, dims, levels: -log_prob / dims / math.log(2)
        ),
        "The cell makes a whole number *less* likely than the density says, so it costs more bits: the sign of "
        "`log2(levels)` is turned.": lambda log_prob, dims, levels: -log_prob / dims / math.log(2) - math.log2(levels),
        "The first term is in bits and the second in nats: `log2(levels)`.": (
            lambda log_prob, dims, levels: -log_prob / dims / math.log(2) + math.log(levels)
        ),
        "These are nats: divide by `log(2)`.": lambda log_prob, dims, levels: -log_prob / dims + math.log(levels),
        "The first term is in nats and the second in bits: divide the log-density by `log(2)`.": (
            lambda log_prob, dims, levels: -log_prob / dims + math.log2(levels)
        ),
        "That is for the whole image: divide by `dims`.": (
            lambda log_prob, dims, levels: -log_prob / math.log(2) + dims * math.log2(levels)
        ),
        "The cell is small in *each* dimension, so `log2(levels)` is not divided by `dims`.": (
            lambda log_prob, dims, levels: (-log_prob / math.log(2) + math.log2(levels)) / dims
        ),
        "Bits are a cost: a likelier image takes fewer. The sign of `log_prob` is turned.": (
            lambda log_prob, dims, levels: log_prob / dims / math.log(2) + math.log2(levels)
        ),
    }

    def right(log_prob: Tensor, dims: int, levels: int) -> Tensor:
        return -log_prob / dims / math.log(2) + math.log2(levels)

    return diagnose(answer, right, mistakes, points)


@exercise(chapter=1, right="Right: 64 numbers one after the other, in each of 8 layers, for the whole batch at once.")
def network_passes(answer: Any) -> str | None:
    """Say how many passes of its networks a stack of 8 autoregressive layers takes to draw 445 digits of 64 pixels."""
    mistakes = {
        "That is the price of the *density*, where every number is known. A sample has to wait, pixel by pixel.": 8.0,
        "That is one layer. The next one cannot start before it is through.": 64.0,
        "The digits of a batch go through a network together.": 445.0 * 8 * 64,
        "Each pixel waits for those before it, each digit does not wait for the others; and a pixel passes every "
        "layer.": 445.0 * 64,
        "Layers and pixels multiply: all pixels of one layer, then all pixels of the next.": 72.0,
    }
    return diagnose(answer, 512.0, mistakes, tolerance=1e-6)


@exercise(
    chapter=1, right="Right: all data are squeezed to the peak of the base density, and `-log p0(0) = log(2 pi)`."
)
def forgotten_volume(answer: Any) -> str | None:
    """Say to which value, in nats, the loss in the plane falls if the log-determinant is left out of it."""
    mistakes = {
        "A density can be larger than 1, but this loss is only `-log p0(z)`, and p0 has a peak of finite height.": (
            -math.inf
        ),
        "Zero would need a base density of 1 at its peak. How high is the standard normal of the plane there?": 0.0,
        "That is the entropy of the checkerboard, the floor of the *right* loss. This one knows nothing of volume.": (
            math.log(8 / 0.45**2)
        ),
        "That is one coordinate; the plane has two.": 0.5 * math.log(2 * math.pi),
        "That is the entropy of the base: what the loss is where `z` is spread as noise. It falls lower.": (
            1 + math.log(2 * math.pi)
        ),
        "The sign is turned: the loss is *minus* the log of the peak of the base density.": -math.log(2 * math.pi),
    }
    return diagnose(answer, math.log(2 * math.pi), mistakes, tolerance=5e-3)
