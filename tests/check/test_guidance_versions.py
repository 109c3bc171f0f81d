"""A mistake of chapter 9 that is written in several ways is recognised in each, not only in the one of a row."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fmtutor import check


def mixed(on: Any, off: Any) -> Any:
    def guided(velocity: Any, t: Any, x: Any, label: Any, null: int, w: float) -> Any:
        return on(w) * velocity(t, x, label) + off(w) * velocity(t, x, torch.full_like(label, null))

    return guided


def hidden(where: Any) -> Any:
    return lambda label, null, p, u: torch.where(where(u, p), null, label)


VERSIONS = [
    ("guided_batch", mixed(lambda w: w, lambda w: w - 1), "add up to 1"),
    ("guided_batch", mixed(lambda w: w, lambda w: 1 + w), "add up to 1"),
    ("hide_labels", hidden(lambda u, p: u < 1 - p), "ones to keep"),
    ("hide_labels", hidden(lambda u, p: (u[-1] < p).expand(len(u))), "decided for the whole batch"),
    ("hide_labels", hidden(lambda u, p: (u.sum() < p * len(u)).expand(len(u))), "decided for the whole batch"),
    ("hide_labels", lambda label, null, p, u: ~(u < p), "as 0 and 1"),
    ("largest_weight", lambda a, b: 1 / (1 - a / b), "sign is turned"),
    ("largest_weight", lambda a, b: 1 - a / (a + b), "of the second term"),
    ("guided_passes", 25, "looks twice"),
    ("guided_passes", 16, "looks twice"),
    ("guided_passes", 15, "still goes through once"),
    (
        "expected_coordinate",
        lambda c, m, s, r: torch.softmax(-(((c[:, None] - m[:, 1]) ** 2) / (s**2 + r**2)).sqrt(), 1) @ m[:, 0],
        "with its square",
    ),
]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("name", "answer", "words"), VERSIONS)
def test_every_version_of_a_mistake_is_named(name: str, answer: Any, words: str, seed: int) -> None:
    torch.manual_seed(seed)
    result = getattr(check, name)(answer)
    assert result.status == "failed"
    assert words in result.message, result.message
