"""Paths between noise and data: `xt = alpha(t) x1 + sigma(t) x0`, its velocity, and the exact averages over all data.

Chapter 3 builds the linear path by hand and then uses this file; chapter 5 changes the schedule.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fmtutor import _validate
from fmtutor.distributions import Target
from fmtutor.distributions.target import wide
from fmtutor.schedules import Linear, Schedule

PREDICTIONS = ("velocity", "score", "noise", "data")


class PathSample(NamedTuple):
    """Points on a path: the times `t` `(batch,)`, the points `xt` and their velocities `ut`, both `(batch, *event)`."""

    t: Tensor
    xt: Tensor
    ut: Tensor


class Coefficients(NamedTuple):
    """A schedule at some times, lined up with `(batch, *event)`."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


def _start(schedule: Schedule) -> tuple[float, float] | None:
    """alpha(0) and sigma(0) of a schedule that runs from noise to data."""
    try:
        t = torch.tensor([0.0, 1.0])
        (alpha, alpha_1), (sigma, sigma_1) = ([float(a) for a in f(t)] for f in (schedule.alpha, schedule.sigma))
    except Exception:  # it lives on another device, or is being compiled, or broken, and says so when it is used
        return None
    if alpha_1 * sigma <= alpha * sigma_1:
        raise ValueError(
            f"schedule must run from noise at t = 0 to data at t = 1, but {schedule} has alpha {alpha:g} and "
            f"sigma {sigma:g} at 0, alpha {alpha_1:g} and sigma {sigma_1:g} at 1: ask it at 1 - t"
        )
    return alpha, sigma


