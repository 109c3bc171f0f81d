"""What belongs to a flow is trained, saved and moved with it, and off its support the density is -inf."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from reference import F64
from shaken import planar_stack, shaken, stack
from torch import Generator, Tensor, nn
from torch.distributions import (
    AffineTransform,
    Distribution,
    ExpTransform,
    Gamma,
    Independent,
    IndependentTransform,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    PowerTransform,
    SigmoidTransform,
    StickBreakingTransform,
    TanhTransform,
    TransformedDistribution,
    Uniform,
    Weibull,
    constraints,
)

from fmtutor import (
    AffineCoupling,
    Checkerboard,
    ContinuousFlow,
    Empirical,
    GaussianMixture,
    NormalizingFlow,
    Planar,
    StandardNormal,
    TwoMoons,
    VelocityMLP,
    fit,
    load_weights,
    metrics,
    save_weights,
)

BASE = StandardNormal(2)


class Shifted(nn.Module, Distribution):
    """A base that is a module, as a reader would write one."""

    arg_constraints: dict = {}
    has_rsample = True

    def __init__(self, loc: Tensor) -> None:
        nn.Module.__init__(self)
        Distribution.__init__(self, event_shape=loc.shape, validate_args=False)
        self.loc = nn.Parameter(loc)

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        return self.loc + torch.randn(*sample_shape, *self.event_shape, dtype=self.loc.dtype, device=self.loc.device)

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        return self.rsample(sample_shape).detach()

    def log_prob(self, value: Tensor) -> Tensor:
        return -0.5 * (value - self.loc).square().sum(-1) - math.log(2 * math.pi)


def numbers(shift: float) -> Tensor:
    return torch.tensor([1.0, 2.0]) + shift


def made(shift: float) -> dict[str, NormalizingFlow]:
    """Flows that differ between two shifts in what they borrow, and in nothing else."""
    a, scale = numbers(shift), torch.tensor([2.0, 0.5]) * (1 + shift)
    affine = AffineTransform(a, scale)
    with torch.random.fork_rng():
        torch.manual_seed(int(10 * shift))
        velocity = nn.Sequential(nn.Linear(2, 2))
    return {
        "normal": NormalizingFlow(Independent(Normal(a, scale), 1), []),
        "parameters of a normal": NormalizingFlow(Independent(Normal(nn.Parameter(a), nn.Parameter(scale)), 1), []),
        "matrix": NormalizingFlow(MultivariateNormal(a, torch.eye(2) * (1 + shift)), []),
        "transformed": NormalizingFlow(TransformedDistribution(Independent(Normal(a, scale), 1), [affine]), []),
        "mixture": NormalizingFlow(GaussianMixture(torch.stack([a, -a]), 0.5, weights=scale), []),
        "module": NormalizingFlow(Shifted(a), []),
        "flow": NormalizingFlow(NormalizingFlow(BASE, [affine]), [affine]),
        "bound velocity": NormalizingFlow(ContinuousFlow(partial(Velocity(velocity), by=2.0), BASE, steps=2), [affine]),
        "method": NormalizingFlow(ContinuousFlow(Velocity(velocity).forward, BASE, steps=2), [affine]),
        "velocity": NormalizingFlow(ContinuousFlow(Velocity(velocity), Independent(Normal(a, scale), 1), steps=2), []),
        "affine": NormalizingFlow(BASE, [affine]),
        "affine.inv": NormalizingFlow(BASE, [affine.inv]),
        "affine of parameters": NormalizingFlow(BASE, [AffineTransform(nn.Parameter(a), nn.Parameter(scale))]),
        "affine with a cache": NormalizingFlow(BASE, [AffineTransform(a, scale, cache_size=1)]),
        "one of two": NormalizingFlow(BASE, [IndependentTransform(affine, 1)]),
        "power": NormalizingFlow(BASE, [ExpTransform(), PowerTransform(1 + a)]),
    }


class Velocity(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, t: Tensor, x: Tensor, by: float = 1.0) -> Tensor:
        return by * self.net(x)


NAMES = list(made(0.0))
X = torch.rand(6, 2, generator=Generator().manual_seed(3)) + 0.5


@pytest.mark.parametrize("name", NAMES)
def test_what_a_flow_borrows_is_saved_and_loaded(name: str, tmp_path: Path) -> None:
    """Otherwise all keys match, and the density is that of another base."""
    flow, other = made(0.0)[name], made(0.3)[name]
    wanted = flow.log_prob(X)
    assert (other.log_prob(X) - wanted).abs().max() > 0.05
    for same in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        torch.testing.assert_close(same.log_prob(X), wanted)
    save_weights(flow, tmp_path / "flow.safetensors")
    load_weights(other, tmp_path / "flow.safetensors")
    torch.testing.assert_close(other.log_prob(X), wanted)
    other, state = made(0.3)[name], flow.state_dict()
    other.load_state_dict(state)
    torch.testing.assert_close(other.log_prob(X), wanted)
    assigned = made(0.3)[name]
    assigned.load_state_dict({key: value.clone() for key, value in state.items()}, assign=True)
    torch.testing.assert_close(assigned.log_prob(X), wanted)
    torch.manual_seed(1)
    drawn = flow.sample((4,))
    torch.manual_seed(1)
    torch.testing.assert_close(other.sample((4,)), drawn)
    swapped = torch.func.functional_call(Density(made(0.3)[name]), {f"flow.{k}": v for k, v in state.items()}, X)
    torch.testing.assert_close(swapped, wanted)


class Density(nn.Module):
    def __init__(self, flow: NormalizingFlow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor) -> Tensor:
        return self.flow.log_prob(x)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_flow_borrows_moves_with_it(name: str) -> None:
    flow = made(0.0)[name]
    wanted = flow.log_prob(X)
    flow.double()
    assert {tensor.dtype for tensor in [*flow.parameters(), *flow.buffers()]} <= {F64}
    assert flow.log_prob(X.double()).dtype == flow.sample((3,)).dtype == F64
    torch.testing.assert_close(flow.log_prob(X.double()).float(), wanted)
    if name not in ("mixture", "velocity", "bound velocity", "method"):
        flow.to("meta")
        assert flow.sample((3,)).device.type == "meta"
    flow = made(0.0)[name].float()
    torch.testing.assert_close(flow.log_prob(X), wanted)


def test_a_flow_leaves_the_callers_own_things_alone() -> None:
    loc, scale = torch.ones(2), torch.full((2,), 2.0)
    base, affine = Independent(Normal(loc, scale), 1), AffineTransform(loc, scale)
    flow = NormalizingFlow(base, [affine]).double()
    with torch.no_grad():
        for buffer in flow.buffers():
            buffer.add_(1)
    assert base.base_dist.loc is loc
    assert affine.loc is loc
    assert (loc == 1).all()
    assert loc.dtype == torch.float32
    assert base._validate_args == Independent(Normal(loc, scale), 1)._validate_args


def test_what_a_flow_borrows_is_trained() -> None:
    """By likelihood: the best mean is the data's mean, the best scale their standard deviation."""
    data = 3 + 0.5 * torch.randn(2000, 2)

    def zeros() -> nn.Parameter:
        return nn.Parameter(torch.zeros(2))

    def ones() -> nn.Parameter:
        return nn.Parameter(torch.ones(2))

    shifted = Shifted(torch.zeros(2))
    flows: list[tuple[NormalizingFlow, float]] = [
        (NormalizingFlow(Independent(Normal(zeros(), ones()), 1), []), 0.5),
        (NormalizingFlow(BASE, [AffineTransform(zeros(), ones())]), 0.5),
        (NormalizingFlow(NormalizingFlow(BASE, [AffineTransform(zeros(), ones())]), []), 0.5),
        (NormalizingFlow(shifted, []), 1.0),
    ]
    for flow, spread in flows:
        before = flow.log_prob(data).mean().item()
        fit(flow, lambda flow=flow: -flow.log_prob(data).mean(), steps=500, lr=0.1, ema=None, progress=False)  # type: ignore[misc]
        assert flow.log_prob(data).mean() > before + 3
        drawn = flow.sample((4000,))
        assert (drawn.mean(0) - 3).abs().max() < 0.1
        assert (drawn.std(0) - spread).abs().max() < 0.1
    assert (shifted.loc - data.mean(0)).abs().max() < 0.05


