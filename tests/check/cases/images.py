"""Answers to the exercises of chapter 8: name -> (right, [(wrong, words of its own message), ...])."""

import torch

from fmtutor.images import digits, quantize

TRAIN, HELD = digits("train").images, digits("test").images


def _seeded():
    return torch.Generator().manual_seed(0)


def _retouched():
    images = TRAIN[::3].clone()
    images[:, 0, 0, 0] += 0.125
    return images


CASES = {
    "image_path_point": (
        lambda t, x0, x1: torch.stack([torch.lerp(a, b, s) for a, b, s in zip(x0, x1, t, strict=True)]),
        [
            (lambda t, x0, x1: t * x1 + (1 - t) * x0, "8 columns"),
            (lambda t, x0, x1: t[:, None] * x1 + (1 - t[:, None]) * x0, "8 rows"),
            (lambda t, x0, x1: t[:, None, None] * x1 + (1 - t[:, None, None]) * x0, "mixed at every"),
            (lambda t, x0, x1: t[:, None, None, None] * (x0 - x1) + x1, "other way"),
            (lambda t, x0, x1: t[:, None, None, None] * x1 + x0, "fade"),
            (lambda t, x0, x1: x1 - x0, "velocity of the pair"),
            (lambda t, x0, x1: torch.lerp(x0, x1, t.mean()), "their mean"),
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
        ],
    ),
    "forgery": (
        TRAIN[::3],
        [
            (TRAIN[::3].flatten(1), "wants a tensor"),
            (TRAIN[::3] + 0.01 * torch.randn(TRAIN[::3].shape, generator=_seeded()), "17 greys"),
            (HELD, "compared with"),
            (TRAIN[:5].repeat(60, 1, 1, 1), "same few images"),
            (quantize(torch.randn(300, 1, 8, 8, generator=_seeded())), "Seen through"),
            (_retouched(), "retouching"),
        ],
    ),
    "frechet_on_a_line": (
        lambda mean_a, std_a, mean_b, std_b: mean_a**2 + mean_b**2 - 2 * mean_a * mean_b + (std_a - std_b).abs() ** 2,
        [
            (lambda mean_a, std_a, mean_b, std_b: (mean_a - mean_b) ** 2, "means only"),
            (lambda mean_a, std_a, mean_b, std_b: (mean_a - mean_b) ** 2 + (std_a**2 - std_b**2) ** 2, "variances"),
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
        ],
    ),
    "model_calls": (
        40,
        [
            (20, "again in its middle"),
            (17_800, "each at its own place"),
            (8_900, "Two things"),
            (80, "Runge-Kutta"),
            (445, "how many digits"),
        ],
    ),
}
