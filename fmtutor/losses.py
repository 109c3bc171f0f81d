"""The losses of flow matching: the one we want, the one we can compute, and the same for other predictions.

Chapter 4 proves that the gradients of the first two are equal, and measures the constant by which they differ. Chapter
6 compares predictions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from weakref import WeakSet

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from fmtutor import _validate
from fmtutor.distributions import Target
from fmtutor.distributions.target import wide
from fmtutor.fields import Velocity, evaluate, field
from fmtutor.fields.inside import remember
from fmtutor.paths import PREDICTIONS, AffinePath, PathSample

__all__ = ["Velocity", "conditional_flow_matching_loss", "flow_matching_loss", "prediction_loss"]


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
        >>> conditional_flow_matching_loss(lambda t, x: 0 * x, AffinePath(), x0, x1)  # pairs move by 1
        tensor(1.)
    """
    _validate.choice("reduction", reduction, ("mean", "none"))
    _validate.able("path", path, "sample", like="AffinePath")
    t, xt, ut = _pairs(velocity, path, x0, x1, t, generator)
    return _squared_error(velocity, t, xt, ut, reduction)


def prediction_loss(
    model: Velocity,
    path: AffinePath,
    x0: Float[Tensor, "batch *event"],
    x1: Float[Tensor, "batch *event"],
    t: Tensor | float | None = None,
    predict: str = "velocity",
    weight: Callable[[Tensor], Tensor] | None = None,
    *,
    generator: Generator | None = None,
) -> Float[Tensor, ""]:
    """The same regression on any of the four things a model may predict: `mean w(t) |m(t, xt) - target|^2`.

    The target is the pair's velocity, its noise x0, its data x1, or the score `-x0 / sigma(t)` of its path. With
    "velocity" and no weight it is `conditional_flow_matching_loss`; with "noise" the simple loss of DDPM, whose
    epsilon is our x0; with "score" denoising score matching. The best answer is the mean of the target given xt,
    whatever the weight, and the four means are affine in each other (`AffinePath.convert`).

    Args:
        model: `m(t, x)`, returning the shape of x.
        path: where xt comes from.
        x0: noise.
        x1: data, one for each x0.
        t: a scalar or one time a pair; unless given, as in `conditional_flow_matching_loss`.
        predict: "velocity", "noise", "data" or "score".
        weight: a function of the times `(batch,)`, at least 0; 1 unless given.
        generator: where the times come from; torch's global generator unless given.

    Raises:
        TypeError: x0, x1 or a weight does not hold floating-point numbers, or the path is no AffinePath.
        ValueError: as in `conditional_flow_matching_loss`; an unknown prediction, a weight that is negative or not one
            number a pair, or a score where sigma is 0.

    Source: Ho et al. (2020), equation 14; Vincent (2011), equation 11; Lipman et al. (2023), equation 9.

    Example:
        >>> x0, x1 = torch.ones(4, 2), torch.zeros(4, 2)
        >>> prediction_loss(lambda t, x: 0 * x, AffinePath(), x0, x1, t=0.5, predict="score")  # 1 / 0.5^2
        tensor(4.)
    """
    _validate.choice("predict", predict, PREDICTIONS), _validate.kind("path", path, AffinePath)
    t, xt, ut = _pairs(model, path, x0, x1, t, generator)
    target = {"velocity": ut, "noise": x0, "data": x1}.get(predict)
    if target is None:
        target = path.convert(t, xt, x0, source="noise", to="score")
    if weight is None:
        return _squared_error(model, t, xt, target, "mean")
    error, w = _squared_error(model, t, xt, target, "none"), weight(t)
    if not error.numel():
        raise ValueError(f"a mean needs points to be taken over, got none: xt has shape {tuple(xt.shape)}")
    _validate.same_shape("weight(t)", _validate.finite("weight(t)", w), "t", t)
    if _validate.readable(w) and (w < 0).any():
        raise ValueError(f"weight(t) must be at least 0, got {w.min().item():g}")
    return (w * error).mean()


def _pairs(
    model: Velocity, path: AffinePath, x0: Tensor, x1: Tensor, t: Tensor | float | None, generator: Generator | None
) -> PathSample:
    """The points of all pairs, at times that are given or lean towards t = 1."""
    if t is None:
        n = len(x1) if _validate.floating("x1", x1).dim() else 1
        dtype = torch.promote_types(x1.dtype, torch.float32)  # in half precision many would be 1
        source = _validate.random(generator)
        left = torch.rand(n, generator=source, dtype=dtype, device=x1.device) ** 1.5
        t = (1 - left).clamp(max=1 - 1e-6)  # not 1 by rounding: some paths have no velocity there
    if isinstance(path, AffinePath):
        remember(model, path)
        _say_if_scaled(path, x0)
    return path.sample(x0, x1, t)


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
        >>> flow_matching_loss(lambda t, x: -x / (1 - t), path, point, torch.randn(5, 2), t=0.5)
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
            stacklevel=4,
        )


def _squared_error(velocity: Velocity, t: Tensor, xt: Tensor, ut: Tensor, reduction: str) -> Tensor:
    if reduction == "mean" and not xt.numel():
        raise ValueError(f"a mean needs points to be taken over, got none: xt has shape {tuple(xt.shape)}")
    error = wide(evaluate(field(velocity), t, xt) - ut).square()
    return error.mean() if reduction == "mean" else _validate.flat(error).mean(1)