@pytest.mark.parametrize("kind", ["flow", "torch", "module"])
def test_gradients_of_draws_reach_the_parameters_of_the_base(kind: str) -> None:
    """d/d loc of the mean of x is 1; a draw without a path to loc would have none."""
    loc = nn.Parameter(torch.zeros(2, dtype=F64))
    base: Distribution = Independent(Normal(loc, torch.ones(2, dtype=F64)), 1)
    if kind == "flow":
        base = NormalizingFlow(StandardNormal(2).to(F64), [AffineTransform(loc, 1.0)])
    elif kind == "module":
        base = Shifted(torch.zeros(2, dtype=F64))
        loc = base.loc
    flow = NormalizingFlow(base, [shaken(Planar(2)).double()])
    gradients = []
    for draws in (flow.rsample((500,)), flow.sample_and_log_prob((500,))[0]):
        gradients.append(torch.autograd.grad(draws.mean(0) @ torch.ones(2, dtype=F64), loc)[0])
        assert gradients[-1].abs().min() > 0.1
    assert (gradients[0] - gradients[1]).abs().max() < 0.3
    _, log_prob = NormalizingFlow(base, [AffineTransform(0.0, 2.0)]).sample_and_log_prob((500,))
    if log_prob.requires_grad:  # the density moves along with the draws
        assert torch.autograd.grad(log_prob.sum(), loc)[0].abs().max() < 1e-6
    assert not flow.sample((2,)).requires_grad


