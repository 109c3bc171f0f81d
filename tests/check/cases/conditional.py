"""Answers to the exercises of chapter 4.

Name -> (right, [(wrong, words of its own message), ...], [right in unusual form, ...]).
"""

import math

import numpy
import scipy.integrate
import torch

from fmtutor import AffinePath, conditional_flow_matching_loss


def _loss(xt, target, reduce=lambda error: error.square().mean()):
    return lambda velocity, x0, x1, t: reduce(velocity(t, xt(x0, x1, t[:, None])) - target(x0, x1, t[:, None]))


def _between(x0, x1, t):
    return x0 + t * (x1 - x0)


def _backwards(x0, x1, t):
    return x1 + t * (x0 - x1)


def _way(x0, x1, t):
    return x1 - x0


# Spread evenly, so that four thousand do for what a reader does with 100 000 random draws.
NOISE = torch.special.ndtri((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)


def _floor(t):
    """By simulation: pairs, and the variance of the two data points under Bayes' weights."""
    data = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    x = torch.cat([t * point + (1 - t) * NOISE for point in data])
    weight = torch.softmax(-(((x[:, None] - t * data) / (1 - t)) ** 2) / 2, 1)
    velocity = (data - x[:, None]) / (1 - t)
    mean = (weight * velocity).sum(1, keepdim=True)
    return (weight * (velocity - mean) ** 2).sum(1).mean()


def _detached(velocity):
    return lambda t, x: velocity(t, x).detach()


def _right(velocity, x0, x1, t):
    return (velocity(t, _between(x0, x1, t[:, None])) - (x1 - x0)).square().mean()


def _one_by_one(velocity, x0, x1, t):
    errors = [velocity(t[i : i + 1], _between(x0, x1, t[i])[i : i + 1])[0] - x1[i] + x0[i] for i in range(len(t))]
    return sum(error @ error for error in errors) / (len(errors) * len(errors[0]))


def _u(t):
    """The marginal velocity at the points of pairs that end at +1."""
    return (_tanh(t) - t - (1 - t) * NOISE) / (1 - t)


def _integrated(t):
    s = float(t / (1 - t))
    sure = scipy.integrate.quad(lambda z: math.tanh(s**2 + s * z) ** 2 * math.exp(-z * z / 2), -9, 9, limit=200)[0]
    return (1 - sure / math.sqrt(2 * math.pi)) / (1 - float(t)) ** 2


def _tanh(t):
    return torch.tanh((t / (1 - t)) ** 2 + t / (1 - t) * NOISE)


CASES = {
    "cfm_loss": (
        lambda velocity, x0, x1, t: conditional_flow_matching_loss(velocity, AffinePath(), x0, x1, t),
        [
            (_loss(_between, lambda x0, x1, t: x0 - x1), "points back"),
            (_loss(_between, lambda x0, x1, t: x1 - _between(x0, x1, t)), "way that is left"),
            (_loss(_between, lambda x0, x1, t: t * (x1 - x0)), "is the way behind the pair; its"),
            (_loss(_between, lambda x0, x1, t: x1), "itself is a place"),
            (_loss(_backwards, _way), "starts at the data"),
            (_loss(_backwards, lambda x0, x1, t: x0 - x1), "place and target alike"),
            (_loss(lambda x0, x1, t: x1, _way), "never `x1`"),
            (_loss(lambda x0, x1, t: x0, _way), "The field was asked at `x0`"),
            (lambda v, x0, x1, t: (v(t, t * x1 + (1 - t) * x0) - (x1 - x0)).square().mean(), "each column"),
            (
                lambda v, x0, x1, t: (v(t, t * x1 + (1 - t[:, None]) * x0) - (x1 - x0)).square().mean(),
                "two places, at `x1`",
            ),
            (
                lambda v, x0, x1, t: (v(t, t[:, None] * x1 + (1 - t) * x0) - (x1 - x0)).square().mean(),
                "two places, at `x0`",
            ),
            (_loss(_between, _way, lambda error: error.abs().mean()), "absolute values"),
            (_loss(_between, _way, lambda error: error.square().sum(1).sqrt().mean()), "geometric median"),
            (_loss(_between, _way, lambda error: error.square().mean().sqrt()), "root of the mean square"),
            (_loss(_between, _way, lambda error: error.square().sum()), "grow with the batch"),
            (_loss(_between, _way, lambda error: error.square().sum(1).mean()), "sums over the coordinates"),
            (_loss(_between, _way, lambda error: error.square().mean(1)), "one error for each"),
            (lambda v, x0, x1, t: v(_between(x0, x1, t[:, None]), t).mean(), "Your code raised"),
            (3.75, "A function is wanted"),
            (_loss(_between, lambda x0, x1, t: x0), "is the noise here"),
            (_loss(_between, lambda x0, x1, t: (x1 - x0) / (1 - t)), "takes the whole time 1"),
            (_loss(_between, lambda x0, x1, t: 0 * x0), "target is missing"),
            (_loss(lambda x0, x1, t: t * x1 + x0, _way), "does not fade on your path"),
            (lambda v, x0, x1, t: _right(lambda s, x: v(1 - s, x), x0, x1, t), "another time than"),
            (_loss(_between, _way, lambda error: error.mean()), "is not squared, so"),
            (_loss(lambda x0, x1, t: t * (x1 - x0), _way), "It started at `x0`"),
            (_loss(lambda x0, x1, t: t * x1 + (1 - t**2).sqrt() * x0, _way), "keep the variance"),
            (_loss(_between, _way, lambda error: error.norm()), "root of a sum"),
            (_loss(_between, _way, lambda error: -error.square().mean()), "grows with every error"),
            (
                lambda v, x0, x1, t: (v(t, _between(x0, x1, t[:, None])) ** 2 - _way(x0, x1, t) ** 2).mean(),
                "one by one",
            ),
            (_loss(_between, _way, lambda error: error.mean() ** 2), "The mean is squared"),
            (lambda v, x0, x1, t: _right(v, x0, x1, t) / len(x0), "once too often"),
            (lambda v, x0, x1, t: _right(v, x0, x1, t) / 2, "factor 1/2"),
            (lambda v, x0, x1, t: _right(v, x0, x1, t) * 5 / len(x0), "wrong with 12 pairs"),
            (lambda v, x0, x1, t: _right(v, x0, x1, t).item(), "`.item()` or"),
            (lambda v, x0, x1, t: _right(_detached(v), x0, x1, t), "no network can learn"),
            (lambda v, x0, x1, t: _right(v, x0, x1, torch.rand(len(x1))), "no notice of `t`"),
            (lambda v, x0, x1, t: _right(v, torch.randn_like(x1), x1, t), "no notice of `x0`"),
            (lambda v, x0, x1, t: _right(v, x0, x1 + torch.randn_like(x1), t), "draws random numbers"),
        ],
        [
            _right,
            _one_by_one,
            lambda field, noise, data, time: torch.nn.functional.mse_loss(
                field(time, noise.lerp(data, time[:, None])), data - noise
            ),
            lambda velocity, x0, x1, t: [_right(velocity, x0, x1, t)][0].reshape(1),
            lambda *, velocity, x0, x1, t: _right(velocity, x0, x1, t).double(),
        ],
    ),
    "batch_factor": (
        100,
        [
            (10, "as `1 / N`"),
            (math.sqrt(10), "other way round"),
            (0.01, "turn it over"),
            (0.1, "must N *grow*"),
            (1000, "cube root"),
            (20, "not doubled"),
            (10_000, "as the fourth root"),
            (1, "With the same batch"),
            ("lots", "you wrote 'lots'"),
            (90, "Off by 10"),
        ],
        [
            "100",
            "10^2",
            "100x",
            "100 times as many",
            numpy.array([100]),
            torch.tensor(100),
        ],
    ),
    "same_field": (
        ["A", "c", "e"],
        [
            ("ce", "constant factor"),
            ("ABCE", "a median of theirs"),
            ("a, e", "same for all pairs"),
            ("aced", "stops short"),
            ("ac", "any one time"),
            ("acef", "no plain mean"),
            ("ax", "letters from a to f, such as 'bd'; you wrote 'ax'"),
            (3, "you wrote 3"),
            (dict.fromkeys("abcdef", False), "None of them"),
            ("bdf", "three that move it"),
            (lambda: "ace", "gave a function"),
        ],
        [
            "a, c, e.",
            "A, C and E",
            "(a) (c) (e)",
            "eca",
            {"a", "c", "e"},
            [True, False, True, False, True, False],
            {"a": True, "b": False, "c": True, "d": False, "e": True, "f": False},
            numpy.array(["a", "c", "e"]),
        ],
    ),
    "two_point_floor": (
        _floor,
        [
            (lambda t: _floor(t) * (1 - t) ** 2, "variance of `x1` given `xt`"),
            (lambda t: _floor(t) * (1 - t), "A factor `1 / (1 - t)` goes"),
            (lambda t: 1 / (1 - t) ** 2 - _floor(t), "gives away"),
            (
                lambda t: (1 - torch.tanh(t / (1 - t) * NOISE).square().mean()) / (1 - t) ** 2,
                "leaves the data out",
            ),
            (
                lambda t: (1 - torch.tanh(t * NOISE / (1 - t) ** 2).square().mean()) / (1 - t) ** 2,
                "not `x0` alone",
            ),
            (lambda t: (1 - _tanh(t).mean() ** 2) / (1 - t) ** 2, "square of the mean"),
            (lambda t: (1 - _tanh(t) ** 2).sqrt().mean() / (1 - t), "standard deviation"),
            (lambda t: 1 / torch.cosh((t / (1 - t)) ** 2) ** 2 / (1 - t) ** 2, "likeliest noise"),
            (lambda t: (1 - t) ** -2, "quite unknown"),
            (lambda t: torch.tensor(2.0), "together"),
            (lambda t: (_u(t) ** 2).mean(), "what can be *learned*"),
            (lambda t: _floor(t) * (1 - t) ** 4, "not multiplied"),
            (lambda t: _floor(t) * (1 - t) ** 2 / t**2, "divided by, not `t`"),
            (
                lambda t: (1 - torch.tanh(t * (t + NOISE) / (1 - t) ** 2).square().mean()) / (1 - t) ** 2,
                "does not fade in your `xt`",
            ),
            (
                lambda t: (1 - torch.tanh(t * (t + (1 - t) * NOISE) / (1 - t)).square().mean()) / (1 - t) ** 2,
                "`(1 - t)` *squared*",
            ),
            (lambda t: (1 - _tanh(t).abs().mean()) / (1 - t) ** 2, "variance of a sign"),
            (lambda t: 0.0, "for one data point"),
            (lambda t: _floor(torch.tensor(0.25, dtype=torch.float64)), "no notice of `t`"),
            (lambda t: _floor(t) / 2, "0.5 times"),
        ],
        [
            _integrated,
            lambda t: (1 - _tanh(t).mean()) / (1 - t) ** 2,  # by Bayes: where x1 = 1, the mean of m is that of m^2
            lambda time: (
                (1 - numpy.tanh(float(time / (1 - time)) ** 2 + float(time / (1 - time)) * NOISE.numpy()) ** 2).mean()
                / (1 - float(time)) ** 2
            ),
            lambda t: (
                (1 - torch.tanh((t / (1 - t)) ** 2 + t / (1 - t) * torch.randn(100_000)).square().mean()) / (1 - t) ** 2
            ),
        ],
    ),
    "largest_floor": (
        0.427,
        [
            (0.5, "falls already"),
            (0, "still rises"),
            (1.9, "how large it is"),
            (1, "meet only pairs"),
            (85, "place in a list"),
            (0.45, "finer grid"),
            (0.2, "Off by"),
        ],
        [
            "0.427",
            0.42,
            0.43,
            0.425,
            "42.7 %",
            torch.tensor([0.43]),
            numpy.float32(0.4274),
        ],
    ),
}
