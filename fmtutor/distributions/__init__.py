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
    """Independent standard normal numbers of any event shape: the noise at t = 0.

    Example:
        >>> StandardNormal(2).log_prob(torch.zeros(1, 2)), StandardNormal(2).entropy()
        (tensor([-1.8379]), tensor(2.8379))
        >>> StandardNormal(1, 8, 8).sample((5,)).shape
        torch.Size([5, 1, 8, 8])
    """

    def _draw(self, n: int, generator: Generator | None) -> Float[Tensor, "n *event"]:
        return self._normal(n, *self.event_shape, generator=generator)

    def log_prob(self, value: Float[Tensor, "*sample_and_event"]) -> Float[Tensor, "*sample"]:
        rows = _validate.flat(self._rows(value))
        log_prob = -0.5 * (rows**2).sum(1) - 0.5 * rows.shape[1] * math.log(2 * math.pi)
        return log_prob.reshape(value.shape[: value.dim() - len(self.event_shape)])

    def entropy(self) -> Float[Tensor, ""]:
        return self._like + 0.5 * self.event_shape.numel() * (1 + math.log(2 * math.pi))

    def posterior_mean(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        x, alpha, sigma = self._seen(x, alpha, sigma)
        return alpha * x / (alpha**2 + sigma**2)

    def noised_log_prob(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        x, alpha, sigma = self._seen(x, alpha, sigma)
        scale = torch.sqrt(alpha**2 + sigma**2)
        return self.log_prob(x / scale) - self.event_shape.numel() * torch.log(scale).flatten()
