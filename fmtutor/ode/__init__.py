"""Following a velocity field: `solve` integrates dx/dt = v(t, x), and `divergence` says how the field spreads volume.

Chapter 3 solves with an exact field; chapter 2 is about what this file does. Fixed steps are in `steps`, what
torchdiffeq does in `adaptive`, the divergence in `traces`.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fmtutor import _validate
from fmtutor.fields import Velocity, evaluate, field
from fmtutor.fields.inside import leaves
from fmtutor.ode.adaptive import ADAPTIVE, HINT, Count, integrate, intervals
from fmtutor.ode.steps import FIXED, ORDER, follow, shares
from fmtutor.ode.traces import ESTIMATORS, divergence

__all__ = ["ADAPTIVE", "ESTIMATORS", "FIXED", "ORDER", "Solution", "divergence", "solve"]


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
    velocity: Velocity,
    x: Float[Tensor, "batch *event"],
    t0: Tensor | float = 0.0,
    t1: Tensor | float = 1.0,
    *,
    method: str = "midpoint",
    steps: int = 20,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    times: Tensor | Iterable[float] | None = None,
    adjoint: bool | Iterable[Tensor] = False,
    max_nfe: int = 20_000,
) -> Solution:
    """Integrate dx/dt = v(t, x) from t0 to t1, forwards or backwards.

    The gradient goes back through every operation of the solver (discretise, then optimise), so it is exact for the
    number that came out, and its memory grows with the steps. With `adjoint` it comes from a second differential
    equation, solved backwards by the same method (optimise, then discretise): the memory does not grow, the gradient
    has the solver's error, and the velocity is evaluated again on the way back.

    A field may jump at one of the `times`, and there alone: a solver steps onto them and asks either side for its own
    value. Half precision is the field's; the state, the time and the steps are then kept in float32.

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
        adjoint: True to get the gradient for x and the parameters of the velocity, an `nn.Module` (or a partial of
            one), from the adjoint equation; or, where the velocity is a plain function, the tensors to reach.
        max_nfe: how many evaluations an adaptive method may use, on the way forth and again on the adjoint's way back.

    Returns:
        The `Solution`; its `nfe` counts the evaluations of this solve, and none of those on the way back.

    Raises:
        TypeError: x does not hold floating-point numbers, the velocity wants x first, or `adjoint=True` and the
            velocity is no `nn.Module`.
        ValueError: x is not finite or does not stay so, the velocity returns another shape or needs more than `max_nfe`
            evaluations, the method is unknown, or a number is out of range.

    Source: Chen et al. (2018), algorithm 1, for the adjoint.

    Example:
        >>> solution = solve(lambda t, x: -x, torch.ones(1, 1), method="rk4", steps=10)
        >>> solution.x, solution.nfe  # exp(-1) = 0.3679
        (tensor([[0.3679]]), 40)
    """
    _validate.per_row("t0", t0, _validate.finite("x", x)), field(velocity)
    _validate.choice("method", method, FIXED + ADAPTIVE)
    method = method if x.numel() else "euler"  # nothing to adapt to
    wide = torch.promote_types(x.dtype, torch.float32)
    at, known = _times(times, t0, t1, x.to(wide))
    count = Count(method, _validate.whole("max_nfe", max_nfe))

    def asked(t: Tensor, state: Tensor) -> Tensor:
        count.one_more(t)
        return evaluate(velocity, t, state.to(x.dtype)).to(wide)

    reach = None if adjoint is False else _reach(velocity, adjoint)
    _validate.positive("rtol", rtol), _validate.positive("atol", atol)
    first, states = 0.01 * (at[-1] - at[0]).abs(), [x.to(wide)]
    for (start, end), share in zip(intervals(at), shares(known, _validate.whole("steps", steps)), strict=True):
        way = (method, asked, start, end, states[-1], share)
        plain = method in FIXED and reach is None
        states.append(follow(*way) if plain else integrate(*way, first, reach, rtol, atol))
        first = (end - start).abs()
    nfe = count.close()
    kept = _finite(torch.stack(states), at)
    if reach is not None and kept.requires_grad:
        kept.register_hook(count.restart)
    return Solution(kept[-1].to(x.dtype), at, kept.to(x.dtype), nfe)


def _finite(states: Float[Tensor, "times batch *event"], times: Float[Tensor, " times"]) -> Tensor:
    """`states`, if the solver never left the numbers (looked at on the CPU alone)."""
    if _validate.readable(states) and not (good := states.isfinite().flatten(1).all(1)).all():
        when = times[~good][0].item()
        raise ValueError(
            f"velocity must be finite, but following it led to NaN or infinity before t = {when:g}. {HINT}"
        )
    return states


def _reach(velocity: Velocity, adjoint: bool | Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The tensors, beside x, that an adjoint's gradient reaches."""
    if isinstance(adjoint, bool):
        return leaves(velocity)
    if not isinstance(adjoint, Iterable):
        raise TypeError(f"adjoint must be True, False or the tensors to reach, got {adjoint!r}")
    return tuple(adjoint)


def _times(
    times: Tensor | Iterable[float] | None, t0: Tensor | float, t1: Tensor | float, x: Tensor
) -> tuple[Float[Tensor, " times"], list[float]]:
    """The times as a tensor, through which a gradient may go, and as plain numbers."""
    given: Tensor | Iterable[Tensor | float] = (t0, t1) if times is None else times
    try:
        given = given if isinstance(given, Tensor) else list(given)
        if isinstance(given, list) and any(isinstance(t, Tensor) for t in given):
            given = torch.stack([torch.as_tensor(t, dtype=x.dtype, device=x.device).reshape(()) for t in given])
        row = torch.as_tensor(given, dtype=x.dtype, device=x.device)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"times must be a row of numbers, got {given!r}") from None
    known = given if torch.compiler.is_compiling() and isinstance(given, list) else row.tolist()
    if row.dim() != 1 or len(known) < 2 or not all(-float("inf") < t < float("inf") for t in known):
        raise ValueError(f"times must be a row of at least two finite numbers, got {known}")
    gaps = [b - a for a, b in pairwise(known)]
    if not (all(gap > 0 for gap in gaps) or all(gap < 0 for gap in gaps)):
        raise ValueError(f"times must strictly rise or strictly fall (t0 and t1 must differ), got {known}")
    return row, known
