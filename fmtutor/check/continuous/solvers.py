"""The exercises of chapter 2 about steps: one of the midpoint method, a solver's order, and probes that change."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fmtutor.check._diagnose import diagnose
from fmtutor.check._exercise import exercise
from fmtutor.check._predictions import choose


def _swirl(t: Any, x: Tensor) -> Tensor:
    """A field in which every slip of a step shows: it turns, bends and changes with time."""
    if getattr(t, "ndim", 0) == 2:
        raise ValueError("the field was called with `x` in the place of `t`: it is `v(t, x)`, the time first")
    return torch.stack([-x[:, 1] + t * x[:, 0] ** 2, x[:, 0] + torch.cos(3 * torch.as_tensor(t))], 1)


def _whole(clock: float, state: float) -> Any:
    """A whole step from `x` with the slope at `t + clock * h`, `x + state * h * v(t, x)`."""
    return lambda v, t, x, h: x + h * v(t + clock * h, x + state * h * v(t, x))


def _slope(v: Any, t: Any, x: Tensor, h: float) -> Tensor:
    return v(t + h / 2, x + h / 2 * v(t, x))


def _runge_kutta(v: Any, t: Any, x: Tensor, h: float) -> Tensor:
    first, second = v(t, x), _slope(v, t, x, h)
    third = v(t + h / 2, x + h / 2 * second)
    return x + h / 6 * (first + 2 * second + 2 * third + v(t + h, x + h * third))


def _three_eighths(v: Any, t: Any, x: Tensor, h: float) -> Tensor:
    """The rule that torchdiffeq calls `rk4`."""
    first = v(t, x)
    second = v(t + h / 3, x + h / 3 * first)
    third = v(t + 2 * h / 3, x + h * (second - first / 3))
    return x + h / 8 * (first + 3 * second + 3 * third + v(t + h, x + h * (first - second + third)))


_STEPS = {
    "That is an Euler step: it takes the whole step with the slope at its start, and its error falls with h, not with "
    "h squared.": _whole(0, 0),
    "The state goes to the middle and the clock stays behind: the second slope is at `t + h / 2`.": _whole(0, 0.5),
    "The clock goes to the middle and the state stays behind: the second slope is at `x + h / 2 * v(t, x)`.": (
        _whole(0.5, 0)
    ),
    "This looks at the end of the step instead of its middle: halve the h in the time and the h in the state.": (
        _whole(1, 1)
    ),
    "The clock is in the middle and the state has gone a whole step, `x + h v`: halve that h too.": _whole(0.5, 1),
    "The state has gone a whole step and the clock has not moved: both are wanted in the middle, at half of it.": (
        _whole(0, 1)
    ),
    "The state is in the middle and the clock is at the end: `t + h / 2` is wanted.": _whole(1, 0.5),
    "The clock is at the end of the step and the state at its start: both are wanted in the middle.": _whole(1, 0),
    "The way to the middle is half a step *along* the slope: yours is `x + h / 2`, without `v(t, x)`.": (
        lambda v, t, x, h: x + h * v(t + h / 2, x + h / 2)
    ),
    "The way to the middle is half a step: the h is missing before `v(t, x)`.": (
        lambda v, t, x, h: x + h * v(t + h / 2, x + v(t, x) / 2),
        lambda v, t, x, h: x + h * v(t + h / 2, x + v(t, x)),
    ),
    "The middle is half a step *from `x`*: the `x +` is missing inside.": (
        lambda v, t, x, h: x + h * v(t + h / 2, h / 2 * v(t, x))
    ),
    "The middle lies half a step *ahead*: yours goes back, `x - h / 2 * v(t, x)`.": (
        lambda v, t, x, h: x + h * v(t + h / 2, x - h / 2 * v(t, x))
    ),
    "The step is taken twice: from `x`, `h` times the slope in the middle leads to its end.": (
        lambda v, t, x, h: x + 2 * h * _slope(v, t, x, h)
    ),
    "That is the mean of the slopes at both times, and both at the *old* place: look where half a step leads.": (
        lambda v, t, x, h: x + h / 2 * (v(t, x) + v(t + h, x))
    ),
    "Only half the step is taken: the slope comes from the middle, the step itself is `h`.": (
        lambda v, t, x, h: x + h / 2 * _slope(v, t, x, h)
    ),
    "Those are two Euler steps of half the size, the second from the middle. Go back to `x` for the whole step.": (
        lambda v, t, x, h: x + h / 2 * v(t, x) + h / 2 * _slope(v, t, x, h)
    ),
    "This starts from the middle with the slope of the middle: go back to `x` before you take the step.": (
        lambda v, t, x, h: x + h / 2 * v(t, x) + h * _slope(v, t, x, h)
    ),
    "A step back: the slope is added to `x`, for an `h` above zero and below it alike.": (
        lambda v, t, x, h: x - h * _slope(v, t, x, h)
    ),
    "That is the slope in the middle. The step goes from `x` along it: `x + h *` that slope.": _slope,
    "That is only the increment, `h` times the slope: the step ends at `x` plus that.": (
        lambda v, t, x, h: h * _slope(v, t, x, h)
    ),
    "The `h` is missing: the slope is a velocity, and the step is `h` times it.": (
        lambda v, t, x, h: x + _slope(v, t, x, h)
    ),
    "That is the middle itself: look at the slope there, and take the whole step from `x` with it.": (
        lambda v, t, x, h: x + h / 2 * v(t, x)
    ),
    "That is Heun's method, the mean of the slopes at both ends: of order two as well, but not the midpoint.": (
        lambda v, t, x, h: x + h / 2 * (v(t, x) + v(t + h, x + h * v(t, x)))
    ),
    "That is a step of Runge-Kutta, `rk4`, and better than what is asked for: the midpoint method has two slopes.": (
        _runge_kutta,
        _three_eighths,
    ),
}


@exercise(
    chapter=2,
    number=3,
    right="Right: look where half an Euler step leads, and take the whole step with the slope found there.",
)
def midpoint_step(answer: Any) -> str | None:
    """Write `step(v, t, x, h)`: one step of the midpoint method for dx/dt = v(t, x), from t to t + h."""
    points = [(_swirl, t, torch.randn(8, 2), h) for t, h in ((0.2, 0.3), (0.9, -0.2), (0.5, 0.7))]
    return diagnose(answer, lambda v, t, x, h: x + h * _slope(v, t, x, h), _STEPS, points)


def _order(e1: Tensor, n1: Tensor, e2: Tensor, n2: Tensor) -> Tensor:
    return torch.log(e1 / e2) / torch.log(n2 / n1)


_ORDERS = {
    "The size is right and the sign is wrong: more steps give a *smaller* error, so turn one of the two ratios.": (
        lambda e1, n1, e2, n2: -_order(e1, n1, e2, n2)
    ),
    "This is the logarithm of the ratio of the errors. How much of it one doubling explains depends on how many "
    "doublings there were: divide by the logarithm of the ratio of the steps.": (
        lambda e1, n1, e2, n2: torch.log(e1 / e2),
        lambda e1, n1, e2, n2: torch.log(e2 / e1),
    ),
    "This takes for granted that the number of steps was doubled: divide by `log(n2 / n1)`, not by `log 2`.": (
        lambda e1, n1, e2, n2: torch.log2(e1 / e2)
    ),
    "The ratios themselves are compared here, but an error c / n**k shows its k only in logarithms.": (
        lambda e1, n1, e2, n2: (e1 / e2) / (n2 / n1),
        lambda e1, n1, e2, n2: (e1 / e2) * (n2 / n1),
        lambda e1, n1, e2, n2: (e1 / e2) / (n1 / n2),
    ),
    "It is upside down: the logarithm of the errors over that of the steps.": (
        lambda e1, n1, e2, n2: 1 / _order(e1, n1, e2, n2)
    ),
    "The two logarithms have different bases: any base will do, and the same above and below.": tuple(
        lambda e1, n1, e2, n2, c=c: c * _order(e1, n1, e2, n2)
        for c in (math.log(2), 1 / math.log(2), math.log(10), 1 / math.log(10), math.log2(10), math.log10(2))
    ),
    "The logarithm of the steps is missing: `log(e1 / e2)` is `k log(n2 / n1)`, and yours divides by the bare ratio.": (
        lambda e1, n1, e2, n2: torch.log(e1 / e2) / (n2 / n1)
    ),
    "The steps are compared by their difference. It is their ratio that the error follows: `log(n2 / n1)`.": (
        lambda e1, n1, e2, n2: torch.log(e1 / e2) / (n2 - n1)
    ),
    "The logarithm of the errors is missing: `log(e1 / e2)` is `k log(n2 / n1)`, and yours has the bare ratio.": (
        lambda e1, n1, e2, n2: (e1 / e2) / torch.log(n2 / n1)
    ),
    "The slope is taken without logarithms: on a plot with plain axes `c / n**k` is a curve.": (
        lambda e1, n1, e2, n2: (e1 - e2) / (n2 - n1),
        lambda e1, n1, e2, n2: (e1 - e2) / (n1 - n2),
    ),
    "Ratio of the logarithms is not logarithm of the ratio: `log(e1 / e2) = log e1 - log e2`, and the same for n.": (
        lambda e1, n1, e2, n2: (torch.log(e1) / torch.log(e2)) / (torch.log(n2) / torch.log(n1)),
        lambda e1, n1, e2, n2: torch.log(e1) / torch.log(e2),
    ),
    "Python divides before it subtracts: put the difference of the logarithms in brackets, above and below.": (
        lambda e1, n1, e2, n2: torch.log(e1) - torch.log(e2) / torch.log(n2) - torch.log(n1),
        lambda e1, n1, e2, n2: torch.log(e1) - torch.log(e2) / (torch.log(n2) - torch.log(n1)),
        lambda e1, n1, e2, n2: (torch.log(e1) - torch.log(e2)) / torch.log(n2) - torch.log(n1),
    ),
    "One run cannot tell `c` and `k` apart: the second error and its steps belong into it.": (
        lambda e1, n1, e2, n2: -torch.log(e1) / torch.log(n1),
        lambda e1, n1, e2, n2: -torch.log(e2) / torch.log(n2),
    ),
    "Yours is rounded. A measured order is no whole number: leave it as it comes out.": (
        *(
            lambda e1, n1, e2, n2, digits=digits: torch.round(_order(e1, n1, e2, n2), decimals=digits)
            for digits in (0, 1, 2)
        ),
        lambda e1, n1, e2, n2: torch.floor(_order(e1, n1, e2, n2)),
    ),
}


@exercise(chapter=2, number=4, right="Right: the slope of log error against log steps, with its sign turned.")
def solver_order(answer: Any) -> str | None:
    """Write `order(e1, n1, e2, n2)`: the order of a solver with error `e1` after `n1` steps and `e2` after `n2`."""

    def case(order: float, n1: float, n2: float) -> tuple[Tensor, ...]:
        size = 2 + torch.rand(()).item()
        return tuple(torch.tensor(v) for v in (size * n1**-order, n1, size * n2**-order, n2))

    runs = [(0.6, 10.0, 80.0), (1.7, 8.0, 24.0), (3.5, 4.0, 10.0)]
    points = [case(least + 0.7 * torch.rand(()).item(), n1, n2) for least, n1, n2 in runs]
    return diagnose(answer, _order, _ORDERS, points)


@exercise(
    chapter=2,
    number=6,
    right="Right: it compares two looks at the field, and new noise at each look falls no faster than the step.",
)
def fresh_probes(answer: Any) -> str | None:
    """Say why an adaptive solver must keep its probes for the whole solve."""
    mistakes = {
        "the estimate would be biased": "With probes drawn afresh each look is still right on average. Ask what the "
        "step control does with looks that differ.",
        "it would cost more evaluations per probe": "A new probe costs as much as an old one: a product with the "
        "Jacobian. Ask how the solver decides how long a step may be.",
        "the variance would grow": "With fixed steps new probes even lower it: their errors average out over "
        "the steps. Ask what an *adaptive* solver takes the noise for.",
    }
    same = {
        "mistakes": "take",
        "mistake": "take",
        "confuses": "take",
        "taken": "take",
        "takes": "take",
        "grows": "grow",
    }
    same |= {"costs": "cost", "bias": "biased", "solver": "", "as": ""}
    return choose(answer, "it would take the noise for its own error", mistakes, same)
