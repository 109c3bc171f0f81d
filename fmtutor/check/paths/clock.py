"""The exercises of chapter 5 about the one map: another clock, another scale, and what they leave alone."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from fmtutor.check._diagnose import diagnose, kind
from fmtutor.check._exercise import exercise
from fmtutor.distributions import GaussianMixture
from fmtutor.paths import AffinePath
from fmtutor.schedules import Cosine

_QUARTER = math.pi / 2


def _clock(t: Tensor) -> Tensor:
    """The linear path's time for the cosine path's."""
    sin, cos = torch.sin(_QUARTER * t), torch.cos(_QUARTER * t)
    return sin / (sin + cos)


_CLOCKS = {
    "That is the ratio of data to noise on the cosine path. On the linear path the ratio is `tau / (1 - tau)`: "
    "solve for `tau`.": lambda t: torch.tan(_QUARTER * t),
    "That is turned round: the cosine path's time for a time of the linear path.": (
        lambda t: torch.atan2(t, 1 - t) / _QUARTER
    ),
    "That has the same *amount of data*. The amounts of noise then differ: compare the ratios, data over noise.": (
        lambda t: torch.sin(_QUARTER * t)
    ),
    "That has the same *amount of noise*. The amounts of data then differ: compare the ratios, data over noise.": (
        lambda t: 1 - torch.cos(_QUARTER * t)
    ),
    "Then both clocks would be one. At t = 0.25 the cosine path has a ratio of 0.41, the linear one of 0.33.": (
        lambda t: t
    ),
    "That is the share of the *variance* that is data. The ratio of the amounts has no squares.": (
        lambda t: torch.sin(_QUARTER * t) ** 2
    ),
    "That is the share of noise, `1 - s`: data and noise have changed places.": lambda t: 1 - _clock(t),
    "A factor 1/2 is missing: the cosine path has the angle `pi t / 2`.": (
        lambda t: torch.sin(math.pi * t) / (torch.sin(math.pi * t) + torch.cos(math.pi * t)),
        lambda t: torch.tan(math.pi * t) / (1 + torch.tan(math.pi * t)),
    ),
    "The angle of the cosine path is `pi t / 2`, and yours is `t`: the factor `pi / 2` is missing.": (
        lambda t: torch.sin(t) / (torch.sin(t) + torch.cos(t)),
        lambda t: torch.tan(t),
    ),
    "The angle is in radians: it runs from 0 to `pi / 2`, and yours from 0 to 90.": (
        lambda t: torch.sin(90 * t) / (torch.sin(90 * t) + torch.cos(90 * t)),
    ),
    "The sign is turned: from `tau = r (1 - tau)` follows `tau = r / (1 + r)`, with r the ratio.": (
        lambda t: torch.tan(_QUARTER * t) / (1 - torch.tan(_QUARTER * t)),
    ),
    "That is one over the ratio plus one: noise over data. Turn the ratio over.": lambda t: (
        1 + 1 / torch.tan(_QUARTER * t)
    ),
}


@exercise(
    chapter=5, number=1, right="Right: there both paths hold data and noise in one ratio, and differ by a factor alone."
)
def cosine_clock(answer: Any) -> str | None:
    """Write `linear_time(t)`, the time at which the linear path has the ratio of data to noise that cosine has at t."""

    def truth(t: Tensor) -> Tensor:
        return _clock(t)

    even = torch.linspace(0.03, 0.97, 9, dtype=torch.float64)
    points = [(even + 0.01 * torch.rand(9, dtype=torch.float64),) for _ in range(2)]
    return diagnose(answer, truth, _CLOCKS, points)


def _angle(t: Any) -> tuple[Tensor, Tensor]:
    t = torch.as_tensor(t)
    return torch.sin(_QUARTER * t), torch.cos(_QUARTER * t)


def _wrong(rule: Callable[..., Tensor]) -> Callable[[Any, Any, Any], Tensor]:
    """A version that makes its velocity of: the field, sin, cos, their sum, the linear time, and x."""

    def version(velocity: Any, t: Any, x: Any) -> Tensor:
        sin, cos = _angle(t)
        return rule(velocity, sin, cos, sin + cos, sin / (sin + cos), x)

    return version


_converted = _wrong(lambda v, sin, cos, c, s, x: _QUARTER * ((cos - sin) * x / c + v(s, x / c) / c))


def _turned_clock(t: Any) -> Tensor:
    """The cosine path's time for a time of the linear path."""
    t = torch.as_tensor(t)
    return torch.atan2(t, 1 - t) / _QUARTER


def _converted_with(velocity: Any, t: Tensor, x: Tensor, rate: float) -> Tensor:
    """The right rule with the angle `t`."""
    sin, cos = torch.sin(t), torch.cos(t)
    c = sin + cos
    return rate * ((cos - sin) * x / c + velocity(sin / c, x / c) / c)


