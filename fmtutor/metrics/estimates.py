"""Means over random draws, each with its standard error: how `fmtutor.metrics` reports what it can only sample.

Chapter 3 reads the first ones, when it prints a divergence in nats.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.distributions import Distribution


class Estimate(NamedTuple):
    """A mean over random draws, with its standard error.

    Example:
        >>> Estimate(0.13094, 0.00412)
        0.131 ± 0.004
    """

    value: float
    error: float

    def __repr__(self) -> str:
        if not 0 < self.error < math.inf:
            return f"{self.value:.4g} ± {self.error:g}"
        if self.error < 1e-6:
            return f"{self.value:.1e} ± {self.error:.1e}"
        digits = -math.floor(math.log10(self.error))
        digits = max(0, digits + (round(self.error * 10**digits, 6) < 2))  # two digits where the first is a 1
        return f"{self.value:.{digits}f} ± {self.error:.{digits}f}"


def nats(name: str, value: Tensor) -> Tensor:
    """`value`, a log-density or an entropy, in float64, unless it comes in half precision: that rounds nats away."""
    if value.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"{name} must be in torch.float32 at least, got {value.dtype}, which rounds whole nats away")
    return value.cpu().double()


def log_prob(name: str, distribution: Distribution, x: Tensor) -> Float[Tensor, " n"]:
    """Log-density at `n` points in float64, computed ten thousand at a time."""
    values = torch.cat([distribution.log_prob(chunk) for chunk in x.split(10_000)])
    if values.shape != x.shape[:1] or values.isnan().any():
        came = f"shape {tuple(values.shape)}" if values.shape != x.shape[:1] else "NaN"
        raise ValueError(f"{name}.log_prob must give one number for each of {len(x)} points, got {came}")
    return nats(f"{name}.log_prob", values)


def estimate(values: Float[Tensor, " n"]) -> Estimate:
    """Their mean, with an infinite error where it is not a number."""
    values = values.cpu().double()
    error = float(values.std() / math.sqrt(len(values)))
    return Estimate(float(values.mean()), error if math.isfinite(error) else math.inf)


def home(generator: Generator | None, like: Tensor | None = None) -> torch.device:
    """Where to draw: where the generator lives, or else where the tensor does."""
    if generator is not None:
        return generator.device
    return like.device if like is not None else torch.device("cpu")
