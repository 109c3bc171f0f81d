"""The toy targets by second routes: the board from a drawing, curves by finer quadrature, the pinwheel by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from reference import F64, sides
from scipy.stats import multivariate_normal

from fmtutor import Checkerboard, GaussianMixture, Pinwheel, Spirals, TwoMoons


def test_board_squares_density_and_entropy() -> None:
    board, side = Checkerboard().to(F64), 1 / 0.45
    offset = torch.rand(50, 2, dtype=F64)
    for corner in sides(dark=True):
        log_p = board.log_prob(torch.tensor(corner, dtype=F64) + side * offset)
        torch.testing.assert_close(log_p, torch.full((50,), math.log(0.2025 / 8), dtype=F64))
    for corner in sides(dark=False):
        assert board.log_prob(torch.tensor(corner, dtype=F64) + side * offset).eq(-math.inf).all()
    assert board.log_prob(torch.tensor([[9.0, 9.0], [-4.5, 0.1], [1.0, 4.5]], dtype=F64)).eq(-math.inf).all()
    assert board.entropy().item() == pytest.approx(math.log(8 / 0.2025))
    assert board.entropy().item() == pytest.approx(3.6765, abs=5e-5)
    assert math.exp(-board.entropy()) != pytest.approx(1 / 32, rel=0.1)  # what a tutorial calls the true likelihood


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, F64])
def test_every_draw_of_the_board_is_on_a_dark_square(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the largest and smallest number a uniform generator can give, on every square."""
    board = Checkerboard().to(dtype)
    largest = 1 - torch.finfo(dtype).eps / 2
    for u in (0.0, torch.finfo(dtype).eps / 2, largest):
        monkeypatch.setattr(board, "_uniform", lambda *shape, generator: torch.full(shape, u, dtype=dtype))  # noqa: B023
        x = board.sample((200,))
        assert board.log_prob(x).isfinite().all()
    x = Checkerboard().to(dtype).sample((100_000,))
    assert Checkerboard().to(dtype).log_prob(x).isfinite().all()


@pytest.mark.parametrize("scale", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("kind", [TwoMoons, Spirals])
def test_curves_against_a_much_finer_quadrature(kind: type, scale: float) -> None:
    """Where samples fall, the fixed nodes are as good as several times as many in 20 pieces of the curve."""
    target = kind(scale).to(F64)
    node, weight = (torch.as_tensor(a) / 2 for a in np.polynomial.legendre.leggauss(120))
    root, weight = ((torch.arange(20)[:, None] + 0.5 + node) / 20).flatten(), weight.repeat(20)
    arms = [torch.full((2400,), arm) for arm in range(2)]
    fine = GaussianMixture(torch.cat([target._curve(root**2, arm) for arm in arms]), scale, (weight * root).repeat(2))
    x = torch.cat([target.sample((300,)), 0.3 * torch.randn(100, 2, dtype=F64)])
    torch.testing.assert_close(target.log_prob(x), fine.log_prob(x), rtol=1e-9, atol=1e-8)
    forgotten = GaussianMixture(fine.means, scale, weight.repeat(2))  # the density of u, not of its root
    assert not torch.allclose(target.log_prob(x), forgotten.log_prob(x), rtol=0, atol=1e-2)


def test_pinwheel_keeps_areas_and_points_its_arms() -> None:
    """Density by hand at one point: undo the bend of each arm and average the straight Gaussians."""
    x = torch.tensor([[1.2, -0.7]], dtype=F64)
    r, angle = math.hypot(1.2, 0.7), math.atan2(-0.7, 1.2)
    p = 0.0
    for k in range(5):
        a = angle - 0.6 * r - 2 * math.pi * k / 5
        p += multivariate_normal([2.0, 0.0], [[0.36, 0.0], [0.0, 0.04]]).pdf([r * math.cos(a), r * math.sin(a)]) / 5
    assert Pinwheel().log_prob(x).item() == pytest.approx(math.log(p), rel=1e-6)
