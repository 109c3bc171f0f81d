"""Conversions against exact fields; SDE and ancestral samplers against closed forms, with the usual wrong versions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from reference import F64, SCHEDULES, targets
from torch import Tensor, nn

from fmtutor import (
    AffinePath,
    Bound,
    ContinuousFlow,
    Cosine,
    Empirical,
    GaussianMixture,
    Linear,
    Polynomial,
    Schedule,
    StandardNormal,
    VariancePreserving,
    diffusion,
    solve,
)
from fmtutor.diffusion import ancestral, as_score, as_velocity, solve_sde
from fmtutor.losses import conditional_flow_matching_loss, prediction_loss

LINE = GaussianMixture(torch.tensor([[-1.5], [0.5], [2.0]], dtype=F64), 0.2, torch.tensor([0.2, 0.5, 0.3]))
POINTS = Empirical(torch.tensor([[-1.5], [0.5], [2.0]], dtype=F64))


def ks(x: Tensor, target: GaussianMixture, alpha: float, sigma: float) -> float:
    """The largest gap between the distribution of x and the exact one of the target seen through noise."""
    x = x.flatten().double().sort().values
    spread = math.hypot(alpha * target.scale, sigma)
    weights = target.weights.double() / target.weights.double().sum()
    exact = torch.special.ndtr((x[:, None] - alpha * target.means[:, 0]) / spread) @ weights
    steps = torch.arange(len(x) + 1) / len(x)
    return float(torch.maximum((exact - steps[:-1]).abs(), (exact - steps[1:]).abs()).max())


def chance(n: int) -> float:
    """What a Kolmogorov-Smirnov distance exceeds once in a hundred thousand draws of n right points."""
    return math.sqrt(math.log(2e5) / 2 / n)


BOUND = chance(8_000) + 4e-3  # the last for the finite step


# Conversions


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_model_is_read_in_every_way(name: str) -> None:
    path, target = AffinePath(SCHEDULES[name]), targets()["mixture"]
    t = torch.linspace(0.2, 0.9, 5, dtype=F64)
    x = torch.randn(5, 2, dtype=F64)
    c = path.coefficients(t, x)
    data = target.posterior_mean(x, c.alpha.flatten(), c.sigma.flatten())
    noise = (x - c.alpha * data) / c.sigma
    u, score = path.marginal_velocity(t, x, target), path.marginal_score(t, x, target)
    for predict, answer in {"data": data, "noise": noise, "velocity": u, "score": score}.items():
        model = lambda t, x, answer=answer: answer  # noqa: E731
        assert torch.allclose(as_velocity(model, path, predict)(t, x), u, rtol=1e-9)
        assert torch.allclose(as_score(model, path, predict)(t, x), score, rtol=1e-9)
        assert not torch.allclose(as_velocity(lambda t, x, a=answer: -a, path, predict)(t, x), u, rtol=1e-2)


class _Random(Schedule):
    """A schedule that nobody chose: rising data, falling noise, with random powers and sizes."""

    def __init__(self) -> None:
        self.a, self.b, self.size = (0.5 + torch.rand(3).double()).tolist()

    def alpha(self, t: Tensor) -> Tensor:
        return self.size * t**self.a

    def sigma(self, t: Tensor) -> Tensor:
        return (1 - t) ** self.b


@pytest.mark.parametrize("seed", range(6))
def test_averaging_over_the_posterior_commutes_with_every_conversion(seed: int) -> None:
    """All four are affine in each other, with coefficients of t and x alone; with other weights it is another mean."""
    torch.manual_seed(seed)
    path, points, t = AffinePath(_Random()), torch.randn(7, 2, dtype=F64), 0.2 + 0.6 * torch.rand(5, dtype=F64)
    x = torch.randn(5, 2, dtype=F64)
    c = path.coefficients(t, x)
    noise = (x[:, None] - c.alpha[..., None] * points) / c.sigma[..., None]  # (place, data point, 2)
    weight = torch.softmax(-noise.square().sum(-1) / 2, 1)[..., None]
    moving = c.d_alpha[..., None] * points + c.d_sigma[..., None] * noise
    pairs = {"velocity": moving, "noise": noise, "score": -noise / c.sigma[..., None], "data": points.expand(5, 7, 2)}
    for source, to in product(pairs, pairs):
        convert = partial(path.convert, t, x, source=source, to=to)
        each = torch.stack([convert(pairs[source][:, k]) for k in range(7)], 1)
        assert torch.allclose(each, pairs[to], rtol=1e-9, atol=1e-9)
        averaged = convert((weight * pairs[source]).sum(1))
        assert torch.allclose((weight * each).sum(1), averaged, rtol=1e-9, atol=1e-9)
        assert not torch.allclose(each.mean(1), averaged, rtol=1e-3, atol=1e-3)
        bent = lambda p, convert=convert: convert(p).square()  # noqa: E731 - a reading that is not affine
        assert not torch.allclose(
            (weight * torch.stack([bent(pairs[source][:, k]) for k in range(7)], 1)).sum(1),
            bent((weight * pairs[source]).sum(1)),
            rtol=1e-3,
        )


@pytest.mark.parametrize("noise", ["normal", "logistic"])
def test_a_score_is_read_from_the_velocity_for_normal_noise_alone(noise: str) -> None:
    """Two data points and any noise: the velocity is a mean over pairs, the score the slope of log p_t, by autodiff."""
    path, points, t = AffinePath(), torch.tensor([-1.0, 1.0], dtype=F64), 0.4
    log_density = {
        "normal": lambda e: -0.5 * e**2,
        "logistic": lambda e: -e - 2 * torch.nn.functional.softplus(-e),
    }[noise]
    x = torch.linspace(-2, 2, 21, dtype=F64)[:, None].requires_grad_()
    began = (x - t * points) / (1 - t)
    joint = log_density(began)
    score = torch.autograd.grad(torch.logsumexp(joint, 1).sum(), x)[0]
    u = (torch.softmax(joint, 1) * (points - began)).sum(1, keepdim=True)
    off = (path.convert(t, x, u, "velocity", "score") - score).abs().max().item()
    assert (off < 1e-12) == (noise == "normal")
    assert noise == "normal" or off > 0.3


def test_a_converted_network_is_still_a_network() -> None:
    net = nn.Linear(2, 2)
    model = as_velocity(lambda t, x: net(x), AffinePath(), "noise")
    assert model.training
    known = as_velocity(_Ignoring(net).eval(), AffinePath(), "noise")
    assert not known.training
    assert next(iter(known.parameters())) is net.weight


class _Labelled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 2)

    def forward(self, t: Tensor, x: Tensor, label: Tensor) -> Tensor:
        return self.net(x) + label[:, None].to(x)


@pytest.mark.parametrize("bind", [partial, Bound])
def test_a_label_and_its_network_are_seen_through_the_conversion(bind: Any) -> None:
    net, label, x = _Labelled().eval(), torch.arange(3.0), torch.randn(3, 2)
    model = as_velocity(bind(net, label=label), AffinePath(), "data")
    assert torch.equal(model(0.5, x), AffinePath().convert(0.5, x, net(0.5, x, label), "data", "velocity"))
    assert {p.data_ptr() for p in model.parameters()} == {p.data_ptr() for p in net.parameters()}
    flow = ContinuousFlow(model, StandardNormal(2))
    assert not flow.rsample((3,)).requires_grad  # in evaluation mode nothing asks for a gradient
    net.train()
    assert flow.rsample((3,)).requires_grad
    wide = flow.to(F64)
    assert wide.velocity.model.bound_label.dtype == wide.sample((3,)).dtype == F64
    hidden = lambda t, x: net(t, x, label)  # noqa: E731
    assert as_velocity(hidden, AffinePath(), "data").training
    net.eval()
    assert not as_velocity(hidden, AffinePath(), "data").training


def test_the_parts_of_a_network_keep_their_modes() -> None:
    for wrap in (lambda m: as_velocity(m, AffinePath(), "data"), Bound):
        net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval())
        assert wrap(net).training
        assert not net[1].training


def test_a_model_may_change_what_it_is_handed() -> None:
    path, x = AffinePath(), torch.full((3, 1), 0.5)
    spoiling, plain = (lambda t, x: x.mul_(t.mul_(2) - 1)), (lambda t, x: x * (2 * t - 1))
    t = torch.tensor(0.3)
    assert torch.equal(as_velocity(spoiling, path, "data")(t, x), as_velocity(plain, path, "data")(t, x))
    draw = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    ours, theirs = (ancestral(f, path, x, steps=3, generator=draw()).states for f in (spoiling, plain))
    assert torch.equal(ours, theirs)
    ours, theirs = (solve_sde(f, path, x, steps=3, generator=draw()).states for f in (spoiling, plain))
    assert torch.equal(ours, theirs)
    assert (x == 0.5).all()


class _Ignoring(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.net(x)


# The loss


def at(t: Tensor) -> Tensor:
    return t.reshape(-1, 1)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_four_losses_are_one_up_to_a_weight(name: str) -> None:
    """The error of a model in one prediction is that of its conversion in another, times a function of t alone."""
    path, n = AffinePath(SCHEDULES[name]), 500
    x0, x1, t = torch.randn(n, 2, dtype=F64), torch.randn(n, 2, dtype=F64), 0.05 + 0.9 * torch.rand(n, dtype=F64)
    c = path.coefficients(t, x1)
    gain = (c.alpha * c.d_sigma - c.sigma * c.d_alpha).flatten().abs()
    alpha, sigma = c.alpha.flatten(), c.sigma.flatten()
    model = lambda t, x: torch.sin(3 * x) + at(t)  # noqa: E731
    # an error of size e in the velocity is one of sigma e / gain in the data, alpha e / gain in the noise, ...
    scale = {"velocity": 1.0, "data": gain / sigma, "noise": gain / alpha, "score": gain * sigma / alpha}
    for predict, w in scale.items():
        converted = lambda t, x, p=predict: path.convert(t, x, model(t, x), source="velocity", to=p)  # noqa: E731
        w = torch.as_tensor(w, dtype=F64).expand(n) ** 2
        ours = prediction_loss(converted, path, x0, x1, t, predict, weight=lambda t, w=w: w)
        assert ours.item() == pytest.approx(conditional_flow_matching_loss(model, path, x0, x1, t).item(), rel=1e-9)
        assert predict == "velocity" or prediction_loss(converted, path, x0, x1, t, predict) != pytest.approx(ours)


def test_the_velocity_loss_is_the_one_of_chapter_4() -> None:
    path, x0, x1 = AffinePath(), torch.randn(9, 2), torch.randn(9, 2)
    draw = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    one = conditional_flow_matching_loss(lambda t, x: x, path, x0, x1, generator=draw())
    assert torch.equal(prediction_loss(lambda t, x: x, path, x0, x1, generator=draw()), one)
    t = torch.rand(9)
    noise = lambda t, x: x  # noqa: E731
    xt = at(t) * x1 + (1 - at(t)) * x0
    assert torch.allclose(prediction_loss(noise, path, x0, x1, t, "noise"), (xt - x0).square().mean())
    assert torch.allclose(prediction_loss(noise, path, x0, x1, t, "data"), (xt - x1).square().mean())
    assert torch.allclose(prediction_loss(noise, path, x0, x1, t, "score"), (xt + x0 / (1 - at(t))).square().mean())
    with pytest.raises(ValueError, match="predict must be one of"):
        prediction_loss(noise, path, x0, x1, t, "epsilon")
    with pytest.raises(ValueError, match=r"weight\(t\) must be at least 0"):
        prediction_loss(noise, path, x0, x1, t, weight=lambda t: t - 2)
    with pytest.raises(ValueError, match=r"weight\(t\) and t must have the same shape"):
        prediction_loss(noise, path, x0, x1, t, weight=lambda t: at(t))
    for weight in (None, lambda t: t):
        with pytest.raises(ValueError, match="a mean needs points"):
            prediction_loss(noise, path, x0[:0], x1[:0], weight=weight)
    with pytest.raises(ValueError, match="no score is defined"):
        prediction_loss(noise, path, x0, x1, 1.0, "score")


# The stochastic differential equation


def sde(noise: Any, *, wrong: str = "", n: int = 8_000, t1: float = 0.95, **how: Any) -> Tensor:
    """States of the exact SDE at five times, or of a version with a usual mistake."""
    path = AffinePath()
    u = lambda t, x: path.marginal_velocity(t, x, LINE)  # noqa: E731
    times = torch.linspace(0, t1, 6)
    x0 = torch.randn(n, 1, dtype=F64, generator=torch.Generator().manual_seed(1))
    if not wrong:
        return solve_sde(u, path, x0, noise=noise, times=times, **how).states
    g, size, state, states = noise, t1 / how["steps"], x0, [x0]
    for k in range(how["steps"]):
        t = k * size
        score = path.marginal_score(t, state, LINE)
        pull = {"missing half": g**2, "forgotten score": 0.0, "sign of the score": -0.5 * g**2}.get(wrong, 0.5 * g**2)
        shake = g * math.sqrt(size) * torch.randn_like(state)
        shake = {"doubled": 2**0.5 * shake, "times h": shake * math.sqrt(size)}.get(wrong, shake)
        if wrong == "noise times noise":
            shake = shake * torch.randn_like(state)
        state = state + size * (u(t, state) + pull * score) + shake
        if (k + 1) % (how["steps"] // 5) == 0:
            states.append(state)
    return torch.stack(states)


def laws(states: Tensor, t1: float = 0.95) -> list[float]:
    times = torch.linspace(0, t1, 6)[1:].tolist()
    return [ks(x, LINE, t, 1 - t) for t, x in zip(times, states[1:], strict=True)]


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.5, lambda t: 2 * (1 - t)], ids=["none", "half", "strong", "fading"])
@pytest.mark.parametrize(("method", "steps"), [("euler_maruyama", 300), ("heun", 100)])
def test_the_law_does_not_depend_on_the_noise(noise: Any, method: str, steps: int) -> None:
    assert max(laws(sde(noise, method=method, steps=steps))) < BOUND


@pytest.mark.parametrize("wrong", ["missing half", "forgotten score", "sign of the score", "doubled", "times h"])
def test_the_usual_mistakes_are_seen(wrong: str) -> None:
    """The same loop without a mistake passes below."""
    assert max(laws(sde(1.5, wrong=wrong, steps=300))) > 1.5 * BOUND


def test_noise_multiplied_by_noise_is_seen_in_the_tails() -> None:
    """Its variance is right, and over many steps the sum is nearly normal: it takes few steps to see it."""
    path, x0 = AffinePath(), torch.zeros(50_000, 1, dtype=F64)
    still = lambda t, x: path.marginal_velocity(t, x, StandardNormal(1))  # noqa: E731
    right = solve_sde(still, path, x0, t1=0.1, noise=1.5, steps=2).x
    kurtosis = lambda x: float((x**4).mean() / (x**2).mean() ** 2)  # noqa: E731
    assert abs(kurtosis(right) - 3) < 0.15
    shakes = [1.5 * math.sqrt(0.05) * torch.randn_like(x0) * torch.randn_like(x0) for _ in range(2)]
    assert kurtosis(sum(shakes)) > 4.5  # 9 for one step, 6 for two


def test_without_a_mistake_the_same_loop_is_right() -> None:
    assert max(laws(sde(1.5, wrong="nothing", steps=300))) < BOUND


def impulses(method: str, steps: int, noise: Any, monkeypatch: pytest.MonkeyPatch, s: float = 0.6) -> float:
    """The exact variance at t = 0.8 that a method gives normal data: its update is linear, each shake counts alone."""
    path, target, call = AffinePath(), StandardNormal(1, scale=s).to(F64), iter(range(steps))

    def one_at_a_time(x: Tensor, generator: Any) -> Tensor:
        k = next(call)
        return (torch.arange(steps + 1) == k + 1).to(x)[:, None]

    monkeypatch.setattr(diffusion, "_normal_like", one_at_a_time)
    x = torch.zeros(steps + 1, 1, dtype=F64)
    x[0] = 1.0
    u = lambda t, x: path.marginal_velocity(t, x, target)  # noqa: E731
    end = solve_sde(u, path, x, t1=0.8, noise=noise, method=method, steps=steps).x
    return float(end.square().sum())


@pytest.mark.parametrize(("method", "order"), [("euler_maruyama", 1), ("heun", 2)])
@pytest.mark.parametrize("noise", [0.5, lambda t: 1 + t], ids=["steady", "rising"])
def test_the_weak_order_on_normal_data(method: str, order: int, noise: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = (0.8 * 0.6) ** 2 + 0.2**2
    errors = [abs(impulses(method, n, noise, monkeypatch) - truth) for n in (40, 80, 160)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


def test_a_step_of_heun_by_hand() -> None:
    """Noise of both ends: with that of the first alone the law is right too, and the noise is not the one asked for."""
    path, x, t, h = AffinePath(), torch.randn(30, 1, dtype=F64), 0.2, 0.1
    u = lambda t, x: path.marginal_velocity(t, x, LINE)  # noqa: E731
    drift = lambda t, x, g: u(t, x) + 0.5 * g**2 * path.marginal_score(t, x, LINE)  # noqa: E731
    draw = lambda: torch.Generator().manual_seed(2)  # noqa: E731
    step = solve_sde(u, path, x, t, t + h, noise=lambda t: 1 + 3 * t, method="heun", steps=1, generator=draw()).x
    for first, last, right in ((1.6, 1.9, True), (1.6, 1.6, False), (1.9, 1.6, False)):
        shaken = math.sqrt(0.5 * (first**2 + last**2) * h) * torch.randn(x.shape, dtype=F64, generator=draw())
        slope = drift(t, x, first)
        ahead = drift(t + h, x + h * slope + shaken, last)
        assert torch.allclose(step, x + 0.5 * h * (slope + ahead) + shaken, rtol=1e-9, atol=1e-9) is right


def test_euler_maruyama_on_normal_data_has_the_variance_of_its_recursion() -> None:
    n, h, s, g = 200_000, 0.08, 0.6, 1.0
    path, target = AffinePath(), StandardNormal(1, scale=s).to(F64)
    x = torch.randn(n, 1, dtype=F64)
    x = solve_sde(lambda t, x: path.marginal_velocity(t, x, target), path, x, t1=0.8, noise=g, steps=10).x
    variance = 1.0
    for k in range(10):
        t = k * h
        p = t**2 * s**2 + (1 - t) ** 2
        slope = (t * s**2 - (1 - t)) / p - 0.5 * g**2 / p
        variance = (1 + h * slope) ** 2 * variance + g**2 * h
    assert x.var().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / n))


def test_without_noise_it_is_the_ordinary_equation() -> None:
    path = AffinePath(Cosine())
    u = lambda t, x: path.marginal_velocity(t, x, LINE)  # noqa: E731
    x, times = torch.randn(50, 1, dtype=F64), [0.1, 0.3, 0.9]
    for method, plain in (("euler_maruyama", "euler"), ("heun", "heun2")):
        ours = solve_sde(u, path, x, noise=0.0, method=method, steps=16, times=times)
        theirs = solve(u, x, method=plain, steps=16, times=times)
        assert torch.allclose(ours.states, theirs.states, rtol=1e-12, atol=1e-12)
        assert torch.allclose(ours.times.double(), theirs.times.double())
        assert ours.nfe == theirs.nfe


def test_the_last_step_of_heun_stops_where_the_noise_does() -> None:
    path = AffinePath()
    seen: list[float] = []

    def field(t: Tensor, x: Tensor) -> Tensor:
        seen.append(float(t))
        return path.marginal_velocity(t, x, LINE)

    end = solve_sde(field, path, torch.randn(8_000, 1, dtype=F64), noise=lambda t: 1 - t, method="heun", steps=100)
    assert max(seen) < 1
    assert end.nfe == len(seen) == 199
    assert ks(end.x, LINE, 1.0, 0.0) < BOUND


def test_a_generator_reproduces_a_run() -> None:
    path = AffinePath()

    def run(seed: int) -> Tensor:
        source = torch.Generator().manual_seed(seed)
        return solve_sde(lambda t, x: -x, path, torch.ones(5, 2), t1=0.5, steps=4, generator=source).x

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))


@pytest.mark.parametrize("name", targets())
def test_a_generator_is_the_only_source_of_a_posterior_draw(name: str) -> None:
    target, x, path = targets()[name], torch.randn(20, 2, dtype=F64), AffinePath()
    before = torch.get_rng_state()

    def run(seed: int) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        guess = lambda t, x: target.sample_posterior(x, t, 1 - t, generator=draw)  # noqa: E731
        return ancestral(guess, path, x, steps=3, generator=draw).x

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", [*SCHEDULES, "late"])
@pytest.mark.parametrize("method", ["euler_maruyama", "heun"])
def test_the_law_on_every_path_from_its_start(name: str, method: str) -> None:
    """Also where the data comes in so slowly that the velocity at t = 0 says nothing."""
    path = AffinePath({**SCHEDULES, "late": Polynomial(2)}[name])
    x = path.sample(torch.randn(8_000, 1, dtype=F64), LINE.sample((8_000,)), 0.0).xt
    u = lambda t, x: path.marginal_velocity(t, x, LINE)  # noqa: E731
    end = solve_sde(u, path, x, t1=0.9, method=method, steps=60).x
    c = path.coefficients(0.9, x[:1])
    assert ks(end, LINE, c.alpha.item(), c.sigma.item()) < BOUND


def test_a_step_takes_no_more_noise_than_the_score_can_hold() -> None:
    """Of data thinner than noise: with a steady g the usual loop throws points away at the end, and blurs the rest."""
    path, n, x0 = AffinePath(), 200, torch.randn(500, 1, dtype=F64)
    u = lambda t, x: path.marginal_velocity(t, x, POINTS)  # noqa: E731
    for method in ("euler_maruyama", "heun"):
        end = solve_sde(u, path, x0, method=method, steps=n).x
        assert torch.cdist(end, POINTS.means).min(1).values.max() < 1e-6
    state = x0
    for t in (torch.arange(n, dtype=F64) / n).tolist():
        pull = u(t, state) + 0.5 * path.marginal_score(t, state, POINTS)
        state = state + pull / n + n**-0.5 * torch.randn_like(state)
    assert state.abs().max() > 1e3
    # the limit itself: what is above it gives what it gives
    draw = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    limit = lambda t: math.sqrt(2 / 0.2) * (0.8 - t)  # noqa: E731 - in steps of 0.2, of the sigma at their ends
    ours, theirs = (
        solve_sde(u, path, x0, t1=0.8, steps=4, noise=g, generator=draw()).x for g in (lambda t: 50.0, limit)
    )
    assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_the_models_and_not_the_steps(dtype: torch.dtype) -> None:
    """A thousand small steps of a state in bfloat16 would be none at all, and its times would round to 1."""
    asked: list[tuple[torch.dtype, torch.dtype, float]] = []

    def model(t: Tensor, x: Tensor) -> Tensor:
        asked.append((t.dtype, x.dtype, t.item()))
        return -x

    x, path = torch.ones(4, 1, dtype=dtype), AffinePath()
    for solution, truth in (
        (solve_sde(model, path, x, t1=0.9999, noise=0.0, steps=1000), 0.36770),
        (ancestral(model, path, x, times=torch.linspace(0, 0.9999, 1001), eta=0.0), None),
    ):
        assert solution.x.dtype == solution.states.dtype == dtype
        assert solution.times.dtype == torch.float32
        assert truth is None or solution.x[0].item() == pytest.approx(truth, rel=2**-8)
    assert {(a, b) for a, b, _ in asked} == {(dtype, dtype)}
    assert max(t for *_, t in asked) < 1


def test_images_are_rows_of_numbers() -> None:
    path, data = AffinePath(), torch.randn(5, 1, 8, 8)
    x = torch.randn(3, 1, 8, 8)
    runs = []
    for target, start in ((Empirical(data), x), (Empirical(data.flatten(1)), x.flatten(1))):
        u = lambda t, x, target=target: path.marginal_velocity(t, x, target)  # noqa: E731
        draw = torch.Generator().manual_seed(0)
        shaken = solve_sde(u, path, start, steps=5, generator=draw).states
        redrawn = ancestral(posterior(target, path, mean=True), path, start, steps=5, generator=draw).states
        runs.append(torch.cat([shaken, redrawn]).flatten(2))
    torch.testing.assert_close(*runs)


@pytest.mark.parametrize("method", ["euler_maruyama", "heun"])
def test_no_points_are_no_trouble(method: str) -> None:
    x, path = torch.ones(0, 2), AffinePath()
    assert solve_sde(lambda t, x: x, path, x, method=method, steps=3).states.shape == (2, 0, 2)
    assert ancestral(lambda t, x: x, path, x, steps=3).states.shape == (4, 0, 2)
    for target in targets().values():
        assert target.sample_posterior(x, 0.5, 0.5).shape == (0, 2)  # type: ignore[attr-defined]


# The ancestral sampler


def posterior(target: GaussianMixture, path: AffinePath, mean: bool = False) -> Callable[[Tensor, Tensor], Tensor]:
    def data(t: Tensor, x: Tensor) -> Tensor:
        c = path.coefficients(t, x)
        which = target.posterior_mean if mean else target.sample_posterior
        return which(x, c.alpha.flatten(), c.sigma.flatten())

    return data


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("schedule", [Linear(), Cosine(), VariancePreserving()], ids=repr)
@pytest.mark.parametrize("steps", [1, 2, 8])
def test_redrawing_the_end_is_exact_at_any_step(schedule: Any, steps: int, eta: float) -> None:
    path, n = AffinePath(schedule), 50_000
    start = StandardNormal(1).sample((n,)).double()
    if isinstance(schedule, VariancePreserving):  # it starts with a little data in the noise
        start = path.sample(start, POINTS.sample((n,)), 0.0).xt
    times = torch.linspace(0, 0.9, steps + 1).tolist()
    states = ancestral(posterior(POINTS, path), path, start, times=times, eta=eta).states
    for t, x in zip(times[1:], states[1:], strict=True):
        c = path.coefficients(t, x[:1])
        assert ks(x, POINTS, c.alpha.item(), c.sigma.item()) < chance(n)


@pytest.mark.parametrize(("steps", "wrong"), [(1, 0.43), (2, 0.30), (8, 0.07)])
def test_with_the_mean_in_place_of_a_draw_it_is_not(steps: int, wrong: float) -> None:
    path, times = AffinePath(), torch.linspace(0, 0.9, steps + 1)
    x = torch.randn(100_000, 1, dtype=F64)
    x = ancestral(posterior(POINTS, path, mean=True), path, x, times=times, eta=0.0).x
    assert ks(x, POINTS, 0.9, 0.1) == pytest.approx(wrong, abs=0.01)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "ve"])
def test_ddim_is_euler_in_other_variables(name: str) -> None:
    """`x / alpha` against `sigma / alpha`, for the mean of the data, to machine precision."""
    path, target = AffinePath(SCHEDULES[name]), targets()["mixture"]
    times = torch.linspace(0.1, 0.95, 12, dtype=F64)
    x = torch.randn(20, 2, dtype=F64)
    ours = ancestral(posterior(target, path, mean=True), path, x, times=times, eta=0.0)
    coefficients = [path.coefficients(t, x[:1]) for t in times.tolist()]
    pairs = [(c.alpha.item(), c.sigma.item()) for c in coefficients]
    y = x / pairs[0][0]
    for (a, s), (a_next, s_next) in pairwise(pairs):
        noise = (a * y - a * target.posterior_mean(a * y, a, s)) / s  # dy / d(sigma / alpha)
        y = y + (s_next / a_next - s / a) * noise
    a = pairs[-1][0]
    assert torch.allclose(ours.x, a * y, rtol=1e-11, atol=1e-11)
    assert ours.nfe == 11


def test_a_ddpm_step_is_that_of_the_paper() -> None:
    """Ho et al. (2020): beta_k, alpha_k = 1 - beta_k, their products, equations 7 and 11, in their own numbering."""
    path, target, n = AffinePath(VariancePreserving()), targets()["mixture"], 10
    times = torch.linspace(0.0, 1.0, n + 1, dtype=F64)[:-1]  # k = n .. 1 runs with rising t
    x = torch.randn(200, 2, dtype=F64)
    product = {k: path.schedule.alpha(times[n - k]).item() ** 2 for k in range(1, n + 1)}  # alphas_cumprod
    data, ours = posterior(target, path, mean=True), x
    for k in range(n, 1, -1):
        t, after = times[n - k], times[n - k + 1]
        step = ancestral(data, path, ours, times=[t, after], eta=1.0, generator=torch.Generator().manual_seed(k)).x
        alpha_k = product[k] / product[k - 1]
        beta_k = 1 - alpha_k
        x_start = data(t, ours)
        epsilon = (ours - math.sqrt(product[k]) * x_start) / math.sqrt(1 - product[k])
        mean = (ours - beta_k / math.sqrt(1 - product[k]) * epsilon) / math.sqrt(alpha_k)  # equation 11
        other = (math.sqrt(product[k - 1]) * beta_k * x_start + math.sqrt(alpha_k) * (1 - product[k - 1]) * ours) / (
            1 - product[k]
        )  # equation 7
        assert torch.allclose(mean, other, rtol=1e-10)
        variance = (1 - product[k - 1]) / (1 - product[k]) * beta_k
        z = torch.randn(ours.shape, dtype=F64, generator=torch.Generator().manual_seed(k))
        assert torch.allclose(step, mean + math.sqrt(variance) * z, rtol=1e-9, atol=1e-9)
        ours = step
    assert not torch.allclose(step, mean + math.sqrt(beta_k) * z, rtol=1e-3, atol=1e-3)  # their other choice


class _Betas(Schedule):
    """DDPM's schedule, read off its own list of `alphas_cumprod`, at its own thousand times."""

    def __init__(self) -> None:
        kept, self.table = 1.0, [1.0]
        for k in range(1000):  # linear betas from 1e-4 to 0.02, Ho et al. (2020), section 4
            kept *= 1 - (1e-4 + (0.02 - 1e-4) * k / 999)
            self.table.append(kept)

    def cumprod(self, t: Tensor) -> Tensor:
        return torch.tensor(self.table, dtype=F64)[(1000 * (1 - t)).round().long()].to(t)

    def alpha(self, t: Tensor) -> Tensor:
        return self.cumprod(t).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return (1 - self.cumprod(t)).sqrt()

    def d_alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)  # not asked for here

    d_sigma = d_alpha


