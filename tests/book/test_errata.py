"""Each mistake that a chapter says is in the notes or elsewhere: a computation passes the right version alone."""

from __future__ import annotations

import math
from functools import partial

import torch

from fmtutor import (
    AffinePath,
    Checkerboard,
    ContinuousFlow,
    Cosine,
    GaussianMixture,
    Linear,
    StandardNormal,
    VariancePreserving,
    dequantize,
    divergence,
    metrics,
    solve,
)

F64 = torch.float64


def test_notes_000_the_field_of_the_current_point_stops_at_63_percent() -> None:
    x0, x1 = torch.zeros(1, 1, dtype=F64), torch.ones(1, 1, dtype=F64)
    theirs = solve(lambda t, x: x1 - x, x0, method="dopri5", rtol=1e-9, atol=1e-9).x.item()
    ours = solve(lambda t, x: (x1 - x) / (1 - t), x0, t1=1 - 1e-6, method="dopri5", rtol=1e-9, atol=1e-9).x.item()
    assert math.isclose(theirs, 1 - math.exp(-1), rel_tol=1e-7)
    assert math.isclose(ours, 1 - 1e-6, rel_tol=1e-7)


def test_notes_003_both_signs_of_the_sigma_min_path() -> None:
    sigma_min, t = 0.1, torch.tensor(0.3, dtype=F64)
    data, noise = torch.tensor(2.0, dtype=F64), torch.tensor(-1.0, dtype=F64)
    point, rate = torch.func.jvp(
        lambda s: s * data + (1 - s + s * sigma_min) * noise, (t,), (torch.ones((), dtype=F64),)
    )
    factor = (1 - sigma_min) / (1 - t + t * sigma_min)
    for sign, right in ((-1, True), (1, False)):
        in_noise, in_place = data + sign * (1 - sigma_min) * noise, data + sign * factor * (point - t * data)
        assert torch.isclose(rate, in_noise).item() is right
        assert torch.isclose(rate, in_place).item() is right
    ours = AffinePath(Linear(sigma_min)).conditional_velocity(t, point.reshape(1, 1), data.reshape(1, 1))
    assert torch.isclose(ours.squeeze(), rate)


def test_notes_001_the_coefficients_add_up_to_one_on_the_linear_path_only() -> None:
    t, vp, linear = torch.linspace(0, 1, 11, dtype=F64), VariancePreserving(), Linear()
    one = torch.ones_like(t)
    torch.testing.assert_close(linear.alpha(t) + linear.sigma(t), one)
    torch.testing.assert_close(vp.alpha(t) ** 2 + vp.sigma(t) ** 2, one)
    assert (vp.alpha(t) + vp.sigma(t) - 1).abs().max() > 0.3


def test_notes_001_the_derivative_along_the_way_is_not_the_one_at_a_place() -> None:
    path, target = AffinePath(), GaussianMixture(torch.tensor([[-1.0], [1.5]], dtype=F64), 0.3)
    x, t, h = torch.tensor([[0.4]], dtype=F64), 0.6, 1e-5
    u, div = divergence(lambda t, x: path.marginal_velocity(t, x, target), t, x)

    def change(moved: torch.Tensor) -> float:
        after = path.marginal_log_prob(t + h, x + h * moved, target)
        return ((after - path.marginal_log_prob(t - h, x - h * moved, target)) / (2 * h)).item()

    assert math.isclose(change(u), -div.item(), rel_tol=1e-6)
    assert abs(change(0 * u) + div.item()) > 0.1


def test_notes_004_without_the_square_the_best_answer_is_a_median() -> None:
    targets = torch.tensor([[0.0]] * 3 + [[4.0]])  # three of four pairs go one way
    answers = torch.linspace(-1, 5, 601)[:, None, None]
    best = {p: answers[((answers - targets).norm(dim=-1) ** p).mean(1).argmin()].item() for p in (1, 2)}
    assert math.isclose(best[2], targets.mean().item(), abs_tol=0.011)
    assert math.isclose(best[1], targets.median().item(), abs_tol=0.011)
    assert abs(best[1] - best[2]) > 0.9