def test_a_base_whose_parameters_torch_has_copied_is_refused_with_a_way_out() -> None:
    loc, scale = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=r"MultivariateNormal.loc needs a gradient.*AffineTransform\(nn.Parameter"):
        NormalizingFlow(MultivariateNormal(loc, torch.eye(2)), [])
    with pytest.raises(ValueError, match=r"AffineTransform\.loc needs a gradient"):
        NormalizingFlow(BASE, [AffineTransform(loc * 2, 1.0)])
    assert set(NormalizingFlow(BASE, [AffineTransform(loc, scale)]).parameters()) == {loc, scale}


def test_a_function_that_hides_a_network_is_no_velocity_of_a_base() -> None:
    """A copy of the flow would be trained or loaded, and go on drawing from the network that the function holds."""
    net = nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"the function <lambda> hides it: bind a condition with functools.partial"):
        NormalizingFlow(ContinuousFlow(lambda t, x: net(x), BASE), [])
    assert NormalizingFlow(ContinuousFlow(lambda t, x: -x, BASE), []).sample((2,)).shape == (2, 2)


def test_the_base_keeps_its_names_and_states_saved_before_still_fit() -> None:
    flow = NormalizingFlow(BASE, stack(AffineCoupling, depth=2))
    assert all(key.startswith(("layers.0.network", "layers.1.network")) for key in flow.state_dict())
    assert repr(flow.base) == "StandardNormal(2)"
    both = NormalizingFlow(Independent(Normal(torch.zeros(2), 1.0), 1), [AffineTransform(numbers(0), 2.0)])
    assert list(both.state_dict()) == ["noise.base_dist_loc", "noise.base_dist_scale", "layers.0.loc"]
    assert both.transforms[0].loc.tolist() == [1.0, 2.0]


# Off the support


OFF: dict[str, tuple[NormalizingFlow, Tensor, Tensor]] = {
    "sigmoid": (NormalizingFlow(BASE, [SigmoidTransform()]), torch.tensor([0.2, 0.7]), torch.tensor([0.2, 1.5])),
    "exp": (NormalizingFlow(BASE, [ExpTransform()]), torch.tensor([0.2, 7.0]), torch.tensor([-1.0, 7.0])),
    "exp at 0": (NormalizingFlow(BASE, [ExpTransform()]), torch.tensor([0.2, 7.0]), torch.tensor([0.0, 7.0])),
    "tanh": (NormalizingFlow(BASE, [TanhTransform()]), torch.tensor([0.2, -0.7]), torch.tensor([0.2, 1.5])),
    "tanh at 1": (NormalizingFlow(BASE, [TanhTransform()]), torch.tensor([0.2, -0.7]), torch.tensor([0.2, 1.0])),
    "stretched": (
        NormalizingFlow(BASE, [SigmoidTransform(), AffineTransform(-0.05, 1.1)]),
        torch.tensor([0.0, 1.04]),
        torch.tensor([0.0, 1.06]),
    ),
    "coupled": (
        NormalizingFlow(BASE, [*stack(AffineCoupling, depth=2), ExpTransform(), AffineTransform(1.0, torch.ones(2))]),
        torch.tensor([1.5, 2.0]),
        torch.tensor([0.5, 2.0]),
    ),
    "simplex": (
        NormalizingFlow(BASE, [StickBreakingTransform()]),
        torch.tensor([0.2, 0.3, 0.5]),
        torch.tensor([0.2, 0.3, 0.6]),
    ),
    "uniform": (
        NormalizingFlow(Independent(Uniform(torch.zeros(2), 1.0), 1), [AffineTransform(1.0, 2.0)]),
        torch.tensor([1.5, 2.9]),
        torch.tensor([1.5, 3.1]),
    ),
    "gamma": (
        NormalizingFlow(Independent(Gamma(torch.full((2,), 2.0), 1.0), 1), [AffineTransform(0.0, 2.0)]),
        torch.tensor([1.5, 2.9]),
        torch.tensor([1.5, -3.1]),
    ),
    "weibull": (
        NormalizingFlow(Independent(Weibull(torch.ones(2), torch.full((2,), 1.5)), 1), [AffineTransform(0.0, 2.0)]),
        torch.tensor([1.5, 2.9]),
        torch.tensor([1.5, -3.1]),
    ),
    "board": (
        NormalizingFlow(Checkerboard(), [AffineTransform(0.0, 2.0)]),
        torch.tensor([1.0, 1.0]),
        torch.tensor([9.0, 1.0]),
    ),
}


