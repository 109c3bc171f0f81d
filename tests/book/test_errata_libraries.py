"""Mistakes that we have read in public libraries. None of these is a dependency: each test holds a small version of the
mistaken computation, written here, beside the right one. The page `errata.md` says where each was read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize

from fmtutor import AffinePath, Checkerboard, divergence, solve

F64 = torch.float64


def test_meta_the_density_of_the_board_is_not_one_over_32() -> None:
    """Eight squares of side 1 / 0.45. A density of 1 / 32 belongs to squares of side 2."""
    area = 8 / 0.45**2
    inside = Checkerboard().log_prob(torch.tensor([[1.0, 1.0]])).exp().item()
    for density, right in ((0.2025 / 8, True), (inside, True), (1 / 32, False)):
        assert math.isclose(density * area, 1, rel_tol=1e-6) is right
    assert math.isclose(area / 32, 1 / 0.45**2 / 4)
    assert Checkerboard(size=2.0).log_prob(torch.tensor([[1.0, 1.0]])).exp().item() == pytest.approx(1 / 32)


def columns(field: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A trace that counts the numbers of an event and then looks for them among the columns."""
    x = x.detach().requires_grad_()
    u, total = field(x), 0
    for i in range(u.flatten(1).shape[1]):
        total = total + torch.autograd.grad(u[:, i].sum(), x, retain_graph=True)[0][:, i]
    return torch.as_tensor(total)


@pytest.mark.parametrize("shape", [(3, 2), (3, 1, 2, 2)])
def test_meta_a_divergence_over_columns_knows_no_images(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=F64)
    field = lambda x: x.roll(1, -1) ** 2 + x**3  # noqa: E731
    truth = torch.stack(
        [
            torch.func.jacrev(lambda row: field(row[None])[0].flatten())(row).reshape(x[0].numel(), -1).trace()
            for row in x
        ]
    )
    torch.testing.assert_close(divergence(lambda t, x: field(x), 0.5, x)[1], truth)
    if len(shape) == 2:
        torch.testing.assert_close(columns(field, x), truth)
    else:
        with pytest.raises(IndexError):
            columns(field, x)


def sorted_times(velocity: Callable[[float], float], x: float, times: tuple[float, float], step: float) -> float:
    """Euler's method on a grid that sorts the times it is given, and counts its steps from zero."""
    first, last = sorted(times)
    grid = [step * k for k in range(math.ceil((last - first) / step))] + [last]
    for a, b in pairwise(grid):
        x = x + (b - a) * velocity(a)
    return x


def test_meta_a_solver_that_sorts_its_times_goes_forwards_only() -> None:
    """With speed 1, who goes from 1 back to 0 ends one lower; who starts at 0.5 has half of the way to go."""
    for times, right in (((0.0, 1.0), True), ((1.0, 0.0), False), ((0.5, 1.0), False)):
        way = times[1] - times[0]
        theirs = sorted_times(lambda t: 1.0, 2.0, times, 0.1)
        assert math.isclose(theirs, 2 + way, rel_tol=1e-9) is right
        ours = solve(lambda t, x: torch.ones_like(x), torch.tensor([[2.0]], dtype=F64), *times, method="euler").x
        assert ours.item() == pytest.approx(2 + way)
    assert sorted_times(lambda t: 1.0, 2.0, (1.0, 0.0), 0.1) == pytest.approx(3)
    assert sorted_times(lambda t: 1.0, 2.0, (0.5, 1.0), 0.1) == pytest.approx(3)


def angle(x: Tensor, y: Tensor) -> Tensor:
    """The distance on the unit sphere with its digits at both ends (Kahan)."""
    return 2 * torch.atan2((x - y).norm(dim=-1), (x + y).norm(dim=-1))


def test_meta_the_distance_of_a_point_of_the_sphere_to_itself() -> None:
    """`acos` of an inner product: rounding lifts some of them above 1, in float32 and in float64."""
    for dtype in (torch.float32, F64):
        x = normalize(torch.randn(20_000, 3, dtype=dtype, generator=torch.Generator().manual_seed(0)), dim=1)
        share = torch.acos((x * x).sum(1)).isnan().double().mean()
        assert 0.05 < share < 0.5
        assert not angle(x, x).any()
        assert torch.allclose(angle(x, -x), torch.tensor(math.pi, dtype=dtype))
        y = normalize(torch.randn(20_000, 3, dtype=dtype), dim=1)
        far = (x * y).sum(1).abs() < 0.9  # there the two agree
        assert torch.allclose(torch.acos((x * y).sum(1))[far], angle(x, y)[far], atol=1e-5)


def test_meta_an_antipode_never_moves() -> None:
    """Seen from x, y - x = -2 x has nothing along the sphere: a projected difference sends nobody anywhere."""
    x = normalize(torch.tensor([[1.0, 2.0, 2.0]], dtype=F64), dim=1)
    for y, moves in ((-x, False), (normalize(torch.tensor([[2.0, 1.0, 2.0]], dtype=F64), dim=1), True)):
        u = (y - x) - ((y - x) * x).sum(1, keepdim=True) * x
        u = u * angle(x, y)[:, None] / u.norm(dim=1, keepdim=True).clamp_min(1e-7)
        assert (u.norm().item() > 0.1) is moves
        assert math.isclose(u.norm().item(), angle(x, y).item(), rel_tol=1e-9) is moves
    any_direction = normalize(torch.tensor([[2.0, -1.0, 0.0]], dtype=F64), dim=1) * math.pi  # all are as good
    there = x * math.cos(math.pi) + any_direction * math.sin(math.pi) / math.pi
    assert (there + x).norm() < 1e-12


