"""Answers to the exercises of chapter 1.

Name -> (right, [(wrong, words of its own message), ...], [right in unusual form, ...]).
"""

import math
from decimal import Decimal
from functools import partial

import numpy
import scipy.stats
import torch
from torch.distributions import LogNormal, Normal

NORMAL = Normal(0.0, 1.0)


def _inverse(second, first=lambda a, b: a):
    def inverse(x, log_scale, shift):
        a, b = x[:, :2], x[:, 2:]
        seen = first(a, b)
        return torch.cat([a, second(b, log_scale(seen), shift(seen))], 1)

    return inverse


def _planar(z, u, w, b):
    def push(row):
        return row + u * torch.tanh(row @ w + b)

    return torch.linalg.slogdet(torch.func.vmap(torch.func.jacrev(push))(z)).logabsdet


def _one_row(x, log_scale, shift):
    """Row by row, and written over what came in."""
    for i in range(len(x)):
        a = x[i : i + 1, :2]
        x[i, 2:] = ((x[i : i + 1, 2:] - shift(a)) / log_scale(a).exp())[0]
    return x


def _bits(log_prob, dims, levels):
    return (dims * math.log(levels) - log_prob) / (dims * math.log(2))


def _slope(z, w, b):
    return 1 - torch.tanh(z @ w + b) ** 2


