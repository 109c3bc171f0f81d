"""The exercises of chapter 2 about volume: a divergence, the density it changes, and the noise of its estimate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fmtutor.check._diagnose import diagnose
from fmtutor.check._exercise import exercise


def _of(formula: Any) -> Any:
    """A function of `x` from a formula in its two columns."""
    return lambda x: formula(x[:, 0], x[:, 1])


_DIVERGENCES = {
    "This adds all four entries of the Jacobian. The divergence is its trace: each component is differentiated by "
    "its own coordinate only.": _of(lambda a, b: 3 * b + a + a.cos()),
    "This differentiates each component by the *other* coordinate: that is the other diagonal of the Jacobian.": (
        _of(lambda a, b: a + a.cos())
    ),
    "Both diagonal entries are there. Add them, instead of multiplying or subtracting: the product less the other "
    "product would be the determinant.": (
        _of(lambda a, b: 2 * b**2 - a * a.cos()),
        _of(lambda a, b: 2 * b**2),
        _of(lambda a, b: -b),
    ),
    "That is only the first component's share, `x2`: the second, `sin x1 + x2^2`, changes along `x2` too.": (
        _of(lambda a, b: b)
    ),
    "That is only the second component's share, `2 x2`: the first, `x1 x2`, changes along `x1` too.": (
        _of(lambda a, b: 2 * b)
    ),
    "The columns are exchanged: `x[:, 0]` is the first coordinate, and the answer holds the second.": (
        _of(lambda a, b: 3 * a)
    ),
    "Nothing is differentiated: those are the components of the field itself.": (
        _of(lambda a, b: a * b + a.sin() + b**2),
        _of(lambda a, b: torch.stack([a * b, a.sin() + b**2], 1)),
    ),
    "The second component, `sin x1 + x2^2`, is differentiated by both coordinates: by `x2` only, so no cosine.": (
        _of(lambda a, b: 3 * b + a.cos())
    ),
    "The sine is still there. Along `x2` it does not change, so its derivative is 0.": _of(
        lambda a, b: 3 * b + a.sin()
    ),
    "The first component, `x1 x2`, is differentiated by both coordinates: by `x1` only, which leaves `x2`.": (
        _of(lambda a, b: 3 * b + a)
    ),
    "The first component, `x1 x2`, is differentiated by `x2`. Its own coordinate is `x1`.": _of(lambda a, b: a + 2 * b),
    "The second component is differentiated by `x1`. Its own coordinate is `x2`.": _of(lambda a, b: b + a.cos()),
    "Those are the two diagonal entries, side by side: the divergence is their sum, one number for a row.": (
        _of(lambda a, b: torch.stack([b, 2 * b], 1))
    ),
    "A sum or mean over the batch came out: one number for each row is wanted.": (
        lambda x: 3 * x[:, 1].sum(),
        lambda x: 3 * x[:, 1].mean(),
    ),
    "`x[1]` is the second point; the second coordinate of all points is `x[:, 1]`.": lambda x: 3 * x[1],
}


@exercise(
    chapter=2, number=1, right="Right: each component by its own coordinate, `x2 + 2 x2`, and nothing off the diagonal."
)
def field_divergence(answer: Any) -> str | None:
    """Write `div(x)`, the divergence of the field `(x1 x2, sin x1 + x2^2)`, for `x` of shape `(batch, 2)`."""
    points = [(torch.randn(16, 2),), (torch.randn(5, 2),)]
    return diagnose(answer, _of(lambda a, b: 3 * b), _DIVERGENCES, points, rows=True)


def _normal(x: Tensor) -> Tensor:
    return -0.5 * (x**2).sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi)


def _moved(back: Any, growth: Any = lambda a, d: a * d) -> Any:
    """The base density where `back(x, a)` says that a point came from, less `growth(a, d)`."""
    return lambda x, a: _normal(back(x, a)) - growth(a, x.shape[1])


def _origin(x: Tensor, a: Tensor) -> Tensor:
    return x * torch.exp(-a)


_STRETCHED = {
    "The place is right and the sign of the divergence is wrong: where the field spreads points out (a > 0) the "
    "density *falls*.": _moved(_origin, lambda a, d: -a * d),
    "The divergence of `a x` is `a` times the number of dimensions: each coordinate is stretched.": (
        _moved(_origin, lambda a, d: a)
    ),
    "The change of volume is missing: this is the density of where the point *came from*.": (
        _moved(_origin, lambda a, d: 0 * a)
    ),
    "The base knows x at t = 0. Follow the point back first, by a factor exp(-a).": _moved(lambda x, a: x),
    "Nothing has moved here: that is the base density at `x`. Where did `x` come from?": (
        _moved(lambda x, a: x, lambda a, d: 0 * a)
    ),
    "This follows the point forwards once more, by exp(+a). The density at `x` needs where it came from.": (
        _moved(lambda x, a: x * torch.exp(a))
    ),
    "Place and sign are both turned: that is the density of points that followed dx/dt = -a x.": (
        _moved(lambda x, a: x * torch.exp(a), lambda a, d: -a * d)
    ),
    "That is one Euler step back, `x - a x`. The way back is the exact solution, `exp(-a) x`.": (
        _moved(lambda x, a: x - a * x)
    ),
    "That undoes one Euler step forwards, `x + a x`. The exact solution is undone by `exp(-a) x`.": (
        _moved(lambda x, a: x / (1 + a))
    ),
    "A velocity `a x` stretches, and does not shift: `x` came from `exp(-a) x`, not from `x - a`.": (
        _moved(lambda x, a: x - a)
    ),
    "After time 1 the stretch is `exp(a)`, not `a`: distances grow in proportion to themselves.": (
        _moved(lambda x, a: x / a),
        lambda x, a: _normal(x / a) - x.shape[1] * a.abs().log(),
    ),
    "The volume grows by `exp(a d)`, and its *logarithm*, `a d`, is taken away.": (
        _moved(_origin, lambda a, d: torch.exp(a * d)),
        _moved(_origin, lambda a, d: torch.exp(a) * d),
        _moved(_origin, lambda a, d: torch.exp(a)),
    ),
    "The *variance* has grown by `exp(2 a)`, the standard deviation by `exp(a)`: yours has one for the other.": (
        _moved(lambda x, a: x * torch.exp(-a / 2)),
        _moved(lambda x, a: x * torch.exp(-a / 2), lambda a, d: a * d / 2),
        _moved(lambda x, a: x * torch.exp(-2 * a)),
        _moved(lambda x, a: x * torch.exp(-2 * a), lambda a, d: 2 * a * d),
    ),
    "A density is divided by the volume, and from its *logarithm* that of the volume is subtracted: `- a d`.": (
        lambda x, a: _normal(_origin(x, a)) * torch.exp(-a * x.shape[1])
    ),
    "Each coordinate is stretched by `exp(a)`, in however many dimensions; only the volume has all of them.": (
        _moved(lambda x, a: x * torch.exp(-a * x.shape[1]))
    ),
    "That is the sum of the velocities `a x`. The divergence is that of their *slopes*: `a` for each dimension.": (
        lambda x, a: _normal(_origin(x, a)) - a * x.sum(1)
    ),
    "The number of dimensions is subtracted, whatever `a` is: the divergence is `a` for each of them.": (
        _moved(_origin, lambda a, d: d)
    ),
    "`a` may lie below zero: then the points come together, and the log-density *rises*. Yours takes its size.": (
        _moved(_origin, lambda a, d: a.abs() * d)
    ),
    "That is the density; its logarithm is wanted.": lambda x, a: _moved(_origin)(x, a).exp(),
    "The constant of the normal density is missing: `log(2 pi) / 2` for each dimension.": (
        lambda x, a: -0.5 * _origin(x, a).square().sum(1) - a * x.shape[1]
    ),
    "The constant of the normal density is there for one dimension only.": (
        lambda x, a: -0.5 * _origin(x, a).square().sum(1) - 0.5 * math.log(2 * math.pi) - a * x.shape[1]
    ),
    "The log-densities of the coordinates are *added*, not averaged.": lambda x, a: _moved(_origin)(x, a) / x.shape[1],
    "Those are the log-densities of the coordinates; the point has their sum.": (
        lambda x, a: -0.5 * _origin(x, a) ** 2 - 0.5 * math.log(2 * math.pi) - a,
        lambda x, a: -0.5 * _origin(x, a) ** 2 - 0.5 * math.log(2 * math.pi) - a * x.shape[1],
    ),
    "One number for each row is wanted: yours adds up, or averages, the whole batch.": (
        lambda x, a: _moved(_origin)(x, a).sum(),
        lambda x, a: _moved(_origin)(x, a).mean(),
    ),
    "`len(x)` is the number of points; the number of dimensions is `x.shape[1]`.": (
        lambda x, a: _normal(_origin(x, a)) - a * len(x)
    ),
    "The two dimensions of the plane are written into it: the number of dimensions is `x.shape[1]`.": (
        lambda x, a: _normal(_origin(x, a)) - 2 * a
    ),
}


@exercise(
    chapter=2,
    number=2,
    right="Right: back to where the point came from, and less `a` for each dimension that was stretched.",
)
def stretched_density(answer: Any) -> str | None:
    """Write `log_prob(x, a)`: the log-density at `x` of standard normal points that followed dx/dt = a x for time 1."""
    points = [(torch.randn(8, d), torch.tensor(a)) for d, a in ((1, 0.5), (2, -0.7), (5, 0.3), (2, 1.1))]
    return diagnose(answer, _moved(_origin), _STRETCHED, points, rows=True)


def _off_diagonal(j: Tensor) -> Tensor:
    return j - torch.diag(j.diagonal())


def _variance(j: Tensor) -> Tensor:
    return 0.5 * _off_diagonal(j + j.T).square().sum()


_VARIANCES = {
    "That is the variance with *normal* probes. A sign squared is always 1, so the diagonal adds no variance.": (
        lambda j: 0.5 * (j + j.T).square().sum()
    ),
    "The product of signs i and j stands at (i, j) and again at (j, i): add the two entries first, then square.": (
        lambda j: _off_diagonal(j).square().sum()
    ),
    "This takes J for symmetric: what counts for a pair (i, j) is the sum `J_ij + J_ji`.": (
        lambda j: 2 * _off_diagonal(j).square().sum(),
        lambda j: 4 * j.triu(1).square().sum(),
    ),
    "That is the variance with normal probes, for a symmetric J. With signs the diagonal does not vary, and what "
    "counts is `J_ij + J_ji`.": lambda j: 2 * j.square().sum(),
    "Each pair i < j is counted twice here.": lambda j: _off_diagonal(j + j.T).square().sum(),
    "A factor of 2 or 4 is missing: `2 sum S_ij^2` over all i != j counts each pair of entries twice, and takes `S_ij` "
    "as the mean of `J_ij` and `J_ji`.": (
        lambda j: 0.5 * _variance(j),
        lambda j: 0.25 * _variance(j),
    ),
    "Only one triangle of J is in it: a pair (i, j) has the entries `J_ij` and `J_ji`.": (
        lambda j: j.triu(1).square().sum(),
        lambda j: j.tril(-1).square().sum(),
    ),
    "The squares are missing: the variance of a sum of independent signs has the *squares* of their factors.": (
        lambda j: 0.5 * _off_diagonal(j + j.T).sum(),
        lambda j: 0.5 * _off_diagonal(j + j.T).abs().sum(),
        lambda j: _off_diagonal(j).abs().sum(),
    ),
    "Adding first and squaring last is for one pair; different pairs are independent, so *their* squares are added.": (
        lambda j: (0.5 * _off_diagonal(j + j.T).sum()) ** 2
    ),
    "The squares of different pairs are *added*, not averaged: each pair brings noise of its own.": (
        lambda j: _off_diagonal(j + j.T).square().mean(),
        lambda j: 0.5 * _off_diagonal(j + j.T).square().mean(),
    ),
    "That is the trace of a product. The noise is the sum of the *squares* of `J_ij + J_ji`.": (
        lambda j: (j @ j).trace(),
        lambda j: (j @ j.T).trace(),
    ),
    "That is the standard deviation; the variance is its square.": lambda j: _variance(j).sqrt(),
    "That is the square of the mean. How far single draws are from it is asked.": lambda j: j.trace() ** 2,
    "That is the mean of the square; the square of the mean, `trace(J) ** 2`, is still to be taken away.": (
        lambda j: _variance(j) + j.trace() ** 2
    ),
    "That is the mean, the trace. How far single draws are from it is asked.": lambda j: j.trace(),
    "That is the sum of the squares on the diagonal, and it is the diagonal that does not vary.": (
        lambda j: j.diagonal().square().sum(),
        lambda j: 2 * j.diagonal().square().sum(),
    ),
    "The plus is a minus: the difference `J_ij - J_ji` is what the probe does *not* see.": (
        lambda j: 0.5 * (j - j.T).square().sum()
    ),
    "The variance is over all sign vectors, each as likely as the others: divide by their number, not by one less.": (
        lambda j: _variance(j) * 2 ** len(j) / (2 ** len(j) - 1)
    ),
    "That is the variance of a mean over several probes. One is asked for.": lambda j: _variance(j) / len(j),
}


@exercise(
    chapter=2, number=5, right="Right: what is on the diagonal costs nothing, because the square of a sign is always 1."
)
def hutchinson_variance(answer: Any) -> str | None:
    """Write `variance(J)`: the variance of `xi . (J xi)` for one vector `xi` of independent random signs."""
    return diagnose(answer, _variance, _VARIANCES, [(torch.randn(d, d),) for d in (2, 3, 6)])
