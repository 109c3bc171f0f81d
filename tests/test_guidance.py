"""Guidance: the guided field by hand, where it takes a Gaussian, and that this is not the tilted density.

The field that fills in a picture is in `tests/test_inpaint.py`.
"""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from reference import F64
from torch import Tensor, nn

from fmtutor import (
    AffinePath,
    ContinuousFlow,
    Cosine,
    Linear,
    Schedule,
    StandardNormal,
    VarianceExploding,
    VariancePreserving,
    autoguide,
    drop_labels,
    guide,
    solve,
    solve_sde,
)

C, U = 1.0, 2.0  # variances with a label and without one


def field(t: Tensor, x: Tensor, label: Tensor, path: AffinePath) -> Tensor:
    """The exact field of a zero-mean Gaussian of variance c where the label is 1, and u where it is 0."""
    c = path.coefficients(t, x)
    s2 = torch.where(label == 1, C, U).to(x)[:, None]
    return (c.alpha * c.d_alpha * s2 + c.sigma * c.d_sigma) / (c.alpha**2 * s2 + c.sigma**2) * x


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), VariancePreserving()], ids=repr)
@pytest.mark.parametrize("g", [0.0, 1.0, 3.0])
def test_a_guided_flow_ends_at_the_geometric_mean_of_variances(schedule: Schedule, g: float) -> None:
    """`c^g u^(1-g)` on every path that starts at noise: each field multiplies x by its own standard deviation."""
    path, x0 = AffinePath(schedule), torch.tensor([[-1.0], [0.5], [2.0]], dtype=F64)
    guided = guide(partial(field, path=path), label=1, scale=g, null=0)
    end = solve(guided, x0, t1=1 - 1e-9, method="dopri5", rtol=1e-10, atol=1e-10).x
    variance = (end / x0).square()
    start = path.schedule.alpha(torch.zeros((), dtype=F64)).item()
    truth, tilted = C**g * U ** (1 - g), 1 / (g / C + (1 - g) / U)
    assert (variance - truth).abs().max() < 1e-6 + 10 * start**2
    if g == 3:
        assert truth == 0.25
        assert tilted == pytest.approx(0.5)
        assert (variance - tilted).abs().min() > 0.1  # it is not the tilted density
        swapped = C ** (1 - g) * U**g
        assert (variance - swapped).abs().min() > 1  # nor the weights of the two exchanged


