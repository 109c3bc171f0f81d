"""The predictions of chapter 1: what a stack of layers leaves alone, what it costs, and a loss without volume."""

from __future__ import annotations

import math
from typing import Any

from fmtutor.check._exercise import exercise
from fmtutor.check._predictions import Mistakes, choose, number


@exercise(
    chapter=1, number=4, right="Right: the half that decides never moves, however many layers keep the same half."
)
def untouched_half(answer: Any) -> str | None:
    """Say which coordinates of `z` come out of two couplings in a row as they went in, if neither flips the halves."""
    mistakes = {
        "the second half": "The second half is the one that moves, in both layers.",
        "both halves": "A coupling does move something: the half that it scales and shifts.",
        "neither half": "So it is with a flip between the two. Without one, which half does the second layer keep?",
    }
    same = {
        "last": "second",
        "nothing": "neither",
        "everything": "both",
        "all": "both",
        "z": "",
        "only": "",
        "just": "",
    }
    return choose(answer, "the first half", mistakes, same)


@exercise(
    chapter=1,
    number=6,
    right="Right: 64 numbers one after the other, in each of 8 layers, for the whole batch at once.",
)
def network_passes(answer: Any) -> str | None:
    """Say how many passes of its networks a stack of 8 autoregressive layers takes to draw 445 digits of 64 pixels."""
    mistakes: Mistakes = {
        "That is the price of the *density*, where every number is known. A sample has to wait, pixel by pixel.": 8,
        "That is one layer. The next one cannot start before it is through.": 64,
        "The digits of a batch go through a network together: 445 of them cost as many passes as one.": 445 * 8 * 64,
        "Each pixel waits for those before it, each digit does not wait for the others; and a pixel passes every "
        "layer.": 445 * 64,
        "Layers and pixels multiply: all pixels of one layer, then all pixels of the next.": 72,
        "That is one pass for each digit and layer. Digits share a pass, and pixels cannot.": 445 * 8,
        "Not one pass for each digit: a pass serves the whole batch, and one pass does not finish a digit.": 445,
        "One pass finds one pixel, the next in line, and each layer has a network of its own.": 1,
        "The first pixel of a layer takes a pass, too: its scale and shift are numbers that the network gives.": 8 * 63,
        "One less than the pixels, and one layer: the first pixel takes a pass too, and there are 8 layers.": 63,
        "Two passes for each of something: a pass gives scale and shift together, one pixel further.": (16, 128),
        "Scale and shift come out of one pass together: do not count them twice.": 2 * 512,
        "A pass through a layer is one pass, however many numbers go in. Count the waiting: 64 pixels in each of 8 "
        "layers.": (64 * 64, 64 * 64 * 8),
    }  # fmt: skip
    return number(answer, 512, mistakes)


@exercise(
    chapter=1,
    number=5,
    right="Right: all data are squeezed to the peak of the base density, and `-log p0(0) = log(2 pi)`.",
)
def forgotten_volume(answer: Any) -> str | None:
    """Say to which value, in nats, the loss in the plane falls if the log-determinant is left out of it."""
    mistakes = {
        "A density can be larger than 1, but this loss is only `-log p0(z)`, and p0 has a peak of finite height.": (
            -math.inf
        ),
        "Zero would need a base density of 1 at its peak. How high is the standard normal of the plane there?": 0.0,
        "That is the entropy of the checkerboard, the floor of the *right* loss. This one knows nothing of volume.": (
            math.log(8 / 0.45**2)
        ),
        "That is one coordinate; the plane has two.": 0.5 * math.log(2 * math.pi),
        "That is the entropy of the base: what the loss is where `z` is spread as noise. It falls lower.": (
            1 + math.log(2 * math.pi)
        ),
        "The sign is turned: the loss is *minus* the log of the peak of the base density.": -math.log(2 * math.pi),
        "That is the peak of the base density itself. The loss is minus its logarithm.": 1 / (2 * math.pi),
        "That is one over the peak of the base density: its logarithm is still to be taken.": 2 * math.pi,
        "That is in bits; nats are asked for, so take the natural logarithm.": math.log2(2 * math.pi),
        "That is a logarithm to base 10; nats are asked for, so take the natural one.": math.log10(2 * math.pi),
        "That is the entropy of one coordinate of the base. The plane has two, and nothing keeps `z` spread out.": (
            0.5 + 0.5 * math.log(2 * math.pi)
        ),
    }
    return number(answer, math.log(2 * math.pi), mistakes, decimals=2, tolerance=5e-4)
