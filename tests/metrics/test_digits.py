"""Digits: data far from the origin, samples in half precision, and errors that are those of a sample."""

from __future__ import annotations

import math
import statistics

import ot
import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from fmtutor import AffinePath, Checkerboard, StandardNormal, metrics
from fmtutor.metrics.distances import blocks, samples
from fmtutor.metrics.estimates import estimate

F64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair(dim: int, far: float, *, clusters: bool = False) -> tuple[Tensor, Tensor]:
    """Two clouds of float32 numbers at a distance from the origin; or each of them in two places."""
    x, y = torch.randn(300, dim, generator=seeded()), 0.3 + 1.2 * torch.randn(200, dim, generator=seeded(1))
    if clusters:
        x[::2], y[::2] = x[::2] + far, y[::2] + far
        return x, y
    return x + far, y + far


def plain(x: Tensor, y: Tensor) -> Tensor:
    """All distances in float64 from differences."""
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")


def by_product(x: Tensor, y: Tensor) -> Tensor:
    """The usual short cut in the dtype of the data: |x|^2 + |y|^2 - 2 x.y, which is a small difference far away."""
    return torch.cdist(x, y, compute_mode="use_mm_for_euclid_dist").double()


def means(distances: object, x: Tensor, y: Tensor, kernel: object = lambda d: d) -> list[float]:
    """Mean of a kernel between the samples, within the first and within the second."""
    off = [1 - torch.eye(len(z), dtype=F64) for z in (x, y)]
    return [
        float(kernel(distances(x, y)).mean()),  # type: ignore[operator]
        *(float((kernel(distances(z, z)) * o).sum() / o.sum()) for z, o in zip((x, y), off, strict=True)),  # type: ignore[operator]
    ]


def energy(distances: object, x: Tensor, y: Tensor) -> float:
    between, first, second = means(distances, x, y)
    return 2 * between - first - second


@pytest.mark.parametrize("clusters", [False, True])
@pytest.mark.parametrize("far", [0.0, 100.0, 1000.0])
@pytest.mark.parametrize("dim", [2, 16, 17, 64])
def test_distances_far_from_the_origin(dim: int, far: float, clusters: bool) -> None:
    """To 1e-5 of a mean distance, which is what sums in float32 keep; the product alone does not, far away."""
    x, y = pair(dim, far, clusters=clusters)
    size = means(plain, x, y)[0]
    assert metrics.energy_distance(x, y) == pytest.approx(energy(plain, x, y), abs=1e-5 * size)

    def kernel(d: Tensor) -> Tensor:
        return torch.exp(-(d**2) / (2 * 9.0 * dim))

    between, first, second = means(plain, x, y, kernel)
    truth = first + second - 2 * between
    assert metrics.mmd(x, y, 3 * math.sqrt(dim)) == pytest.approx(truth, abs=1e-5)
    each = torch.cat([block for _, block in blocks(*samples(x, y))]).double()
    torch.testing.assert_close(each, plain(x, y), rtol=1e-6, atol=1e-7 * far + 1e-6)  # a coordinate is that exact
    if far == 1000 and dim > 16:
        assert (by_product(x, y) - plain(x, y)).abs().max() > 0.02
        assert clusters or abs(energy(by_product, x, y) - energy(plain, x, y)) > 3e-5 * size


@pytest.mark.parametrize("dim", [2, 64])
def test_what_does_not_depend_on_the_place_does_not_change_with_it(dim: int) -> None:
    near = [z.mul(64).round() / 64 for z in pair(dim, 0.0)]  # so that 1024 can be added without rounding
    x, y = (z + 1024 for z in near)
    for metric in (metrics.energy_distance, metrics.mmd):
        assert metric(x, y) == pytest.approx(metric(*near), rel=1e-4)
    assert metrics.energy_test(x, y, 99, generator=seeded(2)) == metrics.energy_test(*near, 99, generator=seeded(2))
    moved = metrics.sliced_wasserstein(x, y, generator=seeded(2))
    directions = torch.randn(dim, 100, generator=seeded(2))
    directions = (directions / directions.norm(dim=0)).double()
    truth = ot.sliced_wasserstein_distance(x.double().numpy(), y.double().numpy(), projections=directions.numpy())
    assert moved == pytest.approx(truth, rel=1e-5)