_CONVERSIONS = {
    "The scale is missing: the linear path is at `x / c`, and a cosine point is `c` times as large, `c = sin + cos`.": (
        _wrong(lambda v, sin, cos, c, s, x: _QUARTER * ((cos - sin) * x + v(s, x) / c)),
    ),
    "The clock is missing: the linear field is asked at the time `tau` with the same ratio, not at `t`.": (
        lambda v, t, x: _wrong(lambda v, sin, cos, c, s, x: _QUARTER * ((cos - sin) * x / c + v(t, x / c) / c))(v, t, x)
    ),
    "The clock is turned round: with the ratio of cosine at `t`, `tau` is `sin / (sin + cos)`.": (
        lambda v, t, x: _wrong(
            lambda v, sin, cos, c, s, x: _QUARTER * ((cos - sin) * x / c + v(_turned_clock(t), x / c) / c)
        )(v, t, x),
    ),
    "Data and noise have changed places, or the time is reversed: the time of the linear field is `alpha / (alpha + "
    "sigma)`, 0 at `t = 0`.": (
        _wrong(lambda v, sin, cos, c, s, x: _QUARTER * ((cos - sin) * x / c + v(1 - s, x / c) / c)),
        _wrong(lambda v, sin, cos, c, s, x: _QUARTER * ((cos - sin) * x / c - v(1 - s, x / c) / c)),
        _wrong(lambda v, sin, cos, c, s, x: _QUARTER * ((sin - cos) * x / c + v(1 - s, x / c) / c)),
        _wrong(lambda v, sin, cos, c, s, x: _QUARTER * ((sin - cos) * x / c - v(1 - s, x / c) / c)),
        _wrong(lambda v, sin, cos, c, s, x: v(1 - s, x / c)),
        lambda v, t, x: v(1 - torch.as_tensor(t), x),
    ),
    "The field is asked at the ratio itself, `sin / cos`. The time with that ratio is `tau = sin / (sin + cos)`.": (
        _wrong(lambda v, sin, cos, c, s, x: _QUARTER * ((cos - sin) * x / c + v(sin / cos, x / c) / c)),
    ),
    "The clocks run at different speeds: by the chain rule a factor `dtau/dt` goes to the linear velocity.": (
        _wrong(lambda v, sin, cos, c, s, x: _QUARTER * (cos - sin) * x / c + c * v(s, x / c)),
    ),
    "The scale changes with time, so the product rule has a second term: `dc/dt` times the point of the linear path.": (
        _wrong(lambda v, sin, cos, c, s, x: _QUARTER * v(s, x / c) / c),
    ),
    "The second term of the product rule has the point of the *linear* path in it, `x / c`, and yours has `x`.": (
        _wrong(lambda v, sin, cos, c, s, x: _QUARTER * ((cos - sin) * x + v(s, x / c) / c)),
    ),
    "The point that is handed to the linear field is `x / c`, and yours is `x`.": (
        _wrong(lambda v, sin, cos, c, s, x: _QUARTER * ((cos - sin) * x / c + v(s, x) / c)),
    ),
    "That is the linear field as it stands, at the same time and place. Which time has the ratio of cosine at `t`?": (
        lambda v, t, x: v(t, x),
    ),
    "The time is right. What is asked there is the point of the linear path, `x / c`, and its velocity is not yet that "
    "of `c` times the point.": _wrong(lambda v, sin, cos, c, s, x: v(s, x)),
    "Time and place are right, and that is the velocity *there*. The cosine point is `c` times as large, `c` changes, "
    "and the clock runs at another speed: differentiate `c(t) z(tau(t))`.": (
        _wrong(lambda v, sin, cos, c, s, x: v(s, x / c)),
    ),
    "That is `dtau/dt` times the linear velocity, how fast `z` moves. The cosine point is `c z`, and `c` moves too.": (
        _wrong(lambda v, sin, cos, c, s, x: _QUARTER * v(s, x / c) / c**2),
        _wrong(lambda v, sin, cos, c, s, x: _QUARTER * v(s, x) / c**2),
    ),
    "That is the first term of the product rule, as if the linear point stood still: it moves with `dtau/dt` times its "
    "velocity.": (
        _wrong(lambda v, sin, cos, c, s, x: _QUARTER * (cos - sin) * x / c),
        _wrong(lambda v, sin, cos, c, s, x: _QUARTER * (cos - sin) * x),
    ),
    "Both terms of the product rule are added: there is a minus between yours.": (
        _wrong(lambda v, sin, cos, c, s, x: _QUARTER * ((cos - sin) * x / c - v(s, x / c) / c)),
    ),
    "`dtau/dt` is turned over: it is `(pi / 2) / c**2`.": (
        _wrong(lambda v, sin, cos, c, s, x: _QUARTER * (cos - sin) * x / c + c**3 / _QUARTER * v(s, x / c)),
    ),
    "The angle of the cosine path is `pi t / 2`, and yours is `t`: `pi / 2` is missing in it.": (
        lambda v, t, x: _converted_with(v, torch.as_tensor(t), x, 1.0),
        lambda v, t, x: _converted_with(v, torch.as_tensor(t), x, _QUARTER),
    ),
    "The derivative of `c` is turned: that of `sin` is `cos`, that of `cos` is `-sin`.": (
        _wrong(lambda v, sin, cos, c, s, x: _QUARTER * ((sin - cos) * x / c + v(s, x / c) / c)),
    ),
    "The factor `pi / 2` of both derivatives is missing: the angle is `pi t / 2`.": (
        _wrong(lambda v, sin, cos, c, s, x: (cos - sin) * x / c + v(s, x / c) / c),
        _wrong(lambda v, sin, cos, c, s, x: (cos - sin) * x / c + _QUARTER * v(s, x / c) / c),
        _wrong(lambda v, sin, cos, c, s, x: _QUARTER * (cos - sin) * x / c + v(s, x / c) / c),
    ),
    "`dtau/dt` is `(pi / 2) / c**2`, and the velocity in the larger picture is `c` times as large: one `c` cancels.": (
        _wrong(lambda v, sin, cos, c, s, x: _QUARTER * ((cos - sin) * x / c + v(s, x / c) / c**2)),
        _wrong(lambda v, sin, cos, c, s, x: _QUARTER * ((cos - sin) * x / c + v(s, x / c))),
    ),
}


