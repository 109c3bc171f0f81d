"""Answers to the exercises of chapter 3: name -> (right, [(wrong, words of its own message), ...])."""

import math

import torch


def _toward(mean):
    return lambda t, x: (mean(t, x) - x) / (1 - t)


CASES = {
    "conditional_velocity": (
        lambda t, x, x1: (x1 - x) / (1 - t),
        [
            (lambda t, x, x1: (x - x1) / (1 - t), "points away"),
            (lambda t, x, x1: x1 - x, "63 %"),
            (lambda t, x, x1: (x1 - x) / t, "other way"),
            (lambda t, x, x1: (x - x1) / t, "way behind"),
            (lambda t, x, x1: (x1 - x) * (1 - t), "instead of multiplying"),
            (lambda t, x, x1: x1 - x / (1 - t), "brackets"),
            (lambda t, x, x1: (x1 - t * x) / (1 - t), "current point"),
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
        ],
    ),
    "perfect_fit": (
        "a training image",
        [
            ("a new image", "3 000 points"),
            ("an average image", "single points"),
            ("a mixture of training images", "their weights are soft"),
            ("a cat", "Pick one of"),
        ],
    ),
    "shortcut_fraction": (
        1 - 1 / math.e,
        [
            (1.0, "shrinks"),
            (1 / math.e, "still *left*"),
            (0.5, "ln 2"),
            (63.2, "percentage"),
        ],
    ),
}
