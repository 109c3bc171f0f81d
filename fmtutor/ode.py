"""Following a velocity field: `solve` integrates dx/dt = v(t, x), and `divergence` says how the field spreads volume.

Built on torchdiffeq. Chapter 3 solves with an exact field; chapter 2 is about what this file does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torchdiffeq
from jaxtyping import Float
from torch import Generator, Tensor, nn

from fmtutor import _validate

ORDER = {"euler": 1, "midpoint": 2, "heun2": 2, "rk4": 4}  # with n steps the error is like 1 / n^order
FIXED = tuple(ORDER)
ADAPTIVE = ("dopri5", "dopri8", "bosh3", "adaptive_heun")
ESTIMATORS = ("exact", "rademacher", "gaussian")
HINT = "An exact field has no velocity at t = 1: stop a little earlier, at t1=0.999 say"
ROWS = 8192  # how many products `divergence` forms at once: few enough for a processor's cache


class Solution(NamedTuple):
    """What `solve` returns.

    Attributes:
        x: the state at the last time, `(batch, *event)`.
        times: the times at which states were kept, `(times,)`.
        states: those states, `(times, batch, *event)`.
        nfe: how often the velocity was evaluated.
    """

    x: Tensor
    times: Tensor
    states: Tensor
    nfe: int


def solve(
    velocity: Callable[[Tensor, Tensor], Tensor],
    x: Float[Tensor, "batch *event"],
    t0: float = 0.0,
    t1: float = 1.0,
    *,
    method: str = "midpoint",
    steps: int = 20,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    times: Tensor | Iterable[float] | None = None,
    adjoint: bool | Iterable[Tensor] = False,
) -> Solution:
    """Integrate dx/dt = v(t, x) from t0 to t1, forwards or backwards.

    The gradient goes back through every operation of the solver (discretise, then optimise), so it is exact for the
    number that came out, and its memory grows with the steps. With `adjoint` it comes from a second differential
    equation, solved backwards by the same method (optimise, then discretise): the memory does not grow, the gradient
    has the solver's error, and the velocity is evaluated again on the way back.

    Args:
        velocity: `v(t, x)` with a scalar t, returning the shape of x.
        x: the state at t0.
        t0: where to start.
        t1: where to end; below t0 to integrate backwards.
        method: "euler", "midpoint", "heun2" or "rk4" with a fixed number of steps, or "dopri5", "dopri8", "bosh3" or
            "adaptive_heun", which choose their own.
        steps: how many equal steps a fixed-step method takes; with `times`, each interval gets its share, rounded up.
        rtol: the relative error an adaptive method allows itself in a step.
        atol: the absolute one, in units of x.
        times: the times at which to keep the state, strictly rising or strictly falling; their ends replace t0 and t1.
        adjoint: True to get the gradient for x and the parameters of the velocity, an `nn.Module`, from the adjoint
            equation; or, where the velocity is a plain function, the tensors that its gradient has to reach.

    Returns:
        The `Solution`; its `nfe` counts the evaluations of this solve, and none of those on the way back.

    Raises:
        TypeError: x does not hold floating-point numbers, or `adjoint=True` and the velocity is no `nn.Module`.
        ValueError: x is not finite or does not stay so, the velocity returns another shape, the method is unknown, or a
            number is out of range.

    Source: Chen et al. (2018), algorithm 1, for the adjoint.

    Example:
        >>> solution = solve(lambda t, x: -x, torch.ones(1, 1), method="rk4", steps=10)
        >>> solution.x, solution.nfe  # exp(-1) = 0.3679
        (tensor([[0.3679]]), 40)
    """
    _validate.per_row("t0", t0, _validate.finite("x", x)), _validate.function("velocity", velocity)
    _validate.choice("method", method, FIXED + ADAPTIVE)
    method = method if x.numel() else "euler"  # nothing to adapt to
    times = _times(times, t0, t1, x)
    calls = 0

    def counted(t: Tensor, state: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return _validate.output_like("velocity", velocity(t, state), state)

    how, forth, back = _options(method, times, steps, rtol, atol)
    with _named_underflow(method):
        if adjoint is False:
            states = torchdiffeq.odeint(counted, x, times, options=forth, **how)
        else:
            reach = {"adjoint_params": _reach(velocity, adjoint), "adjoint_options": back}
            states = torchdiffeq.odeint_adjoint(counted, x, times, options=forth, **reach, **how)
    return Solution(states[-1], times, _finite(states, times), calls)


@contextmanager
def _named_underflow(method: str) -> Iterator[None]:
    """Where an adaptive method's steps shrink to nothing, an error that says so; torchdiffeq asserts."""
    try:
        yield
    except AssertionError as error:
        if "underflow" not in str(error):  # the velocity's own
            raise
        raise ValueError(
            f"velocity must be finite and smooth, but {method} cannot follow it: {error}. {HINT}"
        ) from error


