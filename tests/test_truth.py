"""What crosses modules: points carried by the exact field arrive as the target, and wrong fields are found out.

The judge is the energy distance. Under the null, `n` times its estimate has a law that hardly depends on n; we draw
100 values of it at n = 400, and refuse what lies above all of them by half (a right field: well under one seed in 100).
Power: where the exact field passes with 10 000 points, wrong ones are refused with 2 000, and with 10 000 also one that
is slow by a tenth (on the board three times the bound; by a fifth on the eight Gaussians, four times it): near the end
such a field still points home, and nearly mends what it missed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from reference import targets
from torch import Tensor

from fmtutor import (
    AffinePath,
    ContinuousFlow,
    Cosine,
    Linear,
    Polynomial,
    Schedule,
    StandardNormal,
    VarianceExploding,
    VariancePreserving,
    solve,
)
from fmtutor.distributions import Target
from fmtutor.metrics import energy_distance

Field = Callable[[Tensor, Tensor], Tensor]
NOISE = StandardNormal(2).to(torch.float64)
LAST = 1 - 1e-3  # the noise that is left is far below what 10 000 draws can tell


def target_of(name: str) -> Target:
    return targets()[name]  # type: ignore[return-value]


@cache
def bound(name: str, n: int = 400) -> float:
    """What n times the energy distance of two samples of one law does not exceed."""
    generator = torch.Generator().manual_seed(0)
    target = target_of(name)
    found = []
    for _ in range(100):
        x, y = target.sample((2 * n,), generator=generator).split(n)
        found.append(n * energy_distance(x, y))
    return 1.5 * max(found)


def carried(field: Field, n: int, base: Target = NOISE, times: Tensor | None = None) -> Tensor:
    """Noise at t = 0, followed to the end with steps that shrink as the noise does."""
    times = 1 - 1e-3 ** torch.linspace(0, 1, 31) if times is None else times
    return solve(field, base.sample((n,)), method="midpoint", steps=1, times=times).x


def arrives(name: str, x: Tensor) -> bool:
    return len(x) * energy_distance(x, target_of(name).sample((len(x),))) < bound(name)


def exact(name: str, schedule: Schedule | None = None) -> Field:
    path, target = AffinePath(schedule), target_of(name)
    return lambda t, x: path.marginal_velocity(t, x, target)


@pytest.mark.parametrize("name", ["board", "eight", "mixture", "normal", "moons", "spirals", "data"])
def test_the_exact_field_carries_noise_to_the_target(name: str) -> None:
    assert arrives(name, carried(exact(name), 2_000 if name in ("moons", "spirals") else 10_000))


OTHERS = [VariancePreserving(), Linear(sigma_min=1e-3), Cosine(), Polynomial(2)]  # all that start at this noise


@pytest.mark.parametrize("schedule", OTHERS, ids=repr)
def test_on_other_paths_too(schedule: Schedule) -> None:
    assert arrives("eight", carried(exact("eight", schedule), 10_000))
    if isinstance(schedule, VariancePreserving):
        assert arrives("board", carried(exact("board", schedule), 10_000))


@pytest.mark.parametrize("name", ["board", "eight", "data"])
def test_the_variance_exploding_path_from_its_own_source(name: str) -> None:
    """Noise that falls by one factor a step, from a normal of its own scale; from the standard one it goes wrong."""
    u, times = exact(name, VarianceExploding(sigma_min=1e-3, sigma_max=30.0)), torch.linspace(0, 1, 61)
    source = StandardNormal(2, scale=30.0).to(torch.float64)
    assert arrives(name, carried(u, 10_000, source, times))
    assert not arrives(name, carried(u, 2_000, NOISE, times)), "another source"
    assert not arrives(name, carried(lambda t, x: 0.7 * u(t, x), 2_000, source, times)), "too slow"


@pytest.mark.parametrize("name", ["board", "eight"])
def test_wrong_fields_are_found_out(name: str) -> None:
    u, target = exact(name), target_of(name)
    wrong: dict[str, Field] = {
        "sign": lambda t, x: -u(t, x),
        "too slow": lambda t, x: (0.9 if name == "board" else 0.8) * u(t, x),
        "reversed time": lambda t, x: u((1 - t).clamp(max=LAST), x),
        "no 1 / (1 - t)": lambda t, x: target.posterior_mean(x, t, 1 - t) - x,
        "x0 for E[x0 | x]": lambda t, x: target.posterior_mean(x, t, 1 - t),
    }
    for label, field in wrong.items():
        n = 10_000 if label == "too slow" else 2_000
        assert not arrives(name, carried(field, n)), label
    noisy, spread = carried(u, 2_000), 2.0 if name == "board" else 0.5  # the board is wide: little hurts it
    assert arrives(name, noisy)
    assert not arrives(name, noisy + spread * torch.randn_like(noisy)), "noise added at the end"


def test_the_flow_of_the_exact_field_is_the_target_in_nats() -> None:
    """Flow and truth agree on log p point by point, and the flow's own density gives the target's entropy."""
    board = target_of("board")
    flow = ContinuousFlow(exact("board"), NOISE, method="rk4", steps=24, t1=0.95)
    x1 = board.sample((400,))
    xt = AffinePath().sample(NOISE.sample((400,)), x1, 0.95).xt
    with torch.no_grad():
        by_flow = flow.log_prob(xt)
    truth = AffinePath().marginal_log_prob(0.95, xt, board)
    assert (by_flow - truth).abs().median() < 1e-3
    assert abs(float((by_flow - truth).mean())) < 1e-2
    assert abs(float((by_flow + board.entropy()).mean())) < 0.2  # 5 % of noise moves little across the edges


def test_a_field_may_satisfy_the_continuity_equation_and_lose_its_points() -> None:
    """u = 1 + x^2 and a Cauchy density: nothing changes at any place, and 1 / pi of the points are gone before t = 1.

    So the theorems of chapters 2 and 3 ask that trajectories last. The fields of our paths have a finite mean speed.
    """
    cauchy = torch.distributions.Cauchy(torch.tensor(0.0).double(), 1.0)
    x = torch.linspace(-30, 30, 301, dtype=torch.float64).requires_grad_()
    flux = cauchy.log_prob(x).exp() * (1 + x**2)
    assert torch.autograd.grad(flux.sum(), x)[0].abs().max() < 1e-12  # and p does not depend on t
    stays = torch.tan(torch.atan(torch.tensor([-1.0], dtype=torch.float64)) + 0.9)
    moved = solve(lambda t, x: 1 + x**2, torch.tensor([[-1.0]], dtype=torch.float64), t1=0.9, method="rk4", steps=100)
    assert torch.allclose(moved.x[0], stays, atol=1e-8)  # x_t = tan(t + atan x0)
    escaped = (cauchy.sample((100_000,)).atan() + 1 > torch.pi / 2).double().mean()
    assert abs(escaped - 1 / torch.pi) < 5 * 0.4656 / 100_000**0.5
    with pytest.raises(ValueError, match="led to NaN or infinity"):
        solve(lambda t, x: 1 + x**2, torch.tensor([[1.0]], dtype=torch.float64), method="rk4", steps=2000)


@pytest.mark.parametrize("t", [0.2, 0.6, 0.9])
def test_the_mean_speed_of_the_marginal_field_is_at_most_that_of_the_pairs(t: float) -> None:
    """Jensen's inequality, which keeps the points of our paths from running away: `E|u_t(xt)| <= E|x1 - x0|`."""
    board = target_of("board")
    x0, x1 = NOISE.sample((4000,)), board.sample((4000,))
    _, xt, ut = AffinePath().sample(x0, x1, t)
    marginal = exact("board")(torch.tensor(t), xt).norm(dim=1)
    gap = ut.norm(dim=1) - marginal
    assert gap.mean() > 5 * gap.std() / 4000**0.5
