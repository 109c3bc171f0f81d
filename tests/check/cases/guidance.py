"""Answers to the exercises of chapter 9.

Name -> (right, [(wrong, words of its own message), ...], [right in unusual form, ...]).
"""

import math
from fractions import Fraction

import numpy
import torch
from scipy.stats import norm

from fmtutor import GaussianMixture, guide


def _guided(velocity, t, x, label, null, w):
    none = torch.full_like(label, null)
    return (1 - w) * velocity(t, x, none) + w * velocity(t, x, label)


def _one_by_one(velocity, t, x, label, null, w):
    rows = []
    for image, number in zip(x, label, strict=True):
        both = velocity(t, torch.stack([image, image]), torch.tensor([number, null]))
        rows.append((both[1] + w * (both[0] - both[1])).tolist())
    return torch.tensor(rows)


def _as_one_batch(velocity, t, x, label, null, w):
    """Labels of another whole type, and one time for each image."""
    each = torch.cat([label, torch.full_like(label, null)]).to(torch.int32)
    one, free = velocity(t.expand(2 * len(x)), torch.cat([x, x]), each).chunk(2)
    return free + w * (one - free)


def _least(label, null, p, u):
    """Exactly a share p of the batch."""
    out = label.clone()
    out[u.argsort()[: round(p * len(u))]] = null
    return out


def _without_a_shape(velocity, t, x, label, null, w):
    return (1 - w) * velocity(t, x, null) + w * velocity(t, x, label)


def _expected(c, means, s, r):
    weight = torch.softmax(-((c[:, None] - means[:, 1]) ** 2) / (2 * (s**2 + r**2)), 1)
    return weight @ means[:, 0]


def _by_scipy(c, means, s, r):
    """Bayes' rule, written out."""
    (a, b), spread = means.double().tolist(), math.hypot(s, r)
    one, other = norm.pdf(c.numpy(), a[1], spread), norm.pdf(c.numpy(), b[1], spread)
    return (one * a[0] + other * b[0]) / (one + other)


def _by_the_package(c, means, s, r):
    """The second coordinate as points that are seen through noise, with their posterior for the bumps."""
    line = GaussianMixture(means[:, 1:].double(), s)
    return (line.responsibilities(c.double()[:, None], 1.0, r) * means[:, 0]).sum(1)


def _by_brute_force(c, means, s, r):
    """The posterior of the second coordinate on a fine grid."""
    at = torch.linspace(-8, 8, 4001).double()
    bumps = torch.exp(-((at - means[:, 1:].double()) ** 2) / (2 * s**2))  # (2, grid)
    told = torch.exp(-((c.double()[:, None] - at) ** 2) / (2 * r**2))  # (n, grid)
    joint = told @ bumps.T
    return [float(row @ means[:, 0].double() / row.sum()) for row in joint]


