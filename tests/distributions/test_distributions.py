"""Targets: samples against densities, densities against integrals, and what moves, draws and refuses."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import F64, cloud, targets
from scipy.stats import chi2, multivariate_normal
from torch import Generator, Tensor

from fmtutor import (
    Checkerboard,
    EightGaussians,
    Empirical,
    GaussianMixture,
    Pinwheel,
    Spirals,
    StandardNormal,
    TwoMoons,
)
from fmtutor.distributions import Target

PLANE: dict[str, Target] = {
    "board": Checkerboard(),
    "eight": EightGaussians(),
    "mixture": GaussianMixture(
        torch.tensor([[0.0, 1.0], [2.0, 0.0], [-2.0, -1.0]]), 0.4, torch.tensor([1.0, 2.0, 3.0])
    ),
    "moons": TwoMoons(),
    "spirals": Spirals(),
    "pinwheel": Pinwheel(),
    "normal": StandardNormal(2),
}
REACH = 200 / 45  # the half side of the checkerboard


def cells(log_prob: Callable[[Tensor], Tensor], cut: int = 16, nodes: int = 7) -> Tensor:
    """The probability of each cell of a `cut` by `cut` grid over the board, and of the rest, by quadrature."""
    side = 2 * REACH / cut
    node, weight = (torch.as_tensor(a) / 2 for a in np.polynomial.legendre.leggauss(nodes))
    axis = (-REACH + side * (torch.arange(cut)[:, None] + 0.5 + node)).flatten()
    weight = weight.repeat(cut)
    p = torch.exp(log_prob(torch.cartesian_prod(axis, axis))) * torch.outer(weight, weight).flatten() * side**2
    p = p.reshape(cut, nodes, cut, nodes).sum((1, 3))
    return torch.cat([p.flatten(), (1 - p.sum()).clamp(min=0)[None]])


def fits(x: Tensor, p: Tensor, cut: int = 16) -> bool:
    """Pearson's chi-square at the level 1e-4, cells with fewer than 5 expected draws lumped together."""
    at = torch.floor((x.double() + REACH) / (2 * REACH) * cut).long()
    inside = ((at >= 0) & (at < cut)).all(1)
    index = torch.where(inside, at[:, 0] * cut + at[:, 1], cut * cut)
    seen, wanted = torch.bincount(index, minlength=cut * cut + 1).double(), len(x) * p
    small = wanted < 5
    seen = torch.cat([seen[~small], seen[small].sum()[None]])
    wanted = torch.cat([wanted[~small], wanted[small].sum()[None]])
    if wanted[-1] < 1e-6:  # nothing may fall there
        return bool(seen[-1] == 0) and fits_kept(seen[:-1], wanted[:-1])
    return fits_kept(seen, wanted)


def fits_kept(seen: Tensor, wanted: Tensor) -> bool:
    statistic = float(((seen - wanted) ** 2 / wanted).sum())
    return statistic < chi2.isf(1e-4, len(wanted) - 1)


@pytest.mark.parametrize("name", PLANE)
def test_samples_against_the_density(name: str) -> None:
    """20 000 draws: a right sampler fails once in 10 000 seeds; each wrong one below is refused."""
    target = PLANE[name]
    p = cells(target.log_prob)
    x = target.sample((20_000,))
    assert p.sum().item() == pytest.approx(1, abs=2e-3)
    assert fits(x, p)
    wrong = {
        "scale": 1.05 * x,
        "shift": x + 0.1,
        "noise twice": x + (1 if name == "normal" else 0.1) * torch.randn_like(x),
    }
    if name == "board":
        wrong["other squares"] = x.flip(1) * torch.tensor([-1.0, 1.0])  # the light squares: the wrong parity
    for label, other in wrong.items():
        assert not fits(other, p), label


@pytest.mark.parametrize("name", [n for n in PLANE if n != "board"])
def test_density_integrates_to_one(name: str) -> None:
    step = 0.08  # the trapezoid rule is exact to rounding for what is as smooth as a Gaussian of scale 0.1
    reach = 6.5 if name in ("normal", "pinwheel") else 4.4
    axis = torch.arange(-reach, reach, step, dtype=F64)
    log_p = PLANE[name].to(F64).log_prob(torch.cartesian_prod(axis, axis))
    total = float(torch.exp(log_p).sum() * step**2)
    assert total == pytest.approx(1, abs=2e-5 if name == "pinwheel" else 1e-7)  # its bend has a kink at the centre
    assert float(torch.exp(log_p + math.log(2)).sum() * step**2) != pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("name", ["eight", "mixture"])
