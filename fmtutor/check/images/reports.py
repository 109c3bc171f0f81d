"""Reports of image models, in chapter 8: which distances may be compared, and a bit that a scale has cost."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from fmtutor.check._diagnose import kind
from fmtutor.check._exercise import exercise
from fmtutor.check._predictions import Mistakes, number

_REPORTS = {
    "b": "Not b: it looks through the eyes of another network, in whose features lengths are other lengths.",
    "c": "Not c: 500 images are farther from 500 others than 2 000 from 2 000, also where nothing else differs.",
    "d": "Not d: it is compared with the images that its network has learned from, and there a copier scores best.",
    "f": "Not f: it was drawn with 2 calls, a single step. Its distance is that of a network and a coarse solver "
    "together, and the network alone may be as good as another.",
    "a": "You leave a out. Look for the report that has the same features, reference, number of images and solver.",
    "e": "You leave e out. A seed and a machine are written down so that a run can be repeated; neither moves a "
    "distance by more than chance.",
}  # in the order in which they are told


@exercise(
    chapter=8,
    number=6,
    right="Right: a and e differ by their networks and by chance. Every other report differs in what was measured.",
)
def comparable_reports(answer: Any) -> str | None:
    """Say which two of the reports `a` to `f` can be compared, so that the smaller distance is the better network."""
    if isinstance(answer, Tensor) or not isinstance(answer, str | Iterable):
        return f"Answer with two letters from a to f, such as 'bd'; you gave {kind(answer)}."
    parts = [answer] if isinstance(answer, str) else answer
    written = " ".join(map(str, parts)).lower()
    letters = set(re.sub(r"\b(and|with|only|just)\b|[\W_]", "", written))
    if not letters or letters - set(_REPORTS):
        return f"Answer with two letters from a to f, such as 'bd'; you wrote {answer!r}."
    if letters == set(_REPORTS):
        return "All six? Each was measured in its own way: look for two that were measured in the same."
    wrong = [message for letter, message in _REPORTS.items() if (letter in letters) != (letter in "ae")]
    return wrong[0] if wrong else None


@exercise(
    chapter=8,
    number=7,
    right="Right: a cell is 2/255 wide and not 1/256, and that is the logarithm of 2 and a little more for each pixel.",
)
def bits_too_many(answer: Any) -> str | None:
    """Say by how many bits per dimension the report is too high: pixels from -1 to 1, a cell taken as 1/256 wide."""
    off = 8 - math.log2(127.5)  # 1.005647
    mistakes: Mistakes = {
        "The formula subtracts the logarithm of the width, and that of 1/256 lies below that of 2/255: the report is "
        "too high, not too low.": -off,
        "That is in nats. Bits are counted with the logarithm to the base 2.": off * math.log(2),
        "That is for the whole image; bits per *dimension* are asked for.": 784 * off,
        "That is for the whole image, and not in bits.": 784 * off * math.log(2),
        "The pixels run from -1 to 1, so the whole range is 2 long: you have the 255 cells, and not that.": (
            8 - math.log2(255),
            math.log2(255) - 8,
        ),
        "That is the charge for a cell, about 7, the logarithm of 255/2. By how much does the report's differ?": (
            math.log2(127.5),
            -math.log2(127.5),
        ),
        "That is what the report charges for a cell. What should it have charged?": (8, -8),
        "A density does change with the unit of its numbers: twice the range, half the density.": 0,
        "That is how many times wider the cell is. What does that cost in bits?": (2, 512 / 255, 255 / 512, 0.5),
        "Neighbours are 2/255 apart, not 2/256: 256 greys have 255 gaps.": 1,
    }
    return number(answer, off, mistakes, decimals=2, known=2e-3)
