"""The layers of chapter 1, undone and measured, beside the versions that a hurried reader writes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fmtutor.check._diagnose import diagnose
from fmtutor.check._exercise import exercise


def _log_scale(a: Tensor) -> Tensor:
    return torch.sin(2 * a)


def _shift(a: Tensor) -> Tensor:
    return a**2 - 1


def _undo(second: Any, seen: Any = lambda a, b: a, join: Any = lambda a, b: torch.cat([a, b], 1)) -> Any:
    """The version that moves the second half by `second(b, s, t)`, with s and t of what it has `seen`."""

    def inverse(x: Tensor, log_scale: Any, shift: Any) -> Tensor:
        a, b = x.chunk(2, 1)
        given = seen(a, b)
        return join(a, second(b, log_scale(given), shift(given)))

    return inverse


def _undone(b: Tensor, s: Tensor, t: Tensor) -> Tensor:
    return (b - t) * torch.exp(-s)


def _join(x: Tensor, s: Tensor, t: Tensor) -> Tensor:
    return torch.cat([x[:, :2], _undone(x[:, 2:], s, t)], 1)


_INVERSES = {
    "Undo the last step first: subtract the shift, then divide by the scale.": _undo(
        lambda b, s, t: b * torch.exp(-s) - t
    ),
    "Log-scale and shift are exchanged: subtract `shift(a)`, then divide by `exp(log_scale(a))`.": _undo(
        lambda b, s, t: (b - s) * torch.exp(-t)
    ),
    "That multiplies by the scale once more; divide by it: `exp(-log_scale)`.": _undo(
        lambda b, s, t: (b - t) * torch.exp(s)
    ),
    "That divides by the scale, and adds the shift once more: first subtract the shift, then divide.": (
        _undo(lambda b, s, t: b * torch.exp(-s) + t)
    ),
    "Nothing has moved: that is `x` as it came in.": lambda x, log_scale, shift: x,
    "The shift was computed from the second half, which has moved. Scale and shift both look at the first.": (
        lambda x, log_scale, shift: _join(x, log_scale(x[:, :2]), shift(x[:, 2:]))
    ),
    "The scale was computed from the second half, which has moved. Scale and shift both look at the first.": (
        lambda x, log_scale, shift: _join(x, log_scale(x[:, 2:]), shift(x[:, :2]))
    ),
    "`log_scale` is a logarithm: divide by its exponential.": (
        _undo(lambda b, s, t: (b - t) / s),
        _undo(lambda b, s, t: (b - t) * -s),
        _undo(lambda b, s, t: (b - t) * s),
    ),
    "That takes the log-scale away, as if `b` were a logarithm, too; `b` itself is divided by its exponential.": (
        _undo(lambda b, s, t: b - t - s)
    ),
    "That adds the shift once more; subtract it.": _undo(lambda b, s, t: (b + t) * torch.exp(-s)),
    "The shift is still in it: subtract it before you divide.": _undo(lambda b, s, t: b * torch.exp(-s)),
    "The scale is still in it: after the shift is gone, divide by `exp(log_scale)`.": _undo(lambda b, s, t: b - t),
    "The minus of the scale stands outside: `exp(-s)` is one over `exp(s)`, and `-exp(s)` turns the sign.": (
        _undo(lambda b, s, t: (b - t) * -torch.exp(s))
    ),
    "Scale and shift were computed from the half that did not move, the first one; you gave them the second.": (
        _undo(_undone, lambda a, b: b)
    ),
    "That goes forwards once more: the order of the steps and both signs turn round.": (
        _undo(lambda b, s, t: b * torch.exp(s) + t)
    ),
    "That is the second half alone; put the first one, which did not move, back in front.": (
        _undo(_undone, join=lambda a, b: b)
    ),
    "The halves are swapped: what stood first stands first again.": _undo(
        _undone, join=lambda a, b: torch.cat([b, a], 1)
    ),
    "The halves are joined below each other, as more points; they stand side by side: `torch.cat(..., 1)`.": (
        _undo(_undone, join=lambda a, b: torch.cat([a, b], 0))
    ),
    "The first half has been moved as well. It went through the coupling as it was, and is left as it is.": (
        lambda x, log_scale, shift: (x - shift(x)) * torch.exp(-log_scale(x)),
        _undo(_undone, join=lambda a, b: torch.cat([_undone(a, _log_scale(a), _shift(a)), b], 1)),
    ),
    "It is the first half that did not move: yours takes the second for the one that was left alone.": (
        lambda x, log_scale, shift: torch.cat([_undone(x[:, :2], log_scale(x[:, 2:]), shift(x[:, 2:])), x[:, 2:]], 1)
    ),
}


@exercise(
    chapter=1,
    number=2,
    right="Right: the first half is still there, so the same scale and shift can be computed and undone.",
)
def coupling_inverse(answer: Any) -> str | None:
    """Write `inverse(x, log_scale, shift)`, which undoes `x = [a, b * exp(log_scale(a)) + shift(a)]`."""
    points = [(torch.randn(16, 4), _log_scale, _shift), (torch.randn(7, 4), torch.tanh, torch.cos)]
    return diagnose(answer, _undo(_undone), _INVERSES, points)


def _slope(z: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return 1 - torch.tanh(z @ w + b) ** 2


def _log_of(stretch: Any) -> tuple[Any, Any]:
    """Two versions: the logarithm of `stretch(z, u, w, b)`, and that of its size."""
    return (lambda *args: torch.log(stretch(*args))), (lambda *args: torch.log(stretch(*args).abs()))


_PLANAR = {
    "That is the determinant; its logarithm is asked for.": lambda z, u, w, b: 1 + (u @ w) * _slope(z, w, b),
    "The 1 is missing: the Jacobian is the identity *plus* `h' u w^T`, because `x` starts with `z`.": (
        _log_of(lambda z, u, w, b: (u @ w) * _slope(z, w, b))
    ),
    "That is `u.w h'`, by which the determinant differs from 1: the answer is `log(1 + u.w h')`.": (
        lambda z, u, w, b: (u @ w) * _slope(z, w, b)
    ),
    "The slope `h'` is forgotten: the push is `u tanh(...)`, and its derivative along `w` has a `1 - tanh^2`.": (
        lambda z, u, w, b: torch.log(1 + u @ w).expand(len(z)),
        lambda z, u, w, b: torch.log(1 + u @ w),
    ),
    "A Jacobian holds derivatives: that of tanh is `1 - tanh^2`.": (
        *_log_of(lambda z, u, w, b: 1 + (u @ w) * torch.tanh(z @ w + b)),
    ),
    "`tanh^2` is what is taken away from 1: the derivative of tanh is `1 - tanh^2`.": (
        *_log_of(lambda z, u, w, b: 1 + (u @ w) * torch.tanh(z @ w + b) ** 2),
    ),
    "The derivative of tanh is `1 - tanh^2`, with a minus.": (
        *_log_of(lambda z, u, w, b: 1 + (u @ w) * (1 + torch.tanh(z @ w + b) ** 2)),
    ),
    "`u` and `w` meet as `u.w`, which knows the angle between them: the product of their lengths does not.": (
        lambda z, u, w, b: torch.log(1 + u.norm() * w.norm() * _slope(z, w, b))
    ),
    "The sign is turned: that is the log-determinant of the way back.": (
        lambda z, u, w, b: -torch.log(1 + (u @ w) * _slope(z, w, b))
    ),
    "The push is *added* to `z`, so the determinant is 1 plus `u.w h'`, not 1 minus it.": (
        *_log_of(lambda z, u, w, b: 1 - (u @ w) * _slope(z, w, b)),
    ),
    "`u.w` may lie below zero (down to -1): then the map pulls points together, and the logarithm is negative. Yours "
    "takes its size.": (
        lambda z, u, w, b: torch.log(1 + (u @ w).abs() * _slope(z, w, b)),
        lambda z, u, w, b: torch.log(1 + (u @ w) * _slope(z, w, b)).abs(),
    ),
    "`u.w` may lie below zero (down to -1), and then the logarithm is negative. Yours is cut off at 0.": (
        lambda z, u, w, b: torch.log(1 + (u @ w) * _slope(z, w, b)).clamp(min=0),
    ),
    "`u` and `w` meet as `u.w`; `w.w` belongs to a push along `w` itself.": (
        lambda z, u, w, b: torch.log(1 + (w @ w) * _slope(z, w, b))
    ),
    "`u` and `w` meet as `u.w`; yours has `u.u`, and the direction that counts is `w`.": (
        lambda z, u, w, b: torch.log(1 + (u @ u) * _slope(z, w, b))
    ),
    "`u` and `w` have changed places: the tanh looks along `w`.": (
        lambda z, u, w, b: torch.log(1 + (u @ w) * _slope(z, u, b))
    ),
    "The derivative of tanh is one minus its *square*.": (
        *_log_of(lambda z, u, w, b: 1 + (u @ w) * (1 - torch.tanh(z @ w + b))),
    ),
    "The slope is taken at `w.z` without `b`.": lambda z, u, w, b: torch.log(1 + (u @ w) * _slope(z, w, 0 * b)),
    "The determinant is that of one number a row, not one for each coordinate: multiply `u` and `w` as vectors.": (
        lambda z, u, w, b: torch.log((1 + u * w * _slope(z, w, b)[:, None]).abs()).sum(1)
    ),
    "One number a row is wanted: yours adds, or averages, the log-determinants of the whole batch.": (
        lambda z, u, w, b: torch.log(1 + (u @ w) * _slope(z, w, b)).sum(),
        lambda z, u, w, b: torch.log(1 + (u @ w) * _slope(z, w, b)).mean(),
    ),
    "The logarithm is to another base: the natural one is wanted, as everywhere in the book.": (
        lambda z, u, w, b: torch.log2(1 + (u @ w) * _slope(z, w, b)),
        lambda z, u, w, b: torch.log10(1 + (u @ w) * _slope(z, w, b)),
    ),
}


@exercise(
    chapter=1, number=3, right="Right: one direction is stretched, by `1 + u.w h'`, and all the others are left alone."
)
def planar_log_det(answer: Any) -> str | None:
    """Write `log_det(z, u, w, b)` of `x = z + u tanh(w.z + b)`, for `z` of shape `(batch, dim)`; one number a row."""
    z, w = torch.randn(16, 3), torch.tensor([0.7, 1.2, 1.0])
    pushes = [(torch.tensor([1.0, -0.5, 0.8]), -0.4), (torch.tensor([-0.5, 0.25, -0.4]), 0.3)]  # u.w = 0.9 and -0.45
    points = [(z, u, w, torch.tensor(b)) for u, b in pushes]
    points.append((torch.randn(9, 2), torch.tensor([-0.3, 0.2]), torch.tensor([1.1, -0.6]), torch.tensor(-0.8)))
    truth = lambda z, u, w, b: torch.log(1 + (u @ w) * _slope(z, w, b))  # noqa: E731
    return diagnose(answer, truth, _PLANAR, points, rows=True)