def test_the_reverse_diffusion_of_an_exploding_variance_ends_at_a_third_value() -> None:
    """`dX = s dtau + dW` with the guided score s, tau the variance of the noise, falling from infinity to 0.

    The variance is `c^2g u^(2-2g)` times the integral of `(c + tau)^-2g (u + tau)^(2g-2)`; a draw of 40 000 points
    agrees to 5 standard errors of a variance, plus what the steps add, which is measured at half and at all of them.
    """
    path, g, n = AffinePath(VarianceExploding(0.01, 30.0)), 3.0, 40_000
    third = (2 - 2 ** (2 - 2 * g)) / (2 * g - 1)
    assert third == pytest.approx(0.3875)
    tau = 10 ** torch.linspace(-9, 9, 20_001, dtype=F64)
    integral = torch.trapezoid((C + tau) ** (-2 * g) * (U + tau) ** (2 * g - 2), tau).item()
    assert C ** (2 * g) * U ** (2 - 2 * g) * integral == pytest.approx(third, rel=1e-5)

    def noise(t: float) -> float:
        sigma = path.schedule.sigma(torch.tensor(t, dtype=F64)).item()
        return sigma * math.sqrt(2 * math.log(3000))  # g^2 = -d(sigma^2)/dt

    guided = guide(partial(field, path=path), label=1, scale=g, null=0)
    x0 = 30 * torch.randn(n, 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    ends = [
        solve_sde(guided, path, x0, noise=noise, steps=k, generator=torch.Generator().manual_seed(1)).x.var().item()
        for k in (50, 100)
    ]
    slack = 5 * third * math.sqrt(2 / n) + abs(ends[1] - ends[0])
    assert abs(ends[1] - third) < slack < 0.04
    assert min(abs(ends[1] - other) for other in (0.25, 0.5)) > 0.08  # neither the ordinary equation nor the tilt


def test_guidance_is_what_its_formula_says() -> None:
    torch.manual_seed(0)
    network = Labelled().double()
    x, t, label = torch.randn(5, 3, dtype=F64), torch.rand(5, dtype=F64), torch.tensor([0, 1, 2, 1, 0])
    null = torch.full((5,), 3)
    for scale in (-1.0, 0.0, 1.0, 2.5):
        wanted = scale * network(t, x, label) + (1 - scale) * network(t, x, null)
        found = guide(network, label, scale, null=3)
        torch.testing.assert_close(found(t, x), wanted)
        torch.testing.assert_close(found(t[0], x)[:1], wanted[:1])
    torch.testing.assert_close(guide(network, 1, 2.0, 3)(t, x), guide(network, torch.ones(5).long(), 2.0, null)(t, x))


def test_a_guided_network_is_a_field_like_any_other() -> None:
    network = Labelled().eval()
    guided = guide(network, label=2, scale=2.0, null=3)
    flow = ContinuousFlow(guided, StandardNormal(3), steps=4)
    assert flow.log_prob(flow.sample((6,))).shape == (6,)
    assert not flow.sample((2,)).requires_grad
    assert {id(p) for p in guided.parameters()} == {id(p) for p in network.parameters()}
    assert guided.double()(0.5, torch.zeros(2, 3, dtype=F64)).dtype == F64
    calls: list[int] = []
    network.register_forward_hook(lambda _, args, out: calls.append(len(out)))
    guided(0.5, torch.zeros(4, 3, dtype=F64)), guide(network, 2, 1.0, 3)(0.5, torch.zeros(4, 3, dtype=F64))
    assert calls == [8, 4]  # both halves in one batch, and one half where the other has no weight


def test_outside_its_interval_guidance_is_the_labelled_field_for_half_the_work() -> None:
    network, calls = Labelled().double().eval(), []
    network.register_forward_hook(lambda _, args, out: calls.append(len(out)))
    x, label = torch.randn(4, 3, dtype=F64), torch.tensor([0, 1, 2, 0])
    limited, always = guide(network, label, 2.0, 3, interval=(0.25, 0.75)), guide(network, label, 2.0, 3)
    asked = [0.0, 0.2, 0.25, 0.5, 0.75, 0.8, 1.0]
    for t in asked:
        inside = 0.25 <= t <= 0.75
        at = torch.tensor(t, dtype=F64)
        assert limited(at, x).equal(always(at, x) if inside else network(at, x, label))
        torch.testing.assert_close(limited(t, x), limited(at, x))
    calls.clear()
    for t in asked:
        limited(t, x)
    assert calls == [4, 4, 8, 8, 8, 4, 4]
    each = torch.tensor([0.1, 0.5, 0.9, 0.75], dtype=F64)
    wanted = torch.where(torch.tensor([[False], [True], [False], [True]]), always(each, x), network(each, x, label))
    torch.testing.assert_close(limited(each, x), wanted)
    calls.clear()
    solve(limited, x, times=(0.0, 0.25, 0.75, 1.0), method="euler", steps=8)
    assert calls == [4, 4, 8, 8, 8, 8, 4, 4]  # the step that begins at the end of the interval is outside


@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=repr)
def test_guided_for_a_while_a_gaussian_ends_where_the_factors_say(schedule: Schedule) -> None:
    """Each field multiplies x by the growth of its own deviation, `S_t^2 = alpha^2 s^2 + sigma^2`, over its time."""
    path, g, (a, b) = AffinePath(schedule), 3.0, (0.3, 0.7)

    def grown(s2: float, r: float, t: float) -> float:
        (a0, a1), (s0, s1) = (
            [float(f(torch.tensor(x, dtype=F64))) for x in (r, t)] for f in (schedule.alpha, schedule.sigma)
        )
        return math.sqrt((a1**2 * s2 + s1**2) / (a0**2 * s2 + s0**2))

    guided = guide(partial(field, path=path), label=1, scale=g, null=0, interval=(a, b))
    x0 = torch.tensor([[-1.0], [2.0]], dtype=F64)
    end = solve(guided, x0, times=(0.0, a, b, 1.0), method="rk4", steps=200).x
    truth = grown(C, 0, a) * grown(C, a, b) ** g * grown(U, a, b) ** (1 - g) * grown(C, b, 1)
    assert (end / x0 - truth).abs().max() < 1e-8
    outside = grown(C, a, b) * (grown(C, 0, a) * grown(C, b, 1)) ** g * (grown(U, 0, a) * grown(U, b, 1)) ** (1 - g)
    assert abs(truth - outside) > 0.01  # guided outside the interval instead
    assert abs(truth - math.sqrt(C**g * U ** (1 - g))) > 0.01  # or everywhere


