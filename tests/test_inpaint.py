"""Filling in a picture: exact where the data are standard normal, by the exact conditional field; a guess elsewhere."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from reference import F64, SCHEDULES
from torch import Tensor, nn

from fmtutor import (
    AffinePath,
    Bound,
    ContinuousFlow,
    Cosine,
    GaussianMixture,
    Linear,
    Schedule,
    StandardNormal,
    guide,
    inpaint,
    solve,
)

KNOWN = torch.tensor([True, False, True])
IMAGE = torch.tensor([1.5, math.nan, -0.4], dtype=F64)  # what is not known does not matter
TIMES = [0.0, 1e-9, 1e-4, 0.01, 0.3, 0.7, 0.99, 1 - 1e-6]


def normal(t: Tensor, x: Tensor, path: AffinePath, s: float = 1.0, m: float = 0.0) -> Tensor:
    """The exact field of data from N(m, s^2 I), written out; at any t with finite derivatives."""
    c = path.coefficients(t, x)
    variance = c.alpha**2 * s**2 + c.sigma**2
    return (c.alpha * c.d_alpha * s**2 + c.sigma * c.d_sigma) / variance * (x - c.alpha * m) + c.d_alpha * m


def conditional(t: Tensor, x: Tensor, path: AffinePath, s: float = 1.0, m: float = 0.0) -> Tensor:
    """The exact field given the picture, each coordinate for itself: towards the known value, or as if nothing were."""
    c = path.coefficients(t, x)
    towards = c.d_alpha * IMAGE + c.d_sigma / c.sigma * (x - c.alpha * IMAGE)
    return torch.where(KNOWN, towards, normal(t, x, path, s, m))


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("name", SCHEDULES)
def test_standard_normal_data_are_filled_in_exactly(name: str, t: float) -> None:
    path, x = AffinePath(SCHEDULES[name]), 2 * torch.randn(50, 3, dtype=F64)
    for m in (0.0, -2.0):
        filled = inpaint(partial(normal, path=path, m=m), path, IMAGE, KNOWN)
        at = torch.tensor(t, dtype=F64)
        wanted = conditional(at, x, path, m=m)
        size = wanted.abs().max()
        assert (filled(at, x) - wanted).abs().max() < 1e-6 * size + 1e-9, (filled(at, x), wanted)
        torch.testing.assert_close(filled(at.expand(50), x), filled(at, x))
        small = filled(at.float(), x.float())
        assert small.dtype == torch.float32
        assert small.isfinite().all() or 1 - t < 1e-5
        assert (small - wanted).abs().max() <= 5e-5 * size or 1 - t < 1e-5  # where alpha is small, no rounding grows


@pytest.mark.parametrize("name", SCHEDULES)
def test_planted_mistakes_in_the_correction_are_seen(name: str) -> None:
    """What has been written in its place: no Jacobian, no factor b, no r^2, the sign the other way, another sigma."""
    path, x, t = AffinePath(SCHEDULES[name]), torch.randn(50, 3, dtype=F64), torch.tensor(0.4, dtype=F64)
    v = partial(normal, path=path)
    c, u = path.coefficients(t, x), v(t, x)
    mean = c.alpha / (c.alpha**2 + c.sigma**2) * x  # and this factor is its Jacobian
    off = torch.where(KNOWN, IMAGE - mean, 0.0)
    jacobian, r2 = c.alpha / (c.alpha**2 + c.sigma**2), c.sigma**2 / (c.alpha**2 + c.sigma**2)
    b = c.sigma * (c.d_alpha * c.sigma - c.alpha * c.d_sigma) / c.alpha
    found = inpaint(v, path, IMAGE, KNOWN)(t, x)
    torch.testing.assert_close(found, u + b * jacobian * off / r2)
    for wrong in (b * off / r2, jacobian * off / r2, b * jacobian * off, -b * jacobian * off / r2,
                  b * jacobian * off / c.sigma**2, b * c.sigma * jacobian * off / r2):  # fmt: skip
        exact = torch.allclose(wrong, b * jacobian * off / r2, rtol=1e-6)
        same = {"vp": 2, "cosine": 2}.get(name, 0)  # alpha^2 + sigma^2 = 1: the Jacobian is alpha, r^2 is sigma^2
        assert not exact or same
        if not exact:
            assert (found - u - wrong).abs().max() > 1e-3


@pytest.mark.parametrize("at", [0.002, 0.05, 0.4])
@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=repr)
@pytest.mark.parametrize("s", [0.4, 1.0, 2.5])
def test_of_data_of_another_size_the_pull_has_another_strength(schedule: Schedule, s: float, at: float) -> None:
    """r^2 is the variance of x1 given xt for s = 1. For N(0, s^2 I) it is `s^2 sigma^2 / (alpha^2 s^2 + sigma^2)`.

    So the pull on known coordinates is off by their ratio. The others are left alone, and the known values are reached.
    """
    path, x, t = AffinePath(schedule), torch.randn(20, 3, dtype=F64), torch.tensor(at, dtype=F64)
    v = partial(normal, path=path, s=s)
    c, filled = path.coefficients(t, x), inpaint(v, path, IMAGE, KNOWN)
    pull, exact = filled(t, x) - v(t, x), conditional(t, x, path, s) - v(t, x)
    ratio = s**2 * (c.alpha**2 + c.sigma**2) / (c.alpha**2 * s**2 + c.sigma**2)
    torch.testing.assert_close(pull, ratio * exact)
    assert torch.allclose(pull, exact, rtol=0.05) is (s == 1)
    if at != 0.4:
        return
    end, alone = (solve(f, x, t1=1 - 1e-6, steps=200).x for f in (filled, v))
    assert (end - IMAGE)[:, KNOWN].abs().max() < 1e-2 * max(1, 1 / s**2)
    torch.testing.assert_close(end[:, ~KNOWN], alone[:, ~KNOWN])


def two_blobs() -> GaussianMixture:
    return GaussianMixture(torch.tensor([[-1.5, -1.0], [1.5, 1.0]], dtype=F64), 0.7)


def test_of_a_mixture_the_filled_in_part_is_not_the_posterior() -> None:
    """The first coordinate is known to be 0.3. The posterior of the second is a mixture again, of known weights.

    Kolmogorov's distance to what `inpaint` draws is five times the 0.03 of chance, though the known coordinate agrees.
    The exact field given the picture, solved from the same noise, does draw from the posterior.
    """
    path, target, y, n = AffinePath(), two_blobs(), 0.3, 4000
    x0 = torch.randn(n, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    image, known = torch.tensor([y, 0.0], dtype=F64), torch.tensor([True, False])
    filled = inpaint(lambda t, x: path.marginal_velocity(t, x, target), path, image, known)
    x = solve(filled, x0, t1=1 - 1e-5, steps=60).x
    assert (x[:, 0] - y).abs().max() < 0.01

    weight = torch.softmax(-((y - target.means[:, 0]) ** 2) / (2 * target.scale**2), 0)
    posterior = GaussianMixture(target.means[:, 1:], target.scale, weight)
    exact = solve(lambda t, x: path.marginal_velocity(t, x, posterior), x0[:, 1:], t1=1 - 1e-5, steps=60).x[:, 0]
    gap, chance = kolmogorov(x[:, 1], posterior), kolmogorov(exact, posterior)
    assert chance < 2 / math.sqrt(n) < 0.04  # in one of 1 500 draws it is more
    assert gap > 0.15


def kolmogorov(x: Tensor, mixture: GaussianMixture) -> float:
    """The greatest distance between the share of points below a value and the probability of it."""
    x = x.sort().values
    below = torch.special.ndtr((x[:, None] - mixture.means[:, 0]) / mixture.scale) @ mixture.weights
    steps = torch.arange(len(x) + 1) / len(x)
    return max((below - steps[:-1]).abs().max().item(), (below - steps[1:]).abs().max().item())


class Painter(nn.Module):
    """A small field of pictures, with a label."""

    def __init__(self) -> None:
        super().__init__()
        self.label, self.line = nn.Embedding(4, 1), nn.Conv2d(1, 1, 3, padding=1)
        self.calls: list[int] = []

    def forward(self, t: Tensor, x: Tensor, label: Tensor) -> Tensor:
        self.calls.append(len(x))
        return torch.tanh(self.line(x) + self.label(label)[:, :, None, None]) - t.reshape(-1, 1, 1, 1) * x


def test_nothing_is_left_behind_in_x_or_in_the_network() -> None:
    network, path = Painter(), AffinePath()
    image, known = torch.rand(1, 28, 28), torch.zeros(1, 28, 28, dtype=torch.bool)
    known[:, :14] = True
    filled = inpaint(Bound(network, label=torch.tensor([1, 2])), path, image, known)
    x = torch.randn(2, 1, 28, 28)
    before = x.clone()
    plain = filled(torch.tensor(0.5), x)
    assert plain.shape == x.shape
    assert network.calls == [2]
    with torch.no_grad():
        quiet = filled(torch.tensor(0.5), x)
    with torch.inference_mode():
        silent = filled(torch.tensor(0.5), x)
        from_inside = filled(torch.tensor(0.5), x.clone())
    for other in (quiet, silent, from_inside):
        assert not other.requires_grad
        torch.testing.assert_close(other, plain.detach())
    assert x.equal(before)
    assert x.grad is None
    assert not x.requires_grad
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert network.training


@pytest.mark.parametrize("bind", [
    lambda network: Bound(network, label=torch.tensor([1, 2, 3])),
    lambda network: partial(network, label=torch.tensor([1, 2, 3])),
    lambda network: guide(network, label=2, scale=2.0, null=3),
    lambda network: guide(network, label=torch.tensor([0, 1, 2]), scale=2.0, null=3, interval=(0.2, 0.8)),
], ids=["bound", "partial", "guided", "guided for a while"])  # fmt: skip
def test_a_picture_with_a_label_goes_through_every_solver(bind) -> None:
    network, path = Painter().eval(), AffinePath()
    known = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(0)) < 0.5
    image = torch.rand(3, 1, 28, 28)
    filled = inpaint(bind(network), path, image, known)
    flow = ContinuousFlow(filled, StandardNormal(1, 28, 28), steps=5)
    x = flow.sample((3,))
    assert not x.requires_grad
    assert not filled.training
    assert (x - image)[:, known[:, :, :].expand(1, 28, 28)].abs().mean() < 0.1
    adaptive = solve(filled, torch.randn(3, 1, 28, 28), t1=0.99, method="dopri5", rtol=1e-2, atol=1e-2).x
    assert adaptive.isfinite().all()


def test_its_density_can_be_asked_for_and_a_gradient_reaches_the_network() -> None:
    """The divergence is a second derivative of the velocity: against the exact one of a Gaussian, and not cut off."""
    path = AffinePath()
    filled = inpaint(partial(normal, path=path), path, IMAGE, KNOWN)
    flow = ContinuousFlow(filled, StandardNormal(3).to(F64), t1=0.9, steps=100)
    x = torch.tensor([[1.4, 0.2, -0.3]], dtype=F64)
    free, held = 0.9**2 + 0.1**2, 0.1**2
    wanted = torch.distributions.Normal(
        torch.where(KNOWN, 0.9 * IMAGE.nan_to_num(), 0.0), torch.where(KNOWN, held, free).to(F64).sqrt()
    )
    assert flow.log_prob(x).item() == pytest.approx(wanted.log_prob(x).sum().item(), abs=1e-3)
    network = Painter()
    known = torch.ones(1, 4, 4, dtype=torch.bool)
    inpaint(Bound(network, label=1 + torch.zeros(2, dtype=torch.long)), path, torch.zeros(1, 4, 4), known)(
        torch.tensor(0.5), torch.randn(2, 1, 4, 4)
    ).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters())


def test_nothing_known_is_the_field_itself_and_the_shapes_of_one_and_of_each_agree() -> None:
    path, x, t = AffinePath(), torch.randn(4, 3, dtype=F64), torch.tensor(0.3, dtype=F64)
    v = partial(normal, path=path)
    assert inpaint(v, path, IMAGE, torch.zeros(3, dtype=torch.bool))(t, x).equal(v(t, x))
    one = inpaint(v, path, IMAGE, KNOWN)(t, x)
    for image, known in ((IMAGE.expand(4, 3), KNOWN), (IMAGE.expand(4, 3), KNOWN.expand(4, 3))):
        assert inpaint(v, path, image, known)(t, x).equal(one)
    assert inpaint(v, path, IMAGE, KNOWN).to(torch.float32).image.dtype == torch.float32


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: filled(velocity="no"), TypeError, "velocity must be a function, got str"),
        (lambda: filled(velocity=lambda x, t: x), TypeError, "the time first"),
        (lambda: filled(path=Linear()), TypeError, "path must be an AffinePath, got Linear"),
        (lambda: filled(known=KNOWN.double()), TypeError, "known must hold booleans"),
        (lambda: filled(known=[True, False, True]), TypeError, "known must be a Tensor, got list"),
        (lambda: filled(known=KNOWN[:2]), ValueError, r"known must have the shape of image, \(3,\), got \(2,\)"),
        (lambda: filled(image=torch.tensor([1, 2, 3])), TypeError, "image must hold floating-point numbers"),
        (lambda: filled(image=[1.0, 2.0, 3.0]), TypeError, "image must be a torch.Tensor, got list"),
        (lambda: filled(known=torch.ones(3).bool()), ValueError, "image, where known, must be finite, got 1 NaN"),
        (lambda: filled()(0.5, torch.zeros(2, 4)), ValueError, r"known must have shape \(4,\) or \(2, 4\), got \(3,\)"),
        (lambda: filled()(1.0, torch.zeros(2, 3)), ValueError, "at sigma = 0 every path has arrived"),
        (lambda: filled()(1.5, torch.zeros(2, 3)), ValueError, r"t must lie in \[0, 1\], got 1.5"),
        (
            lambda: filled(velocity=lambda t, x: x[:, :1])(0.5, torch.zeros(2, 3)),
            ValueError,
            r"velocity must return the shape of its input, \(2, 3\), got \(2, 1\)",
        ),
    ],
)  # fmt: skip
def test_refused(wrong, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        wrong()


def filled(velocity=lambda t, x: x, path=AffinePath(), image=IMAGE, known=KNOWN):  # noqa: B008
    return inpaint(velocity, path, image, known)
