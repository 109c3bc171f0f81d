"""Flows under `torch.vmap`, `torch.compile` and `torch.export`: checks of values step aside there, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from shaken import shaken, stack
from torch import Tensor, nn
from torch.distributions import (
    AffineTransform,
    ExpTransform,
    Independent,
    Normal,
    SigmoidTransform,
    StickBreakingTransform,
    TanhTransform,
    Uniform,
)

from fmtutor import (
    AffineCoupling,
    MaskedAutoregressive,
    NormalizingFlow,
    Planar,
    StandardNormal,
    bits_per_dim,
    dequantize,
)

BASE = StandardNormal(2)


def flows() -> dict[str, NormalizingFlow]:
    ones = torch.ones(2)
    return {
        "coupling": NormalizingFlow(BASE, stack(AffineCoupling, 2)),
        "autoregressive": NormalizingFlow(BASE, stack(MaskedAutoregressive, 2)),
        "planar.inv": NormalizingFlow(BASE, [shaken(Planar(2)).inv]),
        "sigmoid": NormalizingFlow(BASE, [*stack(AffineCoupling, 1), AffineTransform(ones, 2.0), SigmoidTransform()]),
        "affine.inv": NormalizingFlow(BASE, [AffineTransform(ones, nn.Parameter(2 * ones)).inv]),
        "exp": NormalizingFlow(BASE, [ExpTransform()]),
        "tanh": NormalizingFlow(BASE, [TanhTransform()]),
        "stick": NormalizingFlow(BASE, [StickBreakingTransform()]),
        "normal": NormalizingFlow(Independent(Normal(ones, 1.0), 1), stack(AffineCoupling, 1)),
        "uniform": NormalizingFlow(Independent(Uniform(0 * ones, 1.0), 1), [AffineTransform(0.0, 2.0)]),
    }


class Density(nn.Module):
    def __init__(self, flow: NormalizingFlow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor) -> Tensor:
        return self.flow.log_prob(x)


def points(name: str, flow: NormalizingFlow) -> Tensor:
    return torch.randn(5, 2) if name == "planar.inv" else flow.sample((5,))


@pytest.mark.parametrize("name", list(flows()))
def test_vmap_over_log_prob(name: str) -> None:
    flow = flows()[name]
    x = points(name, flow)
    torch.testing.assert_close(torch.vmap(flow.log_prob)(x), flow.log_prob(x))
    at = x.requires_grad_()
    told = flow.log_prob(at).sum()
    wanted = torch.autograd.grad(told, at)[0] if told.requires_grad and name != "uniform" else torch.zeros_like(x)
    torch.testing.assert_close(torch.vmap(torch.func.grad(flow.log_prob))(x.detach()), wanted)


@pytest.mark.parametrize(
    "name", ["coupling", "autoregressive", "planar.inv", "sigmoid", "affine.inv", "stick", "normal"]
)
def test_compiled_whole(name: str) -> None:
    flow = flows()[name]
    x = points(name, flow)
    calls: list[tuple[Any, tuple[Any, ...]]] = [(flow.log_prob, (x,))]
    if name != "planar.inv":
        calls.append((flow.sample_and_log_prob, ((3,),)))
    for call, arguments in calls:
        torch._dynamo.reset()
        compiled = torch.compile(call, backend="eager", fullgraph=True)
        torch.manual_seed(1)
        wanted = call(*arguments)
        torch.manual_seed(1)
        torch.testing.assert_close(compiled(*arguments), wanted)
    torch._dynamo.reset()
    if name == "sigmoid":
        torch.testing.assert_close(torch.export.export(Density(flow), (x,)).module()(x), flow.log_prob(x))


def test_draws_under_vmap_are_independent() -> None:
    flow = flows()["sigmoid"]
    x = torch.vmap(lambda _: flow.sample((3,)), randomness="different")(torch.zeros(5))
    assert x.shape == (5, 3, 2)
    assert x.unique().numel() == 30


def test_pixels_under_vmap_and_compiled() -> None:
    values = torch.randint(17, (5, 4))
    for each in (
        torch.vmap(lambda row: dequantize(row, 17), randomness="different"),
        torch.compile(lambda rows: dequantize(rows, 17), backend="eager", fullgraph=True),
    ):
        assert torch.equal((each(values) * 17).floor().long(), values)
    log_prob = torch.randn(4)
    torch.testing.assert_close(
        torch.vmap(lambda row: bits_per_dim(row, 3, 17))(log_prob), bits_per_dim(log_prob, 3, 17)
    )