@pytest.mark.parametrize("name", list(OFF))
def test_off_the_support_a_density_is_nothing(name: str) -> None:
    flow, inner, outer = OFF[name]
    x = torch.stack([inner, outer, inner]).requires_grad_()
    told = flow.log_prob(x)
    assert told[1] == -math.inf
    assert told[[0, 2]].isfinite().all()
    torch.testing.assert_close(told[0], flow.log_prob(inner))
    assert flow.log_prob(outer[None, None]).shape == (1, 1)
    if name in ("uniform", "board"):  # flat, and not made from x
        return
    told[[0, 2]].sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    alone = inner.clone().requires_grad_()
    flow.log_prob(alone).backward()
    torch.testing.assert_close(x.grad[0], alone.grad)
    assert (x.grad[1] == 0).all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in flow.parameters())


def test_densities_on_a_part_of_space_are_those_of_torch() -> None:
    line = torch.tensor([[-1.0], [0.0], [0.3], [2.0]], dtype=F64)
    flow = NormalizingFlow(StandardNormal(1).to(F64), [ExpTransform()])
    wanted = LogNormal(torch.zeros((), dtype=F64), 1.0, validate_args=False).log_prob(line[:, 0])
    torch.testing.assert_close(flow.log_prob(line)[2:], wanted[2:])
    assert (flow.log_prob(line)[:2] == -math.inf).all()
    grid = torch.linspace(-3, 4, 70_001, dtype=F64)[:, None]
    logit = NormalizingFlow(StandardNormal(1).to(F64), [SigmoidTransform(), AffineTransform(-0.05, 1.1)])
    assert torch.trapezoid(logit.log_prob(grid).exp(), grid[:, 0]).item() == pytest.approx(1, abs=1e-4)


def test_kl_to_a_flow_that_misses_the_data_is_infinite() -> None:
    flow = NormalizingFlow(BASE, [SigmoidTransform()])
    assert metrics.kl(BASE, flow, 1000).value == math.inf


def test_own_draws_are_on_the_support() -> None:
    flow = NormalizingFlow(BASE, [AffineTransform(0.0, 2.0), SigmoidTransform()])
    x, told = flow.sample_and_log_prob((10_000,))
    inner = (x > 1e-3).all(-1) & (x < 1 - 1e-3).all(-1)
    torch.testing.assert_close(flow.log_prob(x)[inner], told[inner], rtol=0, atol=1e-2)


def test_a_base_that_does_not_fit_is_named() -> None:
    flow = NormalizingFlow(BASE, [ExpTransform().inv])
    with pytest.raises(ValueError, match=r"ExpTransform\(\).inv takes points of GreaterThan"):
        flow.sample((100,))
    refused: list[tuple[str, Callable[[], object]]] = [
        (
            "AffineTransform is not for events of shape",
            lambda: NormalizingFlow(BASE, [AffineTransform(torch.ones(3), 1.0)]),
        ),
        ("not for events", lambda: NormalizingFlow(StandardNormal(1), [AffineTransform(torch.ones(3), 1.0)])),
        ("not for events", lambda: NormalizingFlow(Normal(0.0, 1.0), [StickBreakingTransform()])),
        ("is for 2 numbers, got", lambda: NormalizingFlow(BASE, [StickBreakingTransform(), AffineCoupling(2)])),
    ]
    for message, call in refused:
        with pytest.raises(ValueError, match=message):
            call()


# What a flow knows of itself


