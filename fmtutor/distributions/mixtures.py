"""Mixtures of Gaussians, and data sets, which are mixtures of points: both are known exactly through any noise.

Chapter 3 draws the marginal velocity of a few points; chapter 8 does the same with images.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.distributions import constraints

from fmtutor import _validate
from fmtutor.distributions.target import Target, wide

_CHUNK = 2**24  # numbers in one block of a comparison of every x with every data point: 128 MB in float64


class GaussianMixture(Target):
    """Round Gaussians of one scale, with weights.

    Args:
        means: their centres, `(components, *event)`.
        scale: their standard deviation, in units of the data; at 0 they are points (see `Empirical`).
        weights: their probabilities, `(components,)`, normalised here; equal unless given.

    Raises:
        TypeError: `means` does not hold floating-point numbers.
        ValueError: a value is not finite, the scale is negative, or the weights are of another length or negative.

    Example:
        >>> two = GaussianMixture(torch.tensor([[-1.0], [1.0]]), scale=0.1)
        >>> two.posterior_mean(torch.tensor([[0.5]]), alpha=0.5, sigma=0.5)
        tensor([[0.7598]])
    """

    def __init__(self, means: Float[Tensor, "components *event"], scale: float, weights: Tensor | None = None) -> None:
        if _validate.finite("means", means).dim() == 0 or len(means) == 0:
            raise ValueError(f"means must hold at least one component, got shape {tuple(means.shape)}")
        super().__init__(*means.shape[1:])
        weights = torch.ones(len(means)) if weights is None else _validate.finite("weights", weights)
        if weights.shape != means.shape[:1] or (weights < 0).any() or weights.sum() == 0:
            raise ValueError(f"weights must be {len(means)} numbers, none negative, not all 0, got {weights}")
        self.means, self.scale = means, _validate.positive("scale", scale, or_zero=True)
        weights = weights.to(wide(means))
        self.weights = weights / weights.sum()
        self._like = means.new_zeros(())

    def to(self, *args: object, **kwargs: object) -> Self:
        moved = super().to(*args, **kwargs)
        moved.weights = self.weights.to(wide(moved._like))  # probabilities keep their digits, and their sum of one
        return moved

    def _settings(self) -> list[str]:
        return [f"means={_shown(self.means)}", f"scale={self.scale!r}", f"weights={_shown(self.weights)}"]

    def _draw(self, n: int, generator: Generator | None) -> Float[Tensor, "n *event"]:
        picked = self.means[torch.multinomial(self.weights, n, replacement=True, generator=generator)]
        return picked + self.scale * self._normal(n, *self.event_shape, generator=generator) if self.scale else picked

    def _log_density(self, rows: Float[Tensor, "batch *event"]) -> Float[Tensor, " batch"]:
        self._must_be_thick("density without noise")
        return self._compare(rows, rows.new_ones(len(rows)), rows.new_zeros(len(rows)))[1]

    @property
    def mean(self) -> Float[Tensor, "*event"]:
        return self._of_event(self._moments()[0])

    @property
    def variance(self) -> Float[Tensor, "*event"]:
        return self._of_event(self._moments()[1] + self.scale**2)

    @property
    def support(self) -> constraints.Constraint:
        self._must_be_thick("support that torch could describe")
        return super().support

    def _moments(self) -> tuple[Float[Tensor, "*event"], Float[Tensor, "*event"]]:
        """Mean and variance of the centres, in float64."""
        means, weights = _validate.flat(self.means.double()), self.weights.double()
        weights = weights / weights.sum()
        mean = weights @ means
        variance = weights @ (means - mean).square()
        return mean.reshape(self.event_shape), variance.reshape(self.event_shape)

    def _must_be_thick(self, what: str) -> None:
        if self.scale == 0:
            raise NotImplementedError(f"{type(self).__name__} is a set of points: it has no {what}")

    def posterior_mean(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        at, alpha, sigma = self._seen(_validate.floating("x", x).double(), alpha, sigma)
        mean = self._compare(at, alpha.flatten(), sigma.flatten())[0]
        gain = alpha * self.scale**2 / (alpha**2 * self.scale**2 + sigma**2)
        return (mean + gain * (at - alpha * mean)).to(x.dtype)

    def sample_posterior(
        self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float, generator: Generator | None = None
    ) -> Tensor:
        at, alpha, sigma = self._seen(_validate.floating("x", x).double(), alpha, sigma)
        rows, means, picked = _validate.flat(at), self.means.to(at), []
        for x_, a, s in zip(
            *(part.split(self._block()) for part in (rows, alpha.flatten(), sigma.flatten())), strict=True
        ):
            weights = torch.softmax(self._log_joint(x_, a, s), 1)
            picked.append(means[torch.multinomial(weights, 1, generator=generator)[:, 0]])
        centre = torch.cat(picked) if picked else at
        if not self.scale:
            return centre.to(x.dtype)
        variance = (alpha * self.scale) ** 2 + sigma**2  # of x, given the component
        shaken = torch.randn(at.shape, generator=generator, dtype=at.dtype, device=at.device)
        mean = centre + alpha * self.scale**2 / variance * (at - alpha * centre)
        return (mean + self.scale * sigma / variance.sqrt() * shaken).to(x.dtype)

    def noised_log_prob(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        at, alpha, sigma = self._seen(_validate.floating("x", x).double(), alpha, sigma)
        return self._compare(at, alpha.flatten(), sigma.flatten())[1].to(wide(x).dtype)

    def responsibilities(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Float[Tensor, "batch k"]:
        """The probability of each component given that `alpha x1 + sigma x0 = x`, `(batch, components)`."""
        x, alpha, sigma = self._seen(x, alpha, sigma)
        return torch.softmax(self._log_joint(_validate.flat(x), alpha.flatten(), sigma.flatten()), 1)

    def _log_joint(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Float[Tensor, "batch k"]:
        """log of weight times density of every component at every row, without cancellation however small sigma."""
        means = _validate.flat(self.means.to(x))
        variance = (alpha * self.scale) ** 2 + sigma**2
        square = ((x[:, None] - alpha[:, None, None] * means) ** 2).sum(-1)
        log_normal = -0.5 * square / variance[:, None] - 0.5 * x.shape[1] * torch.log(2 * math.pi * variance)[:, None]
        weights = self.weights.to(x)
        return log_normal + torch.log(weights / weights.sum())  # their sum is one to the digits of x

    def _block(self) -> int:
        """How many rows are compared with every component at once."""
        return max(1, _CHUNK // self.means.numel())

    def _compare(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The average component centre as seen from each x, and the log-density there, in blocks that fit in memory."""
        rows, means, size = _validate.flat(x), _validate.flat(self.means.to(x)), self._block()
        found = []
        for x_, alpha_, sigma_ in zip(rows.split(size), alpha.split(size), sigma.split(size), strict=True):
            joint = self._log_joint(x_, alpha_, sigma_)
            found.append((torch.softmax(joint, 1) @ means, torch.logsumexp(joint, 1)))
        mean, log_prob = (torch.cat(part) for part in zip(*found, strict=True)) if found else (rows, rows.sum(1))
        return mean.reshape(x.shape), log_prob

    def entropy(self) -> Float[Tensor, ""]:
        if len(self.means) > 1 or self.scale == 0:
            raise NotImplementedError("the entropy of a mixture of Gaussians is not known in closed form")
        return self._everywhere(self.event_shape.numel() * (0.5 * (1 + math.log(2 * math.pi)) + math.log(self.scale)))


