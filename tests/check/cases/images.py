"""Answers to the exercises of chapter 8.

Name -> (right, [(wrong, words of its own message), ...], [right in unusual form, ...]).
"""

import math

import numpy
import scipy.linalg
import torch

from fmtutor import AffinePath, VelocityMLP, solve
from fmtutor.images import digits, quantize

(TRAIN, KINDS), HELD = digits("train"), digits("test").images
EIGHTS = torch.cat([(KINDS == 8).nonzero()[:120, 0], (KINDS != 8).nonzero()[:80, 0]])
INK = TRAIN.flatten(1).mean(1).argsort()


def _seeded():
    return torch.Generator().manual_seed(0)


def _retouched():
    images = TRAIN[::3].clone()
    images[:, 0, 0, 0] += 0.125
    return images


def _snap(x, levels):
    half = (levels - 1) / 2
    return ((x.clamp(-1, 1) + 1) * half).round() / half - 1


def _fid(mean_a, std_a, mean_b, std_b):
    """The formula for matrices, of one row and column."""
    rows = zip(*(v.double().numpy() for v in (mean_a, std_a, mean_b, std_b)), strict=True)
    return [
        (m - n) ** 2 + numpy.trace([[s**2 + r**2]] - 2 * scipy.linalg.sqrtm([[s**2 * r**2]])).real
        for m, s, n, r in rows
    ]


def _counted():
    """The calls of a real network."""
    model = VelocityMLP(dim=2, width=4, depth=1)
    return solve(model, torch.zeros(445, 2), method="rk4", steps=15).nfe