@pytest.mark.parametrize("k", [2, 3, 50, 400, 999, 1000])
def test_the_ancestral_step_on_the_schedule_of_ddpm(k: int) -> None:
    """Mean and variance of equation 7, with linear betas over a thousand steps, written as in the paper."""
    schedule = _Betas()
    beta = 1e-4 + (0.02 - 1e-4) * (k - 1) / 999
    bar, before = schedule.table[k], schedule.table[k - 1]
    assert bar / before == pytest.approx(1 - beta, rel=1e-12)
    x, z, times = torch.randn(50, 2, dtype=F64), torch.randn(50, 2, dtype=F64), [1 - k / 1000, 1 - (k - 1) / 1000]

    def step(eta: float, seed: int) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        return ancestral(lambda t, x: z, AffinePath(schedule), x, times=times, eta=eta, generator=draw).x

    mean = (math.sqrt(before) * beta * z + math.sqrt(1 - beta) * (1 - before) * x) / (1 - bar)
    variance = (1 - before) / (1 - bar) * beta
    w = torch.randn(x.shape, dtype=F64, generator=torch.Generator().manual_seed(k))
    assert torch.allclose(step(1.0, k), mean + math.sqrt(variance) * w, rtol=1e-9, atol=1e-9)
    for wrong in (beta, (1 - bar) / (1 - before) * beta, 1 - bar):  # their other choice, upside down, the whole noise
        assert abs(math.sqrt(wrong) - math.sqrt(variance)) < 1e-6 or not torch.allclose(
            step(1.0, k), mean + math.sqrt(wrong) * w, rtol=1e-9, atol=1e-9
        )
    # x_k in their words is xt in ours, and their epsilon our x0
    epsilon = (x - math.sqrt(bar) * z) / math.sqrt(1 - bar)
    t = torch.tensor(times[0], dtype=F64)
    assert torch.allclose(AffinePath(schedule).convert(t, x, z, "data", "noise"), epsilon, rtol=1e-9, atol=1e-9)
    assert torch.allclose(step(0.0, 0), math.sqrt(before) * z + math.sqrt(1 - before) * epsilon, rtol=1e-9, atol=1e-9)


