"""Checks of the exercises of chapter 3, flow matching: paths, their velocities, and the marginal velocity.

Add an exercise by writing a function that returns what is wrong with an answer, and its name in `__all__`.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from fmtutor.check._diagnose import choose, diagnose
from fmtutor.check._exercise import exercise

__all__ = ["conditional_velocity", "perfect_fit", "shortcut_fraction", "two_point_velocity"]


@exercise(chapter=3, right="Right: what is left of the way, `x1 - x`, over what is left of the time, `1 - t`.")
def conditional_velocity(answer: Any) -> str | None:
    """Write `u(t, x, x1)`, the velocity at the point `x` of the linear path that ends at `x1`."""
    x, x1 = torch.randn(16, 2), torch.randn(16, 2)
    points = [(torch.tensor(t), x, x1) for t in (0.0, 0.25, 0.6, 0.9)]
    mistakes = {
        "The size is right but it points away from `x1`: look at the sign of `x1 - x`.": lambda t, x, x1: (
            (x - x1) / (1 - t)
        ),
        "As a field of the current `x`, `x1 - x` slows down as it comes closer and stops at 63 % of the way (1 - 1/e): "
        "divide by the time that is left.": lambda t, x, x1: x1 - x,
        "Time runs the other way here: t = 0 is noise and t = 1 is data, so the time left is `1 - t`, not `t`.": (
            lambda t, x, x1: (x1 - x) / t
        ),
        "That is the way behind over the time gone, if `x1` were where the path began. It *ends* there: what is "
        "left of the way is `x1 - x`, what is left of the time `1 - t`.": lambda t, x, x1: (x - x1) / t,
        "The less time is left, the faster it must go: divide by `1 - t` instead of multiplying.": (
            lambda t, x, x1: (x1 - x) * (1 - t)
        ),
        "Python divides before it subtracts: put `x1 - x` in brackets.": lambda t, x, x1: x1 - x / (1 - t),
        "`x` is the current point, not the noise `x0` it came from: nothing scales it by `t`.": (
            lambda t, x, x1: (x1 - t * x) / (1 - t)
        ),
    }
    return diagnose(answer, lambda t, x, x1: (x1 - x) / (1 - t), mistakes, points)


@exercise(chapter=3, right="Right: the mean of -1 and +1 under their weights is a tanh, and the velocity points at it.")
def two_point_velocity(answer: Any) -> str | None:
    """Write `u(t, x)`, the marginal velocity of the two data points -1 and +1 on the linear path."""

    def toward(mean: Any) -> Any:
        return lambda t, x: (mean(t, x) - x) / (1 - t)

    points = [(torch.tensor(t), torch.linspace(-3, 3, 24)) for t in (0.1, 0.3, 0.5, 0.7)]
    mistakes = {
        "This leaves the weights out: with both points equally likely everywhere, the mean of the data is always 0.": (
            toward(lambda t, x: 0 * x)
        ),
        "This points at the less likely of the two: look at the sign inside the tanh.": (
            toward(lambda t, x: torch.tanh(-t * x / (1 - t) ** 2))
        ),
        "The noise has standard deviation `1 - t`, so the exponent has its square: `(1 - t) ** 2`.": (
            toward(lambda t, x: torch.tanh(t * x / (1 - t)))
        ),
        "A path that ends at `x1` passes `t * x1` at time t, not `x1`: a factor `t` is missing in the weights.": (
            toward(lambda t, x: torch.tanh(x / (1 - t) ** 2))
        ),
        "The exponents differ by `2 t x / (1 - t) ** 2`, and a tanh takes half of that: yours is twice too steep.": (
            toward(lambda t, x: torch.tanh(2 * t * x / (1 - t) ** 2))
        ),
        "This picks the more likely point. A velocity is the mean over both, so the weights stay soft.": (
            toward(lambda t, x: torch.sign(x))
        ),
        "That is the mean of the data seen from x. The velocity is what is left of the way to it, over what is left of "
        "the time.": lambda t, x: torch.tanh(t * x / (1 - t) ** 2),
        "The way that is left is right, and it has to be covered in the time that is left: divide by `1 - t`.": (
            lambda t, x: torch.tanh(t * x / (1 - t) ** 2) - x
        ),
    }
    return diagnose(answer, toward(lambda t, x: torch.tanh(t * x / (1 - t) ** 2)), mistakes, points)


@exercise(chapter=3, right="Right: the exact flow of a finite data set ends on its points, and nowhere else.")
def perfect_fit(answer: Any) -> str | None:
    """Say what a model with flow matching loss zero on a finite data set draws."""
    mistakes = {
        "a new image": "The flow ends exactly where its target is, and the target is the data set itself: look where "
        "the 3 000 points of the experiment went.",
        "a mixture of training images": "On its way a point lies between several of them, and their weights are soft. "
        "Near t = 1 one weight is 1 and the others are 0: it arrives at a single image.",
        "an average image": "The velocity is an average on the way. Near t = 1 one data point has all the weight, and "
        "the trajectories end on single points.",
    }
    return choose(answer, "a training image", mistakes)


@exercise(chapter=3, right="Right: 1 - 1/e, and never more: the nearer it comes, the slower it goes.")
def shortcut_fraction(answer: Any) -> str | None:
    """Say which fraction of the way to x1 a point covers that follows dx/dt = x1 - x from t = 0 to t = 1."""
    mistakes = {
        "It would arrive if its speed stayed what it was at the start, `x1 - x0`. But `x1 - x` shrinks as it comes "
        "closer.": 1.0,
        "That is the part of the way still *left* at t = 1: one minus it has been covered.": math.exp(-1),
        "Half would be covered at t = ln 2 = 0.69; it goes on to t = 1.": 0.5,
        "A fraction is asked for, not a percentage: divide by 100.": 100 * (1 - math.exp(-1)),
    }
    return diagnose(answer, 1 - math.exp(-1), mistakes, tolerance=5e-3)
