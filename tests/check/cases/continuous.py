"""Answers to the exercises of chapter 2: name -> (right, [(wrong, words of its own message), ...])."""

import torch


def _back(x, a, sign=1.0):
    return torch.distributions.Normal(0, 1).log_prob(x * torch.exp(-sign * a)).sum(1)


def _heun(v, t, x, h):
    first = v(t, x)
    return x + h * (first + v(t + h, x + h * first)) / 2


def _midpoint(v, t, x, h):
    half = x + 0.5 * h * v(t, x)
    return x + h * v(t + 0.5 * h, half)


def _pairs(j):
    d = len(j)
    return sum((j[a, b] + j[b, a]) ** 2 for a in range(d) for b in range(a))


CASES = {
    "field_divergence": (
        lambda x: 3 * x[:, 1],
        [
            (lambda x: 3 * x[:, 1] + x[:, 0] + x[:, 0].cos(), "all four entries"),
            (lambda x: x[:, 0] + x[:, 0].cos(), "*other* coordinate"),
            (lambda x: 2 * x[:, 1] ** 2 - x[:, 0] * x[:, 0].cos(), "determinant"),
            (lambda x: x[:, 1], "first component's share"),
            (lambda x: 2 * x[:, 1], "second component's share"),
            (lambda x: (3 * x[:, 1]).sum(), "one number for each row"),
            (lambda x: -3 * x[:, 1], "sign is wrong"),
        ],
    ),
    "stretched_density": (
        lambda x, a: _back(x, a) - a * x.shape[1],
        [
            (lambda x, a: _back(x, a) + a * x.shape[1], "*falls*"),
            (lambda x, a: _back(x, a) - a, "number of dimensions"),
            (lambda x, a: _back(x, a), "*came from*"),
            (lambda x, a: _back(x, 0 * a) - a * x.shape[1], "Follow the point back first"),
            (lambda x, a: _back(x, a, -1.0) - a * x.shape[1], "forwards once more"),
            (lambda x, a: torch.exp(_back(x, a) - a * x.shape[1]), "its logarithm is wanted"),
        ],
    ),
    "midpoint_step": (
        _midpoint,
        [
            (lambda v, t, x, h: x + h * v(t, x), "Euler step"),
            (lambda v, t, x, h: x + h * v(t, x + h / 2 * v(t, x)), "clock stays behind"),
            (lambda v, t, x, h: x + h * v(t + h / 2, x), "state stays behind"),
            (lambda v, t, x, h: x + h * v(t + h, x + h * v(t, x)), "end of the step"),
            (lambda v, t, x, h: (x + _midpoint(v, t, x, h)) / 2, "half the step"),
            (lambda v, t, x, h: _midpoint(v, t, x, h) + h / 2 * v(t, x), "go back to `x`"),
            (_heun, "Heun"),
            (lambda v, t, x, h: 2 * x - _midpoint(v, t, x, h), "A step back"),
            (lambda v, t, x, h: (_midpoint(v, t, x, h) - x) / h, "slope in the middle. The"),
            (lambda v, t, x, h: x + h / 2 * v(t, x), "middle itself"),
            (lambda v, t, x, h: x + h * v(t + h, x), "Off by up to"),
        ],
    ),
    "solver_order": (
        lambda e1, n1, e2, n2: (e1.log() - e2.log()) / (n2.log() - n1.log()),
        [
            (lambda e1, n1, e2, n2: (e1.log() - e2.log()) / (n1.log() - n2.log()), "turn one of the two"),
            (lambda e1, n1, e2, n2: e1.log() - e2.log(), "how many doublings"),
            (lambda e1, n1, e2, n2: (e1 / e2).log2(), "for granted"),
            (lambda e1, n1, e2, n2: e1 * n1 / (e2 * n2), "only in logarithms"),
            (lambda e1, n1, e2, n2: (n2 / n1).log() / (e1 / e2).log(), "upside down"),
        ],
    ),
    "hutchinson_variance": (
        _pairs,
        [
            (lambda j: _pairs(j) + 2 * j.diagonal().square().sum(), "*normal* probes"),
            (lambda j: j.square().sum() - j.diagonal().square().sum(), "and again at (j, i)"),
            (lambda j: 2 * (j.square().sum() - j.diagonal().square().sum()), "for symmetric"),
            (lambda j: 2 * _pairs(j), "counted twice"),
            (lambda j: _pairs(j).sqrt(), "standard deviation"),
            (lambda j: j.diagonal().sum() ** 2, "square of the mean"),
        ],
    ),
    "fresh_probes": (
        "it would take the noise for its own error",
        [
            ("the estimate would be biased", "right on average"),
            ("it would cost more evaluations per probe", "as much as an old one"),
            ("the variance would grow", "average out over the steps"),
            ("no idea", "Pick one of"),
        ],
    ),
}
