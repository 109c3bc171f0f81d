"""Whole numbers: no draw leaves its cell, and what densities of them cost in bits."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from reference import F64
from shaken import BASE, stack
from torch import Generator, Tensor
from torch.distributions import (
    Independent,
    SigmoidTransform,
    Uniform,
)

from fmtutor import (
    AffineCoupling,
    NormalizingFlow,
    bits_per_dim,
    dequantize,
)

PMF = torch.tensor([[0.5, 0.05, 0.0], [0.1, 0.2, 0.0], [0.0, 0.05, 0.1]], dtype=F64)  # of a pair, 3 levels each
LEVELS = len(PMF)
ENTROPY = -torch.special.xlogy(PMF, PMF).sum() / (2 * math.log(2))  # in bits per number


def expected_bits(log_density: Callable[[Tensor], Tensor], bits: Callable[..., Tensor] = bits_per_dim) -> float:
    """The mean over data of law PMF, dequantised, by the midpoint rule: no draws, no noise."""
    n = 60
    u = (torch.arange(n, dtype=F64) + 0.5) / n
    pairs, inside = torch.cartesian_prod(*[torch.arange(LEVELS)] * 2), torch.cartesian_prod(u, u)
    x = (pairs[:, None] + inside) / LEVELS
    cost = bits(log_density(x), dims=2, levels=LEVELS).mean(1)
    return float(torch.where(PMF.flatten() > 0, PMF.flatten() * cost, 0.0).sum())


def histogram(x: Tensor) -> Tensor:
    cell = (x * LEVELS).long()
    return torch.log(PMF[cell[..., 0], cell[..., 1]] * LEVELS**2)


def without_the_cell(log_prob: Tensor, dims: int, levels: int) -> Tensor:
    return -log_prob / (dims * math.log(2))


def test_bits_of_the_uniform_density_and_of_its_scale() -> None:
    for dims in (1, 64):
        uniform = Independent(Uniform(torch.zeros(dims, dtype=F64), 1.0), 1)
        x = dequantize(torch.randint(17, (50, dims)).double(), 17)
        torch.testing.assert_close(
            bits_per_dim(uniform.log_prob(x), dims, 17), torch.full((50,), math.log2(17), dtype=F64)
        )
    assert without_the_cell(uniform.log_prob(x), 64, 17).abs().max() == 0  # free of charge: no code does that


def test_no_density_beats_the_entropy_and_the_histogram_reaches_it() -> None:
    """Gibbs and Jensen. Without the volume of a cell, the same densities would beat any code."""
    assert expected_bits(histogram) == pytest.approx(float(ENTROPY), abs=1e-12)
    flow = NormalizingFlow(BASE, [*stack(AffineCoupling, size=0.1), SigmoidTransform()]).double()
    with torch.no_grad():
        cost = expected_bits(flow.log_prob)
        assert cost > ENTROPY
        n = 60
        u = (torch.arange(LEVELS * n, dtype=F64) + 0.5) / (LEVELS * n)
        cells = flow.log_prob(torch.cartesian_prod(u, u)).exp().reshape(LEVELS, n, LEVELS, n).mean((1, 3)) / LEVELS**2
        code = -torch.special.xlogy(PMF, cells).sum() / (2 * math.log(2))  # what the model's own pmf costs
        assert ENTROPY < code < cost
        assert cells.sum() == pytest.approx(1, abs=1e-3)
    assert expected_bits(histogram, without_the_cell) < 0 < ENTROPY


def test_density_of_whole_numbers_integrates_to_one_and_without_the_factor_to_more() -> None:
    """A cost of b bits a number is a density of 2^(-2 b) over the pairs in [0, levels)^2."""
    n = 120
    u = (torch.arange(n, dtype=F64) + 0.5) / n
    x, cell = torch.cartesian_prod(u, u), (LEVELS / n) ** 2
    with torch.no_grad():
        flow = NormalizingFlow(BASE, [*stack(AffineCoupling, size=0.1), SigmoidTransform()]).double()
        total = {
            bits: (2.0 ** (-2 * bits(flow.log_prob(x), 2, LEVELS))).sum() * cell
            for bits in (bits_per_dim, without_the_cell)
        }
    assert total[bits_per_dim] == pytest.approx(1, abs=1e-3)
    assert total[without_the_cell] == pytest.approx(LEVELS**2, abs=1e-2)


def test_dequantised_numbers_are_uniform_in_their_cells() -> None:
    """10 000 draws a level; the largest gap of the empirical law to the uniform one stays below 2.2 / sqrt(n): 1e-4."""
    values = torch.arange(17).repeat_interleave(10_000)
    x = dequantize(values, 17)
    assert x.dtype == torch.get_default_dtype()
    u = (x.double() * 17 - values).reshape(17, -1).sort(1).values
    line = (torch.arange(10_000, dtype=F64) + 0.5) / 10_000
    half = ((u + 0.5) / 2).sort(1).values  # half of the noise
    for noise, right in ((u, True), (half, False)):
        gap = (noise - line).abs().max(1).values * math.sqrt(10_000)
        assert (gap < 2.2).all().item() is right
    same = [dequantize(values, 17, generator=Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*same)


HALVES = [torch.float16, torch.bfloat16]


def before(values: Tensor, levels: int, u: float) -> Tensor:
    """As `dequantize` was: rounding carries some draws into the next cell, or back into the one before."""
    return ((values + u) / levels).clamp(max=1 - torch.finfo(values.dtype).eps / 2)


def outside(x: Tensor, values: Tensor, levels: int) -> int:
    return int(((x * levels).floor() != values).sum() + ((x < 0) | (x >= 1)).sum())


@pytest.mark.parametrize("dtype", [torch.float32, F64, *HALVES])
def test_no_draw_leaves_its_cell(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every level, with the smallest u, the largest below 1, and others."""
    eps, was = torch.finfo(dtype).eps, 0
    digits = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    for u in (0.0, digits / 2, 0.3, 0.5, 1 - 2**-11, 1 - 2**-20, 1 - digits / 2):
        monkeypatch.setattr(torch, "rand", lambda shape, u=u, dtype=None, **_: torch.full(shape, u, dtype=dtype))
        for levels in [*range(1, 300), 1000, 4096, 65535, 2**16, 2**20]:
            if eps * levels > 1 / 4:
                continue
            values = torch.arange(levels).to(dtype)
            x = dequantize(values, levels)
            assert x.dtype == dtype
            assert outside(x, values, levels) == 0, (u, levels)
            assert ((x.double() * levels - values.double() - u).abs() <= max(2 * eps * levels, 1e-12)).all()
            was += outside(before(values, levels, u), values, levels)
    assert was > 0


