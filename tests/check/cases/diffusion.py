"""Answers to the exercises of chapter 6.

Name -> (right, [(wrong, words of its own message), ...], [right in unusual form, ...]).
"""

import math

import numpy
import torch

from fmtutor import AffinePath, Cosine


def _to_data(x, score, alpha, sigma):
    return (x + sigma**2 * score) / alpha


def _flow(x, score, alpha, sigma, d_alpha, d_sigma):
    return d_alpha / alpha * x + (d_alpha / alpha * sigma**2 - sigma * d_sigma) * score


def _by_equations(x, score, alpha, sigma, d_alpha, d_sigma):
    """x = alpha d + sigma n and score = -n / sigma, solved as two equations."""
    a, s = float(alpha), float(sigma)
    matrix = numpy.array([[a, s], [0, -1 / s]])
    data, noise = numpy.linalg.solve(matrix, numpy.stack([x.flatten().numpy(), score.flatten().numpy()]))
    return (float(d_alpha) * data + float(d_sigma) * noise).reshape(x.shape)


def _fresh(t, h=1e-6):
    """The share of the variance that is drawn anew in a short step."""
    kept = (t / (t + h) * (1 - t - h) / (1 - t)) ** 2
    return ((1 - t - h) ** 2 * (1 - kept) / h) ** 0.5


def _gain(t):
    c = AffinePath(Cosine()).coefficients(t, t[:, None])
    return (c.alpha / (c.alpha * c.d_sigma - c.sigma * c.d_alpha)).square().flatten()