CASES = {
    "lognormal_log_prob": (
        lambda x: LogNormal(0.0, 1.0).log_prob(x),
        [
            (lambda x: NORMAL.log_prob(x.log()), "log of the stretch is missing"),
            (lambda x: NORMAL.log_prob(x.log()) + x.log(), "density falls"),
            (lambda x: NORMAL.log_prob(x.log()) - x, "*logarithm* is wanted"),
            (lambda x: NORMAL.log_prob(x.exp()) - x.log(), "not at `exp(x)`"),
            (lambda x: NORMAL.log_prob(x) - x.log(), "taken at `x`;"),
            (lambda x: LogNormal(0.0, 1.0).log_prob(x).exp(), "its logarithm is asked"),
            (lambda x: -0.5 * x.log() ** 2 - x.log(), "constant of the normal"),
            (lambda x: NORMAL.log_prob(x.log()) - x.exp(), "second term"),
            (lambda x: NORMAL.log_prob(x.exp()) + x, "forwards once more"),
            (lambda x: NORMAL.log_prob(x.log()) / x, "is divided by `x`"),
            (lambda x: NORMAL.log_prob(x.log()) + 1 / x, "slope of `log x`"),
            (lambda x: LogNormal(0.0, 1.0).cdf(x), "distribution function"),
            (lambda x: NORMAL.log_prob(x), "as if nothing had been moved"),
            (lambda x: -(x.log() ** 2) - 0.5 * math.log(2 * math.pi) - x.log(), "half is missing"),
            (lambda x: NORMAL.log_prob(x.log()) - 2 * x.log(), "counted twice"),
            (lambda x: LogNormal(0.0, 1.0).log_prob(x.clamp(max=6)), "Right at"),
            (lambda x: LogNormal(0.0, 1.0).log_prob(x).mean(), "`.mean()` may be too many"),
        ],
        [
            lambda numbers: scipy.stats.lognorm.logpdf(numbers.numpy(), 1.0),
            lambda x: [-0.5 * math.log(v) ** 2 - math.log(v * math.sqrt(2 * math.pi)) for v in x.tolist()],
            lambda x: LogNormal(0.0, 1.0).log_prob(x.double()),
            partial(lambda scale, x: LogNormal(0.0, scale).log_prob(x), 1.0),
        ],
    ),
    "coupling_inverse": (
        _inverse(lambda b, s, t: (b - t) / s.exp()),
        [
            (_inverse(lambda b, s, t: b * (-s).exp() - t), "last step first"),
            (_inverse(lambda b, s, t: (b - t) * s.exp()), "multiplies by the scale"),
            (_inverse(lambda b, s, t: (b - t) / s), "is a logarithm"),
            (_inverse(lambda b, s, t: (b - s) / t.exp()), "are exchanged"),
            (_inverse(lambda b, s, t: (b + t) / s.exp()), "That adds the shift"),
            (_inverse(lambda b, s, t: (b - t) / s.exp(), lambda a, b: b), "you gave them the second"),
            (_inverse(lambda b, s, t: b * s.exp() + t), "goes forwards"),
            (lambda x, s, t: (x[:, 2:] - t(x[:, :2])) / s(x[:, :2]).exp(), "second half alone"),
            (lambda x, s, t: torch.cat([(x[:, 2:] - t(x[:, :2])) / s(x[:, :2]).exp(), x[:, :2]], 1), "swapped"),
            (lambda x, s, t: x, "as it came in"),
            (_inverse(lambda b, s, t: b / s.exp() + t), "first subtract"),
            (_inverse(lambda b, s, t: b - t), "scale is still in it"),
            (_inverse(lambda b, s, t: b / s.exp()), "shift is still in it"),
            (_inverse(lambda b, s, t: b - t - s), "as if `b` were a logarithm"),
            (_inverse(lambda b, s, t: (b - t) * -(s.exp())), "stands outside"),
            (
                lambda x, s, t: torch.cat([x[:, :2], (x[:, 2:] - t(x[:, :2])) / s(x[:, :2]).exp()]),
                "below each other",
            ),
            (
                lambda x, s, t: torch.cat([(x[:, :2] - t(x[:, 2:])) / s(x[:, 2:]).exp(), x[:, 2:]], 1),
                "takes the second for",
            ),
            (lambda x, s, t: (x - t(x)) / s(x).exp(), "moved as well"),
            (lambda x, s, t: (x[:, :2], (x[:, 2:] - t(x[:, :2])) / s(x[:, :2]).exp()), "`torch.cat` missing"),
        ],
        [
            _one_row,
            lambda y, log_s, m: numpy.hstack(
                [y[:, :2].numpy(), (y[:, 2:] - m(y[:, :2])).numpy() / numpy.exp(log_s(y[:, :2]).numpy())]
            ),
            _inverse(lambda b, s, t: b.double() * torch.exp(-s.double()) - t * torch.exp(-s)),
        ],
    ),
    "planar_log_det": (
        _planar,
        [
            (lambda z, u, w, b: _planar(z, u, w, b).exp(), "That is the determinant"),
            (lambda z, u, w, b: ((u @ w) * _slope(z, w, b)).abs().log(), "The 1 is missing"),
            (lambda z, u, w, b: (1 + (u @ w) * torch.tanh(z @ w + b)).abs().log(), "holds derivatives"),
            (lambda z, u, w, b: -_planar(z, u, w, b), "way back"),
            (lambda z, u, w, b: (1 + (w @ w) * _slope(z, w, b)).log(), "push along `w`"),
            (lambda z, u, w, b: (1 + (u @ w) * _slope(z, w, 0)).log(), "without `b`"),
            (lambda z, u, w, b: (1 + u * w * _slope(z, w, b)[:, None]).abs().log().sum(1), "as vectors"),
            (lambda z, u, w, b: torch.log(1 + u @ w), "slope `h'` is forgotten"),
            (lambda z, u, w, b: (u @ w) * _slope(z, w, b), "differs from 1"),
            (lambda z, u, w, b: (1 + (u @ w).abs() * _slope(z, w, b)).log(), "takes its size"),
            (lambda z, u, w, b: (1 + (u @ w) * _slope(z, w, b)).log().clamp(min=0), "cut off at 0"),
            (lambda z, u, w, b: (1 - (u @ w) * _slope(z, w, b)).log(), "not 1 minus it"),
            (lambda z, u, w, b: (1 + (u @ u) * _slope(z, w, b)).log(), "yours has `u.u`"),
            (lambda z, u, w, b: (1 + (u @ w) * _slope(z, u, b)).log(), "changed places"),
            (lambda z, u, w, b: (1 + (u @ w) * torch.tanh(z @ w + b) ** 2).log(), "taken away from 1"),
            (lambda z, u, w, b: _planar(z, u, w, b).sum(), "whole batch"),
            (lambda z, u, w, b: _planar(z, u, w, b).exp().log2(), "another base"),
        ],
        [
            lambda z, u, w, b: torch.log1p((1 - torch.tanh((z * w).sum(1, keepdim=True) + b) ** 2) * (u * w).sum()),
            lambda z, u, w, b: numpy.log(1 + float(u @ w) / numpy.cosh(z.numpy() @ w.numpy() + float(b)) ** 2),
            lambda *, z, u, w, b: _planar(z, u, w, b),
            lambda points, push, along, offset: _planar(points.double(), push.double(), along.double(), offset),
        ],
    ),
    "untouched_half": (
        "the first half",
        [
            ("the second half", "the one that moves"),
            ("both halves", "does move something"),
            ("neither half", "with a flip between"),
            ("a third", "you wrote 'a third'"),
            ("first and second half", "you wrote 'first and second half'"),
            ("not the first half", "you wrote 'not the first half'"),
            ("", "you wrote ''"),
        ],
        [
            "first half",
            "The first half.",
            "1st half",
            "First",
            "  the FIRST half of z ",
            numpy.str_("first half"),
        ],
    ),
    "pixel_bits": (
        lambda log_prob, dims, levels: (dims * math.log(levels) - log_prob) / (dims * math.log(2)),
        [
            (lambda log_prob, dims, levels: -log_prob / dims / math.log(2), "owns a cell"),
            (lambda log_prob, dims, levels: -log_prob / dims / math.log(2) - math.log2(levels), "*less* likely"),
            (lambda log_prob, dims, levels: -log_prob / dims + math.log(levels), "These are nats"),
            (lambda log_prob, dims, levels: -log_prob / dims + math.log2(levels), "second in bits"),
            (
                lambda log_prob, dims, levels: (dims * math.log(levels) - log_prob) / math.log(2),
                "That is for the whole",
            ),
            (lambda log_prob, dims, levels: (math.log(levels) - log_prob) / dims / math.log(2), "in *each* dimension"),
            (lambda log_prob, dims, levels: log_prob / dims / math.log(2) + math.log2(levels), "Bits are a cost"),
            (
                lambda log_prob, dims, levels: -log_prob / math.log(2) + math.log2(levels),
                "The first term is for the whole image",
            ),
            (lambda log_prob, dims, levels: -log_prob / dims * math.log(2) + math.log2(levels), "You multiplied"),
            (lambda log_prob, dims, levels: log_prob / dims / math.log(2) - math.log2(levels), "both signs"),
            (lambda log_prob, dims, levels: -log_prob / dims / math.log(2) + levels, "of width"),
            (lambda log_prob, dims, levels: -log_prob / dims / math.log(2) + math.log2(levels - 1), "in number"),
            (lambda log_prob, dims, levels: _bits(log_prob, dims, 17), "17 greys of the page"),
            (lambda log_prob, dims, levels: -log_prob / 64 / math.log(2) + math.log2(levels), "64 pixels of the page"),
            (lambda log_prob, dims, levels: _bits(log_prob, dims, levels).mean(), "mean over all"),
            (lambda log_prob, dims, levels: _bits(log_prob, dims, 256), "no notice of `levels`"),
            (lambda log_prob, levels, dims: _bits(log_prob, dims, levels), "in this order"),
        ],
        [
            lambda log_prob, dims, levels: (-log_prob.numpy() / dims / numpy.log(2)) + numpy.log2(levels),
            lambda nats, n, k: -(nats.double() - n * math.log(k)) / n / math.log(2),
            lambda log_prob, dims, levels: [math.log2(levels) - v / dims / math.log(2) for v in log_prob.tolist()],
        ],
    ),
    "network_passes": (
        512,
        [
            (8, "price of the *density*"),
            (64, "That is one layer"),
            (445 * 512, "go through a network together"),
            (445 * 64, "does not wait for the others"),
            (72, "Layers and pixels multiply"),
            (445 * 8, "for each digit and layer"),
            (445, "does not finish a digit"),
            (1, "finds one pixel"),
            (63, "takes a pass too, and"),
            (16, "one pixel further"),
            (504, "first pixel of a layer"),
            (1024, "do not count them twice"),
            (4096, "Count the waiting"),
            ("many", "you wrote 'many'"),
            (513, "Very close"),
        ],
        [
            "512",
            "8 * 64",
            "512 passes",
            512.0,
            numpy.int64(512),
            torch.tensor([512]),
            Decimal(512),
        ],
    ),
    "forgotten_volume": (
        -2 * NORMAL.log_prob(torch.tensor(0.0)).item(),
        [
            (-math.inf, "peak of finite height"),
            (0.0, "Zero would need"),
            (3.6765, "floor of the *right* loss"),
            (0.919, "That is one coordinate"),
            (2.8379, "entropy of the base"),
            (-1.8379, "*minus* the log"),
            (0.159, "peak of the base density itself"),
            (6.2832, "still to be taken"),
            (2.6515, "in bits"),
            (0.798, "to base 10"),
            (1.4189, "nothing keeps"),
            (1.82, "Very close"),
            ("infinity", "a finite number is wanted"),
        ],
        [
            1.84,
            1.838,
            "1.84 nats",
            "log(2 pi)",
            "ln(2*pi)",
            numpy.log(2 * numpy.pi),
            torch.tensor(1.8379),
        ],
    ),
}
