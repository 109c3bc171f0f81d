"""The two losses of flow matching: the one we want, and the one we can compute.

Chapter 4 proves that their gradients are equal, and measures the constant by which they differ.
"""

from __future__ import annotations

import warnings
from weakref import WeakSet

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from fmtutor import _validate
from fmtutor.distributions import Target
from fmtutor.distributions.target import wide
from fmtutor.fields import Velocity, evaluate, field
from fmtutor.fields.inside import remember
from fmtutor.paths import AffinePath

__all__ = ["Velocity", "conditional_flow_matching_loss", "flow_matching_loss"]


def conditional_flow_matching_loss(
    velocity: Velocity,
    path: AffinePath,
    x0: Float[Tensor, "batch *event"],
    x1: Float[Tensor, "batch *event"],
    t: Tensor | float | None = None,
    reduction: str = "mean",
    *,
    generator: Generator | None = None,
) -> Float[Tensor, "..."]:
    """`mean |v(t, xt) - u_t(xt | x1)|^2` over pairs of noise and data, and over the coordinates of an event.

    Its minimum is not 0 but the variance of the target, the floor of chapter 4.

    Args:
        velocity: the field to be trained.
        path: where xt and its velocity come from.
        x0: noise; standard normal where the path's marginals are to be those of `AffinePath`, also for a path that
            scales it by a `sigma(0)` other than 1.
        x1: data, one for each x0.
        t: a scalar or one time a pair. Unless given, times lean towards t = 1, with density `(2/3) (1 - t)^(-1/3)`: the
            best field is the same for any times, and the last stretch is the hardest to learn. Where the value of the
            loss matters, as it does beside a floor, give `torch.rand(batch)`.
        reduction: "mean", or "none" for one number a pair.
        generator: where the times come from; torch's global generator unless given.

    Raises:
        TypeError: x0 or x1 does not hold floating-point numbers.
        ValueError: shapes differ (nothing is broadcast), a value is not finite, t is outside [0, 1] or of a wrong
            length, the velocity returns another shape, or the reduction is unknown.

    Source: Lipman et al. (2023), equation 9.

    Example:
        >>> x0, x1 = torch.zeros(4, 2), torch.ones(4, 2)
        >>> conditional_flow_matching_loss(lambda t, x: 0 * x, AffinePath(), x0, x1)  # every pair moves by 1
        tensor(1.)
    """
    _validate.choice("reduction", reduction, ("mean", "none"))
    _validate.able("path", path, "sample", like="AffinePath")
    if t is None:
        n = len(x1) if _validate.floating("x1", x1).dim() else 1
        dtype = torch.promote_types(x1.dtype, torch.float32)  # of times in half precision, many would be 1
        left = torch.rand(n, generator=_validate.random(generator), dtype=dtype, device=x1.device) ** 1.5
        t = (1 - left).clamp(max=1 - 1e-6)  # rounding must not reach t = 1, where some paths have no velocity
    if isinstance(path, AffinePath):
        remember(velocity, path)
        _say_if_scaled(path, x0)
    t, xt, ut = path.sample(x0, x1, t)
    return _squared_error(velocity, t, xt, ut, reduction)


def flow_matching_loss(
    velocity: Velocity,
    path: AffinePath,
    target: Target,
    xt: Float[Tensor, "batch *event"],
    t: Tensor | float,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    """`mean |v(t, xt) - u_t(xt)|^2` against the exact marginal velocity: wanted small, and usually out of reach.

    Args:
        velocity: the field to be judged.
        path: the path whose marginal velocity is the truth.
        target: a distribution with a `posterior_mean`.
        xt: points on the path, as `path.sample` gives them.
        t: their times, a scalar or one a row.
        reduction: "mean", or "none" for one number a row.

    Raises:
        ValueError: as in `conditional_flow_matching_loss`, or sigma(t) = 0.
        NotImplementedError: the target does not know its posterior mean.

    Source: Lipman et al. (2023), equation 5.

    Example:
        >>> from fmtutor.distributions import Empirical
        >>> path, point = AffinePath(), Empirical(torch.zeros(1, 2))
        >>> flow_matching_loss(lambda t, x: -x / (1 - t), path, point, torch.randn(5, 2), t=0.5)  # the exact field
        tensor(0.)
    """
    _validate.choice("reduction", reduction, ("mean", "none"))
    ut = _validate.able("path", path, "marginal_velocity", like="AffinePath").marginal_velocity(t, xt, target)
    at = torch.as_tensor(t, dtype=torch.promote_types(xt.dtype, torch.float32), device=xt.device)
    return _squared_error(velocity, at, xt, ut, reduction)


_LOOKED_AT: WeakSet[AffinePath] = WeakSet()


def _say_if_scaled(path: AffinePath, x0: Tensor) -> None:
    """Warn, at the first batch, where x0 has the scale of the path's noise already, and would get it twice."""
    if path.starts_standard or path in _LOOKED_AT or not _validate.readable(x0) or x0.numel() < 100:
        return
    _LOOKED_AT.add(path)
    _, sigma = path.start or (0.0, 1.0)
    scale = float(x0.std())
    if 0.8 < scale / sigma < 1.25 and not 0.8 < scale < 1.25:
        warnings.warn(
            f"x0 must be standard normal, and the path of {path.schedule} scales it by sigma(0) = {sigma:g}, but x0 "
            f"has a standard deviation of {scale:.3g} already: draw x0 from StandardNormal",
            stacklevel=3,
        )


def _squared_error(velocity: Velocity, t: Tensor, xt: Tensor, ut: Tensor, reduction: str) -> Tensor:
    if reduction == "mean" and not xt.numel():
        raise ValueError(f"a mean needs points to be taken over, got none: xt has shape {tuple(xt.shape)}")
    error = wide(evaluate(field(velocity), t, xt) - ut).square()
    return error.mean() if reduction == "mean" else _validate.flat(error).mean(1)
