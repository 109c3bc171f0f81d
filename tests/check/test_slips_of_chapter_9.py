"""Other ways into the slips of chapter 9: one message explains several answers, and each of them must get it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases.guidance import _expected, _guided
from torch import Tensor

from fmtutor import check


def weights(c: Tensor, at: Tensor, s: float, r: float) -> Tensor:
    return torch.softmax(-((c[:, None] - at) ** 2) / (2 * (s**2 + r**2)), 1)


def a_share(label: Tensor, null: int, p: float, u: Tensor) -> Tensor:
    return torch.where(u <= u.sort().values[int(p * len(u)) - 1], null, label)


SLIPS: list[tuple[str, Any, str]] = [
    ("guided_batch", lambda v, t, x, y, n, w: _guided(v, t, x, y.sort().values, n, w), "got the label of another"),
    ("guided_batch", lambda v, t, x, y, n, w: _guided(v, t, x, y.roll(1), n, w), "got the label of another"),
    ("guided_batch", lambda v, t, x, y, n, w: _guided(v, t, x, y.float(), n, w), "one whole number for each"),
    ("hide_labels", a_share, "exactly a share"),
    ("guided_passes", 65, "the last time is 31 / 32"),
    ("guided_passes", 40.0, "8 steps in the interval"),
    ("guided_passes", 51, "Count them again"),
    ("expected_coordinate", lambda c, m, s, r: _expected(c, m, s, r**0.5), "square them, both"),
    ("expected_coordinate", lambda c, m, s, r: _expected(c, m, s**0.5, r), "square them, both"),
    ("expected_coordinate", lambda c, m, s, r: weights(c, m[:, 1], s, r) @ m[0], "rows in place of columns"),
    ("expected_coordinate", lambda c, m, s, r: weights(c, m[1], s, r) @ m[:, 0], "rows in place of columns"),
    ("expected_coordinate", lambda c, m, s, r: weights(c, m[:, 1], s, r)[:, 1], "weight of one bump"),
]


@pytest.mark.parametrize(("name", "answer", "words"), SLIPS)
@pytest.mark.parametrize("seed", range(3))
def test_the_slip_is_named(name: str, answer: Any, words: str, seed: int) -> None:
    torch.manual_seed(seed)
    result = getattr(check, name)(answer)
    assert result.status == "failed"
    assert words in result.message


def test_what_is_said_of_a_over_b_holds_where_a_is_more_than_twice_b() -> None:
    """The precision there is (2 b - a) / b^2, of either sign: the message must not say that it is above 0."""
    a, b = torch.tensor([1.2, 3.1]), torch.tensor([1.0, 1.0])
    w = a / b
    torch.testing.assert_close(w / a + (1 - w) / b, (2 * b - a) / b**2)
    assert "(2 * b - a) / b ** 2" in check.largest_weight(lambda a, b: a / b).message