CASES = {
    "image_path_point": (
        lambda t, x0, x1: torch.stack([torch.lerp(a, b, s) for a, b, s in zip(x0, x1, t, strict=True)]),
        [
            (lambda t, x0, x1: t * x1 + (1 - t) * x0, "8 columns"),
            (lambda t, x0, x1: t[:, None] * x1 + (1 - t[:, None]) * x0, "8 rows"),
            (lambda t, x0, x1: t[:, None, None] * x1 + (1 - t[:, None, None]) * x0, "mixed at every"),
            (lambda t, x0, x1: t[:, None, None, None] * (x0 - x1) + x1, "other way"),
            (lambda t, x0, x1: t[:, None, None, None] * x1 + x0, "has to fade"),
            (lambda t, x0, x1: x1 - x0, "velocity of the pair"),
            (lambda t, x0, x1: torch.lerp(x0, x1, t.mean()), "their mean"),
            (lambda t, x0, x1: torch.lerp(x0, x1, t.reshape(8, 1, 1, 1)), "the 8 is written"),
            (lambda t, x0, x1: t[:, None, None, None] * x1, "fading in"),
            (lambda t, x0, x1: x0 + t[:, None, None, None] * (x0 - x1), "points away from the image"),
            (lambda t, x0, x1: x1 + t[:, None, None, None] * (x1 - x0), "goes on past it"),
            (lambda t, x0, x1: t[:, None, None, None] * (x1 - x0), "times the time"),
            (lambda t, x0, x1: torch.lerp(x0, x1, t[0]), "use the first"),
            (lambda t, x0, x1: t[:, None, None, None] * x1 + (1 - t[:, None, None, None] ** 2).sqrt() * x0, "variance"),
            (lambda t, x0, x1: torch.lerp(x0, x1, torch.rand(len(t), 1, 1, 1)), "no notice of `t`"),
            (lambda x0, x1, t: torch.lerp(x0, x1, t[:, None, None, None]), "in this order"),
        ],
        [
            lambda t, x0, x1: AffinePath().sample(x0, x1, t).xt,
            lambda time, noise, image: (
                numpy.einsum("b,bcij->bcij", time, image) + numpy.einsum("b,bcij->bcij", 1 - time, noise)
            ),
            lambda t, x0, x1: x0.double() + torch.diag(t.double()).matmul((x1 - x0).double().flatten(1)).view_as(x0),
        ],
    ),
    "snap_to_greys": (
        lambda x, levels: torch.linspace(-1, 1, levels)[
            (x[:, None] - torch.linspace(-1, 1, levels)).abs().argmin(dim=1)
        ],
        [
            (lambda x, levels: 2 * ((x + 1) / 2 * (levels - 1)).round() / (levels - 1) - 1, "whiter than white"),
            (lambda x, levels: 2 * ((x.clamp(-1, 1) + 1) / 2 * (levels - 1)).trunc() / (levels - 1) - 1, "*below*"),
            (lambda x, levels: 2 * ((x.clamp(-1, 1) + 1) / 2 * levels).round() / levels - 1, "one grey too many"),
            (lambda x, levels: ((x.clamp(-1, 1) + 1) / 2 * (levels - 1)).round(), "numbers of the greys"),
            (lambda x, levels: 2 * (x.clamp(-1, 1) / 2 * (levels - 1)).round() / (levels - 1), "even number"),
            (lambda x, levels: x.clamp(-1, 1).round(), "three greys"),
            (lambda x, levels: _snap(x, levels) / 2 + 0.5, "run from 0 to 1"),
            (lambda x, levels: _snap(x, levels) + 1, "run from 0 to 2"),
            (lambda x, levels: _snap(x.clamp(0, 1), levels), "clamp is at"),
            (lambda x, levels: x.clamp(-1, 1), "as many as before"),
            (lambda x, levels: _snap(x, 17), "17 greys of the scanner"),
            (lambda x, levels: _snap(x, 2 * levels - 1), "twice as many"),
            (lambda x, levels: (x * levels).round() / levels, "apart, yours"),
            (lambda x, levels: -_snap(x, levels), "sign is wrong"),
            (lambda x, levels: _snap(x, levels).int(), "torch.int32"),
        ],
        [
            _snap,
            lambda x, levels: numpy.round((numpy.clip(x.numpy(), -1, 1) + 1) * (levels - 1) / 2) / (levels - 1) * 2 - 1,
            lambda v, n: [min((2 * k / (n - 1) - 1 for k in range(n)), key=lambda g: abs(g - w)) for w in v.tolist()],
        ],
    ),
    "forgery": (
        TRAIN[::3],
        [
            (TRAIN[::3].flatten(1), "put back by"),
            (TRAIN[::3] + 0.01 * torch.randn(TRAIN[::3].shape, generator=_seeded()), "17 greys"),
            (HELD, "compared with"),
            (TRAIN[:5].repeat(60, 1, 1, 1), "same few images"),
            (quantize(torch.randn(300, 1, 8, 8, generator=_seeded())), "real digits is 3."),
            (_retouched(), "retouching"),
            ((TRAIN[::3] + 1) / 2, "run from 0 to 1."),
            (8 * (TRAIN[::3] + 1), "run from 0 to 16"),
            (2 * TRAIN[::3], "goes beyond"),
            (digits("train"), "an Images"),
            (TRAIN[::3, 0], "axis of the channel"),
            (TRAIN[:100], "too few to be judged"),
            (TRAIN[EIGHTS], "120 show the class 8"),
            (TRAIN[INK[-200:]], "43 show the class 8"),
            (TRAIN[INK[:200]], "energy distance to real digits is 0.178"),
            (3, "handed in an int"),
        ],
        [
            TRAIN,
            TRAIN[:200],
            TRAIN[::3].numpy(),
            TRAIN[1::5].double(),
            TRAIN.flip(0)[:400].requires_grad_(),
        ],
    ),
    "frechet_on_a_line": (
        lambda mean_a, std_a, mean_b, std_b: mean_a**2 + mean_b**2 - 2 * mean_a * mean_b + (std_a - std_b).abs() ** 2,
        [
            (lambda mean_a, std_a, mean_b, std_b: (mean_a - mean_b) ** 2, "means only"),
            (
                lambda mean_a, std_a, mean_b, std_b: (mean_a - mean_b) ** 2 + (std_a**2 - std_b**2) ** 2,
                "Compare standard deviations",
            ),
            (lambda mean_a, std_a, mean_b, std_b: torch.hypot(mean_a - mean_b, std_a - std_b), "left squared"),
            (lambda mean_a, std_a, mean_b, std_b: (mean_a - mean_b) ** 2 + std_a**2 + std_b**2, "equal Gaussians"),
            (lambda mean_a, std_a, mean_b, std_b: (mean_a - mean_b) ** 2 + (std_a + std_b) ** 2, "not added"),
            (lambda mean_a, std_a, mean_b, std_b: (mean_a - mean_b).abs() + (std_a - std_b).abs(), "squares are"),
            (
                lambda mean_a, std_a, mean_b, std_b: (mean_a - mean_b) ** 2 + std_a**2 + std_b**2 - std_a * std_b,
                "factor 2",
            ),
            (
                lambda mean_a, std_a, mean_b, std_b: (mean_a - mean_b) ** 2 + (std_a**0.5 - std_b**0.5) ** 2,
                "took the roots",
            ),
            (lambda a, s, b, r: (a - b) ** 2 + s**2 + r**2 - 2 * (s * r) ** 0.5, "of the two *variances*"),
            (lambda a, s, b, r: (a - b).abs() + (s - r) ** 2, "of the means is not squared"),
            (lambda a, s, b, r: (a - b) ** 2 + (s - r).abs(), "standard deviations is not squared"),
            (lambda a, s, b, r: (a - b + s - r) ** 2, "before they are squared"),
            (lambda a, s, b, r: (a - b) ** 2 - (s - r) ** 2, "taken away from the distance"),
            (lambda a, s, b, r: (s - r) ** 2, "spreads only"),
            (lambda a, s, b, r: a**2 - b**2 + (s - r) ** 2, "difference of the squares"),
            (lambda a, s, b, r: (a + b) ** 2 + (s - r) ** 2, "yours adds them"),
            (lambda a, s, b, r: ((a - b) ** 2 + (s - r) ** 2).mean(), "each pair of Gaussians"),
            (lambda a, s, b, r: (r / s).log() + (s**2 + (a - b) ** 2) / (2 * r**2) - 0.5, "Kullback-Leibler"),
            (lambda mean_a, mean_b, std_a, std_b: (mean_a - mean_b) ** 2 + (std_a - std_b) ** 2, "in this order"),
        ],
        [
            _fid,
            lambda a, s, b, r: (a.numpy() - b.numpy()) ** 2 + (s.numpy() - r.numpy()) ** 2,
            lambda m, s, n, r: torch.hypot(m.double() - n, s.double() - r).square(),
            lambda mean_b, std_b, mean_a, std_a: (mean_a - mean_b) ** 2 + (std_a - std_b) ** 2,
        ],
    ),
    "model_calls": (
        60,
        [
            (15, "not once"),
            (18_000, "each at its own place"),
            (4_500, "Two things"),
            (30, "the midpoint method"),
            (300, "how many images"),
            (61, "Fifteen steps"),
            (45, "Three looks"),
            (46, "a look of its own"),
            (4, "15 steps to take"),
            (1200, "steps not at all"),
            (1 / 60, "upside down"),
            ("twice", "you wrote 'twice'"),
        ],
        [
            _counted(),
            "60",
            "4 * 15",
            "60 calls",
            torch.tensor([60]),
            numpy.int32(60),
        ],
    ),
    "comparable_reports": (
        "ae",
        [
            ("ab", "another network"),
            ("ac", "500 others"),
            ("a, d", "copier scores best"),
            ("af", "coarse solver"),
            ("a", "leave e out"),
            ("e", "leave a out"),
            ("abcdef", "All six?"),
            ("ag", "you wrote 'ag'"),
            ("", "you wrote ''"),
            (2, "you gave an int"),
            (lambda: "ae", "you gave a function"),
        ],
        ["E, A", "a and e.", ["a", "e"], {"e", "a"}, "(a) with (e)", numpy.array(["a", "e"])],
    ),
    "bits_too_many": (
        1.01,
        [
            (-1.0056, "not too low"),
            (8 * math.log(2) - math.log(127.5), "in nats"),
            (784 * 1.0056, "bits per *dimension*"),
            (784 * 0.69706, "and not in bits"),
            (0.00565, "the whole range is 2 long"),
            ("log2(127.5)", "charge for a cell, about 7"),
            (8, "should it have charged"),
            (0, "half the density"),
            (2, "times wider"),
            (1, "256 greys have 255 gaps"),
            (1.05, "Off by 0.0444"),
            ("a bit", "you wrote 'a bit'"),
        ],
        [
            "8 - log2(127.5)",
            1.0056,
            torch.tensor(512 / 255).log2(),
            "log2(512/255)",
            "1.006 bits",
            numpy.float64(1.006),
        ],
    ),
}
