"""Answers to the exercises of chapter 2.

Name -> (right, [(wrong, words of its own message), ...], [right in unusual form, ...]).
"""

import itertools
import math

import numpy
import scipy.stats
import torch
from torch.distributions import MultivariateNormal

from fmtutor import divergence, solve


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


def _field(t, x):
    return torch.stack([x[:, 0] * x[:, 1], x[:, 0].sin() + x[:, 1] ** 2], 1)


def _gaussian(x, a):
    d = x.shape[1]
    return MultivariateNormal(torch.zeros(d), torch.eye(d) * torch.exp(2 * a)).log_prob(x)


def _all_signs(j, correction=0):
    """The variance over every vector of signs."""
    z = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=len(j))))
    return torch.einsum("ni,ij,nj->n", z, j, z).var(correction=correction)


def _simulated(j):
    z = torch.randn(100_000, len(j)).sign()
    return ((z @ j.T) * z).sum(1).var()


def _order(e1, n1, e2, n2):
    return (e1.log() - e2.log()) / (n2.log() - n1.log())


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
            (lambda x: _field(0.0, x).sum(1), "Nothing is differentiated"),
            (lambda x: 3 * x[:, 1] + x[:, 0].cos(), "no cosine"),
            (lambda x: x[:, 0] + 2 * x[:, 1], "Its own coordinate is `x1`"),
            (lambda x: x[:, 1] + x[:, 0].cos(), "Its own coordinate is `x2`"),
            (lambda x: 3 * x[:, 0], "columns are exchanged"),
            (lambda x: torch.stack([x[:, 1], 2 * x[:, 1]], 1), "side by side"),
            (lambda x: 3 * x[1], "second point"),
            (lambda x: 3 * x[:, 1] + 1, "+1 everywhere"),
            (lambda x: 3 * x, "still to be summed"),
        ],
        [
            lambda x: divergence(_field, 0.0, x)[1],
            lambda points: 3 * points.numpy()[:, 1:],
            lambda x: [3 * row[1] for row in x.tolist()],
            lambda x: torch.func.vmap(torch.func.jacrev(lambda r: _field(0, r[None])[0]))(x).diagonal(0, 1, 2).sum(1),
        ],
    ),
    "stretched_density": (
        lambda x, a: _back(x, a) - a * x.shape[1],
        [
            (lambda x, a: _back(x, a) + a * x.shape[1], "*falls*"),
            (lambda x, a: _back(x, a) - a, "`a` times the number"),
            (lambda x, a: _back(x, a), "*came from*"),
            (lambda x, a: _back(x, 0 * a) - a * x.shape[1], "Follow the point back first"),
            (lambda x, a: _back(x, a, -1.0) - a * x.shape[1], "forwards once more"),
            (lambda x, a: torch.exp(_back(x, a) - a * x.shape[1]), "its logarithm is wanted"),
            (lambda x, a: _back(x, 0 * a), "Nothing has moved"),
            (lambda x, a: torch.distributions.Normal(0, 1).log_prob(x / (1 + a)).sum(1) - a * x.shape[1], "undoes one"),
            (lambda x, a: _back(x, a, -1.0) + a * x.shape[1], "followed dx/dt = -a x"),
            (
                lambda x, a: torch.distributions.Normal(0, 1).log_prob(x * (1 - a)).sum(1) - a * x.shape[1],
                "Euler step back",
            ),
            (lambda x, a: torch.distributions.Normal(0, 1).log_prob(x - a).sum(1) - a * x.shape[1], "does not shift"),
            (lambda x, a: _back(x, a) - torch.exp(a * x.shape[1]), "grows by `exp(a d)`"),
            (lambda x, a: _back(x, a / 2) - a * x.shape[1] / 2, "one for the other"),
            (lambda x, a: -0.5 * (x * torch.exp(-a)).square().sum(1) - a * x.shape[1], "`log(2 pi) / 2` for each"),
            (lambda x, a: torch.distributions.Normal(0, torch.exp(a)).log_prob(x).mean(1), "*added*"),
            (lambda x, a: torch.distributions.Normal(0, torch.exp(a)).log_prob(x), "has their sum"),
            (lambda x, a: _gaussian(x, a).mean(), "the whole batch"),
            (lambda x, a: _back(x, a) - a * len(x), "`len(x)`"),
            (lambda x, a: _back(x, a) * torch.exp(-a * x.shape[1]), "that of the volume is subtracted"),
            (lambda x, a: _back(x, a) - a * x.sum(1), "sum of the velocities"),
            (lambda x, a: _back(x, a) - a.abs() * x.shape[1], "Yours takes its size"),
            (lambda x, a: _back(x, a) - 2 * a, "two dimensions of the plane"),
            (lambda x, a: _gaussian(x, torch.tensor(0.5)), "no notice of `a`"),
        ],
        [
            _gaussian,
            lambda x, a: scipy.stats.norm.logpdf(x.numpy(), scale=math.exp(a)).sum(1, keepdims=True),
            lambda at, rate: torch.distributions.Normal(0, rate.double().exp()).log_prob(at.double()).sum(-1),
            lambda *, x, a: _gaussian(x, a),
        ],
    ),
    "midpoint_step": (
        _midpoint,
        [
            (lambda v, t, x, h: x + h * v(t, x), "That is an Euler step"),
            (lambda v, t, x, h: x + h * v(t, x + h / 2 * v(t, x)), "clock stays behind"),
            (lambda v, t, x, h: x + h * v(t + h / 2, x), "state stays behind"),
            (lambda v, t, x, h: x + h * v(t + h, x + h * v(t, x)), "end of the step instead"),
            (lambda v, t, x, h: (x + _midpoint(v, t, x, h)) / 2, "half the step"),
            (lambda v, t, x, h: _midpoint(v, t, x, h) + h / 2 * v(t, x), "go back to `x`"),
            (_heun, "Heun"),
            (lambda v, t, x, h: 2 * x - _midpoint(v, t, x, h), "A step back"),
            (lambda v, t, x, h: (_midpoint(v, t, x, h) - x) / h, "slope in the middle. The"),
            (lambda v, t, x, h: x + h / 2 * v(t, x), "middle itself"),
            (lambda v, t, x, h: x + h * v(t + h, x), "end of the step and the state at its start"),
            (lambda v, t, x, h: x + h * v(t + h / 2, x + h * v(t, x)), "has gone a whole step, `x + h v`"),
            (lambda v, t, x, h: x + h * v(t, x + h * v(t, x)), "the clock has not moved"),
            (lambda v, t, x, h: x + h * v(t + h, x + h / 2 * v(t, x)), "clock is at the end:"),
            (lambda v, t, x, h: _midpoint(v, t, x, h) - x, "only the increment"),
            (lambda v, t, x, h: x + h / 2 * (v(t, x) + v(t + h / 2, x + h / 2 * v(t, x))), "two Euler steps"),
            (lambda v, t, x, h: x + v(t + h / 2, x + h / 2 * v(t, x)), "`h` is missing:"),
            (lambda v, t, x, h: x + h * v(t + h / 2, h / 2 * v(t, x)), "`x +` is missing"),
            (lambda v, t, x, h: x + h * (v(t, x) + v(t + h, x)) / 2, "at the *old* place"),
            (lambda v, t, x, h: 2 * _midpoint(v, t, x, h) - x, "step is taken twice"),
            (lambda v, t, x, h: x + h * v(t + h / 2, x + h / 2), "*along* the slope"),
            (lambda v, t, x, h: solve(v, x, t, t + h, method="rk4", steps=1).x, "Runge-Kutta"),
            (lambda v, t, x, h: x + h * v(x, t), "Your code raised ValueError: the field was called with `x`"),
            (lambda v, x, t, h: _midpoint(v, t, x, h), "in this order"),
        ],
        [
            lambda v, t, x, h: solve(v, x, t, t + h, method="midpoint", steps=1).x,
            lambda f, s, y, dt: y.double() + dt * f(s + dt / 2, y.double() + dt / 2 * f(s, y.double())),
            lambda v, t, x, h: x.numpy() + h * numpy.asarray(v(t + h / 2, torch.add(x, v(t, x), alpha=h / 2))),
        ],
    ),
    "solver_order": (
        _order,
        [
            (lambda e1, n1, e2, n2: (e1.log() - e2.log()) / (n1.log() - n2.log()), "turn one of the two"),
            (lambda e1, n1, e2, n2: e1.log() - e2.log(), "how many doublings"),
            (lambda e1, n1, e2, n2: (e1 / e2).log2(), "for granted"),
            (lambda e1, n1, e2, n2: e1 * n1 / (e2 * n2), "only in logarithms"),
            (lambda e1, n1, e2, n2: (n2 / n1).log() / (e1 / e2).log(), "upside down"),
            (lambda e1, n1, e2, n2: (e1 / e2).log() / (n2 / n1), "divides by the bare ratio"),
            (lambda e1, n1, e2, n2: (e1 / e2).log() / (n2 - n1), "by their difference"),
            (lambda e1, n1, e2, n2: (e1 / e2) / (n2 / n1).log(), "yours has the bare ratio"),
            (lambda e1, n1, e2, n2: (e1 - e2) / (n2 - n1), "plain axes"),
            (lambda e1, n1, e2, n2: e1.log() - e2.log() / n2.log() - n1.log(), "above and below"),
            (lambda e1, n1, e2, n2: -e2.log() / n2.log(), "One run"),
            (lambda *args: _order(*args).round(), "is rounded"),
            (lambda e1, n1, e2, n2: 2.0, "no notice of `e1`"),
        ],
        [
            lambda a, b, c, d: math.log(a / c, d / b),
            lambda e1, n1, e2, n2: numpy.polyfit(numpy.log([n2, n1]), -numpy.log([e2, e1]), 1)[:1],
            lambda e1, n1, e2, n2: ((e1 / e2).log10() / (n2 / n1).log10()).double()[None],
        ],
    ),
    "hutchinson_variance": (
        _pairs,
        [
            (lambda j: _pairs(j) + 2 * j.diagonal().square().sum(), "*normal* probes"),
            (lambda j: j.square().sum() - j.diagonal().square().sum(), "and again at (j, i)"),
            (lambda j: 2 * (j.square().sum() - j.diagonal().square().sum()), "takes J for symmetric"),
            (lambda j: 2 * _pairs(j), "counted twice"),
            (lambda j: _pairs(j).sqrt(), "standard deviation"),
            (lambda j: j.diagonal().sum() ** 2, "That is the square of the mean"),
            (lambda j: 2 * j.square().sum(), "for a symmetric J. With"),
            (lambda j: j.triu(1).square().sum(), "one triangle"),
            (lambda j: sum(j[a, b] + j[b, a] for a in range(len(j)) for b in range(a)), "squares are missing"),
            (lambda j: _pairs(j) + j.trace() ** 2, "still to be taken away"),
            (lambda j: j.trace(), "That is the mean, the trace"),
            (lambda j: 2 * j.diagonal().square().sum(), "that does not vary"),
            (lambda j: (j - j.T).square().sum() / 2, "plus is a minus"),
            (lambda j: _all_signs(j, 1), "not by one less"),
            (lambda j: _pairs(j) / 2, "factor of 2 or 4"),
            (_simulated, "draws random numbers"),
        ],
        [
            _all_signs,
            lambda a: ((a + a.T).numpy() ** 2).sum() / 2 - 2 * (a.numpy().diagonal() ** 2).sum(),
            lambda J: [[_pairs(J.double())]],
        ],
    ),
    "fresh_probes": (
        "it would take the noise for its own error",
        [
            ("the estimate would be biased", "right on average"),
            ("it would cost more evaluations per probe", "as much as an old one"),
            ("the variance would grow", "average out over the steps"),
            ("no idea", "you wrote 'no idea'"),
            ("", "you wrote ''"),
            ("the noise is not its own error", "you wrote 'the noise is not"),
            (3, "you wrote '3'"),
        ],
        [
            "It would take the noise for its own error.",
            "noise",
            "the solver takes the noise for its error",
            "Because it mistakes the noise for its own error!",
        ],
    ),
}
