"""Answers to the exercises of chapter 3.

Name -> (right, [(wrong, words of its own message), ...], [right in unusual form, ...]).
"""

import math
from fractions import Fraction
from functools import partial

import numpy
import torch

from fmtutor import AffinePath, Empirical, solve


def _toward(mean):
    return lambda t, x: (mean(t, x) - x) / (1 - t)


def _weight(t, x):
    """Of +1, by Bayes."""
    return torch.softmax(torch.stack([-((x - t) ** 2), -((x + t) ** 2)]) / (2 * (1 - t) ** 2), 0)[0]


_MEAN = _toward(lambda t, x: 2 * _weight(t, x) - 1)


CASES = {
    "conditional_velocity": (
        lambda t, x, x1: (x1 - x) / (1 - t),
        [
            (lambda t, x, x1: (x - x1) / (1 - t), "points away"),
            (lambda t, x, x1: x1 - x, "does not arrive in time"),
            (lambda t, x, x1: (x1 - x) / t, "other way"),
            (lambda t, x, x1: (x - x1) / t, "way behind"),
            (lambda t, x, x1: (x1 - x) * (1 - t), "instead of multiplying"),
            (lambda t, x, x1: x1 - x / (1 - t), "brackets"),
            (lambda t, x, x1: (x1 - t * x) / (1 - t), "nothing scales it"),
            (lambda t, x, x1: (x1 - x) / (1 - t).clamp(min=0.1), "away from zero"),
            (lambda t, x, x1: (x1 - x) / (1 - t).clamp(min=0.03), "Right at"),
            (lambda t, x, x1: x1 / (1 - t), "current point is missing"),
            (lambda t, x, x1: -x / (1 - t), "end is missing"),
            (lambda t, x, x1: (x1 - x) / (1 - t) ** 2, "and not squared"),
            (lambda t, x, x1: (x1 - x) / (1 + t), "not `1 + t`"),
            (lambda t, x, x1: torch.lerp(x, x1, t), "place between"),
            (lambda t, x, x1: (x1 - x) / (x1 - x).norm(dim=1, keepdim=True), "with length 1"),
            (lambda t, x, x1: x1 - (x - t * x1), "the noise is not asked for"),
            (lambda t, x, x1: (x1 - x).mean(0) / (1 - t), "shape (2,)"),
            (lambda x, t, x1: (x1 - x) / (1 - t), "in this order"),
        ],
        [
            AffinePath().conditional_velocity,
            lambda time, point, end: (end.numpy() - point.numpy()) / (1 - time.item()),
            lambda *, t, x, x1: (x1.double() - x) / (1 - t.double()),
            partial(lambda one, t, x, x1: (x1 - x) / (one - t), 1),
        ],
    ),
    "two_point_velocity": (
        lambda t, x: (
            ((1 - torch.exp(-2 * t * x / (1 - t) ** 2)) / (1 + torch.exp(-2 * t * x / (1 - t) ** 2)) - x) / (1 - t)
        ),
        [
            (lambda t, x: -x / (1 - t), "leaves the weights out"),
            (_toward(lambda t, x: -torch.tanh(t * x / (1 - t) ** 2)), "less likely"),
            (_toward(lambda t, x: torch.tanh(t * x / (1 - t))), "square"),
            (_toward(lambda t, x: torch.tanh(x / (1 - t) ** 2)), "factor `t`"),
            (_toward(lambda t, x: torch.tanh(2 * t * x / (1 - t) ** 2)), "twice too steep"),
            (_toward(lambda t, x: torch.where(x > 0, 1.0, -1.0)), "stay soft"),
            (lambda t, x: torch.tanh(t * x / (1 - t) ** 2), "seen from x"),
            (lambda t, x: torch.tanh(t * x / (1 - t) ** 2) - x, "has to be covered"),
            (_toward(_weight), "2 w - 1"),
            (_toward(lambda t, x: torch.tanh(t * x / (1 - t) ** 2 / 2)), "halved once too often"),
            (_toward(lambda t, x: torch.tanh(t * x)), "does not shrink"),
            (_toward(lambda t, x: torch.tanh(x)), "`x` alone"),
            (_toward(lambda t, x: torch.tanh(t * x / (1 - t**2))), "not `1 - t ** 2`"),
            (lambda t, x: (1 - x) / (1 - t) + (-1 - x) / (1 - t), "added without weights"),
            (_toward(lambda t, x: torch.tanh(x / t)), "It fades"),
            (_toward(lambda t, x: t * x / (1 - t) ** 2), "tanh is missing"),
            (lambda t, x: (2 * _weight(t, x) - 1) / (1 - t), "the point is missing"),
            (lambda t, x: -_MEAN(t, x), "points away from it"),
            (lambda t, x: _MEAN(t, x) * (1 - t) / t, "you divide by `t`"),
            (lambda t, x: _MEAN(t, x) * (1 - t) ** 2, "multiplied by the time"),
            (lambda t, x: 2 * _weight(t, x) - 1 - x / (1 - t), "brackets are missing"),
            (_toward(lambda t, x: 1), "of one point"),
            (lambda t, x: _MEAN(t, x).mean(), "`.mean()` may be too many"),
        ],
        [
            _MEAN,
            lambda s, y: AffinePath().marginal_velocity(s, y[:, None], Empirical(torch.tensor([[-1.0], [1.0]])))[:, 0],
            lambda t, x: (numpy.tanh(float(t) * x.numpy() / (1 - float(t)) ** 2) - x.numpy()) / (1 - float(t)),
            lambda t, x: [
                (math.exp(-((v - t) ** 2) / (2 * (1 - t) ** 2)) - math.exp(-((v + t) ** 2) / (2 * (1 - t) ** 2)))
                / (math.exp(-((v - t) ** 2) / (2 * (1 - t) ** 2)) + math.exp(-((v + t) ** 2) / (2 * (1 - t) ** 2)))
                / (1 - t)
                - v / (1 - t)
                for v in x.double().tolist()
            ],
        ],
    ),
    "perfect_fit": (
        "a training image",
        [
            ("a new image", "3 000 points"),
            ("an average image", "single points"),
            ("a mixture of training images", "their weights are soft"),
            ("a cat", "you wrote 'a cat'"),
            ("an image", "you wrote 'an image'"),
            ("not a training image", "you wrote 'not a"),
            (7, "you wrote '7'"),
        ],
        [
            "training image",
            "a copy of a training image",
            "A training image.",
            "one of the training images",
            "exact copies of training images",
            "an image from the training set",
        ],
    ),
    "shortcut_fraction": (
        1 - 1 / math.e,
        [
            (1.0, "shrinks"),
            (1 / math.e, "still *left*"),
            (0.5, "0.69; it goes on"),
            (63.2, "percentage"),
            (math.log(2), "half the way is covered. What"),
            (1 - math.exp(-2), "not as `exp(-2 t)`"),
            (math.e - 1, "sign of the exponent"),
            (0, "leave its place"),
            (0.638, "Very close"),
            ("a third", "you wrote 'a third'"),
            (-0.632, "size is right and the sign"),
        ],
        [
            0.63,
            "63 %",
            "63.2%",
            "1-1/e",
            "1 - exp(-1)",
            "1 − e^-1",
            Fraction(632, 1000),
            numpy.float32(0.632),
            solve(lambda t, x: 1 - x, torch.zeros(1, 1)).x,
        ],
    ),
}
