"""The densities of chapter 1, each beside the versions of it that a hurried reader writes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fmtutor.check._diagnose import diagnose
from fmtutor.check._exercise import exercise


def _normal(z: Tensor) -> Tensor:
    return -0.5 * z**2 - 0.5 * math.log(2 * math.pi)


_LOGNORMAL = {
    "That is the density of the `z` it came from. The map stretched it on the way: the log of the "
    "stretch is missing.": (lambda x: _normal(x.log())),
    "The stretch has the wrong sign: where the map pulls points apart, the density falls.": (
        lambda x: _normal(x.log()) + x.log()
    ),
    "The stretch is `exp(z)`, which is `x` itself; you subtracted it, but its *logarithm* is wanted.": (
        lambda x: _normal(x.log()) - x
    ),
    "`x` came from `z = log x`, so the normal density is taken there, not at `exp(x)`.": (
        lambda x: _normal(x.exp()) - x.log(),
        lambda x: _normal(x.exp()),
    ),
    "This moves `x` forwards once more. It came out of the exponential: go *back* to `z = log x`, where the stretch "
    "is `exp(z)`.": (lambda x: _normal(x.exp()) + x, lambda x: _normal(x.exp()) - x),
    "`exp` for `log` in the second term: the stretch at `z` is `exp(z) = x`, and its logarithm is `log x`.": (
        lambda x: _normal(x.log()) - x.exp()
    ),
    "The normal density is taken at `x`; take it at the point that `x` came from.": lambda x: _normal(x) - x.log(),
    "That is the normal density at `x` itself, as if nothing had been moved: go back to `z`, and count the stretch.": (
        lambda x: _normal(x)
    ),
    "A *density* is divided by `x`. Its logarithm has `log x` taken away.": lambda x: _normal(x.log()) / x,
    "That is the density; its logarithm is asked for.": lambda x: (_normal(x.log()) - x.log()).exp(),
    "The constant of the normal density is missing: without `log(2 pi) / 2` it does not integrate to one.": (
        lambda x: -0.5 * x.log() ** 2 - x.log()
    ),
    "The exponent of the normal density is `z ** 2 / 2`: the half is missing.": (
        lambda x: 2 * _normal(x.log()) + 0.5 * math.log(2 * math.pi) - x.log()
    ),
    "The slope of `log x` is `1 / x`, and what is added is its *logarithm*, `-log x`.": (
        lambda x: _normal(x.log()) + 1 / x,
        lambda x: _normal(x.log()) - 1 / x,
    ),
    "That is the distribution function, the share of the points below `x`. The density is its slope.": (
        lambda x: torch.special.ndtr(x.log()),
        lambda x: torch.special.ndtr(x.log()).log(),
    ),
    "The stretch is counted twice.": lambda x: _normal(x.log()) - 2 * x.log(),
}


@exercise(
    chapter=1,
    number=1,
    right="Right: back to `z = log x`, and minus `log x`, because at `z` the map stretches by `exp(z)`.",
)
def lognormal_log_prob(answer: Any) -> str | None:
    """Write `log_prob(x)`, the log-density at `x > 0` of `x = exp(z)` with standard normal `z`."""
    points = [(torch.exp(torch.linspace(-4, 4, 24) + 0.1 * torch.rand(24)),), (1 + 4 * torch.rand(24),)]
    return diagnose(answer, lambda x: _normal(x.log()) - x.log(), _LOGNORMAL, points)


_BITS = {
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
    "To get from nats to bits, divide by `log(2)`: a bit is 0.69 nats. You multiplied.": (
        lambda log_prob, dims, levels: -log_prob / dims * math.log(2) + math.log2(levels),
        lambda log_prob, dims, levels: (-log_prob / dims + math.log(levels)) * math.log(2),
    ),
    "That is for the whole image: divide by `dims`.": (
        lambda log_prob, dims, levels: -log_prob / math.log(2) + dims * math.log2(levels)
    ),
    "The first term is for the whole image and the second for one number: the log-density is not divided by `dims`.": (
        lambda log_prob, dims, levels: -log_prob / math.log(2) + math.log2(levels)
    ),
    "The cell is small in *each* dimension, so `log2(levels)` is not divided by `dims`.": (
        lambda log_prob, dims, levels: (-log_prob / math.log(2) + math.log2(levels)) / dims
    ),
    "Bits are a cost: a likelier image takes fewer. The sign of `log_prob` is turned.": (
        lambda log_prob, dims, levels: log_prob / dims / math.log(2) + math.log2(levels)
    ),
    "That is the log-probability in bits, and a cost is *minus* it: both signs are turned.": (
        lambda log_prob, dims, levels: log_prob / dims / math.log(2) - math.log2(levels)
    ),
    "The logarithm of `levels` is missing: a cell of width `1 / levels` costs `log2(levels)` bits.": (
        lambda log_prob, dims, levels: -log_prob / dims / math.log(2) + levels
    ),
    "The cells are `levels` in number, 17 greys from 0 to 16: `log2(levels)`, not `log2(levels - 1)`.": (
        lambda log_prob, dims, levels: -log_prob / dims / math.log(2) + math.log2(levels - 1)
    ),
    "The 17 greys of the page are written into it: `levels` is an argument.": (
        lambda log_prob, dims, levels: -log_prob / dims / math.log(2) + math.log2(17)
    ),
    "The 64 pixels of the page are written into it: `dims` is an argument.": (
        lambda log_prob, dims, levels: -log_prob / 64 / math.log(2) + math.log2(levels)
    ),
    "One number for each log-density is wanted: yours is the mean over all.": (
        lambda log_prob, dims, levels: -log_prob.mean() / dims / math.log(2) + math.log2(levels)
    ),
}


@exercise(
    chapter=1,
    number=7,
    right="Right: the cell of a whole number has volume `levels ** -dims`, which is `log2(levels)` bits each.",
)
def pixel_bits(answer: Any) -> str | None:
    """Write `bits(log_prob, dims, levels)`: bits per dimension of whole numbers from their dequantised log-density."""

    def right(log_prob: Tensor, dims: int, levels: int) -> Tensor:
        return -log_prob / dims / math.log(2) + math.log2(levels)

    log_prob = torch.tensor([-120.0, -10.0, 0.0, 35.5, 130.0]) + torch.rand(5)
    points = [(log_prob * dims / 64, dims, levels) for dims, levels in ((64, 17), (3, 256), (64, 4))]
    return diagnose(answer, right, _BITS, points)
