"""What every distribution of the package has in common: `Target`, a torch Distribution that knows itself.

The distributions themselves are listed in `distributions`, which chapter 3 opens first.
"""

from __future__ import annotations

import copy
from typing import Self

import torch
from jaxtyping import Float
from torch import Generator, Size, Tensor
from torch.distributions import Distribution

from fmtutor import _validate


class Target(Distribution):
    """A torch Distribution that moves between devices and draws from a generator; its `batch_shape` is empty."""

    arg_constraints: dict = {}

    def __init__(self, *event: int) -> None:
        shape = Size(_validate.whole("event", n) for n in event)
        super().__init__(event_shape=shape, validate_args=False)
        self._like = torch.zeros(())  # carries the device and dtype of everything that is drawn

    def to(self, *args: object, **kwargs: object) -> Self:
        """A copy on another device or in another dtype; takes what `torch.Tensor.to` takes."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor | Target):
                setattr(moved, name, value.to(*args, **kwargs))  # type: ignore[call-overload]
        return moved

    def sample(
        self, sample_shape: Size | list[int] | tuple[int, ...] = (), generator: Generator | None = None
    ) -> Float[Tensor, "*sample_and_event"]:
        """Draws of shape `(*sample_shape, *event)`, from torch's global generator unless another is given."""
        shape, generator = _validate.sample_shape(sample_shape), _validate.random(generator)
        n = shape.numel()
        with torch.no_grad():
            return self._draw(max(n, 1), generator)[:n].reshape(shape + self.event_shape)

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
        alpha, sigma = _validate.per_row("alpha", alpha, x), _validate.per_row("sigma", sigma, x)
        _validate.finite("alpha", alpha)
        if sigma.device.type == "cpu" and not (sigma > 0).all():
            raise ValueError(f"sigma must be above 0: without noise there is no posterior, got {sigma.min().item():g}")
        return x, alpha, _validate.finite("sigma", sigma)

    def _rows(self, value: Tensor) -> Tensor:
        """`value` of shape `(*sample, *event)` as `(batch, *event)`, checked."""
        _validate.finite("value", value)
        events = len(self.event_shape)
        if value.dim() < events or value.shape[value.dim() - events :] != self.event_shape:
            raise ValueError(f"value must end in the event shape {tuple(self.event_shape)}, got {tuple(value.shape)}")
        return value.reshape(-1, *self.event_shape)


def draw(name: str, distribution: Distribution, n: int, generator: Generator | None) -> Tensor:
    """`n` draws; torch's own distributions know no generator, ours do."""
    if _validate.kind(name, distribution, Distribution).batch_shape:
        raise ValueError(f"{name} must be one distribution, of batch shape (), got {tuple(distribution.batch_shape)}")
    if _validate.random(generator) is None:
        return distribution.sample((n,))
    try:
        return distribution.sample((n,), generator=generator)  # type: ignore[call-arg]
    except TypeError as error:
        if "generator" not in str(error):
            raise
        raise TypeError(
            f"{name} takes no generator: {type(distribution).__name__} draws from torch's global one"
        ) from None
