"""The forger of chapter 8: copies of training images that every measure of quality calls real."""

from __future__ import annotations

from typing import Any

import numpy
import torch
from torch import Tensor

from fmtutor import metrics
from fmtutor.check._diagnose import kind
from fmtutor.check._exercise import exercise

_FEWEST = 200
_WANTED = f"The judge wants a tensor of shape (n, 1, 8, 8) with n of at least {_FEWEST}"


@exercise(
    chapter=8,
    number=3,
    right="Passed off as real, and not one image is new: only the distance to training images tells.",
)
def forgery(answer: Any) -> str | None:
    """Hand in 200 images or more that the numbers call real, although you have drawn none of them."""
    from fmtutor.images import digits, nearest_distance, quantize

    if wrong := _no_images(answer):
        return wrong
    images, (train, kinds), (held, _) = torch.as_tensor(answer).detach().cpu().float(), digits("train"), digits("test")
    if wrong := _wrong_pixels(images):
        return wrong
    if not torch.allclose(images, quantize(images), atol=1e-6):
        return "A scanner stores 17 greys, yours has others: a forest sees the last decimals. Look for `quantize`."
    if (nearest_distance(images, held) == 0).float().mean() > 0.1:
        return "Those are the held-out digits, the very ones you are compared with: no generator has seen them."
    if len(images.unique(dim=0)) < 0.7 * len(images):
        return "The judge sees the same few images again and again: a forger needs a whole collection."
    drawn = float((nearest_distance(images, train) > 0).float().mean())
    copied = kinds[torch.cdist(images.flatten(1), train.flatten(1)).argmin(1)]
    if not drawn and (wrong := _uneven(copied, kinds)):
        return wrong
    # Few hands wrote two hundred digits in a row, which are up to 0.08 from all the others; a choice is further off.
    if (distance := metrics.energy_distance(images, held)) > (0.03 if drawn else 0.12):
        return f"Seen through: the energy distance to real digits is {distance:.3f}, and between two real sets about 0."
    if drawn:
        return (
            f"These pass, but {drawn:.0%} are in no collection: that is drawing, or retouching. Forging is less work."
        )
    return None


def _no_images(answer: Any) -> str | None:
    """What was handed in instead of a batch of images."""
    if hasattr(answer, "images") and hasattr(answer, "labels"):
        return f"You handed in {kind(answer)}, images and labels together: the judge wants the `.images` alone."
    if not isinstance(answer, Tensor | numpy.ndarray):
        return f"{_WANTED}; you handed in {kind(answer)}."
    came, shape = f"you handed in shape {tuple(answer.shape)}", tuple(answer.shape)
    if len(shape) == 4 and shape[1:] == (1, 8, 8):
        return (
            None if len(answer) >= _FEWEST else f"At least {_FEWEST} images are wanted; {came}: too few to be judged."
        )
    hint = ""
    if shape[1:] == (8, 8):
        hint = ": the axis of the channel is missing, `[:, None]`"
    elif shape[1:] == (64,):
        hint = ": the pixels of an image in one row are put back by `.reshape(-1, 1, 8, 8)`"
    return f"{_WANTED}; {came}{hint}."


def _wrong_pixels(images: Tensor) -> str | None:
    """Pixels of another range, which no rounding to greys puts right."""
    if not images.isfinite().all():
        return "Some of your pixels are NaN or infinite: the judge cannot look at them."
    low, high = images.min().item(), images.max().item()
    if low >= 0 and high > 0:
        return (
            f"Your pixels run from {low:.3g} to {high:.3g}. Here paper is -1 and ink is 1: scale them first, and do so "
            "before you look for greys."
        )
    if low < -1.5 or high > 1.5:
        return f"Your pixels run from {low:.3g} to {high:.3g}, and no scanner goes beyond -1 and 1."
    return None


def _uneven(copied: Tensor, kinds: Tensor) -> str | None:
    """Whether the classes of the copies are as many as in the collection, up to chance (chi-square, 1 in 10^4)."""
    count, usual = copied.bincount(minlength=10), kinds.bincount(minlength=10) / len(kinds) * len(copied)
    if missing := [digit for digit in range(10) if not count[digit]]:
        return (
            f"The judge counts the classes, and there is no {missing[0]} among your digits: a forger leaves none out."
        )
    if ((count - usual) ** 2 / usual).sum() < 33.7:
        return None
    most = int((count - usual).abs().argmax())
    return (
        f"The judge counts the classes: of your {len(copied)} digits {int(count[most])} show the class {most}, and "
        f"about {usual[most].item():.0f} would be usual. A forger takes all alike."
    )
