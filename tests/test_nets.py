"""The small network: the same answer however time is given, every parameter alive, and weights that survive a file."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fmtutor import VariancePreserving, VelocityMLP
from fmtutor.nets import FourierFeatures, octaves


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 5), st.integers(0, 7), st.floats(0, 1), st.sampled_from([0, 3]))
def test_a_shared_time_and_one_for_each_row_are_the_same(dim: int, batch: int, t: float, frequencies: int) -> None:
    net, x = VelocityMLP(dim, width=8, depth=2, frequencies=frequencies).double(), torch.randn(batch, dim).double()
    shared = net(t, x)
    assert shared.shape == x.shape
    assert shared.dtype == torch.float64
    torch.testing.assert_close(net(torch.tensor(t).double(), x), shared)
    torch.testing.assert_close(net(torch.full((batch,), t).double(), x), shared)
    if batch > 1:  # each row has its own time, also where there are as many rows as coordinates
        times = torch.linspace(0, 1, batch).double()
        each = torch.cat([net(time, row[None]) for time, row in zip(times, x, strict=True)])
        torch.testing.assert_close(net(times, x), each)


def test_every_parameter_gets_a_gradient_and_time_and_place_matter() -> None:
    net = VelocityMLP(dim=2)
    net(torch.rand(64), torch.randn(64, 2)).square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    x = torch.zeros(1, 2)
    assert not net(0.1, x).equal(net(0.9, x))
    assert not net(0.1, x).equal(net(0.1, x + 1))


def test_state_dict_brings_the_random_features_along() -> None:
    net, other = VelocityMLP(dim=2), VelocityMLP(dim=2)
    x = torch.randn(5, 2)
    assert not net(0.3, x).equal(other(0.3, x))
    other.load_state_dict({name: value.clone() for name, value in net.state_dict().items()})
    assert net(0.3, x).equal(other(0.3, x))
    assert "position.projection" in net.state_dict()
    assert "position.projection" not in dict(net.named_parameters())


def test_fourier_features_by_hand() -> None:
    features = FourierFeatures(2, frequencies=3)
    x, noise, w = torch.tensor([[0.5, -1.0]]), 0.4, features.projection
    wanted = [0.5, -1.0]
    for wave in (math.sin, math.cos):
        for k in range(3):
            a, b = w[:, k].tolist()
            wanted.append(math.exp(-0.5 * (a * a + b * b) * noise**2) * wave(0.5 * a - b))
    torch.testing.assert_close(features(x, torch.tensor([[noise]])), torch.tensor([wanted]))


def test_damping_is_the_mean_over_the_noise() -> None:
    """100 000 draws, 4 standard errors of at most 1 / sqrt(n); the wave without damping is refused."""
    features, x, noise = FourierFeatures(2, frequencies=4, highest=2.0), torch.tensor([[0.3, 0.8]]), 0.6
    n = 100_000
    undamped = features((x + noise * torch.randn(n, 2)), torch.zeros(n, 1)).mean(0)
    assert (features(x, torch.full((1, 1), noise))[0] - undamped).abs().max() < 4 / math.sqrt(n)
    assert (features(x, torch.zeros(1, 1))[0] - undamped).abs().max() > 10 / math.sqrt(n)


def test_waves_are_spread_evenly_in_the_logarithm() -> None:
    """Their lengths are scale times a Rayleigh number of rms sqrt(2): within 4 standard errors at both ends."""
    lengths = FourierFeatures(2, frequencies=4000, lowest=0.5, highest=8.0).projection.square().sum(0)
    for part, scale in ((lengths[:40], 0.5), (lengths[-40:], 8.0)):
        assert part.mean().div(2).sqrt().item() == pytest.approx(scale, rel=0.33)


def test_octaves_by_hand() -> None:
    t = 0.3
    wanted = [t, *(math.sin(math.pi * t * 2**k) for k in range(4)), *(math.cos(math.pi * t * 2**k) for k in range(4))]
    torch.testing.assert_close(octaves(torch.tensor([[t]])), torch.tensor([wanted]))


@pytest.mark.parametrize("shared", [True, False])
def test_the_whole_network_by_hand(shared: bool) -> None:
    """Waves of position damped by the noise 1 - t, x itself, the clock, and layers with x sigmoid(x) between."""
    net, x = VelocityMLP(2, width=5, depth=2, frequencies=3).double(), torch.randn(4, 2).double()
    t = torch.full((4,), 0.8, dtype=torch.float64) if shared else torch.tensor([0.1, 0.4, 0.8, 1.0]).double()

    def by_hand(noise: torch.Tensor) -> torch.Tensor:
        w, projection = dict(net.state_dict()), net.position.projection
        angle, damping = x @ projection, torch.exp(-0.5 * (projection**2).sum(0) * noise[:, None] ** 2)
        clock = [
            t,
            *(torch.sin(math.pi * 2**k * t) for k in range(4)),
            *(torch.cos(math.pi * 2**k * t) for k in range(4)),
        ]
        h = torch.cat([x, damping * torch.sin(angle), damping * torch.cos(angle), torch.stack(clock, 1)], 1)
        for layer in (0, 2, 4):
            h = h @ w[f"layers.{layer}.weight"].T + w[f"layers.{layer}.bias"]
            h = h * torch.sigmoid(h) if layer < 4 else h
        return h

    found = net(0.8 if shared else t, x)
    torch.testing.assert_close(found, by_hand(1 - t), rtol=1e-10, atol=1e-10)
    for wrong in (t, 0 * t, (1 - t) ** 2):  # damped by the wrong end, not at all, by the variance
        assert (found - by_hand(wrong)).abs().max() > 1e-3


@pytest.mark.parametrize("t", [torch.tensor(0.3), torch.tensor([0.0, 0.3, 0.7, 1.0])], ids=["shared", "each"])
def test_the_waves_are_damped_by_the_noise_of_the_path(t: torch.Tensor) -> None:
    torch.manual_seed(0)
    x, vp = torch.randn(4, 2), VariancePreserving()
    usual, own = VelocityMLP(2), VelocityMLP(2, noise=vp.sigma)
    own.load_state_dict(usual.state_dict())
    seen: list[torch.Tensor] = []
    own.position.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    moved = copy.deepcopy(own).double()(t.double(), x.double())
    torch.testing.assert_close(own(t, x), moved.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen[-1].flatten(), vp.sigma(t).flatten().expand(seen[-1].numel()))
    assert not torch.allclose(own(t, x), usual(t, x), rtol=1e-3, atol=1e-4)
    same = VelocityMLP(2, noise=lambda t: 1 - t)
    same.load_state_dict(usual.state_dict())
    assert same(t, x).equal(usual(t, x))


def test_a_noise_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="noise must be a function, got float"):
        VelocityMLP(2, noise=0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"noise must return the shape of its input, \(1, 1\), got \(1, 2\)"):
        VelocityMLP(2, noise=lambda t: torch.cat([t, t], 1))(0.5, torch.zeros(3, 2))


def test_no_hidden_layer_is_a_linear_model() -> None:
    net = VelocityMLP(2, depth=0, frequencies=0).double()
    x, y = torch.randn(2, 1, 2).double().unbind()
    torch.testing.assert_close(net(0.5, x) + net(0.5, y), net(0.5, x + y) + net(0.5, 0 * x))


@pytest.mark.parametrize(
    ("t", "x", "error", "wanted"),
    [
        (0.5, torch.zeros(3, 3), ValueError, r"x must have shape \(batch, 2\), got \(3, 3\)"),
        (0.5, torch.zeros(2), ValueError, r"x must have shape \(batch, 2\), got \(2,\)"),
        (0.5, torch.zeros(3, 2).long(), TypeError, "x must hold floating-point numbers, got torch.int64"),
        (1.5, torch.zeros(3, 2), ValueError, r"t must lie in \[0, 1\], got 1.5"),
        (torch.rand(2), torch.zeros(3, 2), ValueError, r"t must be a scalar or have shape \(3,\)"),
        (torch.rand(3, 1), torch.zeros(3, 2), ValueError, r"got shape \(3, 1\)"),
    ],
)
def test_refused(t: object, x: torch.Tensor, error: type[Exception], wanted: str) -> None:
    with pytest.raises(error, match=wanted):
        VelocityMLP(dim=2)(t, x)  # type: ignore[arg-type]
