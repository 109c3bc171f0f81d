"""Checks of the exercises of chapter 8, images: times beside images, greys, a forger, a distance and its price.

Add an exercise by writing a function that returns what is wrong with an answer, and its name in `__all__`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fmtutor import metrics
from fmtutor.check._diagnose import diagnose
from fmtutor.check._exercise import exercise

__all__ = ["forgery", "frechet_on_a_line", "image_path_point", "model_calls", "snap_to_greys"]


@exercise(chapter=8, right="Right: `t` gets one axis of length 1 for each axis of an image, and the rest broadcasts.")
def image_path_point(answer: Any) -> str | None:
    """Write `point(t, x0, x1)` on the linear path, for images `(batch, 1, 8, 8)` and one time `(batch,)` for each."""

    def with_shape(*axes: int) -> Any:
        return lambda t, x0, x1: t.reshape(-1, *axes) * x1 + (1 - t.reshape(-1, *axes)) * x0

    points = [(torch.rand(8), torch.randn(8, 1, 8, 8), torch.randn(8, 1, 8, 8)) for _ in range(2)]
    mistakes = {
        "No error, and wrong: PyTorch lines shapes up from the right, so `t` of shape (8,) met the 8 columns of every "
        "image, not the 8 images.": with_shape(),
        "No error, and wrong: `t` of shape (8, 1) meets the 8 rows of each image. An image has three axes.": with_shape(
            1
        ),
        "Your answer has 8 times 8 images: `t` of shape (8, 1, 1) met the channel, and every image was mixed at every "
        "time. One more axis.": with_shape(1, 1),
        "Time runs the other way here: at t = 0 the point is noise, at t = 1 it is the image.": (
            lambda t, x0, x1: t.reshape(-1, 1, 1, 1) * x0 + (1 - t.reshape(-1, 1, 1, 1)) * x1
        ),
        "The noise has to fade as the image appears: multiply it by `1 - t`.": (
            lambda t, x0, x1: t.reshape(-1, 1, 1, 1) * x1 + x0
        ),
        "That is the velocity of the pair, `x1 - x0`. Where is the point at time `t`?": lambda t, x0, x1: x1 - x0,
        "Every image has a time of its own; yours all use their mean.": lambda t, x0, x1: (
            t.mean() * x1 + (1 - t.mean()) * x0
        ),
    }
    return diagnose(answer, with_shape(1, 1, 1), mistakes, points)


@exercise(chapter=8, right="Right: clamp, count greys from 0, round, and go back.")
def snap_to_greys(answer: Any) -> str | None:
    """Write `snap(x, levels)`: `x` moved to the nearest of `levels` greys, evenly spaced from -1 to 1."""

    def count(x: Any, levels: Any) -> Any:
        return ((x.clamp(-1, 1) + 1) * (levels - 1) / 2).round()

    points = [(2.8 * torch.rand(64) - 1.4, levels) for levels in (17, 4)]
    mistakes = {
        "Values beyond -1 and 1 stay there: paper cannot be whiter than white. Clamp first.": lambda x, levels: (
            ((x + 1) * (levels - 1) / 2).round() / ((levels - 1) / 2) - 1
        ),
        "This goes to the next grey *below*; the nearest is wanted: `round`, not `floor` or `int`.": lambda x, levels: (
            ((x.clamp(-1, 1) + 1) * (levels - 1) / 2).floor() / ((levels - 1) / 2) - 1
        ),
        "`levels` greys have `levels - 1` gaps between them: yours makes one grey too many.": lambda x, levels: (
            ((x.clamp(-1, 1) + 1) * levels / 2).round() / (levels / 2) - 1
        ),
        "Those are the numbers of the greys, 0, 1, 2 ...; go back to the range from -1 to 1.": count,
        "Right for 17 greys and wrong for 4: an even number of greys has none at 0. Count from -1, not from 0.": (
            lambda x, levels: (x.clamp(-1, 1) * (levels - 1) / 2).round() / ((levels - 1) / 2)
        ),
        "This keeps three greys, -1, 0 and 1, whatever `levels` says.": lambda x, levels: x.clamp(-1, 1).round(),
    }
    return diagnose(answer, lambda x, levels: count(x, levels) / ((levels - 1) / 2) - 1, mistakes, points)


@exercise(chapter=8, right="A perfect forgery: every number calls it real, and not one image is new.")
def forgery(answer: Any) -> str | None:
    """Hand in 200 images or more that the numbers call real, although you have drawn none of them."""
    from fmtutor.images import digits, nearest_distance, quantize

    if not isinstance(answer, Tensor) or answer.dim() != 4 or answer.shape[1:] != (1, 8, 8) or len(answer) < 200:
        came = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
        return f"The judge wants a tensor of shape (n, 1, 8, 8) with n of at least 200; you handed in {came}."
    images, (train, kinds), (held, _) = answer.detach().cpu().float(), digits("train"), digits("test")
    if not images.isfinite().all():
        return "Some of your pixels are NaN or infinite: the judge cannot look at them."
    if not torch.allclose(images, quantize(images), atol=1e-6):
        return "A scanner stores 17 greys, yours has others: a forest sees the last decimals. Look for `quantize`."
    if (nearest_distance(images, held) == 0).float().mean() > 0.1:
        return "Those are the held-out digits, the very ones you are compared with: no generator has seen them."
    if len(images.unique(dim=0)) < 0.7 * len(images):
        return "The judge sees the same few images again and again: a forger needs a whole collection."
    drawn = float((nearest_distance(images, train) > 0).float().mean())
    if (distance := metrics.energy_distance(images, held)) > (0.03 if drawn else 0.2):  # few hands wrote a few in a row
        return f"Seen through: the energy distance to real digits is {distance:.3f}, and between two real sets about 0."
    if drawn:
        return (
            f"These pass, but {drawn:.0%} are in no collection: that is drawing, or retouching. Forging is less work."
        )
    copied = kinds[torch.cdist(images.flatten(1), train.flatten(1)).argmin(1)].bincount(minlength=10)
    if missing := [digit for digit in range(10) if not copied[digit]]:
        return (
            f"The judge counts the classes, and there is no {missing[0]} among your digits: a forger leaves none out."
        )
    return None


@exercise(chapter=8, right="Right: squared difference of the means, plus that of the standard deviations.")
def frechet_on_a_line(answer: Any) -> str | None:
    """Write `frechet(mean_a, std_a, mean_b, std_b)`, the Frechet distance of two Gaussians on a line."""

    def of(formula: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Any:
        """A formula in the difference of the means and the two standard deviations."""
        return lambda mean_a, std_a, mean_b, std_b: formula(mean_a - mean_b, std_a, std_b)

    points = [(torch.randn(6), 0.2 + torch.rand(6), torch.randn(6), 0.2 + torch.rand(6)) for _ in range(3)]
    mistakes = {
        "This compares the means only: a generator that always draws the average image would score 0.": (
            of(lambda m, a, b: m**2)
        ),
        "Compare standard deviations, not variances: scaling both samples by 2 must scale the distance by 4.": (
            of(lambda m, a, b: m**2 + (a**2 - b**2) ** 2)
        ),
        "That is its root, the Wasserstein distance; the Frechet distance of the FID is left squared.": (
            of(lambda m, a, b: (m**2 + (a - b) ** 2).sqrt())
        ),
        "Two equal Gaussians must have distance 0: on a line the trace of the root of A B is `std_a * std_b`, and twice"
        " that is taken away.": of(lambda m, a, b: m**2 + a**2 + b**2),
        "The last term is taken away, not added: it is the difference of the standard deviations that counts.": (
            of(lambda m, a, b: m**2 + (a + b) ** 2)
        ),
        "You took the roots of numbers that are standard deviations already.": (
            of(lambda m, a, b: m**2 + (a.sqrt() - b.sqrt()) ** 2)
        ),
        "The squares are missing.": of(lambda m, a, b: m.abs() + (a - b).abs()),
        "The last term is `2 * std_a * std_b`: a factor 2 is missing.": of(lambda m, a, b: m**2 + a**2 + b**2 - a * b),
    }
    truth = lambda mean_a, std_a, mean_b, std_b: (mean_a - mean_b) ** 2 + (std_a - std_b) ** 2  # noqa: E731
    return diagnose(answer, truth, mistakes, points)


@exercise(chapter=8, right="Right: two looks in each of 20 steps, and a batch is one call however large it is.")
def model_calls(answer: Any) -> str | None:
    """Say how often the network is called to draw 445 digits in one batch with 20 steps of the midpoint method."""
    mistakes = {
        "The midpoint method looks twice in each step: at its start, and again in its middle.": 20,
        "All images of a batch go through the network in one call, each at its own place.": 445 * 40,
        "Two things: a batch is one call however large, and the midpoint method looks twice in each step.": 445 * 20,
        "Four looks a step are those of the Runge-Kutta method, `rk4`.": 80,
        "That is how many digits there are. The network is called once for a whole batch, at each look.": 445,
    }
    return diagnose(answer, 40, mistakes)
