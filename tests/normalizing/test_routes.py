"""Every density by three routes: with its draws, at given points, and from the Jacobian that autodiff finds."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from reference import F64
from shaken import shaken
from torch import Generator, Tensor
from torch.distributions import (
    AffineTransform,
    ExpTransform,
    IndependentTransform,
    ReshapeTransform,
    SigmoidTransform,
    StickBreakingTransform,
    TanhTransform,
    Transform,
)

from fmtutor import AffineCoupling, MaskedAutoregressive, NormalizingFlow, Planar, StandardNormal
from fmtutor.normalizing import borrowed
from fmtutor.normalizing.borrowed import BorrowedTransform
from fmtutor.normalizing.layers import BOUND, FLATTEST, Inverse, Layer, softclip

DIM = 3
TOLERANCE = {torch.float32: 2e-4, F64: 1e-10}


def stacks(dtype: torch.dtype) -> dict[str, list[Transform]]:
    """One of every kind of layer and transform, alone and in a row."""

    def made(kind: Callable[..., Layer], **how: object) -> Layer:
        return shaken(kind(DIM, **how), 0.4).to(dtype)

    scale = torch.tensor([0.5, -2.0, 3.0], dtype=dtype)
    affine = AffineTransform(scale / 2, scale)
    return {
        "coupling": [made(AffineCoupling)],
        "coupling.inv": [made(AffineCoupling, flip=True).inv],
        "autoregressive": [made(MaskedAutoregressive)],
        "autoregressive.inv": [made(MaskedAutoregressive, flip=True).inv],
        "planar": [made(Planar)],
        "planar.inv": [made(Planar).inv],
        "affine, event_dim 0": [affine],
        "affine.inv": [affine.inv],
        "affine, event_dim 1": [AffineTransform(scale, -scale, event_dim=1)],
        "affine, event_dim 1, inv": [AffineTransform(scale, -scale, event_dim=1).inv],
        "sigmoid": [SigmoidTransform()],
        "sigmoid as one": [IndependentTransform(SigmoidTransform(), 1)],
        "exp": [AffineTransform(0.0, 0.3), ExpTransform()],
        "tanh": [AffineTransform(0.0, 0.3), TanhTransform()],
        "there and back": [SigmoidTransform(), AffineTransform(0.1, 0.8), SigmoidTransform().inv],
        "stick": [StickBreakingTransform()],
        "reshaped": [affine, ReshapeTransform((DIM,), (1, DIM)), ExpTransform()],
        "mixed": [
            made(AffineCoupling),
            affine,
            made(MaskedAutoregressive).inv,
            AffineTransform(0.0, 0.1),  # far out a sigmoid rounds to 1 in float32
            SigmoidTransform(),
            affine.inv,
        ],
    }


def from_autodiff(flow: NormalizingFlow, z: Tensor) -> Tensor:
    """`log p(x(z))`: the base, minus the log-determinant of the whole way's Jacobian."""

    def way(one: Tensor) -> Tensor:
        for transform in flow.transforms:
            one = transform(one)
        return one.flatten()[: len(z[0])]  # a simplex has one coordinate less than numbers

    jacobian = torch.stack([torch.autograd.functional.jacobian(way, one) for one in z])
    return flow.base.log_prob(z) - torch.linalg.slogdet(jacobian).logabsdet


def back_from_autodiff(flow: NormalizingFlow, x: Tensor) -> Tensor:
    """The same from the way back, for one layer whose way forth nobody knows."""
    back = flow.transforms[0].inv
    jacobian = torch.stack([torch.autograd.functional.jacobian(back, one) for one in x])
    return flow.base.log_prob(back(x)) + torch.linalg.slogdet(jacobian).logabsdet


@torch.no_grad()
def disagreement(name: str, flow: NormalizingFlow, dtype: torch.dtype) -> float:
    """The largest difference between any two routes to one log-density."""
    z = flow.base.sample((20,), generator=Generator().manual_seed(0))
    if name == "planar.inv":
        routes = [back_from_autodiff(flow, z), flow.log_prob(z)]
    else:
        x, told = flow.sample_and_log_prob((20,), generator=Generator().manual_seed(0))
        routes = [from_autodiff(flow, z), told] + ([] if name == "planar" else [flow.log_prob(x)])
        assert torch.equal(x, flow.sample((20,), generator=Generator().manual_seed(0)))
        for layer in flow.layers:
            z, log_det = layer.push(z)
            assert log_det.shape == (20,)
        for layer in () if name == "planar" else reversed(flow.layers):
            z, log_det = layer.pull(z)
            assert log_det.shape == (20,)
    assert all(route.shape == (20,) and route.dtype == dtype for route in routes)
    return max(float((route - routes[0]).abs().max()) for route in routes[1:])


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", list(stacks(F64)))
def test_every_density_by_three_routes(name: str, dtype: torch.dtype) -> None:
    base = StandardNormal(DIM).to(dtype)
    assert disagreement(name, NormalizingFlow(base, stacks(dtype)[name]), dtype) < TOLERANCE[dtype]


def wrong_inverse(method: str) -> Callable[..., object]:
    """An Inverse that tells the log-determinant of the layer it inverts."""
    right = getattr(Inverse, method)

    def wrong(self: Inverse, *points: Tensor) -> object:
        out = right(self, *points)
        return -out if isinstance(out, Tensor) else (out[0], -out[1])

    return wrong


def wrong_borrowed(method: str, spoil: Callable[[Tensor], Tensor]) -> Callable[..., object]:
    right = getattr(BorrowedTransform, method)

    def wrong(self: BorrowedTransform, x: Tensor) -> object:
        point, log_det = right(self, x)
        return point, spoil(log_det)

    return wrong