class AffinePath:
    """The path `xt = alpha(t) x1 + sigma(t) x0` from noise x0 at t = 0 to data x1 at t = 1.

    What is conditional is known for every single x1. What is marginal is the average over all of a target's x1 that
    could have led to x, and exact for targets with a `posterior_mean`; it is computed in float64 and returned in the
    dtype of x, because near t = 1 it is a small difference divided by a small sigma.

    Source: Lipman et al. (2024), "Flow Matching Guide and Code", section 4.

    Args:
        schedule: the coefficients; `Linear()` unless given.

    Attributes:
        start: alpha(0) and sigma(0), or None where the schedule cannot say. `(0, 1)` is pure standard normal noise.

    Raises:
        TypeError: the schedule is no `Schedule`.
        ValueError: the schedule runs from data to noise.

    Example:
        >>> path, x0, x1 = AffinePath(), torch.tensor([[0.0]]), torch.tensor([[2.0]])
        >>> path.sample(x0, x1, torch.tensor([0.25]))
        PathSample(t=tensor([0.2500]), xt=tensor([[0.5000]]), ut=tensor([[2.]]))
        >>> path.conditional_velocity(0.25, torch.tensor([[0.5]]), x1)
        tensor([[2.]])
    """

    def __init__(self, schedule: Schedule | None = None) -> None:
        self.schedule = Linear() if schedule is None else _validate.kind("schedule", schedule, Schedule)
        self.start = None if torch.compiler.is_compiling() else _start(self.schedule)

    @property
    def starts_standard(self) -> bool:
        """Whether it starts, nearly, from a standard normal, as far as anybody knows."""
        alpha, sigma = self.start or (0.0, 1.0)
        return alpha < 0.15 * sigma and 0.8 < sigma < 1.25

    def __repr__(self) -> str:
        return f"AffinePath({self.schedule})"

    def coefficients(self, t: Tensor | float, x: Float[Tensor, "batch *event"]) -> Coefficients:
        """alpha, sigma and their derivatives at t, each `(batch, 1, ..., 1)`, in at least float32.

        Raises:
            TypeError: the schedule does not return tensors.
            ValueError: t has another length than the batch or leaves [0, 1], or the schedule returns another shape.
        """
        column, s = _validate.time(t, wide(_validate.floating("x", x))), self.schedule
        found = []
        for name in Coefficients._fields:
            value = _validate.kind(f"{name}(t) of {s}", getattr(s, name)(column), Tensor)
            if value.shape != column.shape:
                raise ValueError(
                    f"{name}(t) of {s} must have the shape of t, {tuple(column.shape)}, got {tuple(value.shape)}"
                )
            found.append(value)
        return Coefficients(*found)

    def sample(
        self, x0: Float[Tensor, "batch *event"], x1: Float[Tensor, "batch *event"], t: Tensor | float
    ) -> PathSample:
        """The point of each pair at its time, and the velocity `d_alpha x1 + d_sigma x0` with which it passes.

        Args:
            x0: noise.
            x1: data, one for each x0.
            t: a scalar or one time a pair, in [0, 1].

        Raises:
            TypeError: x0 or x1 does not hold floating-point numbers.
            ValueError: shapes differ, a value is not finite, t is outside [0, 1] or of a wrong length, or the path has
                no finite velocity at t.
        """
        x0, x1 = _validate.finite("x0", x0), _validate.finite("x1", x1)
        _validate.same_shape("x0", x0, "x1", x1)
        alpha, sigma, d_alpha, d_sigma = self._moving(self.coefficients(t, x1), t)
        xt, ut = alpha * x1 + sigma * x0, d_alpha * x1 + d_sigma * x0
        t = _validate.rounded(_validate.per_row("t", t, wide(x1)).flatten(), x1.dtype)
        return PathSample(t, xt.to(x1.dtype), ut.to(x1.dtype))

    def conditional_velocity(self, t: Tensor | float, x: Tensor, x1: Tensor) -> Float[Tensor, "batch *event"]:
        """`u_t(x | x1) = d_alpha x1 + (d_sigma / sigma)(x - alpha x1)`: the velocity at x of the path that ends at x1.

        Source: Lipman et al. (2023), theorem 3.

        Raises:
            ValueError: as in `sample`, or sigma(t) = 0, where every path has arrived.
        """
        alpha, sigma, d_alpha, d_sigma = self._conditional(t, x, x1)
        return (d_alpha * x1 + d_sigma / sigma * (x - alpha * x1)).to(x.dtype)

    def conditional_score(self, t: Tensor | float, x: Tensor, x1: Tensor) -> Float[Tensor, "batch *event"]:
        """`grad_x log p_t(x | x1) = -(x - alpha x1) / sigma^2`; errors as in `conditional_velocity`."""
        alpha, sigma, _, _ = self._conditional(t, x, x1)
        return ((alpha * x1 - x) / sigma**2).to(x.dtype)

    def marginal_velocity(
        self,
        t: Tensor | float,
        x: Tensor,
        target: Target,
    ) -> Float[Tensor, "batch *event"]:
        """`u_t(x) = E[u_t(x | x1) | xt = x]`, the velocity every flow matching model tries to learn, exactly.

        Args:
            t: a scalar or one time a row.
            x: `(batch, *event)`.
            target: a distribution of x1 with a `posterior_mean`.

        Raises:
            ValueError: as in `conditional_velocity`.
            NotImplementedError: the target does not know its posterior mean.
        """
        c, data, noise = self._posterior(t, x, target)
        self._moving(c, t)
        return (c.d_alpha * data + c.d_sigma * noise).to(x.dtype)

    def marginal_score(self, t: Tensor | float, x: Tensor, target: Target) -> Float[Tensor, "batch *event"]:
        """`grad_x log p_t(x) = -E[x0 | xt = x] / sigma`, exactly; arguments and errors as in `marginal_velocity`."""
        c, _, noise = self._posterior(t, x, target)
        return (-noise / c.sigma).to(x.dtype)

    def marginal_log_prob(self, t: Tensor | float, x: Tensor, target: Target) -> Float[Tensor, " batch"]:
        """`log p_t(x)` in nats, exactly; arguments and errors as in `marginal_velocity`."""
        at = _validate.finite("x", x).double()
        c = self._noisy(t, at)
        _validate.able("target", target, "noised_log_prob", like="Target")
        return target.noised_log_prob(at, c.alpha.flatten(), c.sigma.flatten()).to(x.dtype)

    def convert(
        self,
        t: Tensor | float,
        x: Float[Tensor, "batch *event"],
        prediction: Tensor,
        source: str,
        to: str,
    ) -> Float[Tensor, "batch *event"]:
        """The same knowledge in other words: a velocity as a score, a noise, a data prediction, or any other way round.

        All four are affine in `E[x0 | xt]` and `E[x1 | xt]`, and `x = alpha E[x1 | xt] + sigma E[x0 | xt]`.

        Args:
            t: a scalar or one time a row.
            x: the point xt at which the prediction was made.
            prediction: what was predicted there, in the shape of x.
            source: "velocity", "score", "noise" or "data".
            to: likewise.

        Raises:
            TypeError: x or the prediction does not hold floating-point numbers.
            ValueError: an unknown name, a value that is not finite, a shape that differs from x's, or a time at which
                the source does not determine the answer (noise says nothing of data where alpha = 0, nor data of noise
                where sigma = 0).

        Source: Lipman et al. (2024), "Flow Matching Guide and Code", table 1.

        Example:
            >>> path, x = AffinePath(), torch.tensor([[0.5]])
            >>> path.convert(0.25, x, torch.tensor([[2.0]]), source="velocity", to="data")
            tensor([[2.]])
        """
        _validate.choice("source", source, PREDICTIONS), _validate.choice("to", to, PREDICTIONS)
        _validate.finite("x", x), _validate.finite("prediction", prediction)
        _validate.same_shape("x", x, "prediction", prediction)
        c = self.coefficients(t, x)
        if "score" in (source, to):
            self._must_hold(c.sigma > 0, t, "sigma is 0: no score is defined")
        if source == to:
            return prediction
        return self._convert(c, t, x, prediction, source, to).to(x.dtype)

    def _convert(
        self, c: Coefficients, t: Tensor | float, x: Tensor, prediction: Tensor, source: str, to: str
    ) -> Tensor:
        if to == "data":
            return self._data(c, t, x, prediction, source)
        noise = self._noise(c, t, x, prediction, source)
        if to == "velocity":
            self._moving(c, t)
            return c.d_alpha * self._data(c, t, x, prediction, source) + c.d_sigma * noise
        return noise if to == "noise" else -noise / c.sigma

    def _noise(self, c: Coefficients, t: Tensor | float, x: Tensor, prediction: Tensor, source: str) -> Tensor:
        """E[x0 | xt = x] from any prediction."""
        if source == "noise":
            return prediction
        if source == "score":
            return -c.sigma * prediction
        if source == "data":
            self._must_hold(c.sigma > 0, t, "sigma is 0: data says nothing of noise")
            return (x - c.alpha * prediction) / c.sigma
        rise = torch.where(c.alpha == 0, 1, c.d_alpha)  # at pure noise x = sigma x0, also where data comes in slowly
        return (c.alpha * prediction - rise * x) / self._determinant(c._replace(d_alpha=rise), t)

    def _data(self, c: Coefficients, t: Tensor | float, x: Tensor, prediction: Tensor, source: str) -> Tensor:
        """E[x1 | xt = x] from any prediction."""
        if source == "data":
            return prediction
        if source == "velocity":
            return (c.d_sigma * x - c.sigma * prediction) / self._determinant(c, t)
        self._must_hold(c.alpha > 0, t, f"alpha is 0: {source} says nothing of data")
        return (x - c.sigma * self._noise(c, t, x, prediction, source)) / c.alpha

    def _determinant(self, c: Coefficients, t: Tensor | float) -> Tensor:
        """Of the two equations for E[x1 | xt] and E[x0 | xt] that x and the velocity give."""
        determinant = c.alpha * c.d_sigma - c.sigma * c.d_alpha
        self._must_hold(determinant.isfinite() & (determinant != 0), t, "the velocity does not tell noise from data")
        return determinant

    def _conditional(self, t: Tensor | float, x: Tensor, x1: Tensor) -> Coefficients:
        _validate.finite("x", x), _validate.finite("x1", x1)
        _validate.same_shape("x", x, "x1", x1)
        return self._noisy(t, x)

    def _noisy(self, t: Tensor | float, x: Tensor) -> Coefficients:
        """The coefficients, at times where there is still noise."""
        c = self.coefficients(t, x)
        self._must_hold(c.sigma > 0, t, "sigma is 0: every path has arrived")
        return c

    def _moving(self, c: Coefficients, t: Tensor | float) -> Coefficients:
        """The coefficients, at times at which they have finite derivatives."""
        self._must_hold(c.d_alpha.isfinite() & c.d_sigma.isfinite(), t, "the velocity is infinite")
        return c

    def _posterior(self, t: Tensor | float, x: Tensor, target: Target) -> tuple[Coefficients, Tensor, Tensor]:
        """The coefficients, E[x1 | xt = x] and E[x0 | xt = x], in float64."""
        at = _validate.finite("x", x).double()
        c = self._noisy(t, at)
        _validate.able("target", target, "posterior_mean", like="Target")
        data = target.posterior_mean(at, c.alpha.flatten(), c.sigma.flatten())
        return c, data, (at - c.alpha * data) / c.sigma

    def _must_hold(self, condition: Tensor, t: Tensor | float, what: str) -> None:
        if _validate.readable(condition) and not condition.all():
            times = torch.as_tensor(t).expand(len(condition)) if torch.as_tensor(t).dim() == 0 else torch.as_tensor(t)
            at = times[~condition.flatten()][0].item()
            hint = f"; stop at t = {1 - 1e-6} or earlier" if at > 0.5 else "; start later"
            raise ValueError(f"at t = {at:g}, {what} on the path of {self.schedule}{hint}")