CASES = {
    "guided_batch": (
        _guided,
        [
            (lambda v, t, x, y, n, w: (1 + w) * v(t, x, y) - w * v(t, x, torch.full_like(y, n)), "other convention"),
            (lambda v, t, x, y, n, w: _guided(v, t, x, y, n, 1 - w), "exchanged"),
            (lambda v, t, x, y, n, w: w * (v(t, x, y) - v(t, x, torch.full_like(y, n))), "is what is added to it"),
            (lambda v, t, x, y, n, w: w * v(t, x, y), "times as fast"),
            (lambda v, t, x, y, n, w: v(t, x, y), "labelled field alone"),
            (lambda v, t, x, y, n, w: v(t, x, torch.full_like(y, n)), "without a label alone"),
            (lambda v, t, x, y, n, w: w * v(t, x, y) + v(t, x, torch.full_like(y, n)), "add up to 1"),
            (lambda v, t, x, y, n, w: _guided(v, t, x, y, n, 0.5), "mean of the two"),
            (lambda v, t, x, y, n, w: _guided(v, t, x, y, n, -w), "goes the wrong way"),
            (lambda v, t, x, y, n, w: _guided(v, t, x, y, 0, w), "class 0"),
            (lambda v, t, x, y, n, w: _guided(v, t, x, y[0].expand(len(x)), n, w), "have the first"),
            (lambda v, t, x, y, n, w: _guided(v, t, x, y, n, min(1, w)), "cut off"),
            (lambda v, t, x, y, n, w: _guided(v, t, x, y.flip(0), n, w), "got the label of another"),
            (lambda v, t, x, y, n, w: _guided(v, t[None].expand(3), x, y, n, w), "Your code raised ValueError: t must"),
            (_without_a_shape, "Your code raised ValueError: label must hold"),
            (lambda velocity, t, x, label, w, null: _guided(velocity, t, x, label, null, w), "in this order"),
        ],
        [
            _one_by_one,
            _as_one_batch,
            lambda v, t, x, y, n, w: _guided(v, t.repeat(len(x)), x, y, n, w),
            lambda v, t, x, y, n, w: guide(v, y, w, n)(t, x),
            lambda v, t, x, y, n, w: torch.lerp(v(t, x, 0 * y + n).double(), v(t, x, y).double(), w),
            lambda velocity, *, t, x, label, null, w: numpy.asarray(_guided(velocity, t, x, label, null, w)),
        ],
    ),
    "hide_labels": (
        lambda label, null, p, u: torch.where(u < p, null, label),
        [
            (lambda label, null, p, u: torch.where(u > p, null, label), "ones to keep"),
            (lambda label, null, p, u: torch.where(u >= 1 - p, null, label), "share is right"),
            (lambda label, null, p, u: label if u[0] > p else torch.full_like(label, null), "whole batch"),
            (lambda label, null, p, u: label * (u >= p), "became 0"),
            (lambda label, null, p, u: torch.where(u < p, -1, label), "became -1"),
            (lambda label, null, p, u: label + null * (u < p), "was added"),
            (lambda label, null, p, u: torch.where(u < p, null * label, label), "multiplied"),
            (lambda label, null, p, u: label, "Nothing is hidden"),
            (lambda label, null, p, u: torch.full_like(label, null), "Everything is hidden"),
            (lambda label, null, p, u: [null if i < p * len(u) else y for i, y in enumerate(label)], "same places"),
            (lambda label, null, p, u: u < p, "as 0 and 1"),
            (lambda label, null, p, u: torch.where(u < 0.5, null, label), "Half of them"),
            (_least, "exactly a share"),
        ],
        [
            lambda label, null, p, u: [null if v < p else y for y, v in zip(label.tolist(), u.tolist(), strict=True)],
            lambda label, null, p, u: numpy.where(u.numpy() < p, null, label.numpy()),
            lambda y, none, share, uniform: y.masked_fill(uniform < share, none).float(),
        ],
    ),
    "largest_weight": (
        lambda a, b: a / (a - b),
        [
            (lambda a, b: b / (a - b), "One less"),
            (lambda a, b: a / (b - a), "sign is turned"),
            (lambda a, b: a / b, "the w at which it is 0"),
            (lambda a, b: a * b / (a - b), "they double yours"),
            (lambda a, b: (a - b) / a, "upside down"),
            (lambda a, b: a - b, "stands beside w"),
            (lambda a, b: b / a, "all is well. Solve"),
            (lambda a, b: 1 / (a - b), "multiply by `a`"),
            (lambda a, b: a**2 / (a**2 - b**2), "were standard deviations"),
            (lambda a, b: a.sqrt() / (a.sqrt() - b.sqrt()), "take no root"),
            (lambda a, b: a / (a + b), "the w of the second term"),
            (lambda a, b: (a + b) / (a - b), "sum of the two"),
            (lambda a, b: a, "variance at weight 1"),
            (lambda a, b: a / (a - b) / 2, "half of it"),
            (lambda a, b: 2 * a / (a - b), "twice as much"),
            (lambda a, b: (1 / b - 1) / (1 / b - 1 / a), "precision is 1"),
        ],
        [
            lambda a, b: 1 / (1 - b / a),
            lambda large, small: (1 / small) / (1 / small - 1 / large),
            lambda a, b: [1 + y / (x - y) for x, y in zip(a.tolist(), b.tolist(), strict=True)],
        ],
    ),
    "guided_passes": (
        49,
        [
            (32, "without guidance"),
            (64, "with guidance all the way"),
            (48, "one time too few"),
            (24, "looks twice"),
            (17, "Those are the times"),
            (34, "Those are the passes"),
            (33, "still goes through once"),
            (50, "the last time is 31 / 32"),
            (66, "there are 32 times, not 33"),
            (40, "8 steps in the interval"),
            (98, "all of it twice"),
            (46, "Count them again"),
            (47, "Neither end"),
        ],
        ["49 passes", 32 + 17, Fraction(49), torch.tensor(49)],
    ),
    "expected_coordinate": (
        _expected,
        [
            (lambda c, m, s, r: _expected(c, m, s, 0.0), "was forgotten"),
            (lambda c, m, s, r: _expected(c, m, 0.0, r), "Only the noise"),
            (lambda c, m, s, r: _expected(c, m, s + r, 0.0), "do not add up, variances do"),
            (lambda c, m, s, r: _expected(c, m, s**0.5, r**0.5), "square them, both"),
            (lambda c, m, s, r: _expected(c, m, s, r)[:, None], "one axis too many"),
            (
                lambda c, m, s, r: torch.softmax(-((c[:, None] - m[:, 1]) ** 2) / (2 * (s**2 + r**2)), 0) @ m[:, 0],
                "runs over the wrong axis",
            ),
            (lambda c, m, s, r: _expected(c, m.T, s, r), "rows in place of columns"),
            (
                lambda c, m, s, r: torch.softmax(-((c[:, None] - m[:, 1]) ** 2) / (2 * (s**2 + r**2)), 1)[:, 0],
                "weight of one bump",
            ),
            (lambda c, m, s, r: _expected(c, m, s / 2**0.5, r / 2**0.5), "The 2 of the normal"),
            (lambda c, m, s, r: _expected(c, m, math.hypot(s, r) ** 0.5, 0.0), "root is too much"),
            (
                lambda c, m, s, r: torch.softmax(-(c[:, None] - m[:, 1]).abs() / (2 * (s**2 + r**2)), 1) @ m[:, 0],
                "with its square",
            ),
            (
                lambda c, m, s, r: torch.softmax((c[:, None] - m[:, 1]) ** 2 / (2 * (s**2 + r**2)), 1) @ m[:, 0],
                "farther",
            ),
            (lambda c, m, s, r: _expected(c, m.flip(1), s, r), "coordinates are exchanged"),
            (
                lambda c, m, s, r: torch.softmax(-((c[:, None] - m[:, 1]) ** 2) / (2 * (s**2 + r**2)), 1) @ m[:, 1],
                "mean of the *second*",
            ),
            (
                lambda c, m, s, r: torch.softmax(-((c[:, None] - m[:, 0]) ** 2) / (2 * (s**2 + r**2)), 1) @ m[:, 0],
                "compared with the first",
            ),
            (lambda c, m, s, r: m[(c[:, None] - m[:, 1]).abs().argmin(1), 0], "nearer bump alone"),
            (lambda c, m, s, r: m[:, 0].mean().expand(len(c)), "without knowing"),
            (
                lambda c, m, s, r: torch.exp(-((c[:, None] - m[:, 1]) ** 2) / (2 * (s**2 + r**2))) @ m[:, 0],
                "divide by their sum",
            ),
            (
                lambda c, m, s, r: (
                    _expected(c, m, s, r) if len(c) > 2 else torch.softmax(-((c - m[:, 1]) ** 2), 0) @ m[:, 0] + 0 * c
                ),
                "not for 2",
            ),
        ],
        [_by_scipy, _by_the_package, _by_brute_force],
    ),
}
