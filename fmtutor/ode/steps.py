"""Fixed steps: four rules for one step of dx/dt = v(t, x), and the loop that takes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

Field = Callable[[Tensor, Tensor], Tensor]
ORDER = {"euler": 1, "midpoint": 2, "heun2": 2, "rk4": 4}  # with n steps the error is like 1 / n^order
FIXED = tuple(ORDER)


def step(method: str, v: Field, t: Tensor, end: Tensor, x: Tensor) -> Tensor:
    """Where one step from t to `end` leads, by Euler, the midpoint, Heun, or Kutta's 3/8 rule.

    Source: Hairer, Norsett and Wanner (1993), Solving ordinary differential equations I, section II.1.

    Example:
        >>> t, end, x = torch.tensor(0.0), torch.tensor(1.0), torch.tensor([1.0])
        >>> [round(float(step(method, lambda t, x: -x, t, end, x)), 3) for method in FIXED]  # 0.368
        [0.0, 0.5, 0.5, 0.375]
    """
    h = end - t
    k1 = v(t, x)
    if method == "euler":
        return x + h * k1
    if method == "midpoint":
        return x + h * v(t + h / 2, x + h / 2 * k1)
    if method == "heun2":
        return x + h / 2 * (k1 + v(end, x + h * k1))
    k2 = v(t + h / 3, x + h / 3 * k1)
    k3 = v(t + 2 * h / 3, x + h * (k2 - k1 / 3))
    k4 = v(end, x + h * (k1 - k2 + k3))
    return x + h / 8 * (k1 + 3 * (k2 + k3) + k4)


def follow(method: str, v: Field, start: Tensor, end: Tensor, x: Tensor, steps: int) -> Tensor:
    """Where x at `start` is at `end`, after so many equal steps."""
    for t, until in pairwise(grid(start, end, steps)):
        x = step(method, v, t, until, x)
    return x


def grid(start: Tensor, end: Tensor, steps: int) -> tuple[Float[Tensor, ""], ...]:
    """The ends of equal steps; the last is `end` itself, and not a rounding beyond it."""
    part = torch.arange(steps + 1, dtype=end.dtype, device=end.device) / steps
    return torch.lerp(start, end, part).unbind()


def shares(times: Sequence[float], steps: int) -> list[int]:
    """How many of the steps each interval between times gets: its part of the whole, rounded up.

    Example:
        >>> shares([0.0, 0.5, 0.55, 1.0], steps=10)
        [5, 1, 5]
    """
    size = abs(times[-1] - times[0]) / steps
    return [max(1, math.ceil(abs(b - a) / size - 1e-3)) for a, b in pairwise(times)]