def test_random_draws_stay_in_their_cells() -> None:
    """255 + u rounds up to 256 in float32 once in 60 000 times or so: a million top values contain it."""
    for levels in (17, 256, 2**16):
        top = torch.full((1_000_000,), levels - 1.0)
        assert outside(dequantize(top, levels), top, levels) == 0
        naive = (top + torch.rand(1_000_000)) / levels
        assert outside(naive, top, levels) > 0 or levels == 17
    low = dequantize(torch.zeros(1000, dtype=torch.uint8), 256)
    assert low.min() >= 0
    assert low.max() < 1 / 256
    for dtype in HALVES:
        values = torch.arange(17).repeat(10_000).to(dtype)
        x = dequantize(values, 17)
        assert outside(x, values, 17) == 0
        assert (17 * x.double() - values.double()).mean() == pytest.approx(0.5, abs=0.01)


def test_bad_whole_numbers_are_refused() -> None:
    top = torch.zeros(3)
    refused: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (ValueError, r"from 0 to 16, got 17", lambda: dequantize(torch.tensor([3, 17]), 17)),
        (ValueError, r"got -1", lambda: dequantize(torch.tensor([-1]), 17)),
        (ValueError, r"got 0.5", lambda: dequantize(torch.tensor([0.5]), 17)),
        (ValueError, r"got nan", lambda: dequantize(torch.tensor([math.nan]), 17)),
        (ValueError, "levels", lambda: dequantize(torch.tensor([0]), 0)),
        (TypeError, "whole numbers, got list", lambda: dequantize([0, 1], 17)),  # type: ignore[arg-type]
        (TypeError, "torch.bool", lambda: dequantize(torch.tensor([True]), 2)),
        (ValueError, "more digits for 256 levels, got torch.bfloat16", lambda: dequantize(top.bfloat16(), 256)),
        (ValueError, "more digits for 257 levels, got torch.float16", lambda: dequantize(top.half(), 257)),
        (ValueError, "dims", lambda: bits_per_dim(torch.zeros(3), 0, 17)),
        (TypeError, "log_prob", lambda: bits_per_dim(torch.zeros(3, dtype=torch.long), 2, 17)),
    ]
    for error, message, call in refused:
        with pytest.raises(error, match=message):
            call()
