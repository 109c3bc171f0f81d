"""Answers to the exercises of chapter 6.

Name -> (right, [(wrong, words of its own message), ...], [right in unusual form, ...]).
"""

import math

import numpy
import torch

from fmtutor import AffinePath, Cosine


def _to_data(t, x, score):
    return (x + (1 - t) ** 2 * score) / t


def _by_the_package(t, x, score):
    return AffinePath().convert(float(t), x, score, source="score", to="velocity")


def _by_equations(t, x, score):
    """x = t d + (1 - t) n and score = -n / (1 - t), solved as two equations."""
    t = t.double()
    matrix = torch.stack([torch.stack([t, 1 - t]), torch.stack([0 * t, -1 / (1 - t)])])
    data, noise = torch.linalg.solve(matrix, torch.stack([x.flatten(), score.flatten()]).double())
    return (data - noise).reshape(x.shape)


def _fresh(t, h=1e-6):
    """The share of the variance that is drawn anew in a short step."""
    kept = (t / (t + h) * (1 - t - h) / (1 - t)) ** 2
    return ((1 - t - h) ** 2 * (1 - kept) / h) ** 0.5


def _gain(t):
    c = AffinePath(Cosine()).coefficients(t, t[:, None])
    return (c.alpha / (c.alpha * c.d_sigma - c.sigma * c.d_alpha)).square().flatten()


CASES = {
    "score_to_velocity": (
        lambda t, x, score: (x + (1 - t) * score) / t,
        [
            (lambda t, x, score: (x - (1 - t) * score) / t, "sign of the score is turned"),
            (lambda t, x, score: _to_data(t, x, score) + (1 - t) ** 2 * 0, "one `1 - t` too many"),
            (lambda t, x, score: (x + score) / t, "factor `1 - t` is missing"),
            (lambda t, x, score: (t - 1) * score, "That is the noise"),
            (lambda t, x, score: _to_data(t, x, score) - x, "time that is left"),
            (lambda t, x, score: (x + t * score) / (1 - t), "runs the other way"),
            (lambda t, x, score: (x + (1 - t) * score) / t + score / 2, "drift of the SDE"),
            (lambda t, x, score: x / t + (1 - t) * score, "brackets"),
            (lambda t, x, score: _to_data(t, x, score) - (1 - t) * score, "yours is their sum"),
            (lambda t, x, score: score * (1 - t) / t, "a score of 0"),
            (lambda t, x, score: x / t, "score is missing"),
            (lambda t, x, score: t * x + t * (1 - t) * score, "not multiplied"),
            (lambda t, x, score: x + (1 - t) * score, "in yours it is not divided"),
            (lambda t, x, score: score, "score itself"),
            (lambda x, t, score: (x + (1 - t) * score) / t, "in this order"),
            (1.0, "A function is wanted"),
        ],
        [
            _by_the_package,
            _by_equations,
            lambda t, x, score: (_to_data(t, x, score) - x) / (1 - t),
            lambda *, t, x, score: x.numpy() / t.item() + (1 / t.item() - 1) * score.numpy(),
        ],
    ),
    "simple_weight": (
        lambda t: (2 / math.pi * torch.sin(math.pi * t / 2)) ** 2,
        [
            (lambda t: (math.pi / 2 / torch.sin(math.pi * t / 2)) ** 2, "upside down"),
            (lambda t: 2 / math.pi * torch.sin(math.pi * t / 2), "goes in squared"),
            (lambda t: (2 / math.pi * torch.cos(math.pi * t / 2)) ** 2, "loss on the *data*"),
            (lambda t: torch.sin(math.pi * t / 2) ** 2, "determinant is missing"),
            (lambda t: (math.pi / 2 * torch.sin(math.pi * t / 2)) ** 2, "divided by, and not"),
            (lambda t: t**2, "on the linear path"),
            (lambda t: (2 / math.pi * torch.tan(math.pi * t / 2)) ** 2, "loss on the *score*"),
            (lambda t: (2 / math.pi * torch.sin(math.pi * t)) ** 2, "too fast"),
            (lambda t: torch.ones_like(t), "looks away"),
            (lambda t: 2 / math.pi * torch.sin(math.pi * t / 2) ** 2, "Square the determinant"),
            (lambda t: 4 / math.pi**2 * torch.sin(math.pi * t / 2), "the sine is not"),
            (lambda t: torch.sin(math.pi * t / 2), "`alpha` alone"),
            (0.4, "A function is wanted"),
        ],
        [
            _gain,
            lambda t: [4 / math.pi**2 * math.sin(math.pi * s / 2) ** 2 for s in t.tolist()],
            lambda time: 2 / math.pi**2 * (1 - numpy.cos(math.pi * time.numpy())),
            lambda *, t: (Cosine().alpha(t) / (torch.pi / 2)).square(),
        ],
    ),
    "ddpm_noise": (
        lambda t: (2 * (1 - t) / t) ** 0.5,
        [
            (lambda t: 2 * (1 - t) / t, "That is `g ** 2`"),
            (lambda t: ((1 - t) / t) ** 0.5, "factor 2 is missing"),
            (lambda t: (2 * t / (1 - t)) ** 0.5, "turned over"),
            (lambda t: (1 - t) * (2 / t) ** 0.5, "Only the growth"),
            (lambda t: (2 - 2 * t) ** 0.5, "Only the fall"),
            (lambda t: (2 / t / (1 - t)) ** 0.5, "`sigma ** 2` is missing"),
            (lambda t: (2 / t) ** 0.5, "share of the *variance*"),
            (lambda t: 2**0.5 * (1 - t) / t, "2 alone"),
            (lambda t: 2 * ((1 - t) / t) ** 0.5, "four times"),
            (lambda t: ((1 - t) / 2 / t) ** 0.5, "above the line"),
            (lambda t: 1 - t, "that a point holds"),
            (lambda t: 1 / t - 1, "That is `sigma / alpha`"),
            (lambda t: 1.0 + 0 * t[:1].expand(len(t)) * 0, "takes no notice"),
        ],
        [
            _fresh,
            lambda t: [math.sqrt(2 / s - 2) for s in t.tolist()],
            lambda time: numpy.sqrt(2 * (1 - time.numpy()) / time.numpy()),
            lambda *, t: torch.exp(0.5 * (math.log(2) + torch.log1p(-t) - t.log())),
        ],
    ),
    "steps_to_hide": (
        60,
        [
            (90, "kurtosis itself from 9"),
            (6, "excess of one step"),
            (30, "not at 3"),
            (3600, "one over its root"),
            (10, "kurtosis is 3.6"),
            (1, "one step has 9"),
            (600, "it is 3.01"),
            (54, "Fourth moments"),
            ("many", "you wrote 'many'"),
        ],
        ["60", "60 steps", 6 / 0.1, torch.tensor(60), numpy.array([60.0])],
    ),
    "halving_noise": (
        math.sqrt(2 * math.log(2)),
        [
            (2 * math.log(2), "take the root"),
            (math.sqrt(math.log(2)), "half of what you have"),
            (math.log(2), "the rate itself"),
            (math.sqrt(math.log(2) / 2), "*square* of the error"),
            (2 * math.sqrt(math.log(2)), "`g ** 2 / 4`"),
            (math.sqrt(2), "is 1 / e"),
            (1, "is 0.61"),
            (0, "stands still"),
            (1.7, "base 2"),
            (3, "Off by"),
        ],
        [1.18, 1.177, "sqrt(2 ln(2))", torch.tensor([1.1774]), numpy.float32(1.1774)],
    ),
}
