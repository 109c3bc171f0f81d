"""Answers to the exercises of chapter 1: name -> (right, [(wrong, words of its own message), ...])."""

import math

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
        ],
    ),
    "coupling_inverse": (
        _inverse(lambda b, s, t: (b - t) / s.exp()),
        [
            (_inverse(lambda b, s, t: b * (-s).exp() - t), "last step first"),
            (_inverse(lambda b, s, t: (b - t) * s.exp()), "multiplies by the scale"),
            (_inverse(lambda b, s, t: (b - t) / s), "is a logarithm"),
            (_inverse(lambda b, s, t: (b + t) / s.exp()), "adds the shift"),
            (_inverse(lambda b, s, t: (b - t) / s.exp(), lambda a, b: b), "you gave them the second"),
            (_inverse(lambda b, s, t: b * s.exp() + t), "goes forwards"),
            (lambda x, s, t: (x[:, 2:] - t(x[:, :2])) / s(x[:, :2]).exp(), "second half alone"),
            (lambda x, s, t: torch.cat([(x[:, 2:] - t(x[:, :2])) / s(x[:, :2]).exp(), x[:, :2]], 1), "swapped"),
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
        ],
    ),
    "untouched_half": (
        "the first half",
        [
            ("the second half", "the one that moves"),
            ("both halves", "does move something"),
            ("neither half", "with a flip between"),
            ("a third", "Pick one of"),
        ],
    ),
    "pixel_bits": (
        lambda log_prob, dims, levels: (dims * math.log(levels) - log_prob) / (dims * math.log(2)),
        [
            (lambda log_prob, dims, levels: -log_prob / dims / math.log(2), "owns a cell"),
            (lambda log_prob, dims, levels: -log_prob / dims / math.log(2) - math.log2(levels), "*less* likely"),
            (lambda log_prob, dims, levels: -log_prob / dims + math.log(levels), "These are nats"),
            (lambda log_prob, dims, levels: -log_prob / dims + math.log2(levels), "second in bits"),
            (lambda log_prob, dims, levels: (dims * math.log(levels) - log_prob) / math.log(2), "whole image"),
            (lambda log_prob, dims, levels: (math.log(levels) - log_prob) / dims / math.log(2), "in *each* dimension"),
            (lambda log_prob, dims, levels: log_prob / dims / math.log(2) + math.log2(levels), "Bits are a cost"),
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
        ],
    ),
    "forgotten_volume": (
        -2 * NORMAL.log_prob(torch.tensor(0.0)).item(),
        [
            (-math.inf, "peak of finite height"),
            (0.0, "Zero would need"),
            (3.6765, "floor of the *right* loss"),
            (0.919, "one coordinate"),
            (2.8379, "entropy of the base"),
            (-1.8379, "*minus* the log"),
        ],
    ),
}
