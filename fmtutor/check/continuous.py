"""Checks of the exercises of chapter 2, continuous flows: divergence, densities along a flow, solvers and probes.

Add an exercise by writing a function that returns what is wrong with an answer, and its name in `__all__`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fmtutor.check._diagnose import choose, diagnose
from fmtutor.check._exercise import exercise

__all__ = [
    "field_divergence",
    "fresh_probes",
    "hutchinson_variance",
    "midpoint_step",
    "solver_order",
    "stretched_density",
]


@exercise(chapter=2, right="Right: each component by its own coordinate, `x2 + 2 x2`, and nothing off the diagonal.")
def field_divergence(answer: Any) -> str | None:
    """Write `div(x)`, the divergence of the field `(x1 x2, sin x1 + x2^2)`, for `x` of shape `(batch, 2)`."""

    def of(formula: Any) -> Any:
        return lambda x: formula(x[:, 0], x[:, 1])

    mistakes = {
        "This adds all four entries of the Jacobian. The divergence is its trace: each component is differentiated by "
        "its own coordinate only.": of(lambda a, b: 3 * b + a + a.cos()),
        "This differentiates each component by the *other* coordinate: that is the other diagonal of the Jacobian.": (
            of(lambda a, b: a + a.cos())
        ),
        "Both diagonal entries are there, but they are added, not multiplied or subtracted: the product less the other "
        "product is the determinant.": of(lambda a, b: 2 * b**2 - a * a.cos()),
        "That is only the first component's share, `x2`: the second, `sin x1 + x2^2`, changes along `x2` too.": (
            of(lambda a, b: b)
        ),
        "That is only the second component's share, `2 x2`: the first, `x1 x2`, changes along `x1` too.": (
            of(lambda a, b: 2 * b)
        ),
        "The columns are exchanged: `x[:, 0]` is the first coordinate, and the answer holds the second.": (
            of(lambda a, b: 3 * a)
        ),
        "A sum over the batch came out: one number for each row is wanted.": lambda x: 3 * x[:, 1].sum(),
    }
    return diagnose(answer, of(lambda a, b: 3 * b), mistakes, [(torch.randn(16, 2),)])


@exercise(
    chapter=2, right="Right: back to where the point came from, and less `a` for each dimension that was stretched."
)
def stretched_density(answer: Any) -> str | None:
    """Write `log_prob(x, a)`: the log-density at `x` of standard normal points that followed dx/dt = a x for time 1."""

    def normal(x: Tensor) -> Tensor:
        return -0.5 * (x**2).sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi)

    points = [(torch.randn(8, d), torch.tensor(a)) for d, a in ((1, 0.5), (2, -0.7), (5, 0.3))]
    mistakes = {
        "The place is right and the sign of the divergence is wrong: where the field spreads points out (a > 0) the "
        "density *falls*.": lambda x, a: normal(x * torch.exp(-a)) + a * x.shape[1],
        "The divergence of `a x` is `a` times the number of dimensions: each coordinate is stretched.": lambda x, a: (
            normal(x * torch.exp(-a)) - a
        ),
        "The change of volume is missing: this is the density of where the point *came from*.": lambda x, a: normal(
            x * torch.exp(-a)
        ),
        "The base knows x at t = 0. Follow the point back first, by a factor exp(-a).": lambda x, a: (
            normal(x) - a * x.shape[1]
        ),
        "This follows the point forwards once more, by exp(+a). The density at `x` needs where it came from.": (
            lambda x, a: normal(x * torch.exp(a)) - a * x.shape[1]
        ),
        "That is the density; its logarithm is wanted.": lambda x, a: (
            normal(x * torch.exp(-a)) - a * x.shape[1]
        ).exp(),
    }
    return diagnose(answer, lambda x, a: normal(x * torch.exp(-a)) - a * x.shape[1], mistakes, points)


def _swirl(t: Any, x: Tensor) -> Tensor:
    """A field in which every slip of a step shows: it turns, bends and changes with time."""
    return torch.stack([-x[:, 1] + t * x[:, 0] ** 2, x[:, 0] + torch.cos(3 * torch.as_tensor(t))], 1)


@exercise(
    chapter=2, right="Right: look where half an Euler step leads, and take the whole step with the slope found there."
)
def midpoint_step(answer: Any) -> str | None:
    """Write `step(v, t, x, h)`: one step of the midpoint method for dx/dt = v(t, x), from t to t + h."""

    def step(v: Any, t: Any, x: Tensor, h: float) -> Tensor:
        return x + h * v(t + h / 2, x + h / 2 * v(t, x))

    mistakes = {
        "That is an Euler step: it takes the whole step with the slope at its start, and its error falls with h, not "
        "with h squared.": lambda v, t, x, h: x + h * v(t, x),
        "The state goes to the middle and the clock stays behind: the second slope is at `t + h / 2`.": (
            lambda v, t, x, h: x + h * v(t, x + h / 2 * v(t, x))
        ),
        "The clock goes to the middle and the state stays behind: the second slope is at `x + h / 2 * v(t, x)`.": (
            lambda v, t, x, h: x + h * v(t + h / 2, x)
        ),
        "This looks at the end of the step instead of its middle: halve the h in the time and the h in the state.": (
            lambda v, t, x, h: x + h * v(t + h, x + h * v(t, x))
        ),
        "Only half the step is taken: the slope comes from the middle, the step itself is `h`.": (
            lambda v, t, x, h: x + h / 2 * v(t + h / 2, x + h / 2 * v(t, x))
        ),
        "This starts from the middle with the slope of the middle: go back to `x` before you take the step.": (
            lambda v, t, x, h: x + h / 2 * v(t, x) + h * v(t + h / 2, x + h / 2 * v(t, x))
        ),
        "A step back: the slope is added to `x`, for an `h` above zero and below it alike.": (
            lambda v, t, x, h: x - h * v(t + h / 2, x + h / 2 * v(t, x))
        ),
        "That is the slope in the middle. The step goes from `x` along it: `x + h *` that slope.": (
            lambda v, t, x, h: v(t + h / 2, x + h / 2 * v(t, x))
        ),
        "That is the middle itself: look at the slope there, and take the whole step from `x` with it.": (
            lambda v, t, x, h: x + h / 2 * v(t, x)
        ),
        "That is Heun's method, the mean of the slopes at both ends: of order two as well, but not the midpoint.": (
            lambda v, t, x, h: x + h / 2 * (v(t, x) + v(t + h, x + h * v(t, x)))
        ),
    }
    return diagnose(
        answer, step, mistakes, [(_swirl, 0.2, torch.randn(8, 2), 0.3), (_swirl, 0.9, torch.randn(8, 2), -0.2)]
    )


@exercise(chapter=2, right="Right: the slope of log error against log steps, with its sign turned.")
def solver_order(answer: Any) -> str | None:
    """Write `order(e1, n1, e2, n2)`: the order of a solver with error `e1` after `n1` steps and `e2` after `n2`."""

    def truth(e1: Any, n1: Any, e2: Any, n2: Any) -> Any:
        return torch.log(e1 / e2) / torch.log(n2 / n1)

    def case(order: float, n1: float, n2: float) -> tuple[Tensor, ...]:
        return tuple(torch.tensor(v) for v in (3.0 * n1**-order, n1, 3.0 * n2**-order, n2))

    mistakes = {
        "The size is right and the sign is wrong: more steps give a *smaller* error, so turn one of the two ratios.": (
            lambda e1, n1, e2, n2: torch.log(e1 / e2) / torch.log(n1 / n2)
        ),
        "This is the logarithm of the ratio of the errors. How much of it one doubling explains depends on how many "
        "doublings there were: divide by the logarithm of the ratio of the steps.": (
            lambda e1, n1, e2, n2: torch.log(e1 / e2)
        ),
        "This takes for granted that the number of steps was doubled: divide by `log(n2 / n1)`, not by `log 2`.": (
            lambda e1, n1, e2, n2: torch.log2(e1 / e2)
        ),
        "The ratios themselves are compared here, but an error c / n**k shows its k only in logarithms.": (
            lambda e1, n1, e2, n2: (e1 / e2) / (n2 / n1)
        ),
        "It is upside down: the logarithm of the errors over that of the steps.": (
            lambda e1, n1, e2, n2: torch.log(n2 / n1) / torch.log(e1 / e2)
        ),
    }
    return diagnose(answer, truth, mistakes, [case(1.0, 10.0, 80.0), case(2.0, 8.0, 24.0), case(4.0, 4.0, 10.0)])


@exercise(chapter=2, right="Right: what is on the diagonal costs nothing, because the square of a sign is always 1.")
def hutchinson_variance(answer: Any) -> str | None:
    """Write `variance(J)`: the variance of `z . (J z)` for one vector `z` of independent random signs."""

    def off_diagonal(j: Tensor) -> Tensor:
        return j - torch.diag(j.diagonal())

    def truth(j: Tensor) -> Tensor:
        return 0.5 * off_diagonal(j + j.T).square().sum()

    mistakes = {
        "That is the variance with *normal* probes. A sign squared is always 1, so the diagonal adds no variance.": (
            lambda j: 0.5 * (j + j.T).square().sum()
        ),
        "`z_i z_j` stands at (i, j) and again at (j, i): add the two entries first, then square.": (
            lambda j: off_diagonal(j).square().sum()
        ),
        "This takes J for symmetric: what counts for a pair (i, j) is the sum `J_ij + J_ji`.": (
            lambda j: 2 * off_diagonal(j).square().sum()
        ),
        "Each pair i < j is counted twice here.": lambda j: off_diagonal(j + j.T).square().sum(),
        "That is the standard deviation; the variance is its square.": lambda j: truth(j).sqrt(),
        "That is the square of the mean. How far single draws are from it is asked.": lambda j: j.trace() ** 2,
    }
    points = [(torch.randn(d, d, generator=torch.Generator().manual_seed(d)),) for d in (2, 3, 6)]
    return diagnose(answer, truth, mistakes, points)


@exercise(
    chapter=2, right="Right: it compares two looks at the field, and noise that is new at each look never gets smaller."
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
    return choose(answer, "it would take the noise for its own error", mistakes)
