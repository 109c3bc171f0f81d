"""The formulas of chapter 8, each beside the versions that a hurried reader writes, and the price of a sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fmtutor.check._diagnose import agrees, diagnose
from fmtutor.check._exercise import exercise
from fmtutor.check._predictions import Mistakes, number


def _with_shape(*axes: int) -> Any:
    """The path with the times in this shape."""
    return lambda t, x0, x1: t.reshape(-1, *axes) * x1 + (1 - t.reshape(-1, *axes)) * x0


def _mixed(formula: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Any:
    """A formula with the times where they belong."""
    return lambda t, x0, x1: formula(t.reshape(-1, 1, 1, 1), x0, x1)


_IMAGE_POINTS = {
    "No error, and wrong: PyTorch lines shapes up from the right, so `t` of shape (8,) met the 8 columns of every "
    "image, not the 8 images.": _with_shape(),
    "No error, and wrong: `t` of shape (8, 1) meets the 8 rows of each image. An image has three axes.": _with_shape(1),
    "Your answer has 8 times 8 images: `t` of shape (8, 1, 1) met the channel, and every image was mixed at every "
    "time. One more axis.": _with_shape(1, 1),
    "Time runs the other way here: at t = 0 the point is noise, at t = 1 it is the image.": (
        _mixed(lambda t, x0, x1: t * x0 + (1 - t) * x1),
        _mixed(lambda t, x0, x1: t * x0 + x1),
    ),
    "The noise has to fade as the image appears: multiply it by `1 - t`.": _mixed(lambda t, x0, x1: t * x1 + x0),
    "The image has to appear as the noise fades: multiply it by `t`.": _mixed(lambda t, x0, x1: x1 + (1 - t) * x0),
    "Your noise does not fade, it appears: at t = 0 there must be nothing but noise.": (
        _mixed(lambda t, x0, x1: t * x1 + t * x0)
    ),
    "The noise is *added* to the image that appears, `(1 - t) * x0`: yours is taken away.": (
        _mixed(lambda t, x0, x1: t * x1 - (1 - t) * x0)
    ),
    "The noise fades: its weight is `1 - t`, not `1 + t`.": _mixed(lambda t, x0, x1: t * x1 + (1 + t) * x0),
    "The image is missing: that is the noise, fading.": _mixed(lambda t, x0, x1: (1 - t) * x0),
    "Noise goes beyond -1 and 1, and a point on the path may do so too: nothing is clamped on the way.": (
        _mixed(lambda t, x0, x1: (t * x1 + (1 - t) * x0).clamp(-1, 1))
    ),
    "The noise is missing: that is the image, fading in.": _mixed(lambda t, x0, x1: t * x1),
    "The step from the noise points away from the image: `x0 + t * (x1 - x0)`.": (
        _mixed(lambda t, x0, x1: x0 + t * (x0 - x1))
    ),
    "This starts from the image and goes on past it: `x0 + t * (x1 - x0)`.": (
        _mixed(lambda t, x0, x1: x1 + t * (x1 - x0))
    ),
    "That is the velocity of the pair, `x1 - x0`. Where is the point at time `t`?": lambda t, x0, x1: x1 - x0,
    "That is the velocity times the time, the way behind the point. It started at `x0`.": (
        _mixed(lambda t, x0, x1: t * (x1 - x0))
    ),
    "Every image has a time of its own; yours all use their mean.": lambda t, x0, x1: (
        t.mean() * x1 + (1 - t.mean()) * x0
    ),
    "Every image has a time of its own; yours all use the first.": lambda t, x0, x1: t[0] * x1 + (1 - t[0]) * x0,
    "These weights keep the variance, not the line: on the linear path the noise has `1 - t`.": (
        _mixed(lambda t, x0, x1: t * x1 + (1 - t**2).sqrt() * x0),
        _mixed(lambda t, x0, x1: t.sqrt() * x1 + (1 - t).sqrt() * x0),
    ),
}


@exercise(
    chapter=8,
    number=1,
    right="Right: `t` gets one axis of length 1 for each axis of an image, and the rest broadcasts.",
)
def image_path_point(answer: Any) -> str | None:
    """Write `point(t, x0, x1)` on the linear path, for images `(batch, 1, 8, 8)` and one time `(batch,)` for each."""
    eight, five = (
        [(torch.rand(n), torch.randn(n, 1, 8, 8), torch.randn(n, 1, 8, 8)) for _ in range(2)] for n in (8, 5)
    )
    if wrong := diagnose(answer, _with_shape(1, 1, 1), _IMAGE_POINTS, eight):
        return wrong
    if not agrees(answer, _with_shape(1, 1, 1), five):
        return (
            "Right for 8 images and not for 5: the 8 is written into it. `len(t)`, or -1 in a `reshape`, counts them."
        )
    return None


def _grey(x: Tensor, levels: int) -> Tensor:
    """The number of the nearest grey, from 0."""
    return ((x.clamp(-1, 1) + 1) * (levels - 1) / 2).round()


def _greys(count: Any, half: Any = lambda levels: (levels - 1) / 2) -> Any:
    """Back from `count(y, half)`, where y are the numbers of the greys before they are rounded."""
    return lambda x, levels: count((x.clamp(-1, 1) + 1) * half(levels)) / half(levels) - 1


_SNAPPED = {
    "Values beyond -1 and 1 stay there: paper cannot be whiter than white. Clamp first.": lambda x, levels: (
        ((x + 1) * (levels - 1) / 2).round() / ((levels - 1) / 2) - 1
    ),
    "This goes to the next grey *below*; the nearest is wanted: `round`, not `floor` or `int`.": _greys(torch.floor),
    "This goes to the next grey *above*; the nearest is wanted: `round`, not `ceil`.": _greys(torch.ceil),
    "Nothing is rounded: your greys are as many as before.": (lambda x, levels: x.clamp(-1, 1), lambda x, levels: x),
    "`levels` greys have `levels - 1` gaps between them: yours makes one grey too many.": (
        _greys(torch.round, lambda levels: levels / 2)
    ),
    "`levels` greys have `levels - 1` gaps between them, not `levels - 2` or `levels + 1`.": (
        _greys(torch.round, lambda levels: (levels - 2) / 2),
        _greys(torch.round, lambda levels: (levels + 1) / 2),
    ),
    "The greys are `2 / (levels - 1)` apart, yours `1 / levels`: the range is 2 long and has `levels - 1` gaps.": (
        lambda x, levels: (x.clamp(-1, 1) * levels).round() / levels,
        lambda x, levels: (x * levels).round() / levels,
    ),
    "The range from -1 to 1 is 2 long: half of `levels - 1` greys fit into each 1. Yours are twice as many.": (
        _greys(torch.round, lambda levels: levels - 1.0),
        lambda x, levels: (x.clamp(-1, 1) * (levels - 1)).round() / (levels - 1),
    ),
    "Those are the numbers of the greys, 0, 1, 2 ...; go back to the range from -1 to 1.": _grey,
    "Those greys run from 0 to 1: stretch them to the range from -1 to 1.": (
        lambda x, levels: _grey(x, levels) / (levels - 1),
        lambda x, levels: (x.clamp(0, 1) * (levels - 1)).round() / (levels - 1),
    ),
    "Those greys run from 0 to 2: the 1 that was added for counting has to go again.": (
        lambda x, levels: _grey(x, levels) / (levels - 1) * 2
    ),
    "The clamp is at 0 and 1, and half of the greys lie below 0: clamp at -1 and 1.": (
        lambda x, levels: _greys(torch.round)(x.clamp(0, 1), levels)
    ),
    "Right for 17 greys and wrong for 4: an even number of greys has none at 0. Count from -1, not from 0.": (
        lambda x, levels: (x.clamp(-1, 1) * (levels - 1) / 2).round() / ((levels - 1) / 2)
    ),
    "This keeps three greys, -1, 0 and 1, whatever `levels` says.": lambda x, levels: x.clamp(-1, 1).round(),
    "The 17 greys of the scanner are written into it: `levels` is an argument.": (
        lambda x, levels: _greys(torch.round)(x, 17)
    ),
}


@exercise(chapter=8, number=2, right="Right: clamp, count greys from 0, round, and go back.")
def snap_to_greys(answer: Any) -> str | None:
    """Write `snap(x, levels)`: `x` moved to the nearest of `levels` greys, evenly spaced from -1 to 1."""
    points = [(_between_greys(64, levels), levels) for levels in (17, 4, 6)]
    return diagnose(answer, _greys(torch.round), _SNAPPED, points)


def _between_greys(n: int, levels: int) -> Tensor:
    """Numbers from -1.4 to 1.4 that are nearer to one grey than to another, beyond any rounding."""
    x = 2.8 * torch.rand(n) - 1.4
    steps = (x + 1) * (levels - 1) / 2
    tie = (steps - steps.floor() - 0.5).abs() < 1e-3
    return torch.where(tie, x + 0.01, x)


def _gaussians(formula: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Any:
    """A formula in the difference of the means and the two standard deviations."""
    return lambda mean_a, std_a, mean_b, std_b: formula(mean_a - mean_b, std_a, std_b)


_frechet = _gaussians(lambda m, a, b: m**2 + (a - b) ** 2)

_DISTANCES = {
    "This compares the means only: a generator that always draws the average image would score 0.": (
        _gaussians(lambda m, a, b: m**2),
        _gaussians(lambda m, a, b: m.abs()),
    ),
    "This compares the spreads only. Two sets of equal spread and different means are not alike.": (
        _gaussians(lambda m, a, b: (a - b) ** 2)
    ),
    "Compare standard deviations, not variances: scaling both samples by 2 must scale the distance by 4.": (
        _gaussians(lambda m, a, b: m**2 + (a**2 - b**2) ** 2),
        _gaussians(lambda m, a, b: m**2 + (a**2 - b**2).abs()),
        _gaussians(lambda m, a, b: m**2 + a**2 - b**2),
    ),
    "That is its root, the Wasserstein distance; the Frechet distance of the FID is left squared.": (
        _gaussians(lambda m, a, b: (m**2 + (a - b) ** 2).sqrt())
    ),
    "Two equal Gaussians must have distance 0: on a line the trace of the root of A B is `std_a * std_b`, and twice"
    " that is taken away.": _gaussians(lambda m, a, b: m**2 + a**2 + b**2),
    "The last term is taken away, not added: it is the difference of the standard deviations that counts.": (
        _gaussians(lambda m, a, b: m**2 + (a + b) ** 2)
    ),
    "You took the roots of numbers that are standard deviations already.": (
        _gaussians(lambda m, a, b: m**2 + (a.sqrt() - b.sqrt()) ** 2)
    ),
    "The root of the last term is that of the two *variances*, `std_a * std_b`: yours is `2 * sqrt(std_a * std_b)`.": (
        _gaussians(lambda m, a, b: m**2 + a**2 + b**2 - 2 * (a * b).sqrt())
    ),
    "The last term is `2 * std_a * std_b`, the root of the product of the variances: the root is missing.": (
        _gaussians(lambda m, a, b: m**2 + a**2 + b**2 - 2 * a**2 * b**2)
    ),
    "The means are subtracted from each other, and their difference is squared: yours adds them.": (
        lambda mean_a, std_a, mean_b, std_b: (mean_a + mean_b) ** 2 + (std_a - std_b) ** 2
    ),
    "The square of a difference is not the difference of the squares.": (
        lambda mean_a, std_a, mean_b, std_b: mean_a**2 - mean_b**2 + std_a**2 - std_b**2,
        lambda mean_a, std_a, mean_b, std_b: mean_a**2 - mean_b**2 + (std_a - std_b) ** 2,
        lambda mean_a, std_a, mean_b, std_b: (mean_a**2 - mean_b**2).abs() + (std_a - std_b) ** 2,
    ),
    "The two parts are added, not multiplied: sets with equal means may differ all the same.": (
        _gaussians(lambda m, a, b: m**2 * (a - b) ** 2)
    ),
    "The squares are missing.": (
        _gaussians(lambda m, a, b: m.abs() + (a - b).abs()),
        _gaussians(lambda m, a, b: m + a - b),
    ),
    "The difference of the means is not squared.": (
        _gaussians(lambda m, a, b: m + (a - b) ** 2),
        _gaussians(lambda m, a, b: m.abs() + (a - b) ** 2),
    ),
    "The difference of the standard deviations is not squared.": (
        _gaussians(lambda m, a, b: m**2 + a - b),
        _gaussians(lambda m, a, b: m**2 + (a - b).abs()),
    ),
    "The two differences are added before they are squared: square each, and add then.": (
        _gaussians(lambda m, a, b: (m + a - b) ** 2),
        _gaussians(lambda m, a, b: (m.abs() + (a - b).abs()) ** 2),
    ),
    "The spreads are taken away from the distance of the means; both differences make it larger.": (
        _gaussians(lambda m, a, b: m**2 - (a - b) ** 2)
    ),
    "The last term is `2 * std_a * std_b`: a factor 2 is missing.": _gaussians(
        lambda m, a, b: m**2 + a**2 + b**2 - a * b
    ),
    "One distance for each pair of Gaussians is wanted: yours adds up, or averages, all of them.": (
        _gaussians(lambda m, a, b: (m**2 + (a - b) ** 2).sum()),
        _gaussians(lambda m, a, b: (m**2 + (a - b) ** 2).mean()),
    ),
    "That is the Kullback-Leibler divergence of the two. The Frechet distance moves points, and needs no logarithm.": (
        _gaussians(lambda m, a, b: torch.log(b / a) + (a**2 + m**2) / (2 * b**2) - 0.5),
        _gaussians(lambda m, a, b: torch.log(a / b) + (b**2 + m**2) / (2 * a**2) - 0.5),
    ),
}


@exercise(chapter=8, number=4, right="Right: squared difference of the means, plus that of the standard deviations.")
def frechet_on_a_line(answer: Any) -> str | None:
    """Write `frechet(mean_a, std_a, mean_b, std_b)`, the Frechet distance of two Gaussians on a line."""
    points = [(torch.randn(6), 0.2 + torch.rand(6), torch.randn(6), 0.2 + torch.rand(6)) for _ in range(3)]
    truth = lambda mean_a, std_a, mean_b, std_b: _frechet(mean_a, std_a, mean_b, std_b)  # noqa: E731
    return diagnose(answer, truth, _DISTANCES, points)


@exercise(
    chapter=8, number=5, right="Right: four looks in each of 15 steps, and a batch is one call however large it is."
)
def model_calls(answer: Any) -> str | None:
    """Say how often the network is called to draw 300 images in one batch with 15 steps of `rk4`."""
    mistakes: Mistakes = {
        "The method `rk4` looks four times in each step, not once.": 15,
        "All images of a batch go through the network in one call, each at its own place.": 300 * 60,
        "Two things: a batch is one call however large, and `rk4` looks four times in each step.": 300 * 15,
        "Two looks a step are those of the midpoint method.": (30, 300 * 30),
        "That is how many images there are. The network is called once for a whole batch, at each look.": 300,
        "That counts the looks once for each image, and the steps not at all.": 1200,
        "Fifteen steps have 16 ends, and no step starts at the last: four looks belong to each step.": (16, 56, 61, 64),
        "One look at the whole batch is one call, and there are 15 steps to take.": (1, 4),
        "Three looks a step would be another method: `rk4` has the start, two places on the way, and the end.": 45,
        "The end of a step is a look of its own: `rk4` uses another velocity there than the next step's start.": 46,
    }
    return number(answer, 60, mistakes)