def mean_of_rows(numbers: Tensor, batch: int) -> Tensor:
    while numbers.dim() > batch:
        numbers = numbers.mean(-1) if numbers.is_floating_point() else numbers.sum(-1)
    return numbers


WRONG: dict[str, tuple[object, str, Callable[..., object], set[str]]] = {
    "Inverse.push": (Inverse, "push", wrong_inverse("push"), {"coupling.inv", "autoregressive.inv", "mixed"}),
    "Inverse.pull": (Inverse, "pull", wrong_inverse("pull"), {"coupling.inv", "autoregressive.inv", "planar.inv"}),
    "push, sign": (BorrowedTransform, "push", wrong_borrowed("push", torch.neg), {"sigmoid", "affine, event_dim 1"}),
    "push, none": (BorrowedTransform, "push", wrong_borrowed("push", torch.zeros_like), {"affine.inv", "tanh"}),
    "pull, sign": (BorrowedTransform, "pull", wrong_borrowed("pull", torch.neg), {"exp", "sigmoid as one"}),
    "one number for all": (borrowed, "_rows", mean_of_rows, {"affine, event_dim 0", "sigmoid", "there and back"}),
}


@pytest.mark.parametrize("mistake", list(WRONG))
def test_wrong_log_determinants_are_noticed(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, method, wrong, noticed = WRONG[mistake]
    monkeypatch.setattr(owner, method, wrong)
    for name in noticed:
        flow = NormalizingFlow(StandardNormal(DIM).to(F64), stacks(F64)[name])
        assert disagreement(name, flow, F64) > 0.1, name


@torch.no_grad()
def test_log_abs_det_jacobian_of_an_inverse() -> None:
    """Which torch's own classes ask for."""
    for kind in (AffineCoupling, MaskedAutoregressive):
        layer, x = shaken(kind(DIM)).double(), torch.randn(9, DIM, dtype=F64)
        z = layer.inv(x)
        told = layer.inv.log_abs_det_jacobian(x, z)
        wanted = torch.stack([torch.autograd.functional.jacobian(layer.inv, one) for one in x]).det().abs().log()
        torch.testing.assert_close(told, wanted)
        assert (wrong_inverse("log_abs_det_jacobian")(layer.inv, x, z) - wanted).abs().max() > 0.1  # type: ignore[operator]


def test_a_log_scale_has_a_bound_and_a_layer_a_stretch() -> None:
    x = torch.tensor([-1e9, -BOUND, -1e-3, 0.0, 1e-3, BOUND, 1e9], dtype=F64, requires_grad=True)
    y = softclip(x)
    torch.testing.assert_close(y[[1, 5]], torch.tensor([-BOUND / 2, BOUND / 2], dtype=F64))
    assert y.abs().max() <= BOUND == 5.0
    assert y[-1] > 0.999 * BOUND
    assert (y.diff() > 0).all()
    assert (y - x)[2:5].abs().max() < 1e-6
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope[[1, 3, 5]], torch.tensor([0.25, 1.0, 0.25], dtype=F64))
    for kind in (AffineCoupling, MaskedAutoregressive):
        layer = kind(2, flip=True).double()
        with torch.no_grad():
            layer.network[-1].bias[-2:] = 1e9  # type: ignore[index, union-attr, operator]
            log_scale = layer.push(torch.randn(4, 2, dtype=F64))[1]
        moved = 1 if kind is AffineCoupling else 2
        torch.testing.assert_close(log_scale, torch.full((4,), moved * BOUND, dtype=F64))


def naive(layer: Planar, z: Tensor) -> Tensor:
    """The logarithm as it was before: a softplus alone, which float32 rounds to nothing."""
    one_plus = torch.nn.functional.softplus(layer.u @ layer.w + math.log(math.e - 1))
    h = torch.tanh(z @ layer.w + layer.b)
    return torch.log(h**2 + (1 - h**2) * one_plus)


@torch.no_grad()
def test_logarithm_of_planar_stays_finite_and_keeps_its_digits() -> None:
    """At h = 0, for any raw u, in float32 as in float64. There the slope is `exp(-5)` at least."""
    for raw in (-3.0, -20.0, -120.0, -1e4):
        layer = Planar(2)
        layer.b.fill_(0.25), layer.w.copy_(torch.tensor([1.5, -2.0]))
        layer.u.copy_(raw * layer.w / layer.w.square().sum())
        offsets = torch.tensor([0.0, 1e-4, 0.1, 1.0, 3.0])
        z = (offsets - 0.25)[:, None] * layer.w / layer.w.square().sum()
        told = layer.push(z)[1]
        exact = shaken_copy(layer).push(z.double())[1]
        assert told.isfinite().all()
        assert told.min() >= -BOUND - 1e-5
        torch.testing.assert_close(told.double(), exact, rtol=0, atol=1e-5)
        if raw <= -20:
            assert exact[0].exp().item() == pytest.approx(FLATTEST, rel=1e-6)
        assert naive(layer, z)[0].isinf().item() is (raw <= -120)


def shaken_copy(layer: Planar) -> Planar:
    twin = Planar(2).double()
    twin.load_state_dict(layer.state_dict())
    return twin


@torch.no_grad()
def test_planar_at_minus_one_can_be_undone_but_not_differentiably() -> None:
    """`s - tanh s`, which is u.w = -1, rises everywhere, with slope 0 at one place; beyond -1 it folds."""
    s = torch.linspace(-3, 3, 2001, dtype=F64)
    assert ((s - torch.tanh(s)).diff() > 0).all()
    assert not ((s - 1.01 * torch.tanh(s)).diff() > 0).all()
    assert (1 - (1 - torch.tanh(torch.zeros((), dtype=F64)) ** 2)).item() == 0
