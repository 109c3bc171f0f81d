"""Flows against integrals, entropies and torch's own classes; what they refuse, and how they travel."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import F64
from shaken import BASE, BOTH_WAYS, SPOILT, Wrong, layers, planar_stack, shaken, stack
from torch import Generator, nn
from torch.distributions import (
    AffineTransform,
    ComposeTransform,
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    SigmoidTransform,
    TransformedDistribution,
)

from fmtutor import (
    AffineCoupling,
    Checkerboard,
    MaskedAutoregressive,
    NormalizingFlow,
    Planar,
    StandardNormal,
    fit,
)
from fmtutor.normalizing.layers import Layer


def mass(flow: Distribution, step: float = 0.08, edge: float = 12.0) -> float:
    axis = torch.arange(-edge, edge, step, dtype=F64)
    with torch.no_grad():
        return float(flow.log_prob(torch.cartesian_prod(axis, axis)).exp().sum()) * step**2


@pytest.mark.parametrize("kind", [*BOTH_WAYS, Planar])
def test_density_integrates_to_one(kind: Callable[..., Layer]) -> None:
    transforms = planar_stack() if kind is Planar else stack(kind, size=0.15)
    flow = NormalizingFlow(BASE, transforms).double()
    assert mass(flow) == pytest.approx(1, abs=1e-3)
    x = 2 * torch.randn(1000, 2, dtype=F64)
    assert (flow.log_prob(x) - BASE.log_prob(x)).std() > 0.1  # the layers do something
    for label, spoil in SPOILT.items():
        wrong = NormalizingFlow(BASE, [Wrong(layer, spoil) for layer in transforms]).double()  # type: ignore[arg-type]
        assert mass(wrong) != pytest.approx(1, abs=4e-3), label


@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_draws_have_the_law_of_the_density(kind: Callable[..., Layer]) -> None:
    """Forwards and backwards tell one density, and E[1 / q; in a square] is its area, to 4 standard errors."""
    flow = NormalizingFlow(BASE, stack(kind, size=0.2)).double()
    with torch.no_grad():
        x, log_prob = flow.sample_and_log_prob((40_000,))
        torch.testing.assert_close(log_prob, flow.log_prob(x), rtol=0, atol=1e-9)
    inside = (x.abs() < 1).all(-1)
    areas = torch.where(inside, (-log_prob).exp(), 0.0)
    error = areas.std() / math.sqrt(len(areas))
    assert inside.double().mean() > 0.05
    assert (areas.mean() - 4).abs() < 4 * error
    assert (areas[inside].sum() / len(x) / 2 - 4).abs() > 4 * error  # a factor of two lost


@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_torch_classes_take_our_layers(kind: Callable[..., Layer]) -> None:
    parts = stack(kind)
    ours = NormalizingFlow(BASE, parts).double()
    torchs = TransformedDistribution(BASE, [*parts])
    x = torch.randn(4, 5, 2, dtype=F64)
    torch.testing.assert_close(ours.log_prob(x), torchs.log_prob(x))
    draws = [each.sample((6,)) for each in (ours, torchs) if torch.manual_seed(3)]
    torch.testing.assert_close(*draws)
    both = ComposeTransform([*parts])
    torch.testing.assert_close(both.log_abs_det_jacobian(x, both(x)), -both.inv.log_abs_det_jacobian(both(x), x))
    layer = parts[0]
    assert layer.inv.inv is layer
    assert layer.inv == layer.inv != parts[1].inv
    assert layer.bijective
    assert layer.domain.event_dim == layer.codomain.event_dim == 1


def test_torch_transforms_fit_into_our_flow() -> None:
    """A sigmoid works on each number by itself, so one log-determinant comes for each of them."""
    squash = [AffineTransform(0.3, 2.0), SigmoidTransform()]
    for event in ((2,), (3, 4)):
        base = StandardNormal(*event).to(F64)
        flow = NormalizingFlow(base, squash)
        flat = TransformedDistribution(Independent(Normal(torch.zeros(event, dtype=F64), 1.0), len(event)), squash)
        x = flow.sample((5,))
        assert ((x > 0) & (x < 1)).all()
        torch.testing.assert_close(flow.log_prob(x), flat.log_prob(x))
        torch.testing.assert_close(flow.sample_and_log_prob((0,))[1].shape, torch.Size([0]))


@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_likelihood_recovers_the_entropy_of_a_gaussian(kind: Callable[..., Layer]) -> None:
    """`log p - log q` over fresh draws: its mean is KL >= 0, and it varies so little that 0.02 nats are 10 errors."""
    cov = torch.tensor([[1.0, 1.2], [1.2, 2.0]])
    target = MultivariateNormal(torch.tensor([1.0, -1.0]), cov)
    flow = NormalizingFlow(StandardNormal(2), [kind(2, flip=i == 1, width=16) for i in range(2)])
    fit(flow, lambda: -flow.log_prob(target.sample((256,))).mean(), steps=400, lr=1e-2)
    with torch.no_grad():
        x = target.sample((20_000,))
        ratio = target.log_prob(x) - flow.log_prob(x)
        error = float(ratio.std()) / math.sqrt(len(x))
        assert error < 0.002
        assert -4 * error < float(ratio.mean()) < 0.02
        alone = Independent(Normal(target.mean, cov.diag().sqrt()), 1)  # what no correlation costs: 0.64 nats
        assert float((target.log_prob(x) - alone.log_prob(x)).mean()) > 0.5
        drawn = flow.sample((20_000,)).T.cov()
    assert (drawn - cov).abs().max() < 0.15


def test_gradient_reaches_parameters_points_and_draws() -> None:
    for layer in layers(2).values():
        flow, x = NormalizingFlow(BASE, [layer]), torch.randn(5, 2, dtype=F64, requires_grad=True)
        if isinstance(layer, Planar):
            flow.rsample((5,)).sum().backward()
        else:
            flow.log_prob(x).sum().backward()
            assert x.grad is not None
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in flow.parameters())
    assert not flow.has_enumerate_support
    assert NormalizingFlow(BASE, [AffineCoupling(2).double()]).rsample((3,)).requires_grad
    assert not NormalizingFlow(BASE, [AffineCoupling(2).double()]).sample((3,)).requires_grad


def test_a_generator_makes_draws_reproducible() -> None:
    flow = NormalizingFlow(StandardNormal(2), stack(AffineCoupling))
    draws = [flow.sample((4, 3), generator=Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert draws[0].shape == (4, 3, 2)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    state = torch.get_rng_state()
    flow.sample_and_log_prob((4,), generator=Generator().manual_seed(1))
    assert torch.equal(state, torch.get_rng_state())


def test_weights_travel() -> None:
    """Through a state dict, a copy and a pickle, in another dtype, and with the base, also for inverted layers."""
    x = torch.randn(5, 2)
    for make in (lambda: stack(AffineCoupling), lambda: stack(MaskedAutoregressive), planar_stack):
        flow, other = NormalizingFlow(StandardNormal(2), make()), NormalizingFlow(StandardNormal(2), make())
        assert not torch.allclose(flow.log_prob(x), other.log_prob(x))
        other.load_state_dict(flow.state_dict())
        for same in (other, copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
            assert torch.equal(flow.log_prob(x), same.log_prob(x))
            assert len(list(same.parameters())) == len(list(flow.parameters())) == len(set(flow.parameters()))
        twin = copy.deepcopy(flow)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(1.0)
        assert not torch.equal(flow.log_prob(x), twin.log_prob(x))  # a copy shares nothing
        double = copy.deepcopy(flow).to(F64)
        assert double.log_prob(x.double()).dtype == F64
        torch.testing.assert_close(double.log_prob(x.double()).float(), flow.log_prob(x), rtol=1e-3, atol=1e-3)
    couplings = NormalizingFlow(StandardNormal(2), stack(AffineCoupling))
    assert couplings.double().sample((3,)).dtype == F64
    assert couplings.to(torch.float32).sample((3,)).dtype == torch.float32
    assert couplings.to("meta").sample((3,)).device.type == "meta"


def test_bad_input_is_refused() -> None:
    flow = NormalizingFlow(StandardNormal(2), [AffineCoupling(2), MaskedAutoregressive(2), Planar(2).inv])
    refused: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (ValueError, "value must end in the event shape", lambda: flow.log_prob(torch.zeros(3, 1))),
        (ValueError, "value must be finite", lambda: flow.log_prob(torch.tensor([[0.0, math.nan]]))),
        (TypeError, "floating-point", lambda: flow.log_prob(torch.zeros(3, 2, dtype=torch.long))),
        (TypeError, "must be torch.float32", lambda: flow.log_prob(torch.zeros(3, 2, dtype=F64))),
        (TypeError, "base must be", lambda: NormalizingFlow(nn.Linear(2, 2), [])),  # type: ignore[arg-type]
        (ValueError, "no batch shape", lambda: NormalizingFlow(Normal(torch.zeros(2), 1.0), [])),
        (TypeError, "transforms must be", lambda: NormalizingFlow(BASE, [nn.Linear(2, 2)])),  # type: ignore[list-item]
        (ValueError, "must fit the base", lambda: NormalizingFlow(BASE, [Planar(3)])),
        (ValueError, "must fit the base", lambda: NormalizingFlow(StandardNormal(4, 2), [Planar(2)])),
        (ValueError, "at least 2", lambda: AffineCoupling(1)),
        (ValueError, "dim", lambda: Planar(0)),
        (ValueError, "width", lambda: AffineCoupling(2, width=0)),
        (ValueError, "depth", lambda: MaskedAutoregressive(2, depth=0)),
        (TypeError, "flop", lambda: AffineCoupling(2, flop=True)),  # type: ignore[call-arg]
    ]
    for error, message, call in refused:
        with pytest.raises(error, match=message):
            call()
    for layer in (AffineCoupling(2), MaskedAutoregressive(2), Planar(2)):
        for wrong in (torch.zeros(2, 3), torch.zeros(()), torch.zeros(3, 1)):
            with pytest.raises(ValueError, match=r"\(\*batch, 2\)"):
                layer(wrong)
    assert MaskedAutoregressive(1)(torch.zeros(3, 1)).shape == (3, 1)
    assert torch.equal(
        NormalizingFlow(BASE, []).log_prob(torch.ones(1, 2, dtype=F64)), BASE.log_prob(torch.ones(1, 2, dtype=F64))
    )


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(BOTH_WAYS), st.integers(2, 5), st.lists(st.integers(0, 3), max_size=3), st.booleans())
def test_any_batch_shape_goes_through(kind: Callable[..., Layer], dim: int, batch: Sequence[int], flip: bool) -> None:
    flow = NormalizingFlow(StandardNormal(dim), [shaken(kind(dim, flip=flip, width=8, depth=1))])
    x, log_prob = flow.sample_and_log_prob(batch)
    assert x.shape == (*batch, dim)
    assert log_prob.shape == flow.log_prob(x).shape == tuple(batch)


def test_more_layers_do_better_on_the_checkerboard() -> None:
    """One coupling leaves one direction Gaussian; six start to see squares. KL from fresh draws."""
    board, gaps = Checkerboard(), []
    for depth in (1, 6):
        torch.manual_seed(0)
        flow = NormalizingFlow(StandardNormal(2), [AffineCoupling(2, flip=i % 2 == 1, width=32) for i in range(depth)])
        fit(flow, lambda flow=flow: -flow.log_prob(board.sample((256,))).mean(), steps=300, lr=5e-3)  # type: ignore[misc]
        x = board.sample((4000,))
        with torch.no_grad():
            gaps.append(float((board.log_prob(x) - flow.log_prob(x)).mean()))
    assert 0 < gaps[1] < gaps[0] - 0.05