def test_the_continuous_path_of_ddpm_is_variance_preserving() -> None:
    """A thousand steps and the path of Song et al. differ by what a step is long."""
    t = torch.linspace(0, 1, 1001, dtype=F64)
    ours = VariancePreserving(beta_min=0.1, beta_max=20.0).alpha(t)
    assert (ours - _Betas().alpha(t)).abs().max() < 1.5e-3
    assert (VariancePreserving(0.1, 18.0).alpha(t) - _Betas().alpha(t)).abs().max() > 1e-2


@pytest.mark.parametrize("schedule", [Cosine(), VariancePreserving()], ids=repr)
def test_v_prediction_is_the_velocity_up_to_a_factor_of_time(schedule: Any) -> None:
    """Salimans and Ho (2022): v = alpha eps - sigma x. On the linear path it is not."""
    x0, x1 = torch.randn(40, 2, dtype=F64), torch.randn(40, 2, dtype=F64)
    for t in (0.1, 0.5, 0.9):
        off = {}
        for name, path in {"on": AffinePath(schedule), "off": AffinePath()}.items():
            c, u = path.coefficients(t, x0), path.sample(x0, x1, t).ut
            v = c.alpha * x0 - c.sigma * x1
            factor = (u * v).sum() / v.square().sum()
            off[name] = (u - factor * v).abs().max().item()
            assert factor < 0  # their time runs the other way
        assert off["on"] < 1e-12
        assert off["off"] > 1e-2 or t == 0.5  # halfway the two weights are equal, and so are v and u / -2