def test_autoguidance_is_what_its_formula_says() -> None:
    torch.manual_seed(0)
    strong, weak = (partial(Labelled().double().eval(), label=torch.tensor([0, 1, 2, 3, 0])) for _ in range(2))
    x, t = torch.randn(5, 3, dtype=F64), torch.rand(5, dtype=F64)
    for scale in (-1.0, 0.0, 1.0, 2.5):
        found = autoguide(strong, weak, scale)
        torch.testing.assert_close(found(t, x), scale * strong(t, x) + (1 - scale) * weak(t, x))
        torch.testing.assert_close(found(t[0], x)[0], found(t, x)[0])
    exchanged = autoguide(weak, strong, 2.5)(t, x)
    assert (exchanged - autoguide(strong, weak, 2.5)(t, x)).abs().max() > 0.1
    calls: list[int] = []
    weak.func.register_forward_hook(lambda *_: calls.append(1))
    autoguide(strong, weak, 1.0)(0.5, x)
    assert not calls  # without a weight nobody asks it

    def careless(t: Tensor, x: Tensor) -> Tensor:
        t.zero_()
        return x.mul_(2)

    # time and place are what they were for the other
    assert autoguide(careless, lambda t, x: 2 * t * x, 3.0)(0.5, torch.ones(1, 1)).item() == 4


def test_autoguidance_removes_an_error_that_the_weak_model_makes_further() -> None:
    """Variance 1 wanted; the strong model has learned 1.2, the weak one 1.44: at scale 2 their errors cancel."""
    path, x0 = AffinePath(), torch.tensor([[1.0]], dtype=F64)

    def exact(s2: float) -> partial:
        return partial(
            lambda t, x, target: path.marginal_velocity(t, x, target), target=StandardNormal(1, scale=s2**0.5).to(F64)
        )

    end = solve(autoguide(exact(1.2), exact(1.44), 2.0), x0, t1=1 - 1e-9, method="dopri5", rtol=1e-9, atol=1e-9).x
    assert end.square().item() == pytest.approx(1.2**2 * 1.44**-1, abs=1e-6)


def test_both_networks_of_an_autoguided_field_are_seen() -> None:
    strong, weak = Labelled().eval(), Labelled().eval()
    guided = autoguide(partial(strong, label=torch.tensor(1)), partial(weak, label=torch.tensor(1)), 2.0)
    assert {id(p) for p in guided.parameters()} == {id(p) for m in (strong, weak) for p in m.parameters()}
    assert not guided.training
    flow = ContinuousFlow(guided, StandardNormal(3), steps=2)
    assert not flow.log_prob(flow.sample((3,))).requires_grad
    assert flow.to(F64).to(F64).velocity(0.5, torch.zeros(2, 3, dtype=F64)).dtype == F64
    assert (
        not ContinuousFlow(guide(lambda t, x, label: strong(t, x, label), 1, 2.0, 3), StandardNormal(3), steps=2)
        .rsample((2,))
        .requires_grad
    )