@exercise(
    chapter=5, number=2, right="Right: a field that was trained on one path can be followed on the other as it stands."
)
def cosine_from_linear(answer: Any) -> str | None:
    """Write `cosine_field(velocity, t, x)`: the cosine path's velocity at `(t, x)`, from a field of the linear path."""
    target = GaussianMixture(torch.tensor([[1.5, 0.0], [-1.0, 1.0], [0.0, -2.0]], dtype=torch.float64), 0.5)
    linear, cosine = AffinePath(), AffinePath(Cosine())

    def velocity(t: Any, x: Tensor) -> Tensor:
        """Asked at a wrong time, 1 or outside, it still answers, so that the mistake is seen in its numbers."""
        t = torch.as_tensor(t, dtype=x.dtype).clamp(0, 1 - 1e-6)
        return linear.marginal_velocity(t, x, target)

    def truth(velocity: Any, t: Tensor, x: Tensor) -> Tensor:
        return cosine.marginal_velocity(t, x, target)

    points = [
        (velocity, torch.tensor(t, dtype=torch.float64), 1.5 * torch.randn(12, 2, dtype=torch.float64))
        for t in (0.0, 0.2, 0.4, 0.65, 0.8, 0.93)
    ]
    return diagnose(answer, truth, _CONVERSIONS, points)


_SHARED = {
    "a": (False, "`a` is the same on all of them: with y = x / sigma they follow one field, from one start."),
    "b": (False, "`b` is the same on all of them: the noise ends as the data, whatever the way."),
    "c": (True, "`c` is missing: look at the floors of normal data, `pi / 2` and `pi**2 / 4` times their scale."),
    "d": (True, "`d` is missing: a step is cut in `t`, and each path has its own clock and its own scale."),
    "e": (True, "`e` is missing: halfway, linear and cosine are 1/2 and 0.71 of data, and a factor is no small thing."),
    "f": (False, "`f` is the same on all of them: the field of y against the ratio has no schedule in it."),
}


@exercise(
    chapter=5, number=3, right="Right: `c`, `d`, `e` belong to the clock and the scale, the other three to the data."
)
def what_a_path_changes(answer: Any) -> str | None:
    """Say which of six things, `a` to `f`, differ between the linear and the cosine path."""
    if isinstance(answer, Mapping):  # {"a": True, "b": False}
        answer = [letter for letter, differs in answer.items() if differs]
    if isinstance(answer, Tensor) or not isinstance(answer, str | Iterable):
        return f"Answer with letters from a to f, such as 'bd'; you gave {kind(answer)}."
    parts = [answer] if isinstance(answer, str) else answer
    written = " ".join(map(str, parts)).lower()
    written = {"all": "abcdef", "none": ""}.get(written.strip(" .!"), written)
    letters = set(re.sub(r"\b(and|only|just)\b|[\W_]", "", written))
    if not letters or letters - set(_SHARED):
        return f"Answer with letters from a to f, such as 'bd'; you wrote {answer!r}."
    if letters == {"a", "b", "f"}:
        return "Those are the three that are the same on both: which ones differ?"
    wrong = [message for letter, (differs, message) in _SHARED.items() if (letter in letters) != differs]
    more = f" ({len(wrong)} of the six letters are wrong.)" if len(wrong) > 1 else ""
    return f"{wrong[0]}{more}" if wrong else None