def test_the_names_of_other_code_stand_where_they_are_looked_for() -> None:
    words = f"{as_velocity.__doc__} {ancestral.__doc__} {prediction_loss.__doc__}"
    for name in ("epsilon-prediction", "x0-prediction", "v-prediction", "beta_k", "alphas_cumprod", "DDPM", "DDIM"):
        assert name in words, name


@pytest.mark.parametrize("name", ["board", "eight", "mixture", "moons", "normal", "data"])
def test_the_posterior_that_is_drawn_is_the_posterior(name: str) -> None:
    """(x, z) with z drawn given x has the law of (x, x1): its moments up to the fourth, in standard errors."""
    target, n = targets()[name], 10_000 if name == "moons" else 40_000
    for t in (0.0, 0.5, 0.9):
        x1 = target.sample((n,))
        x = t * x1 + (1 - t) * torch.randn(n, 2, dtype=F64)
        drawn = torch.cat([target.sample_posterior(part, t, 1 - t) for part in x.split(10_000)])
        one = torch.ones_like(x)
        for f, beside in (("z", one), ("z", x), ("z z", one), ("z flipped", one), ("z z", x**2)):
            gap = (moment(f, x1) - moment(f, drawn)) * beside
            assert (gap.mean(0).abs() < 5.0 * gap.std(0) / math.sqrt(n)).all()
        swapped = drawn[torch.randperm(n)]  # the right law of z, but not given this x
        gap = x1 * x - swapped * x
        assert t == 0 or (gap.mean(0).abs() > 5.0 * gap.std(0) / math.sqrt(n)).any()


