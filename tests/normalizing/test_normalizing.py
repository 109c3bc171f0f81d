"""Layers against autodiff, zuko and a root finder; their flows against integrals, entropies and torch's own classes."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
import zuko
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import F64
from scipy.optimize import brentq
from torch import Generator, Tensor, nn
from torch.distributions import (
    AffineTransform,
    ComposeTransform,
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    SigmoidTransform,
    Transform,
    TransformedDistribution,
    Uniform,
)
from zuko.transforms import MonotonicAffineTransform

from fmtutor import (
    AffineCoupling,
    Checkerboard,
    MaskedAutoregressive,
    NormalizingFlow,
    Planar,
    StandardNormal,
    bits_per_dim,
    dequantize,
    fit,
)
from fmtutor.normalizing.layers import BOUND, Layer, made_masks

BASE = StandardNormal(2).to(F64)
BOTH_WAYS = [AffineCoupling, MaskedAutoregressive]


def shaken(layer: Layer, size: float = 0.3) -> Layer:
    """The layer with weights that do something: new ones leave everything alone."""
    with torch.no_grad():
        if isinstance(layer, Planar):
            layer.w.div_(layer.w.norm()), layer.u.normal_(std=size).add_(3 * size * layer.w)
        else:
            weight, bias = list(layer.parameters())[-2:]
            weight.normal_(std=size), bias.normal_(std=size / 3)
    return layer


def layers(dim: int) -> dict[str, Layer]:
    made = [shaken(kind(dim, flip=flip, width=16), 0.5) for kind in BOTH_WAYS for flip in (False, True)]
    both = {f"{type(layer).__name__} {i}": layer.double() for i, layer in enumerate(made)}
    return {**both, "Planar": shaken(Planar(dim)).double(), "Planar.inv": shaken(Planar(dim)).double().inv}


def stack(kind: Callable[..., Layer], depth: int = 6, dim: int = 2, size: float = 0.3) -> list[Layer]:
    return [shaken(kind(dim, flip=i % 2 == 1, width=16), size) for i in range(depth)]


def planar_stack(depth: int = 6) -> list[Transform]:
    return [shaken(Planar(2)).inv for _ in range(depth)]


class Wrong(Layer):
    """A layer whose log-determinant has been through `spoil`, to see that a check notices."""

    def __init__(self, layer: Layer, spoil: Callable[[Tensor], Tensor]) -> None:
        super().__init__(layer.dim)
        self.layer, self.spoil = layer, spoil

    def push(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x, log_det = self.layer.push(z)
        return x, self.spoil(log_det)

    def pull(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = self.layer.pull(x)
        return z, self.spoil(log_det)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.spoil(self.layer.log_abs_det_jacobian(x, y))


SPOILT: dict[str, Callable[[Tensor], Tensor]] = {
    "sign": lambda log_det: -log_det,
    "half": lambda log_det: log_det / 2,
    "twice": lambda log_det: 2 * log_det,
    "left out": torch.zeros_like,
    "a factor": lambda log_det: log_det - math.log(2),
}


def jacobians(layer: Layer, z: Tensor) -> Tensor:
    return torch.func.vmap(torch.func.jacrev(lambda one: layer(one)))(z)


@torch.no_grad()
def error_of_log_det(layer: Layer, z: Tensor) -> float:
    """Against the determinant of the autodiff Jacobian, for the two ways in which a layer tells it."""
    wanted = torch.linalg.slogdet(jacobians(layer, z))[1]
    told = torch.stack([layer.push(z)[1], layer.log_abs_det_jacobian(z, layer(z))])
    return float((told - wanted).abs().max())


def test_log_determinant_is_that_of_the_autodiff_jacobian() -> None:
    for dim in (2, 3, 5):
        z = torch.randn(20, dim, dtype=F64)
        for name, layer in layers(dim).items():
            if name == "Planar.inv":  # its forward direction is the one that nobody knows
                torch.testing.assert_close(layer.pull(z)[1], -layer.inv.push(z)[1])
                continue
            assert error_of_log_det(layer, z) < 1e-12, name
            assert layer.push(z)[1].abs().max() > 0.05, name
            for label, spoil in SPOILT.items():
                assert error_of_log_det(Wrong(layer, spoil).double(), z) > 1e-2, (name, label)


@pytest.mark.parametrize("kind", BOTH_WAYS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (F64, 1e-10)])
@pytest.mark.parametrize("dim", [2, 5])
def test_back_and_forth_is_the_identity(kind: Callable[..., Layer], dtype: torch.dtype, bound: float, dim: int) -> None:
    flow = ComposeTransform(stack(kind, depth=10, dim=dim, size=0.15))
    nn.ModuleList(flow.parts).to(dtype)  # type: ignore[arg-type]
    z = torch.randn(500, dim, dtype=dtype)
    x = flow(z)
    assert (flow.inv(x) - z).abs().max() < bound
    assert (flow(flow.inv(z)) - z).abs().max() < bound
    assert (x - z).abs().mean() > 0.2
    assert (flow(x) - z).abs().max() > 0.3  # the wrong direction is no inverse


def test_new_layers_leave_everything_alone() -> None:
    z = torch.randn(50, 3)
    for layer in [kind(3) for kind in [*BOTH_WAYS, Planar]]:
        x, log_det = layer.push(z)
        torch.testing.assert_close(x, z, rtol=0, atol=1e-6)
        assert log_det.abs().max() < 1e-6


def test_jacobian_of_the_coupling_is_triangular_in_blocks() -> None:
    for dim, flip in [(2, False), (5, False), (5, True)]:
        layer, cut = shaken(AffineCoupling(dim, flip=flip, width=16)).double(), dim // 2
        first, second = slice(0, cut), slice(cut, dim)
        kept, moved = (second, first) if flip else (first, second)
        rows = jacobians(layer, torch.randn(20, dim, dtype=F64))
        torch.testing.assert_close(
            rows[:, kept, kept], torch.eye(rows[0, kept, kept].shape[0], dtype=F64).expand(20, -1, -1)
        )
        assert (rows[:, kept, moved] == 0).all()
        assert (rows[:, moved, kept] != 0).all()
        block = rows[:, moved, moved]
        assert (block == torch.diag_embed(block.diagonal(dim1=1, dim2=2))).all()
        assert (block.diagonal(dim1=1, dim2=2) > 0).all()


def test_jacobian_of_the_autoregressive_layer_is_triangular() -> None:
    for dim, depth, width in [(2, 2, 16), (5, 1, 16), (6, 3, 7), (4, 2, 2)]:
        for flip in (False, True):
            layer = shaken(MaskedAutoregressive(dim, flip=flip, width=width, depth=depth)).double()
            x = torch.randn(20, dim, dtype=F64)
            rows = jacobians(layer.inv, x)
            network = torch.func.vmap(torch.func.jacrev(layer.network))(x).unflatten(1, (2, dim))
            if flip:
                rows, network = rows.flip(1, 2), network.flip(2, 3)
            assert (rows == rows.tril()).all()
            assert (rows.diagonal(dim1=1, dim2=2) > 0).all()
            assert (network == network.tril(-1)).all()  # strictly: not even a number's own place is seen
            if width >= dim - 1:  # and nothing is masked that need not be
                assert (network[:, :, *torch.tril_indices(dim, dim, -1)] != 0).all()


def test_masks_that_let_a_number_see_itself_are_noticed() -> None:
    dim, ranks = 4, torch.arange(8) % 3
    right = made_masks(dim, [8])
    wrong = [right[0], (torch.arange(dim).repeat(2)[:, None] >= ranks).float()]  # >= for >
    for masks, strict in ((right, True), (wrong, False)):
        reach = masks[1] @ masks[0]
        assert (reach.unflatten(0, (2, dim)) == reach.unflatten(0, (2, dim)).tril(-1)).all().item() is strict


def passes(layer: Layer, call: Callable[[], object]) -> int:
    count = 0

    def counted(*_: object) -> None:
        nonlocal count
        count += 1

    handle = layer.network.register_forward_hook(counted)  # type: ignore[union-attr, operator]
    call()
    handle.remove()
    return count


def test_one_pass_where_theory_says_so() -> None:
    dim, x = 5, torch.randn(7, 5)
    base = StandardNormal(dim)
    for kind, sampling in ((AffineCoupling, 1), (MaskedAutoregressive, dim)):
        layer = kind(dim)
        flow, torchs = NormalizingFlow(base, [layer]), TransformedDistribution(base, [layer])
        calls: list[tuple[int, Callable[[], object]]] = [
            (1, partial(flow.log_prob, x)),
            (sampling, partial(flow.sample, (7,))),
            (sampling, partial(flow.sample_and_log_prob, (7,))),
            (1, partial(NormalizingFlow(base, [layer.inv]).sample, (7,))),
            (2, partial(torchs.log_prob, x)),  # what the flow of this package saves
        ]
        assert [passes(layer, call) for _, call in calls] == [number for number, _ in calls], kind


def test_planar_has_no_inverse_and_says_what_to_do() -> None:
    layer, x = Planar(2), torch.randn(3, 2)
    for ask in (lambda: layer.inv(x), lambda: NormalizingFlow(StandardNormal(2), [layer]).log_prob(x)):
        with pytest.raises(NotImplementedError, match=r"Planar\(dim\)\.inv as the transform"):
            ask()
    turned = NormalizingFlow(StandardNormal(2), [layer.inv])
    assert turned.log_prob(x).shape == (3,)
    with pytest.raises(NotImplementedError, match="and no samples"):
        turned.sample((3,))


def test_planar_stays_invertible_whatever_u_is() -> None:
    """Along w the map must rise. With the raw u it does not, and a point has more than one origin."""
    a = torch.linspace(-6, 6, 2001, dtype=F64)
    for size in (1.0, 5.0, 30.0):
        layer = Planar(2).double()
        with torch.no_grad():
            layer.b.zero_(), layer.u.copy_(-size * layer.w / layer.w.square().sum())  # raw u.w = -size
            line = a[:, None] * layer.w / layer.w.norm()
            x, log_det = layer.push(line)
            along = x @ layer.w
            assert (along.diff() > 0).all()
            assert log_det.isfinite().all()
            raw = line + layer.u * torch.tanh(line @ layer.w)[:, None]
            assert ((raw @ layer.w).diff() > 0).all().item() is (size <= 1)


def test_density_of_planar_draws_against_a_root_finder() -> None:
    """Undone by solving for the one number w.z, layer by layer, and differentiated by autodiff."""
    flow = NormalizingFlow(BASE, [shaken(Planar(2)) for _ in range(4)]).double()
    with torch.no_grad():
        drawn, told = flow.sample_and_log_prob((6,), generator=Generator().manual_seed(1))
    for x, log_prob in zip(drawn, told, strict=True):
        z, log_det = x, 0.0
        for layer in reversed(flow.transforms):
            w = layer.w.detach()  # type: ignore[union-attr]
            u = (layer(torch.zeros(2, dtype=F64)) / torch.tanh(layer.b)).detach()  # type: ignore[union-attr, operator]
            bias = layer.b.item()  # type: ignore[union-attr, operator]
            root = brentq(lambda a: a + float(u @ w) * math.tanh(a + bias) - float(z @ w), -50, 50, xtol=1e-14)  # noqa: B023
            z = z - u * math.tanh(root + bias)
            jacobian = torch.func.jacrev(layer)(z).detach()  # type: ignore[arg-type]
            log_det += float(torch.linalg.slogdet(jacobian)[1])
        assert log_prob.item() == pytest.approx(BASE.log_prob(z[None]).item() - log_det, abs=1e-10)


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


def to_zuko(layer: Layer) -> zuko.lazy.LazyTransform:
    """zuko's layer with our weights: z -> x for the coupling, x -> z for the autoregressive one, as it has them."""
    own, slope = layer.network, math.exp(-BOUND)
    how = {"hidden_features": [own[0].out_features] * (len(own) // 2), "activation": nn.Tanh}  # type: ignore[index, union-attr, arg-type]
    if isinstance(layer, AffineCoupling):
        mask = (torch.arange(layer.dim) < layer.dim // 2) ^ layer.flip
        univariate: Callable[..., Transform] = lambda t, s: MonotonicAffineTransform(t, s, slope=slope)  # noqa: E731
        theirs = zuko.flows.GeneralCouplingTransform(layer.dim, mask=mask, univariate=univariate, **how)
    else:
        order = torch.arange(layer.dim).flip(0) if layer.flip else torch.arange(layer.dim)
        univariate = lambda t, s: MonotonicAffineTransform(t, s, slope=slope).inv  # noqa: E731
        theirs = zuko.flows.MaskedAutoregressiveTransform(layer.dim, order=order, univariate=univariate, **how)
    theirs.double()
    with torch.no_grad():
        for mine, other in zip(own, theirs.hyper, strict=True):  # type: ignore[arg-type]
            if isinstance(mine, nn.Linear):
                last = mine is own[-1]  # type: ignore[index]
                shuffle = (lambda p: p.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)) if last else lambda p: p
                other.weight.copy_(shuffle(mine.weight)), other.bias.copy_(shuffle(mine.bias))
                if hasattr(mine, "mask"):
                    assert torch.equal(shuffle(mine.mask).bool(), other.mask)
    return theirs


@pytest.mark.parametrize("dim", [2, 5])
@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_zuko_says_the_same_with_the_same_weights(kind: Callable[..., Layer], dim: int) -> None:
    parts = [layer.double() for layer in stack(kind, depth=4, dim=dim)]
    z = torch.randn(30, dim, dtype=F64)
    theirs = []
    for layer in parts:
        other = to_zuko(layer)
        back = other().inv if kind is AffineCoupling else other()
        x, log_det = layer.push(z)
        torch.testing.assert_close(back.inv(z), x, rtol=0, atol=1e-10)
        torch.testing.assert_close(back(x), z, rtol=0, atol=1e-10)
        torch.testing.assert_close(back.log_abs_det_jacobian(x, z), -log_det, rtol=0, atol=1e-10)
        theirs.insert(0, zuko.lazy.LazyInverse(other) if kind is AffineCoupling else other)
    base = zuko.lazy.UnconditionalDistribution(
        zuko.distributions.DiagNormal, torch.zeros(dim, dtype=F64), torch.ones(dim, dtype=F64), buffer=True
    )
    flow = NormalizingFlow(StandardNormal(dim).to(F64), parts)
    torch.testing.assert_close(flow.log_prob(z), zuko.lazy.Flow(theirs, base)().log_prob(z), rtol=0, atol=1e-10)
    reversed_flow = NormalizingFlow(StandardNormal(dim).to(F64), parts[::-1])  # the order of the layers matters
    assert (reversed_flow.log_prob(z) - flow.log_prob(z)).abs().max() > 1e-2


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


# Whole numbers


PMF = torch.tensor([[0.5, 0.05, 0.0], [0.1, 0.2, 0.0], [0.0, 0.05, 0.1]], dtype=F64)  # of a pair, 3 levels each
LEVELS = len(PMF)
ENTROPY = -torch.special.xlogy(PMF, PMF).sum() / (2 * math.log(2))  # in bits per number


def expected_bits(log_density: Callable[[Tensor], Tensor], bits: Callable[..., Tensor] = bits_per_dim) -> float:
    """The mean over data of law PMF, dequantised, by the midpoint rule: no draws, no noise."""
    n = 60
    u = (torch.arange(n, dtype=F64) + 0.5) / n
    pairs, inside = torch.cartesian_prod(*[torch.arange(LEVELS)] * 2), torch.cartesian_prod(u, u)
    x = (pairs[:, None] + inside) / LEVELS
    cost = bits(log_density(x), dims=2, levels=LEVELS).mean(1)
    return float(torch.where(PMF.flatten() > 0, PMF.flatten() * cost, 0.0).sum())


def histogram(x: Tensor) -> Tensor:
    cell = (x * LEVELS).long()
    return torch.log(PMF[cell[..., 0], cell[..., 1]] * LEVELS**2)


def without_the_cell(log_prob: Tensor, dims: int, levels: int) -> Tensor:
    return -log_prob / (dims * math.log(2))


def test_bits_of_the_uniform_density_and_of_its_scale() -> None:
    for dims in (1, 64):
        uniform = Independent(Uniform(torch.zeros(dims, dtype=F64), 1.0), 1)
        x = dequantize(torch.randint(17, (50, dims)).double(), 17)
        torch.testing.assert_close(
            bits_per_dim(uniform.log_prob(x), dims, 17), torch.full((50,), math.log2(17), dtype=F64)
        )
    assert without_the_cell(uniform.log_prob(x), 64, 17).abs().max() == 0  # free of charge: no code does that


def test_no_density_beats_the_entropy_and_the_histogram_reaches_it() -> None:
    """Gibbs and Jensen. Without the volume of a cell, the same densities would beat any code."""
    assert expected_bits(histogram) == pytest.approx(float(ENTROPY), abs=1e-12)
    flow = NormalizingFlow(BASE, [*stack(AffineCoupling, size=0.1), SigmoidTransform()]).double()
    with torch.no_grad():
        cost = expected_bits(flow.log_prob)
        assert cost > ENTROPY
        n = 60
        u = (torch.arange(LEVELS * n, dtype=F64) + 0.5) / (LEVELS * n)
        cells = flow.log_prob(torch.cartesian_prod(u, u)).exp().reshape(LEVELS, n, LEVELS, n).mean((1, 3)) / LEVELS**2
        code = -torch.special.xlogy(PMF, cells).sum() / (2 * math.log(2))  # what the model's own pmf costs
        assert ENTROPY < code < cost
        assert cells.sum() == pytest.approx(1, abs=1e-3)
    assert expected_bits(histogram, without_the_cell) < 0 < ENTROPY


def test_density_of_whole_numbers_integrates_to_one_and_without_the_factor_to_more() -> None:
    """A cost of b bits a number is a density of 2^(-2 b) over the pairs in [0, levels)^2."""
    n = 120
    u = (torch.arange(n, dtype=F64) + 0.5) / n
    x, cell = torch.cartesian_prod(u, u), (LEVELS / n) ** 2
    with torch.no_grad():
        flow = NormalizingFlow(BASE, [*stack(AffineCoupling, size=0.1), SigmoidTransform()]).double()
        total = {
            bits: (2.0 ** (-2 * bits(flow.log_prob(x), 2, LEVELS))).sum() * cell
            for bits in (bits_per_dim, without_the_cell)
        }
    assert total[bits_per_dim] == pytest.approx(1, abs=1e-3)
    assert total[without_the_cell] == pytest.approx(LEVELS**2, abs=1e-2)


def test_dequantised_numbers_are_uniform_in_their_cells() -> None:
    """10 000 draws a level; the largest gap of the empirical law to the uniform one stays below 2.2 / sqrt(n): 1e-4."""
    values = torch.arange(17).repeat_interleave(10_000)
    x = dequantize(values, 17)
    assert x.dtype == torch.get_default_dtype()
    u = (x.double() * 17 - values).reshape(17, -1).sort(1).values
    line = (torch.arange(10_000, dtype=F64) + 0.5) / 10_000
    half = ((u + 0.5) / 2).sort(1).values  # half of the noise
    for noise, right in ((u, True), (half, False)):
        gap = (noise - line).abs().max(1).values * math.sqrt(10_000)
        assert (gap < 2.2).all().item() is right
    same = [dequantize(values, 17, generator=Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*same)


def test_dequantised_numbers_stay_below_one() -> None:
    """255 + u rounds up to 256 in float32 once in 60 000 times or so: a million top values contain it."""
    for levels in (17, 256, 2**16):
        top = torch.full((1_000_000,), float(levels - 1))
        assert dequantize(top, levels).max() < 1
        assert ((top + torch.rand(1_000_000)) / levels).max() == 1 or levels == 17
    low = dequantize(torch.zeros(1000, dtype=torch.uint8), 256)
    assert low.min() >= 0
    assert low.max() < 1 / 256


def test_bad_whole_numbers_are_refused() -> None:
    refused: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (ValueError, r"from 0 to 16, got 17", lambda: dequantize(torch.tensor([3, 17]), 17)),
        (ValueError, r"got -1", lambda: dequantize(torch.tensor([-1]), 17)),
        (ValueError, r"got 0.5", lambda: dequantize(torch.tensor([0.5]), 17)),
        (ValueError, r"got nan", lambda: dequantize(torch.tensor([math.nan]), 17)),
        (ValueError, "levels", lambda: dequantize(torch.tensor([0]), 0)),
        (TypeError, "whole numbers, got list", lambda: dequantize([0, 1], 17)),  # type: ignore[arg-type]
        (TypeError, "torch.bool", lambda: dequantize(torch.tensor([True]), 2)),
        (ValueError, "dims", lambda: bits_per_dim(torch.zeros(3), 0, 17)),
        (TypeError, "log_prob", lambda: bits_per_dim(torch.zeros(3, dtype=torch.long), 2, 17)),
    ]
    for error, message, call in refused:
        with pytest.raises(error, match=message):
            call()


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