def test_labels_are_dropped_as_often_as_asked_and_nowhere_else() -> None:
    """100 000 draws; 5 standard errors of a share of 0.1 are 0.005."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(100_000) % 10
    kept = drop_labels(label, 0.1, null=10, generator=generator)
    assert abs((kept == 10).double().mean().item() - 0.1) < 5 * math.sqrt(0.09 / 100_000)
    assert kept[kept != 10].equal(label[kept != 10])
    shares = (kept == 10).double().reshape(-1, 10).mean(0)  # of each class alike, so it is drawn for each point
    assert (shares - 0.1).abs().max() < 5 * math.sqrt(0.09 / 10_000)
    assert drop_labels(label, 0.0, null=10).equal(label)
    again = drop_labels(label, 0.1, null=10, generator=torch.Generator().manual_seed(0))
    assert again.equal(kept)
    assert drop_labels(label.int(), 0.5, null=10).dtype == torch.int32


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: guide("no", 1, 2.0, 0), TypeError, "velocity must be a function, got str"),
        (lambda: guide(Labelled(), 1.5, 2.0, 3), TypeError, "label must be a whole number"),
        (lambda: guide(Labelled(), torch.ones(2, 2).long(), 2.0, 3), TypeError, "label must be a whole number"),
        (lambda: guide(Labelled(), 1, math.inf, 3), ValueError, "scale must be finite, got inf"),
        (lambda: guide(Labelled(), 1, "2", 3), TypeError, "scale must be a number, got '2'"),
        (
            lambda: guide(Labelled(), torch.tensor([1, 2]), 2.0, 3)(0.5, torch.zeros(3, 3)),
            ValueError,
            "label must be one for each of 3 points, got 2",
        ),
        (lambda: guide(Labelled(), 1, 2.0, 3, interval=0.5), TypeError, "interval must be a pair of times, got 0.5"),
        (lambda: guide(Labelled(), 1, 2.0, 3, interval=(0.1, 0.2, 0.3)), TypeError, "interval must be a pair of times"),
        (lambda: guide(Labelled(), 1, 2.0, 3, interval="01"), TypeError, "interval must be a pair of times, got '01'"),
        (lambda: guide(Labelled(), 1, 2.0, 3, interval=(0.7, 0.3)), ValueError, "run forward inside"),
        (lambda: guide(Labelled(), 1, 2.0, 3, interval=(0.5, math.nan)), ValueError, "run forward inside"),
        (lambda: guide(Labelled(), 1, 2.0, 3, interval=(0.5, 1.5)), ValueError, r"inside \[0, 1\], got \(0.5, 1.5\)"),
        (lambda: autoguide("no", line, 2.0), TypeError, "velocity must be a function, got str"),
        (lambda: autoguide(line, None, 2.0), TypeError, "weak must be a function, got NoneType"),
        (lambda: autoguide(line, lambda x, t: x, 2.0), TypeError, "the time first"),
        (lambda: autoguide(line, line, math.nan), ValueError, "scale must be finite, got nan"),
        (
            lambda: autoguide(line, lambda t, x: x[:, :1], 2.0)(0.5, torch.zeros(3, 2)),
            ValueError,
            r"weak must return the shape of its input, \(3, 2\), got \(3, 1\)",
        ),
        (
            lambda: autoguide(lambda t, x: x[:, :1], line, 2.0)(0.5, torch.zeros(3, 2)),
            ValueError,
            r"velocity must return the shape of its input, \(3, 2\), got \(3, 1\)",
        ),
        (lambda: drop_labels(torch.zeros(3), 0.1, 10), TypeError, "label must be a tensor of whole numbers"),
        (lambda: drop_labels(torch.zeros(3).long(), 1.1, 10), ValueError, r"p must lie in \[0, 1\], got 1.1"),
    ],
)
def test_refused(wrong, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        wrong()


def line(t: Tensor, x: Tensor) -> Tensor:
    return x


class Labelled(nn.Module):
    """A small field with a label: 3 classes and one for none."""

    def __init__(self) -> None:
        super().__init__()
        self.label = nn.Embedding(4, 3)
        self.line = nn.Linear(3, 3)

    def forward(self, t: Tensor, x: Tensor, label: Tensor) -> Tensor:
        t = torch.as_tensor(t, dtype=x.dtype).expand(len(x))[:, None]
        return torch.tanh(self.line(x) + t * self.label(label))
