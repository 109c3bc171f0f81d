"""How a velocity field spreads volume: its divergence, the trace of its Jacobian, exactly or by a few random looks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from fmtutor import _validate
from fmtutor.fields import Velocity, evaluate, field

ESTIMATORS = ("exact", "rademacher", "gaussian")
ROWS = 8192  # how many products `divergence` forms at once: few enough for a processor's cache


def divergence(
    velocity: Velocity,
    t: Tensor | float,
    x: Float[Tensor, "batch *event"],
    estimator: str = "exact",
    probes: int = 1,
    generator: Generator | None = None,
) -> tuple[Float[Tensor, "batch *event"], Float[Tensor, " batch"]]:
    """The velocity at x and its divergence, the trace of its Jacobian, for any event shape.

    Every estimator is a sum of `z . (J^T z)`: exact, z runs through the unit vectors of an event; otherwise z is random
    with `E[z z^T] = 1`, and the mean over the probes is unbiased (Hutchinson, 1990). With `S = (J + J^T) / 2`, its
    variance is `2 sum_{i != j} S_ij^2 / probes` for random signs, and `2 sum_{ij} S_ij^2 / probes` for normal numbers.

    The network runs forward once; each z then costs one pass back through it. Rows must not influence each other, as
    they would through batch normalisation.

    Args:
        velocity: `v(t, x)`.
        t: a scalar or `(batch,)`.
        x: where.
        estimator: "exact"; "rademacher", random signs; or "gaussian", normal numbers.
        probes: how many random z; ignored by "exact".
        generator: where the probes come from; torch's global generator unless given.

    Raises:
        TypeError: x does not hold floating-point numbers.
        ValueError: an unknown estimator, fewer than one probe, a time for another number of rows, or a velocity that
            returns another shape or has no gradient.

    Source: Grathwohl et al. (2019), section 3.1.

    Example:
        >>> u, div = divergence(lambda t, x: x * torch.tensor([1.0, 2.0]), 0.5, torch.ones(1, 2))
        >>> u, div
        (tensor([[1., 2.]]), tensor([3.]))
    """
    if _validate.floating("x", x).dim() == 0:
        raise ValueError("x must have shape (batch, *event), got a single number")
    _validate.choice("estimator", estimator, ESTIMATORS), field(velocity)
    _validate.per_row("t", t, x)
    t = torch.as_tensor(t, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)

    def checked(at: Tensor) -> Tensor:
        return evaluate(velocity, t, at)

    u, pull = torch.func.vjp(checked, x)  # type: ignore[misc]

    def along(z: Tensor) -> Float[Tensor, " batch"]:
        z = z.expand_as(x)
        return _validate.flat(z * pull(z)[0]).sum(1)

    z = _probes(x, estimator, probes, generator)
    together = max(1, ROWS // max(1, len(x)))
    terms = torch.cat([_all(along, part) for part in z.split(together)])
    if _validate.readable(terms) and not terms.any():
        _must_have_gradient(checked, pull, x, u)
    return u, terms.sum(0) if estimator == "exact" else terms.mean(0)


def _all(along: Callable[[Tensor], Tensor], z: Tensor) -> Float[Tensor, "probes batch"]:
    """`along` each z, together where that can be: vmap cannot ask how the weights of a convolution lie in memory."""
    if len(z) > 1:
        try:
            return torch.func.vmap(along)(z)
        except RuntimeError as error:  # weights in channels_last, as `fmtutor.images.train` leaves them
            if "memory_format" not in str(error):
                raise
    return torch.stack([along(each) for each in z])


def _must_have_gradient(
    velocity: Callable[[Tensor], Tensor], pull: Callable[[Tensor], tuple[Tensor, ...]], x: Tensor, u: Tensor
) -> None:
    """Raise where the field changes with x and its Jacobian is zero all the same: a gradient that was cut off."""
    z = torch.randn(x.shape, generator=Generator().manual_seed(0)).to(x)
    if pull(z)[0].any():
        return
    changed = _validate.flat(velocity(x + 1e-3 * z) != u).any(1)
    if len(x) and changed.to(x.dtype).mean() > 0.5:
        raise ValueError(
            "velocity must be differentiable in x, but it changes with x while its gradient is zero: "
            "take torch.no_grad, torch.inference_mode or .detach() out of it"
        )


def _probes(
    x: Tensor, estimator: str, probes: int, generator: Generator | None
) -> Float[Tensor, "probes #batch *event"]:
    if estimator == "exact":
        event = x.shape[1:]
        return torch.eye(event.numel(), dtype=x.dtype, device=x.device).reshape(-1, 1, *event)
    _validate.whole("probes", probes)
    shape = (probes, *x.shape)
    if estimator == "gaussian":
        return torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)
    return 2.0 * torch.randint(2, shape, generator=generator, device=x.device).to(x) - 1
