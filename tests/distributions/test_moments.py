"""What a distribution says of itself: mean, variance, support, copies in a batch, its settings, and half precision."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath as mp
import pytest
import torch
from reference import F64, sides
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

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

WEIGHTS = torch.tensor([1.0, 2.0, 3.0])
MIXTURE = GaussianMixture(torch.tensor([[0.0, 1.0], [2.0, 0.0], [-2.0, -1.0]]), 0.4, WEIGHTS)
POINTS = torch.tensor([[0.5, -1.0], [2.0, 0.5], [-1.5, 1.0], [0.25, -1.5]])
ALL: dict[str, Target] = {
    "board": Checkerboard(),
    "small board": Checkerboard(0.5),
    "eight": EightGaussians(),
    "mixture": MIXTURE,
    "points": Empirical(POINTS),
    "moons": TwoMoons(),
    "thick moons": TwoMoons(0.5),
    "spirals": Spirals(),
    "pinwheel": Pinwheel(),
    "three arms": Pinwheel(3, bend=2.0),
    "normal": StandardNormal(2),
    "wide normal": StandardNormal(2, scale=10.0),
    "image": StandardNormal(1, 2, 2, scale=0.5),
}
DENSE = [name for name in ALL if name != "points"]


def board_by_hand(size: float) -> list[float]:
    """Two moments from the eight corners: a square adds its centre squared and size^2 / 12."""
    centres = torch.tensor(sides(), dtype=F64) * 0.45 * size + size / 2
    return [*centres.mean(0).tolist(), *(centres.square().mean(0) + size**2 / 12).tolist()]


def spirals_by_hand() -> list[float]:
    """The integral of (angle / 3)^2 cos^2 or sin^2 over u, with angle 3 pi sqrt(u)."""

    def along(f: Callable[[mp.mpf], mp.mpf]) -> float:
        return float(mp.quad(lambda u: (mp.pi * mp.sqrt(u) * f(3 * mp.pi * mp.sqrt(u))) ** 2, [0, 0.25, 0.5, 1]))

    return [0, 0, along(mp.cos) + 0.01, along(mp.sin) + 0.01]


BY_HAND = {
    "board": board_by_hand(1 / 0.45),
    "small board": board_by_hand(0.5),
    "eight": [0, 0, 2 + 0.01, 2 + 0.01],
    "mixture": [-2 / 6, -2 / 6, (2 * 4 + 3 * 4) / 6 - 4 / 36 + 0.16, (1 + 3) / 6 - 4 / 36 + 0.16],
    "points": [*POINTS.mean(0).tolist(), *POINTS.var(0, correction=0).tolist()],
    "moons": [0, 0, 3 + 0.01, 2.25 - 4 / math.pi + 0.01],  # the squares of 2 cos a - 1 and 2 sin a - 1/2
    "thick moons": [0, 0, 3 + 0.25, 2.25 - 4 / math.pi + 0.25],
    "spirals": spirals_by_hand(),
    "pinwheel": [0, 0, 2.2, 2.2],
    "three arms": [0, 0, 2.2, 2.2],
    "normal": [0, 0, 1, 1],
    "wide normal": [0, 0, 100, 100],
    "image": [0] * 4 + [0.25] * 4,
}


@pytest.mark.parametrize("name", ALL)
def test_means_and_variances_by_hand_and_by_draws(name: str) -> None:
    """200 000 draws, 5 standard errors: a right number fails once in a million seeds, one off by 5 % does not pass."""
    target = ALL[name].to(F64)
    told = torch.cat([target.mean.flatten(), target.variance.flatten()])
    torch.testing.assert_close(told, torch.tensor(BY_HAND[name], dtype=F64), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(target.stddev, target.variance.sqrt())
    assert target.mean.shape == target.variance.shape == target.event_shape
    x = target.sample((200_000,)).flatten(1)
    mean, variance = target.mean.flatten(), target.variance.flatten()
    for values, number, off in ((x, mean, variance.sqrt()), ((x - mean).square(), variance, variance)):
        error = values.std(0) / math.sqrt(len(x))
        assert ((values.mean(0) - number).abs() < 5 * error).all()
        assert ((values.mean(0) - number - 0.05 * off).abs() > 5 * error).all()


def test_two_arms_and_one_are_not_round() -> None:
    """What holds from three arms on does not below: there the number is not given rather than given wrongly."""
    x = Pinwheel(2).sample((100_000,))
    assert (x.square().mean(0) - 2.2).abs().max() > 0.3
    assert Pinwheel(2).mean.eq(0).all()
    assert Pinwheel(1).sample((100_000,)).mean(0).abs().max() > 0.3
    for ask in (lambda: Pinwheel(2).variance, lambda: Pinwheel(1).stddev):
        with pytest.raises(NotImplementedError, match=r"the variance of Pinwheel\(arms=\d, bend=0.6\) is not known"):
            ask()
    with pytest.raises(NotImplementedError, match=r"the mean of Pinwheel\(arms=1, bend=0.6\) is not known"):
        _ = Pinwheel(1).mean


def test_what_is_not_known_is_said_by_name() -> None:
    class Silent(Target):
        pass

    silent, x = Silent(2), torch.zeros(1, 2)
    for ask, wanted in (
        (lambda: silent.mean, r"the mean of Silent\(\)"),
        (lambda: silent.variance, "the variance of Silent"),
        (lambda: silent.stddev, "the variance of Silent"),
        (lambda: silent.entropy(), "the entropy of Silent"),
        (lambda: silent.log_prob(x), "the density of Silent"),
        (lambda: silent.sample(), "Silent cannot be sampled"),
        (lambda: silent.posterior_mean(x, 1, 1), "the posterior mean of Silent"),
        (lambda: silent.noised_log_prob(x, 1, 1), "the noised density of Silent"),
        (lambda: Empirical(POINTS).support, "Empirical is a set of points: it has no support"),
        (lambda: Empirical(POINTS).entropy(), "the entropy"),
    ):
        with pytest.raises(NotImplementedError, match=wanted):
            ask()


@pytest.mark.parametrize("name", DENSE)
def test_support_is_where_the_density_is(name: str) -> None:
    target = ALL[name]
    x = torch.cat([target.sample((500,)), 3 * torch.randn(500, *target.event_shape)])
    inside = target.support.check(x)
    assert inside.shape == (1000,)
    assert inside.equal(target.log_prob(x) > -math.inf)
    assert inside[:500].all()
    assert inside.all() == ("board" not in name)


@pytest.mark.parametrize("name", ALL)
def test_expanded_and_taken_together_by_torch(name: str) -> None:
    """Independent adds, a batch draws each copy anew, and what is known of one is known of all."""
    target, event = ALL[name], ALL[name].event_shape
    three = target.expand([3])
    assert (three.batch_shape, three.event_shape, target.batch_shape) == ((3,), event, ())
    draws = three.sample((4,))
    assert draws.shape == (4, 3, *event)
    assert not draws[:, 0].equal(draws[:, 1])
    assert three.sample().shape == (3, *event)
    assert three.mean.shape == three.stddev.shape == (3, *event)
    row = Independent(three, 1)
    assert row.sample((4,)).shape == (4, 3, *event)
    assert three.expand((5, 3)).sample((2,)).shape == (2, 5, 3, *event)
    if name == "points":
        return
    torch.testing.assert_close(three.log_prob(draws), target.log_prob(draws))
    torch.testing.assert_close(three.log_prob(draws[:, :1]), target.log_prob(draws[:, :1]).expand(4, 3))
    torch.testing.assert_close(row.log_prob(draws), target.log_prob(draws).sum(1))
    assert row.support.check(draws).shape == (4,)
    if name in ("normal", "wide normal", "board"):
        torch.testing.assert_close(three.entropy(), target.entropy().expand(3))
        torch.testing.assert_close(row.entropy(), 3 * target.entropy())
    with pytest.raises(ValueError, match=r"batch_shape must end in \(3,\), got \(5,\)"):
        three.expand((5,))


@pytest.mark.parametrize("name", DENSE)
def test_a_mixture_of_copies_is_the_thing_itself(name: str) -> None:
    target = ALL[name]
    mixture = MixtureSameFamily(Categorical(torch.tensor([0.2, 0.8])), target.expand((2,)))
    x = mixture.sample((50,))
    assert x.shape == (50, *target.event_shape)
    torch.testing.assert_close(mixture.log_prob(x), target.log_prob(x))
    torch.testing.assert_close(mixture.mean, target.mean)
    torch.testing.assert_close(mixture.variance, target.variance)
    assert mixture.support.check(x).all()


def test_repr_shows_what_was_chosen() -> None:
    shown = {
        "StandardNormal(2)": StandardNormal(2),
        "StandardNormal(1, 8, 8, scale=10.0)": StandardNormal(1, 8, 8, scale=10.0),
        "StandardNormal(2).expand((3,))": StandardNormal(2).expand((3,)),
        "Checkerboard(size=0.5)": Checkerboard(0.5),
        "EightGaussians(radius=2.0, scale=0.1)": EightGaussians(),
        "TwoMoons(scale=0.2)": TwoMoons(0.2),
        "Pinwheel(arms=5, bend=0.6)": Pinwheel(),
        "GaussianMixture(means=[[-1.0], [1.0]], scale=0.1, weights=[0.5, 0.5])": GaussianMixture(
            torch.tensor([[-1.0], [1.0]]), 0.1
        ),
        "Empirical(data=<tensor of shape (20, 1, 8, 8)>)": Empirical(torch.zeros(20, 1, 8, 8)),
    }
    for text, target in shown.items():
        assert repr(target) == text
    assert "weights=[0.16" in repr(MIXTURE)
    assert "<tensor" in repr(MIXTURE.to("meta"))


# A normal of another scale: the source of the variance-exploding path


@pytest.mark.parametrize("scale", [0.05, 1.0, 10.0])
def test_a_normal_of_any_scale(scale: float) -> None:
    """Density and entropy against torch; posterior and noised density against a mixture of one, and by hand."""
    base, one = StandardNormal(2, scale=scale).to(F64), GaussianMixture(torch.zeros(1, 2, dtype=F64), scale)
    torchs = Independent(Normal(torch.zeros(2, dtype=F64), scale), 1)
    x = base.sample((50,))
    torch.testing.assert_close(base.log_prob(x), torchs.log_prob(x))
    torch.testing.assert_close(base.entropy(), torchs.entropy())
    for alpha, sigma in ((0.3, 0.8), (1.0, 0.01), (0.0, 1.0)):
        variance = (alpha * scale) ** 2 + sigma**2
        torch.testing.assert_close(base.posterior_mean(x, alpha, sigma), alpha * scale**2 / variance * x)
        torch.testing.assert_close(base.posterior_mean(x, alpha, sigma), one.posterior_mean(x, alpha, sigma))
        noised = Independent(Normal(torch.zeros(2, dtype=F64), math.sqrt(variance)), 1).log_prob(x)
        torch.testing.assert_close(base.noised_log_prob(x, alpha, sigma), noised)
    for wrong in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="scale must be above 0"):
            StandardNormal(2, scale=wrong)


# Half precision: numbers may be stored in it, sums may not

HALF = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALF)
def test_the_density_of_many_half_precise_numbers(dtype: torch.dtype) -> None:
    base = StandardNormal(12_288).to(dtype)
    x = base.sample((4,))
    truth = StandardNormal(12_288).to(F64)
    torch.testing.assert_close(base.log_prob(x).double(), truth.log_prob(x.double()), rtol=1e-6, atol=0)
    assert abs(float(base.entropy()) - float(truth.entropy())) < 1e-2
    rounded = truth.log_prob(x.double()).to(dtype).double()  # even rightly rounded, it would be off by up to 64 nats
    assert (rounded - truth.log_prob(x.double())).abs().max() > 1


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", HALF)
def test_everything_known_of_half_precise_numbers(name: str, dtype: torch.dtype) -> None:
    """What is computed from rounded numbers is as right as in float64, and only what is a point is rounded again."""
    target, half = ALL[name].to(dtype).to(F64), ALL[name].to(dtype)
    x = half.sample((200,))
    assert x.dtype == dtype
    if name != "points":
        torch.testing.assert_close(half.log_prob(x).double(), target.log_prob(x.double()), rtol=1e-5, atol=1e-5)
        assert half.log_prob(x).dtype == torch.float32
    torch.testing.assert_close(half.variance.double(), target.variance, rtol=torch.finfo(dtype).eps, atol=1e-3)
    if isinstance(target, Pinwheel):
        return
    for alpha, sigma in ((0.7, 0.3), (0.99, 0.05)):
        mean, truth = (t.posterior_mean(v, alpha, sigma) for t, v in ((half, x), (target, x.double())))
        assert mean.dtype == dtype
        assert ((mean.double() - truth).abs() <= 0.51 * torch.finfo(dtype).eps * truth.abs() + 1e-6).all()
        torch.testing.assert_close(
            half.noised_log_prob(x, alpha, sigma).double(),
            target.noised_log_prob(x.double(), alpha, sigma),
            rtol=1e-5,
            atol=1e-5,
        )


def test_probabilities_and_curves_keep_their_digits_in_half_precision() -> None:
    many = GaussianMixture(torch.randn(1000, 2), 0.1, torch.rand(1000))
    half = many.to(torch.bfloat16)
    assert half.weights.equal(many.weights)
    assert half.weights.double().sum().item() == pytest.approx(1, abs=1e-6)
    assert many.weights.bfloat16().double().sum().item() != pytest.approx(1, abs=1e-6)
    moons = TwoMoons()
    x = moons.sample((100,))
    torch.testing.assert_close(moons.to(torch.bfloat16).to(F64).log_prob(x.double()), moons.log_prob(x.double()))


def test_single_precision_posteriors_are_those_of_double_rounded_once() -> None:
    """Near the end of a path a posterior is a difference of large numbers over a small sigma."""
    data = Empirical(1000 + torch.randn(50, 8))
    x, (alpha, sigma) = data.sample((20,)) + 1e-3 * torch.randn(20, 8), (0.9999, 0.001)
    x = 0.9999 * x
    truth = data.to(F64).posterior_mean(x.double(), alpha, sigma)
    assert data.posterior_mean(x, alpha, sigma).equal(truth.float())
    torch.testing.assert_close(
        data.noised_log_prob(x, alpha, sigma), data.to(F64).noised_log_prob(x.double(), alpha, sigma).float()
    )
    two = torch.tensor([[1000.0, 0.0], [1000.0 + 2.0**-9, 1e-3]])  # the first number tells, the second shows it
    seen = 0.9999 * two.repeat(8, 1) + torch.linspace(-1e-3, 1e-3, 16)[:, None]

    def by_hand(x: Tensor, means: Tensor) -> Tensor:
        score = (-0.5 * ((x[:, None] - 0.9999 * means) / 0.001) ** 2).sum(2)
        return means[1, 1] * torch.sigmoid(score[:, 1] - score[:, 0])

    shown, exact = Empirical(two).posterior_mean(seen, 0.9999, 0.001)[:, 1], by_hand(seen.double(), two.double())
    torch.testing.assert_close(shown.double(), exact, rtol=1e-6, atol=0)
    assert (by_hand(seen, two) / exact - 1).abs().max() > 1e-2
    thick = GaussianMixture(data.means, 0.01).to(F64)
    with mp.workdps(40):  # the whole mixture once in forty digits
        at, means = x[0].tolist(), data.means.tolist()
        variance = (mp.mpf(alpha) * mp.mpf(0.01)) ** 2 + mp.mpf(sigma) ** 2
        square = [sum((mp.mpf(a) - mp.mpf(alpha) * mp.mpf(b)) ** 2 for a, b in zip(at, m, strict=True)) for m in means]
        p = sum(mp.exp(-s / (2 * variance)) for s in square) / 50 / mp.sqrt(2 * mp.pi * variance) ** 8
        exact = float(mp.log(p))
    found = thick.noised_log_prob(x[:1].double(), alpha, sigma).item()
    assert found == pytest.approx(exact, rel=1e-12)
    assert float(torch.tensor(exact).float()) != pytest.approx(exact, rel=1e-12)  # float32 on the way would be seen


@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
def test_draws_on_the_sides_of_a_square_are_dark_to_sharper_eyes(dtype: torch.dtype, monkeypatch: object) -> None:
    """A draw is rounded to its dtype, and may be looked at in another: it must stand clear of the sides."""
    eps = torch.finfo(dtype).eps

    def draws(low: float, high: float) -> Tensor:
        corner = torch.tensor(sides(), dtype=F64) * 0.45
        return torch.cat([(corner.round().to(dtype) + u) / 0.45 for u in (low, high)])

    board = Checkerboard()
    for u in (0.0, 1 - eps / 2):
        monkeypatch.setattr(board, "_uniform", lambda *shape, generator: torch.full(shape, u, dtype=dtype))  # type: ignore[attr-defined]  # noqa: B023
        x = board.to(dtype).sample((200,))
        assert Checkerboard().to(F64).log_prob(x.double()).isfinite().all()
    plain = draws(0.0, 1 - eps / 2)
    assert not Checkerboard().to(F64).log_prob(plain.double()).isfinite().all()
