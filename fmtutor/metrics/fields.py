"""How far a field is from the exact one, and its trajectories from straight lines.

Chapter 4 measures a trained field with it, chapter 5 how straight its trajectories are.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.distributions import Distribution

from fmtutor import _validate
from fmtutor.distributions import Target
from fmtutor.distributions.target import draw, wide
from fmtutor.fields import Velocity, evaluate, field
from fmtutor.metrics.estimates import Estimate, estimate, home
from fmtutor.ode import Solution
from fmtutor.paths import AffinePath


@torch.no_grad()
def velocity_error(
    velocity: Velocity,
    path: AffinePath,
    target: Target,
    base: Distribution,
    n: int = 10_000,
    times: Float[Tensor, " times"] | None = None,
    *,
    generator: Generator | None = None,
) -> Estimate | Float[Tensor, " times"]:
    """Mean squared error of a field against the exact marginal velocity, averaged over coordinates: loss minus floor.

    Args:
        velocity: the field, `v(t, x)`; `target` must know its `posterior_mean`.
        n: the number of points drawn from the path, at each time where `times` are given.
        times: None draws `t` uniformly from [0, 1) and returns one `Estimate`; otherwise the answer has one error for
            each of these times.

    Raises:
        ValueError: `velocity` returns another shape than that of its input, or a time has no velocity.

    Source: Lipman et al., 2210.02747, equation 5.

    Example:
        >>> from fmtutor import AffinePath, Checkerboard, StandardNormal
        >>> path, board, base = AffinePath(), Checkerboard(), StandardNormal(2)
        >>> velocity_error(lambda t, x: path.marginal_velocity(t, x, board), path, board, base)
        0 ± 0
    """
    _validate.able("path", path, "marginal_velocity", like="AffinePath"), field(velocity)
    draws = (draw("base", base, _validate.whole("n", n), generator), draw("target", target, n, generator))
    if times is not None:
        if _validate.finite("times", times).dim() != 1 or not len(times):
            raise ValueError(f"times must be a row of at least one time, got shape {tuple(times.shape)}")
        return torch.stack([_field_error(velocity, path, target, *draws, t.expand(n)).mean() for t in times])
    t = torch.rand(n, dtype=draws[0].dtype, device=home(generator, draws[0]), generator=generator)
    return estimate(_field_error(velocity, path, target, *draws, t.to(draws[0].device)))


@torch.no_grad()
def straightness(
    states: Solution | Float[Tensor, "times batch *event"], times: Float[Tensor, " times"] | None = None
) -> Estimate:
    """How far trajectories are from straight: `E ∫ |(x1 - x0) - dx/dt|² dt`, zero iff straight at constant speed.

    Between two recorded states the velocity is their difference quotient, so the number is a lower bound whose error
    falls as the square of the spacing.

    Args:
        states: a `Solution` that was asked for `times`, or the states themselves, and then their times beside them.

    Raises:
        ValueError: fewer than three times, or times that do not run one way.

    Source: Liu et al., 2209.03003, section 2.2, S(Z).

    Example:
        >>> t = torch.linspace(0, 1, 11)
        >>> straightness(t[:, None].square().expand(-1, 8), t)  # speed 2t instead of 1
        0.33 ± 0
    """
    if not isinstance(states, Tensor):
        times, states = states.times, states.states
    if states is None or times is None:
        raise ValueError("states needs its times: give solve(..., times=...), or states and times as two tensors")
    if not _validate.finite("states", states).numel() or _validate.finite("times", times).dim() != 1:
        raise ValueError(
            f"states must hold something and times be a row, got {tuple(states.shape)} and {tuple(times.shape)}"
        )
    times = wide(times)
    step = times.diff()
    if times.shape != states.shape[:1] or len(times) < 3 or not ((step > 0).all() or (step < 0).all()):
        raise ValueError(
            f"times must be three or more, in order, one for each row of states, "
            f"got shape {tuple(times.shape)} for states {tuple(states.shape)}"
        )
    path = wide(states.flatten(2) if states.dim() > 2 else states[..., None])
    slope = path.diff(dim=0) / step[:, None, None]
    chord = (path[-1] - path[0]) / (times[-1] - times[0])
    return estimate((step.abs()[:, None] * (slope - chord).square().sum(-1)).sum(0))


def _field_error(
    velocity: Velocity,
    path: AffinePath,
    target: Target,
    x0: Float[Tensor, "n *event"],
    x1: Float[Tensor, "n *event"],
    t: Float[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """Squared error at each point of the path, averaged over coordinates."""
    errors = []
    for start, end, now in zip(x0.split(10_000), x1.split(10_000), t.split(10_000), strict=True):
        xt = path.sample(start, end, now).xt
        v = evaluate(velocity, now, xt)
        miss = wide(v) - wide(path.marginal_velocity(now, xt, target))
        errors.append(miss.square().reshape(len(xt), -1).mean(1))
    return torch.cat(errors)