def _finite(states: Float[Tensor, "times batch *event"], times: Float[Tensor, " times"]) -> Tensor:
    """`states`, if the solver never left the numbers (looked at on the CPU alone)."""
    if states.device.type == "cpu" and not (good := states.isfinite().flatten(1).all(1)).all():
        when = times[~good][0].item()
        raise ValueError(
            f"velocity must be finite, but following it led to NaN or infinity before t = {when:g}. {HINT}"
        )
    return states


def _options(
    method: str, times: Float[Tensor, " times"], steps: int, rtol: float, atol: float
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The method, and what torchdiffeq has to know about steps on the way forth and on the adjoint's way back."""
    length = (times[-1] - times[0]).abs()
    if method in FIXED:
        size = length / _validate.whole("steps", steps)
        grid = {"grid_constructor": lambda velocity, x, times: _grid(times, size)}
        return {"method": method}, grid, grid
    how = {"method": method, "rtol": _validate.positive("rtol", rtol), "atol": _validate.positive("atol", atol)}
    # left to itself torchdiffeq looks beyond the last time, where a field need not exist, and interpolates back
    first = 0.01 * length
    rising = times if times[0] < times[-1] else -times  # the adjoint counts falling times from below
    return how, {"first_step": first, "step_t": times[1:]}, {"first_step": first, "step_t": rising[:-1]}


def _reach(velocity: Callable[[Tensor, Tensor], Tensor], adjoint: bool | Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The tensors, beside x, that an adjoint's gradient reaches."""
    if not isinstance(adjoint, bool):
        if not isinstance(adjoint, Iterable):
            raise TypeError(f"adjoint must be True, False or the tensors to reach, got {adjoint!r}")
        return tuple(adjoint)
    if not isinstance(velocity, nn.Module):
        raise TypeError(
            f"adjoint=True needs a velocity that is an nn.Module, got {type(velocity).__name__}: "
            "say adjoint=[...] with the tensors that the gradient has to reach, or adjoint=() for x alone"
        )
    return tuple(velocity.parameters())


def _times(times: Tensor | Iterable[float] | None, t0: float, t1: float, x: Tensor) -> Float[Tensor, " times"]:
    if times is None:
        times = (t0, t1)
    try:
        times = times if isinstance(times, Tensor) else [float(t) for t in times]
    except (TypeError, ValueError):
        raise TypeError(f"times must be a row of numbers, got {times!r}") from None
    times = torch.as_tensor(times, dtype=x.dtype, device=x.device)
    if times.dim() != 1 or len(times) < 2 or not times.isfinite().all():
        raise ValueError(f"times must be a row of at least two finite numbers, got {times.tolist()}")
    gaps = times.diff()
    if not ((gaps > 0).all() or (gaps < 0).all()):
        raise ValueError(f"times must strictly rise or strictly fall (t0 and t1 must differ), got {times.tolist()}")
    return times


def _grid(times: Float[Tensor, " times"], size: Tensor) -> Float[Tensor, " ends"]:
    """The ends of all steps: each interval in equal steps no longer than `size`."""
    shares = [max(1, math.ceil(float(gap / size) - 1e-3)) for gap in times.diff().abs()]
    pieces = [torch.lerp(a, b, torch.arange(n).to(times) / n)
              for a, b, n in zip(times[:-1], times[1:], shares, strict=True)]  # fmt: skip
    return torch.cat([*pieces, times[-1:]])


def divergence(
    velocity: Callable[[Tensor, Tensor], Tensor],
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
    _validate.choice("estimator", estimator, ESTIMATORS), _validate.function("velocity", velocity)
    _validate.per_row("t", t, x)
    t = torch.as_tensor(t, dtype=x.dtype, device=x.device)

    def checked(at: Tensor) -> Tensor:
        return _validate.output_like("velocity", velocity(t, at), at)

    u, pull = torch.func.vjp(checked, x)  # type: ignore[misc]

    def along(z: Tensor) -> Float[Tensor, " batch"]:
        z = z.expand_as(x)
        return _validate.flat(z * pull(z)[0]).sum(1)

    z = _probes(x, estimator, probes, generator)
    together = max(1, ROWS // max(1, len(x)))
    terms = torch.cat([torch.func.vmap(along)(part) if len(part) > 1 else along(part[0])[None]
                       for part in z.split(together)])  # fmt: skip
    if x.device.type == "cpu" and not terms.any():
        _must_have_gradient(checked, pull, x, u)
    return u, terms.sum(0) if estimator == "exact" else terms.mean(0)


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
