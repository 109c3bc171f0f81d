"""What every distribution of the package has in common: `Target`, a torch Distribution that knows itself.

The distributions themselves are listed in `distributions`, which chapter 3 opens first.
"""

from __future__ import annotations

import copy
from typing import Self

import torch
from jaxtyping import Float
from torch import Generator, Size, Tensor
from torch.distributions import Distribution, constraints

from fmtutor import _validate


def wide(x: Tensor) -> Tensor:
    """`x` in float32 at least: half precision is for storing numbers, a sum of them needs more digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Target(Distribution):
    """A torch Distribution that moves between devices, draws from a generator and is exact about itself.

    Densities and entropies are in the dtype of what was asked, but never below float32: a log-density of many numbers,
    rounded to bfloat16, is wrong by tens of nats. What a distribution does not know, it says by name.
    """

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
        shape, generator = _validate.sample_shape(sample_shape) + self.batch_shape, _validate.random(generator)
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
        """The log-density at `value`, in nats.

        Raises:
            TypeError: `value` does not hold floating-point numbers.
            ValueError: `value` does not end in the event shape, or is not finite.
            NotImplementedError: this distribution does not know its density.
        """
        rows = self._rows(value)
        sample = value.shape[: value.dim() - len(self.event_shape)]
        return self._log_density(rows).reshape(sample).expand(torch.broadcast_shapes(sample, self.batch_shape))

    def _log_density(self, rows: Float[Tensor, "batch *event"]) -> Float[Tensor, " batch"]:
        raise NotImplementedError(f"the density of {type(self).__name__} is not known")

    def entropy(self) -> Float[Tensor, ""]:
        """`-E[log p(x)]`, in nats."""
        raise NotImplementedError(f"the entropy of {type(self).__name__} is not known in closed form")

    @property
    def mean(self) -> Float[Tensor, "*event"]:
        """`E[x]`."""
        raise NotImplementedError(f"the mean of {self} is not known in closed form")

    @property
    def variance(self) -> Float[Tensor, "*event"]:
        """`E[(x - mean)^2]` of each number of an event; its root is `stddev`."""
        raise NotImplementedError(f"the variance of {self} is not known in closed form")

    @property
    def support(self) -> constraints.Constraint:
        """Where the density is above zero, as torch describes it: `support.check(x)`."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Size | list[int] | tuple[int, ...], _instance: object = None) -> Self:
        """A copy that stands for independent copies in `batch_shape`, as torch's mixtures and `Independent` need them.

        Example:
            >>> from fmtutor import Checkerboard
            >>> Checkerboard().expand((3,)).sample((5,)).shape
            torch.Size([5, 3, 2])
        """
        shape, known = Size(batch_shape), len(self.batch_shape)
        if shape[max(0, len(shape) - known) :] != self.batch_shape:
            raise ValueError(f"batch_shape must end in {tuple(self.batch_shape)}, got {tuple(shape)}")
        expanded = copy.copy(self)
        expanded._batch_shape = shape
        return expanded

    def __repr__(self) -> str:
        batch = f".expand({tuple(self.batch_shape)})" if self.batch_shape else ""
        return f"{type(self).__name__}({', '.join(self._settings())}){batch}"

    def _settings(self) -> list[str]:
        """What was chosen, as it is shown."""
        return [f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_")]

    def _everywhere(self, value: Tensor | float) -> Tensor:
        """A number that holds for each of a batch, in float32 at least."""
        return torch.as_tensor(value, dtype=torch.float64).to(wide(self._like)).expand(self.batch_shape)

    def _of_event(self, value: Tensor | float) -> Float[Tensor, "*event"]:
        """Something known of each number of an event, in our dtype."""
        return torch.as_tensor(value, dtype=self._like.dtype, device=self._like.device).expand(
            self.batch_shape + self.event_shape
        )

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

    def sample_posterior(
        self,
        x: Float[Tensor, "batch *event"],
        alpha: Tensor | float,
        sigma: Tensor | float,
        generator: Generator | None = None,
    ) -> Float[Tensor, "batch *event"]:
        """One draw of x1 for each x, given `alpha x1 + sigma x0 = x`; arguments and errors as in `posterior_mean`."""
        raise NotImplementedError(f"the posterior of {type(self).__name__} cannot be sampled")

    def noised_log_prob(
        self, x: Float[Tensor, "batch *event"], alpha: Tensor | float, sigma: Tensor | float
    ) -> Float[Tensor, " batch"]:
        """The log-density, in nats, of `alpha x1 + sigma x0` at x; arguments and errors as in `posterior_mean`."""
        raise NotImplementedError(f"the noised density of {type(self).__name__} is not known")

    def _seen(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """The three arguments of the posterior, checked, in float32 at least, the coefficients lined up with x."""
        _validate.finite("x", x)
        if x.shape[1:] != self.event_shape or x.dim() == 0:
            wanted = ", ".join(["batch", *map(str, self.event_shape)])
            raise ValueError(f"x must have shape ({wanted}), got {tuple(x.shape)}")
        x = wide(x)
        alpha, sigma = _validate.per_row("alpha", alpha, x), _validate.per_row("sigma", sigma, x)
        _validate.finite("alpha", alpha)
        if _validate.readable(sigma) and not (sigma > 0).all():
            raise ValueError(f"sigma must be above 0: without noise there is no posterior, got {sigma.min().item():g}")
        return x, alpha, _validate.finite("sigma", sigma)

    def _rows(self, value: Tensor) -> Tensor:
        """`value` of shape `(*sample, *event)` as `(batch, *event)`, checked, in float32 at least."""
        _validate.finite("value", value)
        events = len(self.event_shape)
        if value.dim() < events or value.shape[value.dim() - events :] != self.event_shape:
            raise ValueError(f"value must end in the event shape {tuple(self.event_shape)}, got {tuple(value.shape)}")
        return wide(value).reshape(-1, *self.event_shape)


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
