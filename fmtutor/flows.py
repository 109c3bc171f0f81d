"""A velocity field and a base, as one `torch.distributions.Distribution` that samples and knows its density.

Every model of the book ends as one of these, so all are compared by the same three lines. Chapter 2 derives the
density; chapters 3 and 4 use it.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable
from typing import Self

import torch
from jaxtyping import Float
from torch import Generator, Size, Tensor

from fmtutor import _validate
from fmtutor.distributions.intervals import gauss_legendre
from fmtutor.distributions.target import draw, wide
from fmtutor.fields import Velocity, field
from fmtutor.fields.inside import is_trained, leaves, moved, paths_of
from fmtutor.ode import ADAPTIVE, ESTIMATORS, FIXED, ORDER, Solution, divergence, solve
from fmtutor.paths import AffinePath


class ContinuousFlow(torch.distributions.Distribution):
    """Where the base goes when it follows the velocity from t = 0 to t = 1.

    `log_prob` follows x back to the base and adds up the divergence on the way:
    `log p1(x1) = log p0(x0) - integral of div v dt`. Its gradient reaches x and the parameters of the velocity, which
    is how a continuous flow is trained by likelihood. A network in evaluation mode, as `fit` leaves it, is taken as it
    is, also inside a partial, a method or a function: then draws and densities are plain numbers, and ten thousand
    points cost no 10 GB of graph. A gradient that x asks for is there in either mode.

    With fixed steps the path is solved first, with about as many, and the divergence is then looked at along it, at the
    nodes of Gauss and Legendre: in three steps once with Euler, twice with midpoint or heun2, four times with rk4. So
    few looks are as exact as the many that a solver takes. An adaptive solver, and every solver with an adjoint,
    carries the integral as one more coordinate instead, under the same tolerance.

    Args:
        velocity: `v(t, x)`.
        base: the distribution at t = 0, with no batch shape.
        method: the solver, as in `ode.solve`.
        steps: its number of steps, if it is a fixed-step one.
        rtol: the relative tolerance, if it is adaptive.
        atol: the absolute tolerance, if it is adaptive.
        t1: where to stop. Below 1 for an exact field, which no longer exists once the noise is gone.
        estimator: the divergence, as in `ode.divergence`: "exact", "rademacher" or "gaussian".
        probes: how many random vectors an estimated divergence uses in each evaluation; an adaptive solver and the
            adjoint keep them for the whole solve, since they could not step through noise that is new at every look.
        adjoint: the gradient from the adjoint equation, as in `ode.solve`: slower, in memory that does not grow with
            the steps. The velocity must be an `nn.Module`, or a partial of one; the gradient reaches its parameters
            and x.
        max_nfe: how many evaluations an adaptive solver may use.

    Attributes:
        nfe: how often the velocity was evaluated in the last call; 0 before it. A look that also asks for the
            divergence counts as one, though it costs a pass back through the network for each coordinate or probe.

    Raises:
        TypeError: the velocity cannot be called or has no parameters to show to an adjoint, or the base is not a
            Distribution.
        ValueError: an unknown method or estimator, a number of steps or probes below 1, or a base with a batch shape.

    Source: Chen et al. (2018), theorem 1; Grathwohl et al. (2019), equation 4.

    Example:
        >>> from fmtutor.distributions import StandardNormal
        >>> flow = ContinuousFlow(lambda t, x: x, StandardNormal(1), method="rk4")  # stretches by e
        >>> flow.log_prob(torch.zeros(1, 1)), StandardNormal(1).log_prob(torch.zeros(1, 1)) - 1
        (tensor([-1.9189]), tensor([-1.9189]))
    """

    arg_constraints: dict = {}
    has_rsample = True

    def __init__(
        self,
        velocity: Velocity,
        base: torch.distributions.Distribution,
        *,
        method: str = "midpoint",
        steps: int = 20,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        t1: float = 1.0,
        estimator: str = "exact",
        probes: int = 1,
        adjoint: bool = False,
        max_nfe: int = 20_000,
    ) -> None:
        if not isinstance(base, torch.distributions.Distribution):
            raise TypeError(f"base must be a torch Distribution, got {type(base).__name__}")
        if base.batch_shape:
            raise ValueError(f"base must have no batch shape (see torch's Independent), got {tuple(base.batch_shape)}")
        if adjoint:
            leaves(velocity)
        super().__init__(event_shape=base.event_shape, validate_args=False)
        self.velocity, self.base = field(velocity), base
        self.method = _validate.choice("method", method, FIXED + ADAPTIVE)
        self.estimator = _validate.choice("estimator", estimator, ESTIMATORS)
        self.steps, self.probes = _validate.whole("steps", steps), _validate.whole("probes", probes)
        self.rtol, self.atol = _validate.positive("rtol", rtol), _validate.positive("atol", atol)
        self.t1, self.max_nfe = _validate.positive("t1", t1), _validate.whole("max_nfe", max_nfe)
        self.adjoint, self.nfe = adjoint, 0
        if method in FIXED:
            looks = math.ceil(steps * ORDER[method] / 3)  # measured: as exact as the path
            self.looks = tuple(part.tolist() for part in gauss_legendre(looks, 0.0, 1.0))
        for path in paths_of(velocity):
            _say_if_apart(path, base)

    def to(self, *args: object, **kwargs: object) -> Self:
        """A copy on another device or in another dtype; takes what `torch.Tensor.to` takes, as the base must too."""
        other = copy.copy(self)
        other.base = _validate.able("base", self.base, "to", like="StandardNormal").to(*args, **kwargs)
        other.velocity = moved(self.velocity, *args, **kwargs)
        return other

    def rsample(
        self, sample_shape: Size | list[int] | tuple[int, ...] = (), generator: Generator | None = None
    ) -> Float[Tensor, "*sample_and_event"]:
        """Draws of shape `(*sample_shape, *event)`; while the velocity is in training, their gradient reaches it."""
        shape = _validate.sample_shape(sample_shape)
        x0 = draw("base", self.base, shape.numel(), generator)
        with self._gradients(x0):
            return self._solve(self.velocity, x0, 0.0, self.t1).x.reshape(shape + self.event_shape)

    def sample(
        self, sample_shape: Size | list[int] | tuple[int, ...] = (), generator: Generator | None = None
    ) -> Float[Tensor, "*sample_and_event"]:
        """Draws of shape `(*sample_shape, *event)`, without a gradient; a generator needs a base that takes one."""
        with torch.no_grad():
            return self.rsample(sample_shape, generator)

    def trajectory(self, x0: Float[Tensor, "batch *event"], times: Tensor | Iterable[float] | int = 21) -> Solution:
        """The way of given base points through time, without a gradient.

        Args:
            x0: where to start, `(batch, *event)`.
            times: when to look, as in `ode.solve`; or a number of equal looks from 0 to `t1`.

        Returns:
            The `Solution`; its `states` are `(times, batch, *event)`.
        """
        if _validate.floating("x0", x0).shape[1:] != self.event_shape:
            wanted = ", ".join(["batch", *map(str, self.event_shape)])
            raise ValueError(f"x0 must have shape ({wanted}), got {tuple(x0.shape)}")
        if not isinstance(times, Tensor | Iterable):
            times = torch.linspace(0.0, self.t1, _validate.whole("times", times, least=2))
        with torch.no_grad():
            return self._solve(self.velocity, x0, 0.0, self.t1, times)

    def log_prob(self, value: Float[Tensor, "*sample_and_event"]) -> Float[Tensor, "*sample"]:
        """The log-density, in nats.

        Raises:
            TypeError: `value` does not hold floating-point numbers.
            ValueError: `value` does not end in the event shape, or is not finite.
        """
        _validate.finite("value", value)
        events = len(self.event_shape)
        if value.dim() < events or value.shape[value.dim() - events :] != self.event_shape:
            event, came = tuple(self.event_shape), tuple(value.shape)
            raise ValueError(f"value must end in the event shape {event}, got {came}")
        x1 = value.reshape(-1, *self.event_shape)
        with self._gradients(x1):
            x0, gathered = self._carry(x1, self.t1, 0.0)
            log_prob = self.base.log_prob(x0) + gathered
        return log_prob.reshape(value.shape[: value.dim() - events])

    def sample_and_log_prob(
        self, sample_shape: Size | list[int] | tuple[int, ...] = (), generator: Generator | None = None
    ) -> tuple[Float[Tensor, "*sample_and_event"], Float[Tensor, "*sample"]]:
        """Draws and their log-densities in nats, from one forward solve.

        `log_prob` at the same draws goes the way back and agrees within the solver's error. Gradients are those of
        `log_prob`: both results have one, unless the network is in evaluation mode.

        Args:
            sample_shape: how many draws.
            generator: where the draws come from, and the probes of an estimated divergence.

        Returns:
            The draws, `(*sample_shape, *event)`, and their log-densities, `(*sample_shape,)`.

        Example:
            >>> from fmtutor.distributions import StandardNormal
            >>> flow = ContinuousFlow(lambda t, x: x, StandardNormal(1), method="rk4")
            >>> x, log_prob = flow.sample_and_log_prob((3,))
            >>> x.shape, torch.allclose(log_prob, flow.log_prob(x), atol=1e-4)
            (torch.Size([3, 1]), True)
        """
        shape = _validate.sample_shape(sample_shape)
        x0 = draw("base", self.base, shape.numel(), generator)
        with self._gradients(x0):
            x1, gathered = self._carry(x0, 0.0, self.t1, generator)
            log_prob = self.base.log_prob(x0) - gathered
        return x1.reshape(shape + self.event_shape), log_prob.reshape(shape)

    def _gradients(self, x: Tensor) -> torch.set_grad_enabled:
        wanted = x.requires_grad or is_trained(self.velocity, self.base)
        return torch.set_grad_enabled(torch.is_grad_enabled() and wanted)

    def _carry(
        self, x: Float[Tensor, "batch *event"], t0: float, t1: float, generator: Generator | None = None
    ) -> tuple[Float[Tensor, "batch *event"], Float[Tensor, " batch"]]:
        """Where x arrives, and the integral of the divergence from t0 to t1 along its way."""
        if self.adjoint or self.method in ADAPTIVE:
            return self._carry_together(x, t0, t1, generator)
        times, weights = ([a + (t1 - t0) * b for b in part] for a, part in zip((t0, 0), self.looks, strict=True))
        steps = math.ceil(2 * self.steps / 3)  # every interval rounds its share up: about self.steps in all
        path = self._solve(self.velocity, x, t0, t1, [t0, *times, t1], steps)
        gathered = x.new_zeros(len(x), dtype=path.times.dtype)  # a sum keeps float32 where x has half precision
        for t, at, weight in zip(times, path.states[1:-1], weights, strict=True):
            gathered = gathered + weight * self._divergence(t, at, generator)[1]
        self.nfe += len(times)
        return path.x, gathered

    def _carry_together(
        self, x: Float[Tensor, "batch *event"], t0: float, t1: float, generator: Generator | None
    ) -> tuple[Float[Tensor, "batch *event"], Float[Tensor, " batch"]]:
        """The same, with the integral as one more coordinate, so that the solver's tolerance is for both."""
        seed = None if self.estimator == "exact" else int(torch.randint(2**31, (), generator=generator))

        def together(t: Tensor, state: Tensor) -> Tensor:
            at = state[:, :-1].reshape(x.shape).to(x.dtype)
            probes = None if seed is None else Generator(x.device).manual_seed(seed)
            u, div = self._divergence(t, at, probes)
            return torch.cat([_validate.flat(u), div[:, None]], 1).to(state.dtype)

        state = wide(torch.cat([_validate.flat(x), x.new_zeros(len(x), 1)], 1))
        end = self._solve(together, state, t0, t1).x
        return end[:, :-1].reshape(x.shape).to(x.dtype), end[:, -1]

    def _divergence(self, t: Tensor | float, x: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
        return divergence(self.velocity, t, x, self.estimator, self.probes, generator)

    def _solve(
        self,
        velocity: Velocity,
        x: Tensor,
        t0: float,
        t1: float,
        times: Tensor | Iterable[float] | None = None,
        steps: int | None = None,
    ) -> Solution:
        how = {"method": self.method, "steps": steps or self.steps, "rtol": self.rtol, "atol": self.atol}
        reach = leaves(self.velocity) if self.adjoint else False
        solution = solve(velocity, x, t0, t1, times=times, adjoint=reach, max_nfe=self.max_nfe, **how)  # type: ignore[arg-type]
        self.nfe = solution.nfe
        return solution


def _say_if_apart(path: AffinePath, base: torch.distributions.Distribution) -> None:
    """Warn where a path that the velocity follows does not start from this base."""
    if path.starts_standard:  # or nobody knows
        return
    alpha, sigma = path.start or (0.0, 1.0)
    if alpha > 0.15 * sigma:
        said = f"at t = 0 it still holds data (alpha {alpha:.3g}, sigma {sigma:.3g}), which no base of pure noise does"
    else:
        try:
            scale = float(base.stddev.mean())
        except (NotImplementedError, AttributeError):
            return
        if 0.8 < scale / sigma < 1.25:
            return
        right = ", ".join([*map(str, base.event_shape), f"scale={sigma:.3g}"])
        said = f"it starts from noise of scale {sigma:.3g}, and the base has {scale:.3g}: take StandardNormal({right})"
    warnings.warn(f"base and path do not belong together. The velocity follows {path}; {said}", stacklevel=3)
