"""Guidance: the guided field by hand, where it takes a Gaussian, and that this is not the tilted density."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from reference import F64
from torch import Tensor, nn

from fmtutor import (
    AffinePath,
    ContinuousFlow,
    Cosine,
    Linear,
    Schedule,
    StandardNormal,
    VariancePreserving,
    drop_labels,
    guide,
    solve,
)

C, U = 1.0, 2.0  # variances with a label and without one


def field(t: Tensor, x: Tensor, label: Tensor, path: AffinePath) -> Tensor:
    """The exact field of a zero-mean Gaussian of variance c where the label is 1, and u where it is 0."""
    c = path.coefficients(t, x)
    s2 = torch.where(label == 1, C, U).to(x)[:, None]
    return (c.alpha * c.d_alpha * s2 + c.sigma * c.d_sigma) / (c.alpha**2 * s2 + c.sigma**2) * x


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), VariancePreserving()], ids=repr)
@pytest.mark.parametrize("g", [0.0, 1.0, 3.0])
def test_a_guided_flow_ends_at_the_geometric_mean_of_variances(schedule: Schedule, g: float) -> None:
    """`c^g u^(1-g)` on every path that starts at noise: each field multiplies x by its own standard deviation."""
    path, x0 = AffinePath(schedule), torch.tensor([[-1.0], [0.5], [2.0]], dtype=F64)
    guided = guide(partial(field, path=path), label=1, scale=g, null=0)
    end = solve(guided, x0, t1=1 - 1e-9, method="dopri5", rtol=1e-10, atol=1e-10).x
    variance = (end / x0).square()
    start = path.schedule.alpha(torch.zeros((), dtype=F64)).item()
    truth, tilted = C**g * U ** (1 - g), 1 / (g / C + (1 - g) / U)
    assert (variance - truth).abs().max() < 1e-6 + 10 * start**2
    if g == 3:
        assert truth == 0.25
        assert tilted == pytest.approx(0.5)
        assert (variance - tilted).abs().min() > 0.1  # it is not the tilted density
        swapped = C ** (1 - g) * U**g
        assert (variance - swapped).abs().min() > 1  # nor the weights of the two exchanged


def test_guidance_is_what_its_formula_says() -> None:
    torch.manual_seed(0)
    network = Labelled().double()
    x, t, label = torch.randn(5, 3, dtype=F64), torch.rand(5, dtype=F64), torch.tensor([0, 1, 2, 1, 0])
    null = torch.full((5,), 3)
    for scale in (-1.0, 0.0, 1.0, 2.5):
        wanted = scale * network(t, x, label) + (1 - scale) * network(t, x, null)
        found = guide(network, label, scale, null=3)
        torch.testing.assert_close(found(t, x), wanted)
        torch.testing.assert_close(found(t[0], x)[:1], wanted[:1])
    torch.testing.assert_close(guide(network, 1, 2.0, 3)(t, x), guide(network, torch.ones(5).long(), 2.0, null)(t, x))


def test_a_guided_network_is_a_field_like_any_other() -> None:
    network = Labelled().eval()
    guided = guide(network, label=2, scale=2.0, null=3)
    flow = ContinuousFlow(guided, StandardNormal(3), steps=4)
    assert flow.log_prob(flow.sample((6,))).shape == (6,)
    assert not flow.sample((2,)).requires_grad
    assert {id(p) for p in guided.parameters()} == {id(p) for p in network.parameters()}
    assert guided.double()(0.5, torch.zeros(2, 3, dtype=F64)).dtype == F64
    calls: list[int] = []
    network.register_forward_hook(lambda _, args, out: calls.append(len(out)))
    guided(0.5, torch.zeros(4, 3, dtype=F64)), guide(network, 2, 1.0, 3)(0.5, torch.zeros(4, 3, dtype=F64))
    assert calls == [8, 4]  # both halves in one batch, and one half where the other has no weight


def test_labels_are_dropped_as_often_as_asked_and_nowhere_else() -> None:
    """100 000 draws; 5 standard errors of a share of 0.1 are 0.005."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(100_000) % 10
    kept = drop_labels(label, 0.1, null=10, generator=generator)
    assert abs((kept == 10).double().mean().item() - 0.1) < 5 * math.sqrt(0.09 / 100_000)
    assert kept[kept != 10].equal(label[kept != 10])
    shares = (kept == 10).double().reshape(-1, 10).mean(0)  # of each class alike, so it is drawn for each point
    assert (shares - 0.1).abs().max() < 5 * math.sqrt(0.09 / 10_000)
    assert drop_labels(label, 0.0, null=10).equal(label)
    again = drop_labels(label, 0.1, null=10, generator=torch.Generator().manual_seed(0))
    assert again.equal(kept)
    assert drop_labels(label.int(), 0.5, null=10).dtype == torch.int32


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: guide("no", 1, 2.0, 0), TypeError, "velocity must be a function, got str"),
        (lambda: guide(Labelled(), 1.5, 2.0, 3), TypeError, "label must be a whole number"),
        (lambda: guide(Labelled(), torch.ones(2, 2).long(), 2.0, 3), TypeError, "label must be a whole number"),
        (lambda: guide(Labelled(), 1, math.inf, 3), ValueError, "scale must be finite, got inf"),
        (lambda: guide(Labelled(), 1, "2", 3), TypeError, "scale must be a number, got '2'"),
        (
            lambda: guide(Labelled(), torch.tensor([1, 2]), 2.0, 3)(0.5, torch.zeros(3, 3)),
            ValueError,
            "label must be one for each of 3 points, got 2",
        ),
        (lambda: drop_labels(torch.zeros(3), 0.1, 10), TypeError, "label must be a tensor of whole numbers"),
        (lambda: drop_labels(torch.zeros(3).long(), 1.1, 10), ValueError, r"p must lie in \[0, 1\], got 1.1"),
    ],
)
def test_refused(wrong, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        wrong()


class Labelled(nn.Module):
    """A small field with a label: 3 classes and one for none."""

    def __init__(self) -> None:
        super().__init__()
        self.label = nn.Embedding(4, 3)
        self.line = nn.Linear(3, 3)

    def forward(self, t: Tensor, x: Tensor, label: Tensor) -> Tensor:
        t = torch.as_tensor(t, dtype=x.dtype).expand(len(x))[:, None]
        return torch.tanh(self.line(x) + t * self.label(label))
