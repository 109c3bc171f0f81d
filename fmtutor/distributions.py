"""Targets and noise: distributions that can be sampled and that know the truth about themselves.

A target here knows its density and, seen through the noise of any path, its exact posterior mean and density. So a
chapter never says "looks right": it measures. Chapter 3 uses them first; `Checkerboard` and the other toys are in `toys`.
"""

from __future__ import annotations

import copy
import math
from typing import Self

import torch
from jaxtyping import Float
from torch import Generator, Size, Tensor

from fmtutor import _validate

_CHUNK = 2**24  # numbers in one block of a comparison of every x with every data point: 128 MB in float64


class Target(torch.distributions.Distribution):
    """A torch Distribution that moves between devices and draws from a generator; its `batch_shape` is empty."""

    arg_constraints: dict = {}  # noqa: RUF012 (torch's own name and type)

    def __init__(self, *event: int) -> None:
        super().__init__(event_shape=Size(event), validate_args=False)
        self._like = torch.zeros(())  # carries the device and dtype of everything that is drawn

    def to(self, *args: object, **kwargs: object) -> Self:
        """A copy on another device or in another dtype; takes what `torch.Tensor.to` takes."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor | Target):
                setattr(moved, name, value.to(*args, **kwargs))  # type: ignore[arg-type]
        return moved

    def sample(
        self, sample_shape: Size | tuple[int, ...] = (), generator: Generator | None = None
    ) -> Float[Tensor, "*sample_and_event"]:
        """Draws of shape `(*sample_shape, *event)`, from torch's global generator unless another is given."""
        shape = Size(sample_shape)
        with torch.no_grad():
            return self._draw(shape.numel(), generator).reshape(*shape, *self.event_shape)

    def _draw(self, n: int, generator: Generator | None) -> Float[Tensor, "n *event"]:
        raise NotImplementedError(f"{type(self).__name__} cannot be sampled")

    def _normal(self, *shape: int, generator: Generator | None) -> Float[Tensor, "..."]:
        return torch.randn(shape, generator=generator, dtype=self._like.dtype, device=self._like.device)

    def _uniform(self, *shape: int, generator: Generator | None) -> Float[Tensor, "..."]:
        return torch.rand(shape, generator=generator, dtype=self._like.dtype, device=self._like.device)

    def _index(self, n: int, high: int, generator: Generator | None) -> Tensor:
        return torch.randint(high, (n,), generator=generator, device=self._like.device)

    def log_prob(self, value: Float[Tensor, "*sample_and_event"]) -> Float[Tensor, "*sample"]:
        """The log-density at `value`, in nats."""
        raise NotImplementedError(f"the density of {type(self).__name__} is not known")

    def entropy(self) -> Float[Tensor, ""]:
        """`-E[log p(x)]`, in nats."""
        raise NotImplementedError(f"the entropy of {type(self).__name__} is not known in closed form")

    def posterior_mean(
        self, x: Float[Tensor, "batch *event"], alpha: Tensor | float, sigma: Tensor | float
    ) -> Float[Tensor, "batch *event"]:
        """`E[x1 | alpha x1 + sigma x0 = x]` with x1 from this distribution and x0 standard normal.

        Args:
            x: where the noisy point was seen.
            alpha: the weight of the data, a scalar or one a row.
            sigma: the weight of the noise, a scalar or one a row, above 0.

        Raises:
            ValueError: shapes do not match, x is not finite, or sigma is not above 0.
            NotImplementedError: this distribution does not know its own posterior.
        """
        raise NotImplementedError(f"the posterior mean of {type(self).__name__} is not known")

    def noised_log_prob(
        self, x: Float[Tensor, "batch *event"], alpha: Tensor | float, sigma: Tensor | float
    ) -> Float[Tensor, " batch"]:
        """The log-density, in nats, of `alpha x1 + sigma x0` at x; arguments and errors as in `posterior_mean`."""
        raise NotImplementedError(f"the noised density of {type(self).__name__} is not known")

    def _seen(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """The three arguments of the posterior, checked, with the coefficients lined up with x."""
        _validate.finite("x", x)
        if x.shape[1:] != self.event_shape or x.dim() == 0:
            wanted = ", ".join(["batch", *map(str, self.event_shape)])
            raise ValueError(f"x must have shape ({wanted}), got {tuple(x.shape)}")
        sigma = _validate.per_row("sigma", sigma, x)
        if sigma.device.type == "cpu" and not (sigma > 0).all():
            raise ValueError(f"sigma must be above 0: without noise there is no posterior, got {sigma.min().item():g}")
        return x, _validate.per_row("alpha", alpha, x), sigma

    def _rows(self, value: Tensor) -> Tensor:
        """`value` of shape `(*sample, *event)` as `(batch, *event)`, checked."""
        _validate.floating("value", value)
        events = len(self.event_shape)
        if value.dim() < events or value.shape[value.dim() - events :] != self.event_shape:
            raise ValueError(f"value must end in the event shape {tuple(self.event_shape)}, got {tuple(value.shape)}")
        return value.reshape(-1, *self.event_shape)


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
        rows = self._rows(value).flatten(1)
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
        self.weights = (weights / weights.sum()).to(means)
        self._like = means.new_zeros(())

    def _draw(self, n: int, generator: Generator | None) -> Float[Tensor, "n *event"]:
        picked = self.means[torch.multinomial(self.weights, n, replacement=True, generator=generator)]
        return picked + self.scale * self._normal(n, *self.event_shape, generator=generator) if self.scale else picked

    def log_prob(self, value: Float[Tensor, "*sample_and_event"]) -> Float[Tensor, "*sample"]:
        if self.scale == 0:
            raise NotImplementedError(f"{type(self).__name__} is a set of points: it has no density without noise")
        rows = self._rows(value)
        log_prob = self._compare(rows, rows.new_ones(len(rows)), rows.new_zeros(len(rows)))[1]
        return log_prob.reshape(value.shape[: value.dim() - len(self.event_shape)])

    def posterior_mean(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        x, alpha, sigma = self._seen(x, alpha, sigma)
        mean = self._compare(x, alpha.flatten(), sigma.flatten())[0]
        gain = alpha * self.scale**2 / (alpha**2 * self.scale**2 + sigma**2)
        return mean + gain * (x - alpha * mean)

    def noised_log_prob(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        x, alpha, sigma = self._seen(x, alpha, sigma)
        return self._compare(x, alpha.flatten(), sigma.flatten())[1]

    def responsibilities(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Float[Tensor, "batch k"]:
        """The probability of each component given that `alpha x1 + sigma x0 = x`, `(batch, components)`."""
        x, alpha, sigma = self._seen(x, alpha, sigma)
        return torch.softmax(self._log_joint(x.flatten(1), alpha.flatten(), sigma.flatten()), 1)

    def _log_joint(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Float[Tensor, "batch k"]:
        """log of weight times density of every component at every row, without cancellation however small sigma."""
        means = self.means.to(x).flatten(1)
        variance = (alpha * self.scale) ** 2 + sigma**2
        square = ((x[:, None] - alpha[:, None, None] * means) ** 2).sum(-1)
        log_normal = -0.5 * square / variance[:, None] - 0.5 * x.shape[1] * torch.log(2 * math.pi * variance)[:, None]
        return log_normal + torch.log(self.weights.to(x))

    def _compare(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The average component centre as seen from each x, and the log-density there, in blocks that fit in memory."""
        rows, means = x.flatten(1), self.means.to(x).flatten(1)
        size = max(1, _CHUNK // means.numel())
        found = []
        for x_, alpha_, sigma_ in zip(rows.split(size), alpha.split(size), sigma.split(size), strict=True):
            joint = self._log_joint(x_, alpha_, sigma_)
            found.append((torch.softmax(joint, 1) @ means, torch.logsumexp(joint, 1)))
        mean, log_prob = (torch.cat(part) for part in zip(*found, strict=True)) if found else (rows, rows.sum(1))
        return mean.reshape(x.shape), log_prob

    def entropy(self) -> Float[Tensor, ""]:
        if len(self.means) > 1 or self.scale == 0:
            raise NotImplementedError("the entropy of a mixture of Gaussians is not known in closed form")
        return self._like + self.event_shape.numel() * (0.5 * (1 + math.log(2 * math.pi)) + math.log(self.scale))


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