class EightGaussians(GaussianMixture):
    """Eight Gaussians of scale 0.1 around a circle of radius 2.

    Example:
        >>> EightGaussians().means[:2]
        tensor([[2.0000, 0.0000],
                [1.4142, 1.4142]])
    """

    def __init__(self, radius: float = 2.0, scale: float = 0.1) -> None:
        angle = torch.arange(8) * math.pi / 4
        super().__init__(radius * torch.stack([torch.cos(angle), torch.sin(angle)], 1), scale)
        self.radius = radius

    def _settings(self) -> list[str]:
        return [f"radius={self.radius!r}", f"scale={self.scale!r}"]


class Empirical(GaussianMixture):
    """A finite data set, each row as likely as any other: what a generative model really trains on.

    It has no density of its own; seen through noise it has one, and an exact posterior mean.

    Args:
        data: `(n, *event)`, finite floating-point numbers.

    Example:
        >>> data = Empirical(torch.tensor([[-1.0], [1.0]]))
        >>> data.posterior_mean(torch.tensor([[0.1]]), alpha=0.5, sigma=0.5)
        tensor([[0.1974]])
    """

    def __init__(self, data: Float[Tensor, "n *event"]) -> None:
        super().__init__(_validate.finite("data", data), scale=0.0)

    def _settings(self) -> list[str]:
        return [f"data={_shown(self.means)}"]


def _shown(x: Tensor) -> str:
    """A few numbers as they are, many by their shape."""
    return str(x.tolist()) if x.numel() <= 8 and x.device.type == "cpu" else f"<tensor of shape {tuple(x.shape)}>"