def test_support_is_told_where_it_is_known() -> None:
    x = torch.tensor([[0.5, 0.5], [0.5, 1.5], [-0.5, 0.5]])
    for transforms, wanted in [
        ([], [True, True, True]),
        (stack(AffineCoupling), [True, True, True]),
        ([SigmoidTransform()], [True, False, False]),
        ([*stack(AffineCoupling), ExpTransform()], [True, True, False]),
    ]:
        flow = NormalizingFlow(BASE, transforms)
        assert flow.support.event_dim == 1
        assert flow.support.check(x).tolist() == wanted == flow.log_prob(x).isfinite().tolist()
    assert isinstance(NormalizingFlow(BASE, []).support, type(constraints.real_vector))
    assert NormalizingFlow(Checkerboard(), []).support.check(x).shape == (3,)
    with pytest.raises(NotImplementedError, match="ask log_prob"):
        _ = NormalizingFlow(
            BASE, [SigmoidTransform(), AffineTransform(0.0, 2.0)]
        ).support  # torch's own says: everywhere


def test_what_a_flow_does_not_know_it_says() -> None:
    flow = NormalizingFlow(BASE, stack(AffineCoupling))
    for name in ("mean", "variance", "stddev"):
        with pytest.raises(NotImplementedError, match=r"estimate it by sample\(\(10_000,\)\)"):
            getattr(flow, name)
    with pytest.raises(NotImplementedError, match="entropy of a NormalizingFlow"):
        flow.entropy()
    with pytest.raises(NotImplementedError, match="sample_shape"):
        flow.expand((3,))


def test_a_flow_shows_what_it_is_made_of() -> None:
    affine = AffineTransform(torch.tensor([1.0, 2.0]), 3.0)
    shown = repr(
        NormalizingFlow(TwoMoons(), [AffineCoupling(2, flip=True), affine.inv, SigmoidTransform(), *planar_stack(1)])
    )
    for part in (
        "(noise): TwoMoons",
        "dim=2, flip=True",
        "AffineTransform(loc=[1.0, 2.0], scale=3.0).inv",
        "SigmoidTransform()",
    ):
        assert part in shown
    assert "<tensor of shape (9,)>" in repr(NormalizingFlow(StandardNormal(9), [AffineTransform(torch.ones(9), 1.0)]))


def test_a_base_without_a_density_can_still_be_sampled() -> None:
    flow = NormalizingFlow(Empirical(torch.randn(5, 2)), stack(AffineCoupling))
    assert flow.sample((3,)).shape == (3, 2)
    with pytest.raises(NotImplementedError, match="no density"):
        flow.sample_and_log_prob((3,))


def test_a_generator_draws_from_flows_of_flows() -> None:
    inner = NormalizingFlow(BASE, stack(AffineCoupling))
    for base in (inner, ContinuousFlow(VelocityMLP(2), BASE, steps=2)):
        flow = NormalizingFlow(base, [ExpTransform()])
        draws = [flow.sample((3,), generator=Generator().manual_seed(1)) for _ in range(2)]
        assert torch.equal(*draws)
        told = flow.sample_and_log_prob((3,), generator=Generator().manual_seed(1))[0]
        torch.testing.assert_close(draws[0], told, rtol=0, atol=0.02)  # a continuous flow takes other steps there
    with pytest.raises(TypeError, match="takes no generator"):
        NormalizingFlow(Independent(Normal(torch.zeros(2), 1.0), 1), []).sample((3,), generator=Generator())


def test_a_base_that_knows_only_the_density_of_its_own_draws() -> None:
    """Planar layers have no inverse, so two flows in a row must be passed in one go, as one flow of both would be."""
    below, above = shaken(Planar(2)), shaken(Planar(2))
    nested = NormalizingFlow(NormalizingFlow(BASE, [below]), [above])
    for told, wanted in zip(
        nested.sample_and_log_prob((5,), Generator().manual_seed(1)),
        NormalizingFlow(BASE, [below, above]).sample_and_log_prob((5,), Generator().manual_seed(1)),
        strict=True,
    ):
        torch.testing.assert_close(told, wanted)


def test_a_mixture_of_torch_as_a_base() -> None:
    centres = torch.tensor([[-2.0, 0.0], [2.0, 0.0]])
    mixture = MixtureSameFamily(
        torch.distributions.Categorical(torch.tensor([1.0, 3.0])), Independent(Normal(centres, 0.5), 1)
    )
    ours = GaussianMixture(centres, 0.5, weights=torch.tensor([1.0, 3.0]))
    flow = NormalizingFlow(mixture, [ExpTransform()])
    torch.testing.assert_close(flow.log_prob(X), NormalizingFlow(ours, [ExpTransform()]).log_prob(X))