def test_sliced_wasserstein_of_a_small_move_far_away() -> None:
    """A move of 2^-10 at 1024, exact in float32; projections of uncentred points would round it by a tenth."""
    x = torch.randn(200, 64, generator=seeded()).mul(64).round() / 64 + 1024
    y = x + 2.0**-10
    truth = metrics.sliced_wasserstein(x.double(), y.double(), generator=None)
    found = [metrics.sliced_wasserstein(x, y, 400, generator=seeded(k)) for k in range(5)]
    assert statistics.mean(found) == pytest.approx(2.0**-10, rel=0.1)
    assert truth == pytest.approx(2.0**-10, rel=0.2)
    directions = torch.randn(64, 400, generator=seeded())
    directions = directions / directions.norm(dim=0)
    uncentred = ((x @ directions).sort(0).values - (y @ directions).sort(0).values).square().mean().sqrt()
    exact = metrics.sliced_wasserstein(x.double(), y.double(), 400)
    shift = (2.0**-10 * directions.sum(0)).square().mean().sqrt()
    assert found[0] == pytest.approx(float(shift), rel=2e-3)
    assert float(uncentred) != pytest.approx(float(shift), rel=2e-3)
    assert exact == pytest.approx(2.0**-10, rel=0.2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_samples_in_half_precision_are_measured_as_the_numbers_they_are(dtype: torch.dtype) -> None:
    x, y = (z.to(dtype) for z in pair(20, 10.0))
    for metric in (metrics.energy_distance, metrics.mmd):
        assert metric(x, y) == pytest.approx(metric(x.double(), y.double()), rel=1e-4)
    for metric in (metrics.energy_test, metrics.sliced_wasserstein):
        assert metric(x, y, generator=seeded()) == metric(x.float(), y.float(), generator=seeded())
    states, t = 10 * torch.randn(9, 30, generator=seeded()).to(dtype), torch.linspace(0, 1, 9)
    exact = metrics.straightness(states.double(), t.double())
    assert metrics.straightness(states, t.to(dtype)) == pytest.approx(exact, rel=1e-5)


def test_relabellings_that_mean_the_same_count_as_equal() -> None:
    """Of six points, one relabelling in ten is the given one or its mirror: equal, though sums may round otherwise."""
    orders = torch.rand(499, 6, generator=seeded(7)).argsort(1)
    given = [True] * 3 + [False] * 3  # the first three together, on either side
    as_large = sum(((order < 3) == (order[0] < 3)).tolist() == given for order in orders)
    for seed in range(20):
        x, y = torch.randn(3, 3, generator=seeded(seed)), 8 + torch.randn(3, 3, generator=seeded(seed + 100))
        if seed == 0:  # by the definition, in a loop
            both = torch.cat([x, y])
            large = [energy(plain, both[o < 3], both[o >= 3]) > energy(plain, x, y) - 1e-6 for o in orders]
            assert sum(large) == as_large > 20
        for a, b in ((x, y), (x.double() / 3, y.double() / 3)):  # sums of the first are exact, of the second rounded
            found = metrics.energy_test(a, b, 499, generator=seeded(7))
            assert found == pytest.approx((1 + as_large) / 500)


def test_the_error_of_a_field_in_half_precision() -> None:
    """The squares are averaged in float32, so 20 000 of them are not more than bfloat16 can count."""
    path, board, base = AffinePath(), Checkerboard().to(torch.bfloat16), StandardNormal(2).to(torch.bfloat16)

    def off(t: Tensor, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    found = metrics.velocity_error(off, path, board, base, 20_000, torch.tensor([0.25, 0.5]).bfloat16())
    wide = metrics.velocity_error(off, path, Checkerboard(), StandardNormal(2), 20_000, torch.tensor([0.25, 0.5]))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wide, rtol=0.03, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_nats_of_half_precise_numbers(dtype: torch.dtype) -> None:
    """KL(N(0, I) ‖ N(0, s^2 I)) = d (log s + (1 / s^2 - 1) / 2) in 12 288 dimensions: 4 standard errors and a tenth."""
    d, s = 12_288, 1.05
    gap = metrics.kl(StandardNormal(d).to(dtype), StandardNormal(d, scale=s).to(dtype), 400, generator=seeded())
    truth = d * (math.log(s) + (1 / s**2 - 1) / 2)
    assert abs(gap.value - truth) < 4 * gap.error + 0.1
    rough = Independent(Normal(torch.zeros(4, dtype=dtype), torch.ones(4, dtype=dtype)), 1)
    with pytest.raises(TypeError, match=rf"model.log_prob must be in torch.float32 at least, got {dtype}"):
        metrics.kl(StandardNormal(4).to(dtype), rough, 10)
    with pytest.raises(TypeError, match=r"target.entropy must be in torch.float32 at least"):
        metrics.kl(rough, StandardNormal(4), 10)


def test_kl_subtracts_in_float64() -> None:
    """log p of many numbers is large: in float32 the difference of two of them is rounded by a thousandth of a nat."""

    class Large(Distribution):
        def __init__(self, offset: float) -> None:
            super().__init__(event_shape=torch.Size([2]), validate_args=False)
            self.offset = offset

        def sample(self, shape: torch.Size) -> Tensor:
            return torch.zeros(*shape, 2)

        def log_prob(self, value: Tensor) -> Tensor:
            return torch.full(value.shape[:1], -17_000 - self.offset)

        def entropy(self) -> Tensor:
            return torch.tensor(17_000.0005, dtype=F64)

    assert metrics.kl(Large(0.0), Large(2.0**-9), 10).value == pytest.approx(2.0**-9 - 0.0005, abs=1e-9)


def test_the_standard_error_is_that_of_a_sample() -> None:
    """With n - 1 in the variance: of 1, 2 and 6 the squares about 3 sum to 14, so sqrt(14 / 2 / 3)."""
    found = estimate(torch.tensor([1.0, 2.0, 6.0]))
    assert found == pytest.approx((3.0, math.sqrt(7 / 3)))
    assert found.error == pytest.approx(statistics.stdev([1, 2, 6]) / math.sqrt(3))
    assert found.error != pytest.approx(statistics.pstdev([1, 2, 6]) / math.sqrt(3), rel=0.1)
    assert estimate(torch.tensor([2.0**24, 1.0, 1.0, 1.0])).value == 2.0**22 + 0.75  # no number of float32
    many = estimate(1000 + 1e-3 * torch.randn(1000, generator=seeded()))  # in float64, so that 1000 takes no digits
    assert many.error == pytest.approx(1e-3 / math.sqrt(1000), rel=0.1)
