"""Answers to the exercises of chapter 4: name -> (right, [(wrong, words of its own message), ...])."""

import math

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


def _tanh(t):
    return torch.tanh((t / (1 - t)) ** 2 + t / (1 - t) * NOISE)


CASES = {
    "cfm_loss": (
        lambda velocity, x0, x1, t: conditional_flow_matching_loss(velocity, AffinePath(), x0, x1, t),
        [
            (_loss(_between, lambda x0, x1, t: x0 - x1), "points back"),
            (_loss(_between, lambda x0, x1, t: x1 - _between(x0, x1, t)), "way that is left"),
            (_loss(_between, lambda x0, x1, t: t * (x1 - x0)), "way behind"),
            (_loss(_between, lambda x0, x1, t: x1), "is a place"),
            (_loss(_backwards, _way), "starts at the data"),
            (_loss(_backwards, lambda x0, x1, t: x0 - x1), "place and target alike"),
            (_loss(lambda x0, x1, t: x1, _way), "never `x1`"),
            (_loss(lambda x0, x1, t: x0, _way), "asked at `x0`"),
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
            (_loss(_between, _way, lambda error: error.square().mean(1)), "shape (5,)"),
            (lambda v, x0, x1, t: v(_between(x0, x1, t[:, None]), t).mean(), "Your code raised"),
            (3.75, "A function is wanted"),
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
        ],
    ),
    "same_field": (
        ["A", "c", "e"],
        [
            ("ce", "constant factor"),
            ("abce", "a median of theirs"),
            ("a, e", "same for all pairs"),
            ("aced", "stops short"),
            ("ac", "any one time"),
            ("acef", "no plain mean"),
            ("ax", "letters from a to f, such as 'bd'; you wrote 'ax'"),
            (3, "you wrote 3"),
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
                "not `z` alone",
            ),
            (lambda t: (1 - _tanh(t).mean() ** 2) / (1 - t) ** 2, "square of the mean"),
            (lambda t: (1 - _tanh(t) ** 2).sqrt().mean() / (1 - t), "standard deviation"),
            (lambda t: 1 / torch.cosh((t / (1 - t)) ** 2) ** 2 / (1 - t) ** 2, "likeliest noise"),
            (lambda t: (1 - t) ** -2, "quite unknown"),
            (lambda t: torch.tensor(2.0), "together"),
        ],
    ),
}
