"""Checks of the exercises of chapter 3, flow matching: paths, their velocities, and the marginal velocity.

Add an exercise by writing a function that returns what is wrong with an answer, and its name in `__all__`.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from fmtutor.check._diagnose import diagnose
from fmtutor.check._exercise import exercise
from fmtutor.check._predictions import Mistakes, choose, number

__all__ = ["conditional_velocity", "perfect_fit", "shortcut_fraction", "two_point_velocity"]

_VELOCITIES = {
    "The size is right but it points away from `x1`: look at the sign of `x1 - x`.": lambda t, x, x1: (
        (x - x1) / (1 - t)
    ),
    "As a field of the current `x`, `x1 - x` slows down as it comes closer, and does not arrive in time: divide by "
    "the time that is left.": lambda t, x, x1: x1 - x,
    "The velocity points away from `x1`, and is not divided by the time that is left.": (
        lambda t, x, x1: x - x1,
        lambda t, x, x1: (x - x1) * (1 - t),
    ),
    "Time runs the other way here: t = 0 is noise and t = 1 is data, so the time left is `1 - t`, not `t`.": (
        lambda t, x, x1: (x1 - x) / t
    ),
    "That is the way behind over the time gone, if `x1` were where the path began. It *ends* there: what is "
    "left of the way is `x1 - x`, what is left of the time `1 - t`.": lambda t, x, x1: (x - x1) / t,
    "The less time is left, the faster it must go: divide by `1 - t` instead of multiplying.": (
        lambda t, x, x1: (x1 - x) * (1 - t)
    ),
    "Python divides before it subtracts: put `x1 - x` in brackets.": (
        lambda t, x, x1: x1 - x / (1 - t),
        lambda t, x, x1: x1 / (1 - t) - x,
        lambda t, x, x1: (x1 - x) / 1 - t,
    ),
    "`x` is the current point, not the noise `x0` it came from: nothing scales it by `t`.": (
        lambda t, x, x1: (x1 - t * x) / (1 - t)
    ),
    "`x` is the current point, and the noise is not asked for: what is left of the way from `x` is `x1 - x`.": (
        lambda t, x, x1: x1 - (x - t * x1),
        lambda t, x, x1: (x - t * x1) / (1 - t),
        lambda t, x, x1: x1 - (1 - t) * x,
    ),
    "The current point is missing: what is left of the way is `x1 - x`.": lambda t, x, x1: x1 / (1 - t),
    "The end is missing: what is left of the way is `x1 - x`.": lambda t, x, x1: -x / (1 - t),
    "The time that is left counts once, and not squared: a velocity is a way over a time.": (
        lambda t, x, x1: (x1 - x) / (1 - t) ** 2
    ),
    "The time that is left is `1 - t` itself, without a root and without a square of `t`.": (
        lambda t, x, x1: (x1 - x) / (1 - t).sqrt(),
        lambda t, x, x1: (x1 - x) / (1 - t**2),
    ),
    "One velocity for each coordinate is wanted: yours adds the coordinates up, or measures their length.": (
        lambda t, x, x1: (x1 - x).sum(1) / (1 - t),
        lambda t, x, x1: (x1 - x).norm(dim=1) / (1 - t),
    ),
    "That is where the path ends, or began. How fast does a point move at `x`?": (
        lambda t, x, x1: x1 + 0 * x,
        lambda t, x, x1: x + 0 * x1,
    ),
    "The time that is left is `1 - t`, not `1 + t`.": lambda t, x, x1: (x1 - x) / (1 + t),
    "That is a place between the two points. How fast does a point move there?": (
        lambda t, x, x1: t * x1 + (1 - t) * x,
        lambda t, x, x1: (1 - t) * x1 + t * x,
    ),
    "That is the direction alone, with length 1: the point has to cover the whole way in the time that is left.": (
        lambda t, x, x1: (x1 - x) / (x1 - x).norm(dim=1, keepdim=True),
        lambda t, x, x1: (x1 - x) / (x1 - x).norm(dim=1, keepdim=True) / (1 - t),
    ),
    "The time that is left is held away from zero. Right up to late times, and then a point no longer arrives; the "
    "formula needs no such care before t = 1.": tuple(
        lambda t, x, x1, least=least: (x1 - x) / (1 - t).clamp(min=least) for least in (0.2, 0.1, 0.05, 0.02, 0.01)
    )
    + tuple(lambda t, x, x1, eps=eps: (x1 - x) / (1 - t + eps) for eps in (0.1, 0.01, 1e-3, 1e-4, 1e-5)),
}


@exercise(
    chapter=3, number=1, right="Right: what is left of the way, `x1 - x`, over what is left of the time, `1 - t`."
)
def conditional_velocity(answer: Any) -> str | None:
    """Write `u(t, x, x1)`, the velocity at the point `x` of the linear path that ends at `x1`."""
    points = [(torch.tensor(t), torch.randn(16, 2), torch.randn(16, 2)) for t in (0.0, 0.25, 0.6, 0.9, 0.97, 0.995)]
    return diagnose(answer, lambda t, x, x1: (x1 - x) / (1 - t), _VELOCITIES, points, tolerance=2e-5)


def _toward(mean: Any) -> Any:
    """The velocity that points at `mean(t, x)`."""
    return lambda t, x: (mean(t, x) - x) / (1 - t)


def _tanh(factor: Any) -> Any:
    """The mean of the two points where the argument of the tanh is `factor(t) * x`."""
    return lambda t, x: torch.tanh(factor(t) * x)


_MEAN = _tanh(lambda t: t / (1 - t) ** 2)

_TWO_POINTS = {
    "This leaves the weights out: with both points equally likely everywhere, the mean of the data is always 0.": (
        _toward(lambda t, x: 0 * x)
    ),
    "This points at the less likely of the two: look at the sign inside the tanh.": _toward(lambda t, x: -_MEAN(t, x)),
    "The noise has standard deviation `1 - t`, so the exponent has its square: `(1 - t) ** 2`.": (
        _toward(_tanh(lambda t: t / (1 - t)))
    ),
    "A path that ends at `x1` passes `t * x1` at time t, not `x1`: a factor `t` is missing in the weights.": (
        _toward(_tanh(lambda t: 1 / (1 - t) ** 2))
    ),
    "The exponents differ by `2 t x / (1 - t) ** 2`, and a tanh takes half of that: yours is twice too steep.": (
        _toward(_tanh(lambda t: 2 * t / (1 - t) ** 2))
    ),
    "The argument of the tanh has been halved once too often: it is `d / 2`, and `d` is `2 t x / (1 - t) ** 2`.": (
        _toward(_tanh(lambda t: t / (1 - t) ** 2 / 2))
    ),
    "The noise has standard deviation `1 - t` at time t: in your weights it does not shrink.": (
        _toward(_tanh(lambda t: t))
    ),
    "The argument of the tanh is `t x / (1 - t) ** 2`: yours is `x` alone, at every time.": (
        _toward(lambda t, x: torch.tanh(x))
    ),
    "The brackets are in the wrong place: `(1 - t) ** 2` is the variance of the noise, not `1 - t ** 2`.": (
        _toward(_tanh(lambda t: t / (1 - t**2)))
    ),
    "`x` is where the point is now: nothing scales it by `t` outside the tanh.": (
        lambda t, x: (_MEAN(t, x) - t * x) / (1 - t),
        lambda t, x: _MEAN(t, x) - t * x,
    ),
    "The time that is left counts once outside the tanh; squared it belongs inside.": (
        lambda t, x: (_MEAN(t, x) - x) / (1 - t) ** 2
    ),
    "The two conditional velocities are added without weights: each counts as much as its point is likely.": (
        lambda t, x: -2 * x / (1 - t)
    ),
    "In your weights the noise has standard deviation `t`. It fades: `1 - t`.": _toward(_tanh(lambda t: 1 / t)),
    "That points at the weight `w` of +1. The mean of the data is `w - (1 - w) = 2 w - 1`, because -1 counts too.": (
        _toward(lambda t, x: torch.sigmoid(2 * t * x / (1 - t) ** 2)),
        _toward(lambda t, x: torch.sigmoid(t * x / (1 - t) ** 2)),
    ),
    "This picks the more likely point. A velocity is the mean over both, so the weights stay soft.": (
        _toward(lambda t, x: torch.sign(x))
    ),
    "The tanh is missing: with a weight that grows without end the mean leaves the interval from -1 to +1.": (
        _toward(lambda t, x: t * x / (1 - t) ** 2)
    ),
    "That is the mean of the data seen from x. The velocity is what is left of the way to it, over what is left of "
    "the time.": _MEAN,
    "The way that is left is right, and it has to be covered in the time that is left: divide by `1 - t`.": (
        lambda t, x: _MEAN(t, x) - x
    ),
    "The mean is right, and the point is missing: what is left of the way is the mean less `x`.": (
        lambda t, x: _MEAN(t, x) / (1 - t)
    ),
    "The mean is right and the velocity points away from it: it is the mean less `x`.": (
        lambda t, x: (x - _MEAN(t, x)) / (1 - t)
    ),
    "The way that is left is covered in the time that is *left*, `1 - t`: you divide by `t`.": (
        lambda t, x: (_MEAN(t, x) - x) / t
    ),
    "The way that is left is multiplied by the time. The less time there is, the faster it must go: divide.": (
        lambda t, x: (_MEAN(t, x) - x) * (1 - t)
    ),
    "The brackets are missing: mean less `x`, and all of that over `1 - t`.": (
        lambda t, x: _MEAN(t, x) - x / (1 - t),
        lambda t, x: _MEAN(t, x) / (1 - t) - x,
    ),
    "That is the conditional velocity of one point. The mean over both, under their weights, is asked for.": (
        _toward(lambda t, x: torch.ones_like(x)),
        _toward(lambda t, x: -torch.ones_like(x)),
    ),
}


@exercise(
    chapter=3,
    number=2,
    right="Right: the mean of -1 and +1 under their weights is a tanh, and the velocity points at it.",
)
def two_point_velocity(answer: Any) -> str | None:
    """Write `u(t, x)`, the marginal velocity of the two data points -1 and +1 on the linear path."""

    def along(t: float, reach: float) -> tuple[Any, ...]:
        return torch.tensor(t), torch.linspace(-reach, reach, 24) + 0.05 * reach * torch.rand(24)

    # Late, only where the plain exponentials of both points still fit into a float.
    points = [*(along(t, 2.8) for t in (0.1, 0.3, 0.5, 0.7)), along(0.85, 0.6), along(0.92, 0.15)]
    return diagnose(answer, _toward(_MEAN), _TWO_POINTS, points)


@exercise(chapter=3, number=3, right="Right: the exact flow of a finite data set ends on its points, and nowhere else.")
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
    same = {"copy": "", "copies": "", "exact": "", "one": "", "some": "", "always": "", "train": "training"}
    same |= {"picture": "image", "sample": "image", "photo": "image", "mix": "mixture", "blend": "mixture"}
    same |= {"mean": "average", "averaged": "average", "unseen": "new", "trained": "training"}
    return choose(answer, "a training image", mistakes, same)


@exercise(chapter=3, number=4, right="Right: 1 - 1/e, and never more: the nearer it comes, the slower it goes.")
def shortcut_fraction(answer: Any) -> str | None:
    """Say which fraction of the way to x1 a point covers that follows dx/dt = x1 - x from t = 0 to t = 1."""
    mistakes: Mistakes = {
        "It would arrive if its speed stayed what it was at the start, `x1 - x0`. But `x1 - x` shrinks as it comes "
        "closer.": 1.0,
        "That is the part of the way still *left* at t = 1: one minus it has been covered.": math.exp(-1),
        "Half would be covered at t = ln 2 = 0.69; it goes on to t = 1.": 0.5,
        "That is the *time* at which half the way is covered. What is covered at t = 1?": math.log(2),
        "A fraction is asked for, not a percentage: divide by 100.": (100 * (1 - math.exp(-1)), 100 * math.exp(-1)),
        "The distance falls as `exp(-t)`, and not as `exp(-2 t)`: the rate of `dr/dt = -r` is 1.": 1 - math.exp(-2),
        "The sign of the exponent is turned: the distance *falls*, by a factor `exp(-1)`.": (
            math.e - 1, 1 - math.e, math.e
        ),
        "It does leave its place: at t = 0 its velocity is the whole way, `x1 - x`.": 0.0,
    }  # fmt: skip
    return number(answer, 1 - math.exp(-1), mistakes, decimals=2, tolerance=5e-4)
