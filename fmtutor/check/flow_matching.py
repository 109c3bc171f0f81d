"""Checks of the exercises of chapter 3, flow matching: paths, their velocities, and the marginal velocity.

Add an exercise by writing a function that returns what is wrong with an answer, and its name in `__all__`.
"""

from __future__ import annotations

from typing import Any

import torch

from fmtutor.check._diagnose import diagnose
from fmtutor.check._exercise import exercise

__all__ = ["conditional_velocity"]


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
        "The less time is left, the faster it must go: divide by `1 - t` instead of multiplying.": (
            lambda t, x, x1: (x1 - x) * (1 - t)
        ),
        "Python divides before it subtracts: put `x1 - x` in brackets.": lambda t, x, x1: x1 - x / (1 - t),
        "`x` is the current point, not the noise `x0` it came from: nothing scales it by `t`.": (
            lambda t, x, x1: (x1 - t * x) / (1 - t)
        ),
    }
    return diagnose(answer, lambda t, x, x1: (x1 - x) / (1 - t), mistakes, points)