def test_notes_004_straight_paths_do_not_make_straight_trajectories() -> None:
    path, board, base = AffinePath(), Checkerboard(), StandardNormal(2)
    x0, x1, times = base.sample((400,)), board.sample((400,)), torch.linspace(0, 0.99, 12)
    straight = torch.stack([path.sample(x0, x1, t).xt for t in times])
    flow = ContinuousFlow(lambda t, x: path.marginal_velocity(t, x, board), base, steps=24, t1=0.99)
    bent = metrics.straightness(flow.trajectory(x0, times))
    assert metrics.straightness(straight, times).value < 1e-6
    assert bent.value > 10 * bent.error


def test_notes_004_the_straighter_trajectories_are_those_of_bent_pairs() -> None:
    """Cosine's against linear's, by the distance from straight and by length over distance, for one set of noise."""
    board, x0 = Checkerboard().to(F64), StandardNormal(2).to(F64).sample((300,))
    x1, found = board.sample((300,)), []
    for schedule, end in ((Linear(), 0.99), (Cosine(), math.atan(99) * 2 / math.pi)):
        path, times = AffinePath(schedule), torch.linspace(0, end, 81, dtype=F64)
        exact = partial(path.marginal_velocity, target=board)
        way = solve(exact, x0, times=times, method="midpoint", steps=160).states
        pair = torch.stack([path.sample(x0, x1, t).xt for t in times])
        length = way.diff(dim=0).norm(dim=-1).sum(0) / (way[-1] - way[0]).norm(dim=-1)
        found.append((metrics.straightness(pair, times), metrics.straightness(way, times), length.mean()))
    (linear_pair, linear, linear_length), (cosine_pair, cosine, cosine_length) = found
    assert linear_pair.value < 1e-12
    assert cosine_pair.value > 1
    assert linear.value - cosine.value > 4 * (linear.error + cosine.error)
    assert linear_length > cosine_length > 1


def test_uva_tutorial_11_the_dequantised_density_integrates_to_the_number_of_levels() -> None:
    """As first published (see its issue 57): whole numbers of some pmf, spread over [0, 1) and sent through a logit.

    The density of `z = logit(x)` is `pmf * levels * sigmoid'(z)`; `log levels` is in the log-determinant. There, the
    pmf is made to add up to `levels` besides: the curve that is drawn for 8 levels reaches 2 instead of 1/4.
    """
    levels, z = 8, torch.linspace(-30, 30, 60_001, dtype=F64)
    squash = torch.distributions.SigmoidTransform()
    x = squash(z)
    cell = (x * levels).long().clamp(max=levels - 1)
    for weights in (torch.ones(levels, dtype=F64), torch.arange(1, levels + 1, dtype=F64)):
        right, wrong = weights / weights.sum(), weights / weights.sum() * levels
        log_det = math.log(levels) + squash.log_abs_det_jacobian(z, x)
        for pmf, total in ((right, 1), (wrong, levels)):
            density = pmf[cell] * log_det.exp()
            assert math.isclose(torch.trapezoid(density, z).item(), total, rel_tol=1e-3)
        ours = torch.distributions.TransformedDistribution(Histogram(right), [squash.inv])
        torch.testing.assert_close(ours.log_prob(z), right[cell].log() + log_det)
    assert math.isclose(log_det.exp().max().item(), 2, rel_tol=1e-9)  # where pmf adds up to levels, and is flat
    drawn = squash.inv(dequantize(torch.randint(levels, (100_000,)), levels))  # a uniform pmf: a logistic law
    below = torch.tensor([-1.0, 0.0, 1.0])
    share = (drawn[:, None] < below).float().mean(0)
    assert (share - torch.sigmoid(below)).abs().max() < 4 * 0.5 / math.sqrt(100_000)