def test_mixture_density_against_scipy(name: str) -> None:
    target = PLANE[name].to(F64)
    x = target.sample((30,))
    means, weights, scale = target.means, target.weights, target.scale  # type: ignore[attr-defined]
    p = sum(w * multivariate_normal(m, scale**2).pdf(x) for m, w in zip(means.tolist(), weights.tolist(), strict=True))
    torch.testing.assert_close(target.log_prob(x), torch.as_tensor(p).log())
    assert weights.sum().item() == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("name", ["eight", "moons", "spirals"])
def test_density_against_the_cloud_of_the_reference(name: str) -> None:
    x1, weight = (part[::9] for part in cloud(name))
    log_p = targets()[name].log_prob(x1)  # type: ignore[attr-defined]
    density = weight / 0.06**2
    big = density > 1e-6
    torch.testing.assert_close(log_p[big], density[big].log(), rtol=0, atol=1e-7)


def test_entropies_by_monte_carlo_and_quadrature() -> None:
    for target in (
        StandardNormal(2),
        StandardNormal(1, 4, 4),
        GaussianMixture(torch.zeros(1, 3), 0.2),
        Checkerboard(0.5),
    ):
        log_p = target.log_prob(target.sample((20_000,)))
        error = float(log_p.std()) / math.sqrt(20_000) + 1e-5
        assert abs(float(-log_p.mean() - target.entropy())) < 4 * error
        assert abs(float(log_p.mean() - target.entropy())) > 4 * error  # the sign
    for target in (EightGaussians(), TwoMoons(), Pinwheel(), Empirical(torch.zeros(2, 2))):
        with pytest.raises(NotImplementedError, match="entropy"):
            target.entropy()


# Drawing, moving


@pytest.mark.parametrize("name", [*PLANE, "image"])
def test_sample_shapes_and_generators(name: str) -> None:
    target = PLANE.get(name, Empirical(torch.randn(5, 1, 2, 2)))
    event = target.event_shape
    for shape in ((), (3, 4), (0,), torch.Size([2])):
        assert target.sample(shape).shape == (*shape, *event)
    again = [target.sample((6,), generator=Generator().manual_seed(3)) for _ in range(2)]
    assert again[0].equal(again[1])
    assert not again[0].equal(target.sample((6,), generator=Generator().manual_seed(4)))
    before = torch.get_rng_state()
    target.sample((6,), generator=Generator().manual_seed(3))
    assert torch.get_rng_state().equal(before)  # a generator of one's own leaves the global one alone
    torch.manual_seed(5)
    first = target.sample((6,))
    torch.manual_seed(5)
    assert first.equal(target.sample((6,)))
    assert not first.requires_grad
    assert target.batch_shape == ()


@pytest.mark.parametrize("name", PLANE)
def test_to_moves_everything_and_leaves_the_original(name: str) -> None:
    target = PLANE[name]
    wide = target.to(F64)
    assert target.sample((2,)).dtype == torch.float32
    assert wide.sample((2,)).dtype == F64
    assert wide.log_prob(wide.sample((2,))).dtype == F64
    away = target.to("meta")
    left: list[object] = [away]
    for value in left:  # every tensor, however deep, quadrature nodes too
        for part in vars(value).values():
            assert not isinstance(part, Tensor) or part.device.type == "meta"
            if isinstance(part, Target):
                left.append(part)
    if hasattr(target, "_mixture"):
        assert len(left) == 2
    x = target.sample((5,))
    torch.testing.assert_close(wide.log_prob(x.double()).float(), target.log_prob(x), rtol=1e-3, atol=1e-3)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(1, 3), max_size=3), st.lists(st.integers(1, 3), max_size=2))
def test_events_of_any_shape(event: list[int], sample: list[int]) -> None:
    """A single number, too, is an event; densities agree with torch's own."""
    x = torch.randn((*sample, *event), dtype=F64)
    normal = torch.distributions.Independent(
        torch.distributions.Normal(torch.zeros(event, dtype=F64), torch.ones((), dtype=F64)), len(event)
    )
    torch.testing.assert_close(StandardNormal(*event).log_prob(x), normal.log_prob(x))
    one = GaussianMixture(torch.zeros(1, *event, dtype=F64), 1.0)
    torch.testing.assert_close(one.log_prob(x), normal.log_prob(x))
    for target in (StandardNormal(*event), one):
        assert target.sample(tuple(sample)).shape == x.shape
        assert target.sample().shape == torch.Size(event)
    rows = torch.randn(4, *event, dtype=F64)
    for target in (StandardNormal(*event), one):
        torch.testing.assert_close(target.posterior_mean(rows, 0.6, 0.8), 0.6 * rows)
        torch.testing.assert_close(target.noised_log_prob(rows, 0.6, 0.8), normal.log_prob(rows))


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    data, x = Empirical(torch.randn(50, 3, dtype=F64)), torch.randn(21, 3, dtype=F64)
    sigma = torch.linspace(0.1, 1, 21, dtype=F64)
    whole = data.posterior_mean(x, 0.5, sigma), data.noised_log_prob(x, 0.5, sigma)
    monkeypatch.setattr("fmtutor.distributions.mixtures._CHUNK", 600)
    torch.testing.assert_close(data.posterior_mean(x, 0.5, sigma), whole[0])
    torch.testing.assert_close(data.noised_log_prob(x, 0.5, sigma), whole[1])


