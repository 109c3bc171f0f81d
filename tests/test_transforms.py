"""torch's own ways, `vmap`, `compile` and `export`: looks at values step aside there, and the numbers are the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from reference import F64, SCHEDULES, targets
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fmtutor import (
    AffineCoupling,
    AffinePath,
    ContinuousFlow,
    EightGaussians,
    NormalizingFlow,
    Planar,
    StandardNormal,
    VelocityMLP,
    conditional_flow_matching_loss,
    divergence,
    flow_matching_loss,
    independent,
    solve,
)
from fmtutor.diffusion import as_score, as_velocity
from fmtutor.losses import prediction_loss

PATH, TARGET, NET = AffinePath(), EightGaussians().to(F64), VelocityMLP(2, width=8, depth=1, frequencies=2).double()
FLOW = ContinuousFlow(NET.eval(), StandardNormal(2).to(F64), method="rk4", steps=3)
LAYERS = NormalizingFlow(StandardNormal(2), [AffineCoupling(2), Planar(2).inv]).double().eval()
T = torch.tensor(0.4, dtype=F64)

# every entry takes a batch of x0 and one of x1, `(batch, 2)`
ENTRIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "path.sample": lambda x0, x1: PATH.sample(x0, x1, T).xt,
    "conditional_velocity": lambda x0, x1: PATH.conditional_velocity(T, x0, x1),
    "conditional_score": lambda x0, x1: PATH.conditional_score(T, x0, x1),
    "marginal_velocity": lambda x0, x1: PATH.marginal_velocity(T, x0, TARGET),
    "marginal_score": lambda x0, x1: PATH.marginal_score(T, x0, TARGET),
    "marginal_log_prob": lambda x0, x1: PATH.marginal_log_prob(T, x0, TARGET),
    "convert": lambda x0, x1: PATH.convert(T, x0, x1, "velocity", "score"),
    "independent": independent,
    "conditional loss": lambda x0, x1: conditional_flow_matching_loss(NET, PATH, x0, x1, T),
    "as_velocity": lambda x0, x1: as_velocity(NET, PATH, "data")(T, x0),
    "as_score": lambda x0, x1: as_score(NET, PATH, "noise")(T, x0),
    "prediction loss": lambda x0, x1: prediction_loss(NET, PATH, x0, x1, T, "score", weight=lambda t: t**2),
    "exact loss": lambda x0, x1: flow_matching_loss(NET, PATH, TARGET, x0, T),
    "VelocityMLP": lambda x0, x1: NET(T, x0),
    "solve": lambda x0, x1: solve(NET, x0, steps=3).x,
    "solve, rk4": lambda x0, x1: solve(NET, x0, method="rk4", steps=3).x,
    "divergence": lambda x0, x1: divergence(NET, T, x0)[1],
    "likelihood": lambda x0, x1: FLOW.log_prob(x0),
    "layers": lambda x0, x1: LAYERS.log_prob(x0),
    "posterior_mean": lambda x0, x1: TARGET.posterior_mean(x0, 0.3, 0.7),
    "responsibilities": lambda x0, x1: TARGET.responsibilities(x0, T, T),
} | {
    f"log_prob of {name}": lambda x0, x1, target=target: target.log_prob(x0)  # type: ignore[misc,attr-defined]
    for name, target in targets().items()
    if name not in ("data", "moons", "spirals", "pinwheel")
}  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES)
def test_vmap_is_a_loop(entry: str) -> None:
    run, x0, x1 = ENTRIES[entry], torch.randn(3, 4, 2, dtype=F64), torch.randn(3, 4, 2, dtype=F64)
    one_by_one = torch.stack([run(a, b) for a, b in zip(x0, x1, strict=True)])
    torch.testing.assert_close(torch.vmap(run)(x0, x1), one_by_one)
    with torch.no_grad():
        torch.testing.assert_close(torch.vmap(run)(x0, x1), one_by_one)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_vmap_over_times(schedule: str) -> None:
    path, x0, x1, t = AffinePath(SCHEDULES[schedule]), *torch.randn(2, 5, 2, dtype=F64), torch.linspace(0.1, 0.9, 5)
    t = t.double()
    for name in ("xt", "ut"):
        each = lambda t, a, b: getattr(path.sample(a[None], b[None], t), name)[0]  # noqa: B023, E731
        torch.testing.assert_close(torch.vmap(each)(t, x0, x1), getattr(path.sample(x0, x1, t), name))
    both = torch.vmap(torch.func.grad(lambda t, a, b: path.sample(a[None], b[None], t).xt.sum()))(t, x0, x1)
    torch.testing.assert_close(both, path.sample(x0, x1, t).ut.sum(1))  # what moves is what t moves


@pytest.mark.parametrize("entry", ["conditional loss", "exact loss", "VelocityMLP", "likelihood", "path.sample",
                                   "as_velocity", "as_score", "prediction loss"])  # fmt: skip
def test_compiled_without_a_break(entry: str) -> None:
    run, x0, x1 = ENTRIES[entry], torch.randn(4, 2, dtype=F64), torch.randn(4, 2, dtype=F64)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(run, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x0, x1), run(x0, x1))


def test_a_compiled_loss_has_the_same_gradient() -> None:
    x0, x1 = torch.randn(4, 2, dtype=F64), torch.randn(4, 2, dtype=F64)
    torch._dynamo.reset()
    found = []
    for loss in (ENTRIES["conditional loss"], torch.compile(ENTRIES["conditional loss"], backend="aot_eager")):
        found.append(torch.autograd.grad(loss(x0, x1), list(NET.parameters())))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("strict", [False, True])
def test_a_network_is_exported(strict: bool) -> None:
    t, x = torch.rand(4, dtype=F64), torch.randn(4, 2, dtype=F64)
    program = torch.export.export(NET, (t, x), strict=strict)
    torch.testing.assert_close(program.module()(t, x), NET(t, x))


def test_fake_tensors_have_shapes_and_no_values() -> None:
    with FakeTensorMode():
        x0, x1 = torch.randn(4, 2), torch.randn(4, 2)
        assert PATH.sample(x0, x1, 0.5).xt.shape == (4, 2)


def test_in_plain_use_values_are_still_looked_at() -> None:
    bad = torch.full((2, 2), torch.nan)
    for call in (
        lambda: PATH.sample(bad, bad, 0.5),
        lambda: torch.vmap(lambda x: PATH.sample(bad, bad, 0.5).xt + x)(torch.zeros(3)),  # bad is no part of the batch
    ):
        with pytest.raises(ValueError, match="x0 must be finite"):
            call()