CASES = {
    "score_to_velocity": (
        _flow,
        [
            (lambda x, score, a, s, da, ds: _flow(x, -score, a, s, da, ds), "sign of the score is turned"),
            (lambda x, score, a, s, da, ds: da * (x + s * score) / a - ds * score, "factor `sigma` is missing"),
            (lambda x, score, a, s, da, ds: da * _to_data(x, score, a, s) - ds * s**2 * score, "not its square"),
            (lambda x, score, a, s, da, ds: da * _to_data(x, score, a, s) + s * ds * score, "in both places"),
            (lambda x, score, a, s, da, ds: da * (x + s * score) / a - s * ds * score, "once with the noise"),
            (lambda x, score, a, s, da, ds: da * (x + s**2 * score) - s * ds * score, "not divided by `alpha`"),
            (lambda x, score, a, s, da, ds: da * (x / a + s**2 * score) - s * ds * score, "put brackets"),
            (lambda x, score, a, s, da, ds: _to_data(x, score, a, s), "points are going"),
            (lambda x, score, a, s, da, ds: -s * score, "one half of the answer"),
            (lambda x, score, a, s, da, ds: (x + s * score) / a, "linear path alone"),
            (lambda x, score, a, s, da, ds: _flow(x, score, a, s, ds, da), "derivatives are exchanged"),
            (lambda x, score, a, s, da, ds: _flow(x, score, a, s, da, ds) + 0.5 * score, "drift of the SDE"),
            (lambda x, score, a, s, da, ds: da / a * (x + s**2 * score), "part of the noise is missing"),
            (lambda x, score, a, s, da, ds: -s * ds * score, "part of the data is missing"),
            (lambda x, score, a, s, da, ds: _flow(0, score, a, s, da, ds), "a score of 0"),
            (lambda x, score, a, s, da, ds: _flow(x, score, s, a, da, ds), "are exchanged: `alpha` is"),
            (lambda x, score, a, s, da, ds: da * (x + score) / a - ds * score / s, "noise *over*"),
            (lambda x, score, a, s, da, ds: da * (x - s * score) / a - s * ds * score, "turned in the data"),
            (lambda x, score, a, s, da, ds: _flow(x, 0.5 * score, a, s, da, ds), "is half of what"),
            (lambda x, score, a, s, da, ds: _flow(x, 2 * score, a, s, da, ds), "is twice what"),
            (lambda score, x, alpha, sigma, d_alpha, d_sigma: x, "in this order"),
            (1.0, "A function is wanted"),
        ],
        [
            _by_equations,
            lambda x, score, a, s, da, ds: da * (x.double() + s**2 * score.double()) / a - s * ds * score.double(),
            lambda *, x, score, alpha, sigma, d_alpha, d_sigma: _flow(x, score, alpha, sigma, d_alpha, d_sigma),
            lambda x, score, a, s, da, ds: [
                [_flow(v, w, a, s, da, ds).item() for v, w in zip(*row, strict=True)]
                for row in zip(x, score, strict=True)
            ],
        ],
    ),
    "simple_weight": (
        lambda t: (2 / math.pi * torch.sin(math.pi * t / 2)) ** 2,
        [
            (lambda t: (math.pi / 2 / torch.sin(math.pi * t / 2)) ** 2, "a *smaller* one"),
            (lambda t: 2 / math.pi * torch.sin(math.pi * t / 2), "goes in squared"),
            (lambda t: (2 / math.pi * torch.cos(math.pi * t / 2)) ** 2, "loss on the *data*"),
            (lambda t: torch.sin(math.pi * t / 2) ** 2, "determinant is missing"),
            (lambda t: (math.pi / 2 * torch.sin(math.pi * t / 2)) ** 2, "divided by, and not"),
            (lambda t: t**2, "weight on the linear path"),
            (lambda t: (2 / math.pi * torch.tan(math.pi * t / 2)) ** 2, "loss on the *score*"),
            (lambda t: (2 / math.pi * torch.sin(math.pi * t)) ** 2, "too fast"),
            (lambda t: 1, "looks away"),
            (lambda t: (2 / math.pi) ** 2, "where is `alpha`"),
            (lambda t: 3.0, "takes no notice"),
            (lambda t: math.pi / 2 / torch.sin(math.pi * t / 2), "Two things"),
            (lambda t: 1 / t**2, "and on the linear path"),
            (lambda t: (math.pi / 2 / torch.cos(math.pi * t / 2)) ** 2, "`D ** 2 / sigma ** 2`"),
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
            (lambda t: 2**0.5 * (1 - t) / t, "One of two things"),
            (lambda t: (2 * (t - 1) / t).sqrt(), "sign is turned"),
            (lambda t: 2 / t / (1 - t), "the limit of"),
            (lambda t: 1 / t - 1 / (1 - t), "two rates"),
            (lambda t: 2**0.5 * (1 - t), "a root of 2"),
            (lambda t: 2 - 2 * t, "twice `sigma`"),
            (lambda t: 2 * ((1 - t) / t) ** 0.5, "four times"),
            (lambda t: ((1 - t) / 2 / t) ** 0.5, "above the line"),
            (lambda t: 1 - t, "that a point holds"),
            (lambda t: 1 / t - 1, "That is `sigma / alpha`"),
            (lambda t: 1.0, "takes no notice"),
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
            (90, "the whole kurtosis"),
            (6, "excess of one step"),
            (30, "above that of a normal number"),
            (3600, "one over its root"),
            (10, "kurtosis is 3.6"),
            (1, "After one step"),
            (600, "it is 3.01"),
            (120, "it is 3.05"),
            (20, "still 3.3"),
            (45, "still 3.13"),
            (54, "Nearly"),
            (3.8, "in several orders"),
            (4.7, "six times"),
            (6 / 3.1, "does not fall to 0"),
            (9, "kurtosis of one step. How many"),
            ("many", "you wrote 'many'"),
        ],
        ["60", "60 steps", 6 / 0.1, torch.tensor(60), numpy.array([60.0])],
    ),
    "halving_noise": (
        math.sqrt(2 * math.log(2)),
        [
            (2 * math.log(2), "take the root"),
            (math.sqrt(math.log(2)), "*square* of the error"),
            (math.log(2), "the rate itself"),
            (math.sqrt(math.log(2) / 2), "falls by a sixth"),
            (2 * math.log(0.5), "signs cancel"),
            ((2 * math.log(0.5)) ** 0.5, "root of a negative"),
            (2 * math.sqrt(math.log(2)), "`g ** 2 / 4`"),
            (math.sqrt(2), "is 1 / e"),
            (1, "is 0.61"),
            (0, "stands still"),
            (1.7, "base 2"),
            (3, "Off by"),
        ],
        [
            1.18,
            1.177,
            "sqrt(2 ln(2))",
            "sqrt(2 ln 2)",
            "√(2 ln2)",
            "(2*log 2)^0.5",
            torch.tensor([1.1774]),
            numpy.float32(1.1774),
        ],
    ),
}
