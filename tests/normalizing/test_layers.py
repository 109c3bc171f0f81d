"""Layers against autodiff, zuko and a root finder."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import zuko
from reference import F64
from scipy.optimize import brentq
from shaken import BASE, BOTH_WAYS, SPOILT, Wrong, jacobians, layers, shaken, stack
from torch import Generator, Tensor, nn
from torch.distributions import (
    ComposeTransform,
    Transform,
    TransformedDistribution,
)
from zuko.transforms import MonotonicAffineTransform

from fmtutor import (
    AffineCoupling,
    MaskedAutoregressive,
    NormalizingFlow,
    Planar,
    StandardNormal,
)
from fmtutor.normalizing.layers import BOUND, Layer, made_masks


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


def heard(layer: Layer, x: Tensor) -> Tensor:
    """Which numbers each shift and log-scale hears of, by autodiff: `(2, dim, dim)`, in the order of the layer."""
    jacobian = torch.func.vmap(torch.func.jacrev(layer.network))(x).unflatten(1, (2, layer.dim))  # type: ignore[arg-type]
    return (jacobian.flip(2, 3) if layer.flip else jacobian).abs().amax(0) > 0


def test_jacobian_of_the_autoregressive_layer_is_triangular() -> None:
    for dim, depth, width in [(2, 2, 16), (5, 1, 16), (6, 3, 7), (4, 2, 3), (6, 2, 5), (100, 2, None)]:
        for flip in (False, True):
            layer = shaken(MaskedAutoregressive(dim, flip=flip, width=width, depth=depth)).double()
            x = torch.randn(20, dim, dtype=F64)
            rows = jacobians(layer.inv, x)
            rows = rows.flip(1, 2) if flip else rows
            assert (rows == rows.tril()).all()
            assert (rows.diagonal(dim1=1, dim2=2) > 0).all()
            # strictly, so not even a number's own place is seen; and nothing is masked that need not be
            assert torch.equal(heard(layer, x), torch.ones(2, dim, dim).tril(-1).bool())


def test_a_network_narrower_than_its_data_is_refused() -> None:
    """Dealt to fewer units, the ranks leave numbers out: the last of 6 hears of 3 of the 5 before it."""
    with pytest.raises(ValueError, match="width must be at least dim - 1 = 783, got 64"):
        MaskedAutoregressive(784, width=64)
    with pytest.raises(ValueError, match="at least dim - 1 = 5, got 4"):
        MaskedAutoregressive(6, width=4)
    assert MaskedAutoregressive(784).network[0].out_features == 783  # type: ignore[index, union-attr]
    assert MaskedAutoregressive(10).network[0].out_features == 64  # type: ignore[index, union-attr]
    dim, ranks = 6, torch.arange(3) % 5
    narrow = [ranks[:, None] >= torch.arange(dim), torch.arange(dim).repeat(2)[:, None] > ranks]
    reach = (narrow[1].float() @ narrow[0].float() > 0).unflatten(0, (2, dim))
    assert reach[:, -1].sum(1).tolist() == [3, 3]
    wide = made_masks(dim, [5])
    assert torch.equal((wide[1] @ wide[0] > 0).unflatten(0, (2, dim)), torch.ones(2, dim, dim).tril(-1).bool())


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