def moment(name: str, z: Tensor) -> Tensor:
    return {"z": z, "z z": z**2, "z flipped": z * z.flip(1)}[name]


# What is refused


class _Falling(Linear):
    """Noise that grows against the data at first, and is gone at t = 0.75."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.where(t < 0.5, 1 - 1.9 * t, t)

    def sigma(self, t: Tensor) -> Tensor:
        return (1 - t / 0.75).clamp(min=0)


FALLING = AffinePath(_Falling())


def _at_the_end(t: Tensor, x: Tensor) -> Tensor:
    return torch.zeros_like(x)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p, x: solve_sde(lambda t, x: x, p, x, t0=0.9, t1=0.1), ValueError, "times must strictly rise"),
        (lambda p, x: solve_sde(lambda t, x: x, p, x, noise=-1.0), ValueError, "noise at t = 0 must be at least 0"),
        (lambda p, x: solve_sde(lambda t, x: x, p, x, method="milstein"), ValueError, "method must be one of"),
        (lambda p, x: solve_sde(lambda t, x: x[:, :1], p, x), ValueError, "velocity must return the shape"),
        (lambda p, x: solve_sde(lambda t, x: x, p, x.long()), TypeError, "x must hold floating-point numbers"),
        (lambda p, x: solve_sde(lambda t, x: x, "linear", x), TypeError, "path must be an AffinePath"),
        (lambda p, x: ancestral(lambda t, x: x, p, x, eta=1.5), ValueError, r"eta must lie in \[0, 1\]"),
        (lambda p, x: ancestral(lambda t, x: x, p, x, steps=0), ValueError, "steps must be a whole number"),
        (lambda p, x: ancestral(lambda t, x: x, p, x, times=[0.5, 0.2]), ValueError, "times must strictly rise"),
        (lambda p, x: ancestral(lambda t, x: x, p, x, times=[0.5, 1.0, 1.2]), ValueError, "times must lie in"),
        (lambda p, x: ancestral(lambda t, x: x[:, :1], p, x), ValueError, "data must return the shape"),
        (lambda p, x: ancestral(lambda t, x: x / 0, p, x), ValueError, "data at t = 0 must be finite"),
        (lambda p, x: ancestral(lambda x, t: x, p, x), TypeError, "time first"),
        (lambda p, x: ancestral(_at_the_end, FALLING, x, times=[0.5, 0.75, 1.0]), ValueError, "none left to remove"),
        (lambda p, x: ancestral(_at_the_end, FALLING, x, times=[0.0, 0.4]), ValueError, "it grows against the data"),
        (lambda p, x: solve_sde(lambda t, x: x, p, x, t1=7.0, steps=1), ValueError, "times must lie in"),
        (lambda p, x: solve_sde(lambda t, x: x, p, x, t1=7.0, noise=0.0), ValueError, "times must lie in"),
        (lambda p, x: solve_sde(lambda t, x: x, p, x, t0=-0.1), ValueError, "times must lie in"),
        (lambda p, x: solve_sde(lambda t, x: x, p, x, t0=torch.rand(3)), TypeError, "times must be a row of numbers"),
        (lambda p, x: solve_sde(lambda t, x: x, p, x, times=[0.0, math.nan]), ValueError, "strictly rise"),
        (lambda p, x: solve_sde(lambda t, x: x / 0, p, x, noise=0.0), ValueError, "velocity at t = 0 must be finite"),
        (lambda p, x: solve_sde(lambda x, t: x, p, x), TypeError, "time first"),
        (lambda p, x: as_velocity(lambda x, t: -x / (1 - t), p, "data"), TypeError, "time first"),
        (lambda p, x: as_velocity(lambda t, x: x, p, "epsilon"), ValueError, "predict must be one of"),
        (lambda p, x: as_velocity(lambda t, x: x, p, "noise")(0.0, x), ValueError, "alpha is 0"),
        (lambda p, x: as_velocity(3, p, "noise"), TypeError, "model must be a function"),
    ],
)
def test_what_is_refused(call: Callable[..., Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(AffinePath(), torch.ones(3, 2))