def test_meta_a_colon_makes_one_sample_of_three_quarters() -> None:
    n = 4096
    for chosen, share in ((torch.randperm(n)[: int(n * 0.75)], 0.75), (torch.randperm(n)[int(n * 0.75)], 1 / n)):
        r, t = torch.rand(n, dtype=F64), torch.rand(n, dtype=F64)
        r[chosen] = t[chosen]
        assert (r == t).double().mean() == share


def plan(x0: Tensor, x1: Tensor) -> np.ndarray:
    """The optimal plan of two batches: each row and each column has one entry, 1 / n."""
    _, columns = linear_sum_assignment(torch.cdist(x0, x1).square().numpy())
    found = np.zeros((len(x0), len(x1)))
    found[np.arange(len(x0)), columns] = 1 / len(x0)
    return found


def test_torchcfm_a_plan_that_is_sampled_loses_a_share_of_its_batch() -> None:
    """Of n entries, n draws with replacement miss each with probability (1 - 1/n)^n, which tends to 1 / e."""
    n, rounds, generator = 128, 60, np.random.default_rng(0)
    lost = []
    for _ in range(rounds):
        p = plan(torch.randn(n, 2), torch.randn(n, 2))
        drawn = generator.choice(n * n, p=p.flatten(), size=n) % n
        lost.append(1 - len(set(drawn.tolist())) / n)
        assert len(set(p.argmax(1).tolist())) == n  # a permutation loses nothing
    assert np.mean(lost) == pytest.approx((1 - 1 / n) ** n, abs=5 * 0.5 / math.sqrt(n * rounds))
    assert (1 - 1 / n) ** n == pytest.approx(math.exp(-1), rel=0.01)


def test_torchcfm_torch_does_not_seed_the_draws_of_numpy() -> None:
    state, drawn, ours = np.random.get_state(), [], []  # noqa: NPY002 - the global generator is the point
    for _ in range(2):
        torch.manual_seed(0)
        drawn.append(np.random.choice(10**9, size=4).tolist())  # noqa: NPY002
        ours.append(torch.randint(10**9, (4,)).tolist())
    np.random.set_state(state)  # noqa: NPY002
    assert ours[0] == ours[1]
    assert drawn[0] != drawn[1]


def test_torchcfm_a_path_to_the_target_forgets_the_noise_it_is_given() -> None:
    """Nothing is lost where noise is standard normal and independent. A source of one's own is, and a coupling too."""
    n, t, path = 50_000, 0.25, AffinePath()
    theirs = lambda x0, x1: t * x1 + (1 - t) * torch.randn_like(x1)  # noqa: E731 - x0 is not looked at
    x1 = torch.randn(n, 1, dtype=F64)
    for x0, same in (
        (torch.randn(n, 1, dtype=F64), True),
        (torch.randn(n, 1, dtype=F64) + 5, False),
        (x1.clone(), False),
    ):
        ours, other = path.sample(x0, x1, t).xt, theirs(x0, x1)
        close = abs(ours.mean() - other.mean()) < 0.03 and abs(ours.std() - other.std()) < 0.03
        assert bool(close) is same
    assert path.sample(x1, x1, t).xt.std() == pytest.approx(x1.std())  # x0 = x1 stands still


def test_google_a_clip_by_a_billionth_does_nothing_in_float32() -> None:
    for dtype, works in ((torch.float32, False), (F64, True)):
        one = torch.tensor([-1.0, 1.0], dtype=dtype)
        clipped = one.clamp(-1 + 1e-9, 1 - 1e-9)
        assert (not torch.equal(clipped, one)) is works
        assert (clipped.acos()[0] < torch.tensor(-1.0, dtype=dtype).acos()).item() is works
        assert torch.isfinite(torch.func.vmap(torch.func.grad(torch.acos))(clipped)).all().item() is works
    one = torch.tensor([-1.0, 1.0])
    right = one.clamp(-1 + torch.finfo(one.dtype).eps, 1 - torch.finfo(one.dtype).eps)
    assert torch.isfinite(torch.func.vmap(torch.func.grad(torch.acos))(right)).all()


def test_google_the_velocity_of_a_geodesic_turns_with_it() -> None:
    """Its derivative is log(x, y) at t = 0 alone; later it is that vector carried along, of the same length."""
    x = torch.tensor([1.0, 0.0, 0.0], dtype=F64)
    v = torch.tensor([0.0, 1.2, 0.0], dtype=F64)  # log(x, y)
    length = v.norm()
    geodesic = lambda t: x * torch.cos(t * length) + v / length * torch.sin(t * length)  # noqa: E731
    for t in (0.0, 0.5, 1.0):
        at = torch.tensor(t, dtype=F64)
        point, rate = torch.func.jvp(geodesic, (at,), (torch.ones_like(at),))
        carried = -x * length * math.sin(t * length) + v * math.cos(t * length)
        torch.testing.assert_close(rate, carried)
        assert torch.allclose(rate, v).__bool__() is (t == 0)
        assert math.isclose(rate.norm(), length)
        assert abs(rate @ point) < 1e-12  # along the sphere, where v no longer is
        assert (abs(v @ point) < 1e-12).item() is (t == 0)