def test_responsibilities_are_bayes() -> None:
    mixture = PLANE["mixture"].to(F64)
    x, (alpha, sigma) = torch.tensor([[0.5, 0.2]], dtype=F64), (0.7, 0.5)
    variance = (alpha * 0.4) ** 2 + sigma**2
    means = (alpha * mixture.means).tolist()  # type: ignore[attr-defined]
    joint = [w * multivariate_normal(m, variance).pdf(x[0]) for w, m in zip((1, 2, 3), means, strict=True)]
    got = mixture.responsibilities(x, alpha, sigma)[0]  # type: ignore[attr-defined]
    torch.testing.assert_close(got, torch.tensor(joint, dtype=F64) / sum(joint))


# Refusals


@pytest.mark.parametrize(
    ("make", "error", "wanted"),
    [
        (lambda: Checkerboard(size=0.0), ValueError, "size must be above 0 and finite, got 0.0"),
        (lambda: TwoMoons(scale=0.01), ValueError, "scale must be at least 0.05, got 0.01"),
        (lambda: Spirals(scale=math.nan), ValueError, "scale must be at least 0.05, got nan"),
        (lambda: Pinwheel(arms=0), ValueError, "arms must be a whole number of at least 1, got 0"),
        (lambda: EightGaussians(scale=-0.1), ValueError, "scale must be at least 0 and finite, got -0.1"),
        (lambda: GaussianMixture(torch.zeros(0, 2), 1.0), ValueError, "means must hold at least one component"),
        (lambda: GaussianMixture(torch.zeros(2, 2), 1.0, torch.ones(3)), ValueError, "weights must be 2 numbers"),
        (lambda: GaussianMixture(torch.zeros(2, 2), 1.0, torch.tensor([2.0, -1.0])), ValueError, "none negative"),
        (lambda: GaussianMixture(torch.zeros(2, 2), 1.0, torch.zeros(2)), ValueError, "not all 0"),
        (
            lambda: Empirical(torch.tensor([[1, 2]])),
            TypeError,
            "data must hold floating-point numbers, got torch.int64",
        ),
        (lambda: Empirical([[1.0]]), TypeError, "data must be a torch.Tensor, got list"),  # type: ignore[arg-type]
        (lambda: Empirical(torch.tensor([[math.nan]])), ValueError, "data must be finite, got 1 NaN"),
        (lambda: Checkerboard(sise=1.0), TypeError, "unexpected keyword argument 'sise'"),  # type: ignore[call-arg]
        (
            lambda: Empirical(torch.zeros(2, 2)).log_prob(torch.zeros(1, 2)),
            NotImplementedError,
            "no density without noise",
        ),
    ],
)
def test_refused_settings(make: Callable[[], object], error: type[Exception], wanted: str) -> None:
    with pytest.raises(error, match=wanted):
        make()


@pytest.mark.parametrize("name", [n for n in PLANE if n != "pinwheel"])
def test_refused_arguments(name: str) -> None:
    target, x = PLANE[name], torch.zeros(3, 2)
    for ask in (target.posterior_mean, target.noised_log_prob):
        for sigma in (0.0, -1.0, math.nan, torch.tensor([1.0, 0.0, 1.0])):
            with pytest.raises(ValueError, match="sigma must be above 0"):
                ask(x, 0.5, sigma)
        with pytest.raises(ValueError, match="sigma must be finite"):
            ask(x, 0.5, math.inf)
        with pytest.raises(ValueError, match="alpha must be finite"):
            ask(x, math.nan, 1.0)
        with pytest.raises(ValueError, match=r"alpha must be a scalar or have shape \(3,\)"):
            ask(x, torch.ones(2), 1.0)
        for shape in ((3, 3), (3,), (2, 3, 2), ()):
            with pytest.raises(ValueError, match=r"x must have shape \(batch, 2\), got"):
                ask(torch.zeros(shape), 0.5, 1.0)
        with pytest.raises(ValueError, match="x must be finite"):
            ask(x / 0, 0.5, 1.0)
        with pytest.raises(TypeError, match="x must hold floating-point numbers"):
            ask(x.long(), 0.5, 1.0)
    with pytest.raises(ValueError, match=r"value must end in the event shape \(2,\), got \(3, 1\)"):
        target.log_prob(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="value must be finite"):
        target.log_prob(x / 0)
    with pytest.raises(TypeError, match="value must hold floating-point numbers"):
        target.log_prob(x.long())
