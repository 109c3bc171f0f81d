"""Targets and noise: distributions that can be sampled and that know the truth about themselves.

A target here knows its density and, seen through the noise of any path, its exact posterior mean and density. So a
chapter never says "looks right": it measures. Chapter 3 uses them first. What they share is in `target`, the mixtures
are in `mixtures`, the toy targets in `toys`.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from fmtutor import _validate
from fmtutor.distributions.mixtures import EightGaussians, Empirical, GaussianMixture
from fmtutor.distributions.target import Target
from fmtutor.distributions.toys import Checkerboard, Pinwheel, Spirals, TwoMoons

__all__ = [
    "Checkerboard",
    "EightGaussians",
    "Empirical",
    "GaussianMixture",
    "Pinwheel",
    "Spirals",
    "StandardNormal",
    "Target",
    "TwoMoons",
]


class StandardNormal(Target):
    """Independent normal numbers of mean 0 and any event shape: the noise at t = 0.

    Args:
        event: the shape of one draw.
        scale: the standard deviation. A path that does not start at noise of scale 1 needs another: the source of
            `VarianceExploding` is `StandardNormal(2, scale=10.0)`, up to the data that lie below the noise.

    Raises:
        ValueError: a size is not a whole number of at least 1, or `scale` is not above 0.

    Example:
        >>> StandardNormal(2).log_prob(torch.zeros(1, 2)), StandardNormal(2).entropy()
        (tensor([-1.8379]), tensor(2.8379))
        >>> StandardNormal(1, 8, 8).sample((5,)).shape
        torch.Size([5, 1, 8, 8])
        >>> StandardNormal(2, scale=10.0).stddev
        tensor([10., 10.])
    """

    def __init__(self, *event: int, scale: float = 1.0) -> None:
        super().__init__(*event)
        self.scale = _validate.positive("scale", scale)

    def _settings(self) -> list[str]:
        return [*map(str, self.event_shape), *([] if self.scale == 1 else super()._settings())]

    def _draw(self, n: int, generator: Generator | None) -> Float[Tensor, "n *event"]:
        return self.scale * self._normal(n, *self.event_shape, generator=generator)

    def _log_density(self, rows: Float[Tensor, "batch *event"]) -> Float[Tensor, " batch"]:
        square = (_validate.flat(rows) ** 2).sum(1) / self.scale**2
        return -0.5 * square - self.event_shape.numel() * (0.5 * math.log(2 * math.pi) + math.log(self.scale))

    def entropy(self) -> Float[Tensor, ""]:
        each = 0.5 * (1 + math.log(2 * math.pi)) + math.log(self.scale)
        return self._everywhere(self.event_shape.numel() * each)

    @property
    def mean(self) -> Float[Tensor, "*event"]:
        return self._of_event(0.0)

    @property
    def variance(self) -> Float[Tensor, "*event"]:
        return self._of_event(self.scale**2)

    def posterior_mean(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        at, alpha, sigma = self._seen(x, alpha, sigma)
        part = alpha * self.scale**2 / ((alpha * self.scale) ** 2 + sigma**2)
        return (part * at).to(x.dtype)

    def sample_posterior(
        self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float, generator: Generator | None = None
    ) -> Tensor:
        at, alpha, sigma = self._seen(x, alpha, sigma)
        variance = (alpha * self.scale) ** 2 + sigma**2
        shaken = torch.randn(at.shape, generator=generator, dtype=at.dtype, device=at.device)
        return (alpha * self.scale**2 / variance * at + self.scale * sigma / variance.sqrt() * shaken).to(x.dtype)

    def noised_log_prob(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        x, alpha, sigma = self._seen(x, alpha, sigma)
        spread = torch.sqrt((alpha * self.scale) ** 2 + sigma**2) / self.scale
        return self._log_density(x / spread) - self.event_shape.numel() * torch.log(spread).flatten()