class Histogram(torch.distributions.Distribution):
    """Values of a pmf, dequantised: on each cell of [0, 1) the density is flat."""

    arg_constraints: dict = {}
    support = torch.distributions.constraints.unit_interval

    def __init__(self, pmf: torch.Tensor) -> None:
        super().__init__(validate_args=False)
        self.pmf = pmf

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        levels = len(self.pmf)
        return (self.pmf * levels).log()[(value * levels).long().clamp(max=levels - 1)]


def test_uva_tutorial_11_the_scale_before_the_logit_belongs_to_the_log_determinant() -> None:
    """Same place: the way in shrinks [0, 1) by 1 - a before the logit and says so; the way back did neither."""
    a, z = 0.05, torch.linspace(-40, 40, 80_001, dtype=F64)
    inside = (torch.sigmoid(z) > a / 2) & (torch.sigmoid(z) < 1 - a / 2)  # where the uniform law of x arrives
    log_det = torch.distributions.SigmoidTransform().log_abs_det_jacobian(z, torch.sigmoid(z))
    whole = torch.trapezoid(torch.where(inside, (log_det - math.log(1 - a)).exp(), 0.0), z).item()
    without = torch.trapezoid(torch.where(inside, log_det.exp(), 0.0), z).item()
    assert math.isclose(whole, 1, abs_tol=1e-3)
    assert math.isclose(without, 1 - a, abs_tol=1e-3)


def test_notes_001_one_triangular_map_is_strong_enough_one_affine_is_not() -> None:
    """They say a single flow is weak because its Jacobian is triangular. The map of quantiles is triangular and exact.

    The first number goes through its own distribution function, the second through its conditional one. The best map
    that is *affine* in each number has the right mean and variance there, and nothing else.
    """
    target = GaussianMixture(torch.tensor([[-2.0, -1.0], [1.5, 1.5], [1.0, -2.0]], dtype=F64), 0.7)
    unit = torch.distributions.Normal(torch.tensor(0.0, dtype=F64), 1.0)
    centre, scale = target.means, target.scale

    def to_noise(x: torch.Tensor) -> torch.Tensor:
        below = unit.cdf((x - centre) / scale)
        weight = torch.softmax(unit.log_prob((x[0] - centre[:, 0]) / scale), 0)
        return unit.icdf(torch.stack([below[:, 0].mean(), weight @ below[:, 1]]))

    x = target.sample((2000,), generator=torch.Generator().manual_seed(0))
    z, jacobian = torch.func.vmap(to_noise)(x), torch.func.vmap(torch.func.jacrev(to_noise))(x)
    assert not jacobian[:, 0, 1].any()
    exact = unit.log_prob(z).sum(1) + jacobian.diagonal(dim1=1, dim2=2).log().sum(1)
    torch.testing.assert_close(exact, target.log_prob(x), rtol=1e-8, atol=1e-8)

    weight = torch.softmax(unit.log_prob((x[:, :1] - centre[:, 0]) / scale), 1)
    mean = weight @ centre[:, 1]
    spread = (weight @ centre[:, 1] ** 2 - mean**2 + scale**2).sqrt()
    first = torch.distributions.Normal(x[:, 0].mean(), x[:, 0].std())
    affine = first.log_prob(x[:, 0]) + torch.distributions.Normal(mean, spread).log_prob(x[:, 1])
    gap = target.log_prob(x) - affine
    assert gap.mean() > 0.3
    assert gap.mean() > 10 * gap.std() / math.sqrt(len(gap))


def test_notes_001_a_conditional_velocity_may_point_away_from_the_data() -> None:
    """On the linear path it is (z - x) / (1 - t), on the cosine path a point may go up to come down."""
    noise, data = torch.linspace(-3, 3, 61, dtype=F64)[:, None], torch.full((61, 1), 0.5, dtype=F64)
    for schedule, always in ((Linear(), True), (Cosine(), False), (VariancePreserving(), False)):
        _, x, u = AffinePath(schedule).sample(noise, data, 0.3)
        away = (u * (data - x) < 0).sum()
        assert (away == 0).item() is always
        torch.testing.assert_close(u, AffinePath(schedule).conditional_velocity(0.3, x, data))
