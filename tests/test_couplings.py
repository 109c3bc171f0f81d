"""The independent coupling changes nothing, and says what is wrong with what cannot be paired."""

from __future__ import annotations

import math

import pytest
import torch

from fmtutor.couplings import independent


def test_independent_returns_the_noise_as_it_came() -> None:
    x0, x1 = torch.randn(6, 1, 2, 2), torch.randn(6, 1, 2, 2)
    kept = x1.clone()
    assert independent(x0, x1) is x0
    assert x1.equal(kept)


@pytest.mark.parametrize(
    ("x0", "x1", "error", "wanted"),
    [
        (torch.zeros(3, 1), torch.zeros(3, 2), ValueError, r"same shape, got x0 \(3, 1\) and x1 \(3, 2\)"),
        (torch.zeros(1, 2), torch.zeros(3, 2), ValueError, r"same shape, got x0 \(1, 2\) and x1 \(3, 2\)"),
        (torch.zeros(3, 2).long(), torch.zeros(3, 2), TypeError, "x0 must hold floating-point numbers"),
        (torch.zeros(3, 2), torch.full((3, 2), math.inf), ValueError, "x1 must be finite, got 6 NaN or infinite"),
    ],
)
def test_refused(x0: torch.Tensor, x1: torch.Tensor, error: type[Exception], wanted: str) -> None:
    with pytest.raises(error, match=wanted):
        independent(x0, x1)
