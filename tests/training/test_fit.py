"""`fit`: schedule and averages against closed forms, few looks at the device, and what is refused."""

from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.utils._python_dispatch import TorchDispatchMode
from training_runs import net, quiet, regression

from fmtutor import VelocityMLP, training
from fmtutor.images import UNet
from fmtutor.training import average, fit, learning_rate

# --- learning rate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [40, 137])
def test_learning_rate_is_torchs_linear_then_cosine(steps: int) -> None:
    rise = round(0.1 * steps)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    up, down = LinearLR(optimizer, 1 / rise, total_iters=rise - 1), CosineAnnealingLR(optimizer, steps - rise)
    scheduler = SequentialLR(optimizer, [up, down], [rise])
    for step in range(steps):
        assert learning_rate(step, steps, 0.3, 0.1, "cosine") == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()
    assert learning_rate(steps, steps, 0.3, 0.1, "cosine") == 0  # where the next one would be


def test_history_has_the_rates_that_the_optimizer_saw() -> None:
    weight, seen = nn.Parameter(torch.zeros(())), []
    model = nn.ParameterList([weight])

    def loss() -> Tensor:
        seen.append(weight.item())
        return weight * 1.0

    history = quiet(model, loss, steps=50, lr=0.1, warmup=0.2, ema=None, optimizer=torch.optim.SGD)
    moved = -torch.tensor([*seen, weight.item()], dtype=torch.float64).diff()  # the gradient is 1
    torch.testing.assert_close(moved, history.learning_rates, atol=1e-6, rtol=0)
    constant = quiet(model, loss, steps=50, lr=0.1, warmup=0.2, schedule="constant").learning_rates
    assert (constant[10:] == 0.1).all()
    assert constant[:2].tolist() == pytest.approx([0.01, 0.02])


def test_every_group_of_an_optimizer_has_the_rate() -> None:
    model = nn.ParameterList([nn.Parameter(torch.zeros(())) for _ in range(2)])

    def grouped(parameters, lr):
        return torch.optim.SGD([{"params": [p]} for p in parameters], lr=123.0)

    history = quiet(model, lambda: -model[0] - model[1], steps=20, lr=0.1, ema=None, optimizer=grouped)
    assert model[0].item() == model[1].item() == pytest.approx(history.learning_rates.sum().item(), rel=1e-5)


# --- average of the weights -------------------------------------------------------------------------------------------


def averaged_descent(decay: float, steps: int) -> float:
    """Where `fit` leaves a weight that starts at 0 and, its gradient being -1 and the rate 1, is k after k steps."""
    model = nn.ParameterList([nn.Parameter(torch.zeros((), dtype=torch.float64))])
    sgd = torch.optim.SGD
    quiet(model, lambda: -model[0], steps=steps, lr=1.0, warmup=0, schedule="constant", ema=decay, optimizer=sgd)
    return model[0].item()


def average_is_right() -> bool:
    """Solve e' = d e + (1 - d)(s + 1): 0.9 n for d = (1 + s)/(10 + s), n - d (1 - d^n)/(1 - d) for constant d."""
    n, d = 60, 0.08
    growing = averaged_descent(0.999, n) == pytest.approx(0.9 * n, abs=1e-9)
    constant = averaged_descent(d, n) == pytest.approx(n - d * (1 - d**n) / (1 - d), abs=1e-9)
    return growing and constant


def test_average_is_the_closed_form() -> None:
    assert average_is_right()
    assert averaged_descent(0.0, 60) == 60


def swapped(averages, weights, decay, step):
    torch._foreach_lerp_(list(averages), [w.detach() for w in weights], min(decay, (1 + step) / (10 + step)))


def no_warm_up(averages, weights, decay, step):
    torch._foreach_lerp_(list(averages), [w.detach() for w in weights], 1 - decay)


def late_by_one(averages, weights, decay, step):
    average(averages, weights, decay, step + 1)


@pytest.mark.parametrize("wrong", [swapped, no_warm_up, late_by_one])
def test_wrong_averages_fail_the_same_check(wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "average", wrong)
    assert not average_is_right()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_averages_move_in_half_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    """A weight jumps from 1 to 1.1 in the tenth step. Its average is worked out in Python's own floats."""
    model = nn.ParameterList([nn.Parameter(torch.ones((), dtype=dtype))])
    count, expected = itertools.count(1), 1.0

    def loss() -> Tensor:
        return -0.1 * model[0] * (next(count) == 10)

    plain = {"lr": 1.0, "warmup": 0, "schedule": "constant", "optimizer": torch.optim.SGD}
    quiet(model, loss, steps=1500, checkpoint=tmp_path, **plain)
    for step in range(1500):
        weight = 1.0 if step < 9 else 1.1
        expected += (1 - min(0.999, (1 + step) / (10 + step))) * (weight - expected)
    assert expected > 1.0999
    assert model[0].dtype == dtype
    assert model[0].item() == pytest.approx(1.1, abs=2 * torch.finfo(dtype).eps + 1e-6)
    with safe_open(next(tmp_path.glob("*.safetensors")), "pt") as file:
        kept = file.get_tensor("average/0")  # and in the checkpoint it has all its digits
    assert kept.dtype == torch.promote_types(dtype, torch.float32)
    jump = torch.tensor(1.0, dtype=dtype) + 0.1
    assert kept.item() == pytest.approx(1 + (expected - 1) * (jump.item() - 1) / 0.1, abs=1e-6 * 20)


def test_averages_leave_buffers_alone_and_the_model_in_evaluation_mode() -> None:
    model = net()
    assert model.training
    quiet(model, regression(model), steps=30)
    assert not any(module.training for module in model.modules())
    assert model[1].num_batches_tracked == 30  # it trained in training mode
    assert model.frequencies.tolist() == [1.0, -float("inf")]


# --- no waiting for the device ----------------------------------------------------------------------------------------


class Looks(TorchDispatchMode):
    """Counts the times a number leaves a tensor, from Python (patched methods) or from C++ (`_local_scalar_dense`)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.count = 0
        for name in ["item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__"]:
            monkeypatch.setattr(Tensor, name, self.counted(getattr(Tensor, name)))

    def counted(self, method):
        def wrapper(*args, **kwargs):
            self.count += 1
            return method(*args, **kwargs)

        return wrapper

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("every_step", "expected"), [(False, range(1, 20)), (True, range(300, 10_000))])
def test_looks_at_the_device_once_in_log_every_steps(every_step, expected, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss() -> Tensor:
        value = model(torch.randn(8, 3)).square().mean()
        return value * (1.0 if value.item() > -1 else 0.0) if every_step else value  # the mistake, planted

    with monkeypatch.context() as patch, Looks(patch) as looks:
        quiet(model, loss, steps=300, log_every=100, clip=1.0)
    assert looks.count in expected


# --- what else it does ------------------------------------------------------------------------------------------------


def test_learns() -> None:
    torch.manual_seed(0)
    line = nn.Linear(2, 1)

    def loss() -> Tensor:
        x = torch.randn(64, 2)
        return (line(x) - x @ torch.tensor([[1.0], [-2.0]]) - 0.5).square().mean()

    quiet(line, loss, steps=300, lr=0.1, clip=1.0)
    torch.testing.assert_close(line.weight.detach(), torch.tensor([[1.0, -2.0]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(line.bias.detach(), torch.tensor([0.5]), atol=1e-3, rtol=0)


def test_numbers_of_other_makers_are_written_as_plain_ones(tmp_path: Path) -> None:
    numbers = {"steps": numpy.int64(6), "lr": numpy.float32(1e-2), "ema": numpy.float32(0.5), "clip": torch.tensor(1.0)}
    model = net()
    quiet(model, regression(model), checkpoint=tmp_path, checkpoint_every=3, **numbers)
    with pytest.warns(UserWarning, match="takes no step"):
        assert quiet(model, regression(model), checkpoint=tmp_path, checkpoint_every=3, **numbers).steps == 6
    quiet(model, regression(model), steps=torch.tensor(2))


def test_a_long_gradient_is_cut_to_length() -> None:
    for clip, expected in ((None, 30.0), (5.0, 5.0), (50.0, 30.0)):
        model = nn.Linear(1, 1, bias=False)
        start = model.weight.item()
        plain = {"warmup": 0.0, "schedule": "constant", "ema": None, "optimizer": torch.optim.SGD}
        quiet(model, lambda: 30 * model.weight.sum(), steps=1, lr=1.0, clip=clip, **plain)  # noqa: B023
        assert start - model.weight.item() == pytest.approx(expected, rel=1e-4)


def test_a_second_training_trains_too() -> None:
    """After a first one the model is in evaluation mode, where dropout drops nothing."""
    model, seen = net(), []

    def loss() -> Tensor:
        seen.append(model.training)
        return model(torch.randn(8, 3)).square().mean()

    quiet(model, loss, steps=1)
    assert not model.training
    quiet(model, loss, steps=1)
    assert seen == [True, True]


def test_the_seed_is_torchs_own() -> None:
    model = net(seed=11)
    assert quiet(model, regression(model), steps=1).seed == torch.initial_seed() == 11


# --- threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "threads", "expected"),
    [
        (nn.Linear(10, 10), None, 1),
        (nn.Linear(300, 300), None, 2),  # 90 300 weights
        (nn.Conv2d(1, 1, 3), None, 2),  # few weights, each used at every pixel
        (nn.Linear(10, 10), 2, 2),
        (nn.Linear(300, 300), 1, 1),
    ],
)
def test_a_small_dense_network_is_trained_on_one_thread(model: nn.Module, threads: int | None, expected: int) -> None:
    torch.set_num_threads(2)
    seen = []

    def loss() -> Tensor:
        seen.append(torch.get_num_threads())
        if len(seen) > 2:
            raise KeyboardInterrupt
        return model.weight.square().mean()

    quiet(model, loss, steps=2, threads=threads)
    assert seen == [expected] * 2
    assert torch.get_num_threads() == 2
    with pytest.raises(KeyboardInterrupt):
        quiet(model, loss, steps=2, threads=threads)
    assert torch.get_num_threads() == 2  # also when training was broken off


def test_the_networks_that_train_on_one_thread_are_the_ones_we_think() -> None:
    torch.set_num_threads(2)
    with training.few_threads(list(VelocityMLP(dim=2).parameters())):
        assert torch.get_num_threads() == 1
    with training.few_threads(list(UNet(width=8).parameters())):
        assert torch.get_num_threads() == 2


# --- what is not finite -----------------------------------------------------------------------------------------------


def spoiled(bad: float, at: int) -> tuple[nn.Module, Callable[[], Tensor]]:
    """A model and a loss that is `bad` in one step."""
    model, steps = net(), itertools.count(1)
    loss = regression(model)
    return model, lambda: loss() * (bad if next(steps) == at else 1.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_named_with_its_step_and_checkpoint(bad: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"got {bad} at step 37 of 100.*lr=0.003.*step-00000030\.json"):
        quiet(*spoiled(bad, 37), steps=100, checkpoint=tmp_path, checkpoint_every=10)
    assert sorted(p.name for p in tmp_path.glob("*.json")) == ["step-00000020.json", "step-00000030.json"]
    with pytest.raises(ValueError, match=rf"got {bad} at step 37 of 100.*No checkpoint was written"):
        quiet(*spoiled(bad, 37), steps=100)
    with pytest.raises(ValueError, match=rf"got {bad} at step 1 of 100.*look at the data"):
        quiet(*spoiled(bad, 1), steps=100)


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    model = nn.ParameterList([nn.Parameter(torch.tensor(1.0))])

    def loss() -> Tensor:  # finite, with an infinite gradient: the square root at zero
        return (model[0] - model[0].detach()).abs().sqrt()

    with pytest.raises(
        ValueError, match="weights must be finite, got NaN or infinity after a loss of 0, at step 1 of 1"
    ):
        quiet(model, loss, steps=1, checkpoint=tmp_path)
    assert not list(tmp_path.iterdir())


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"steps": 0}, ValueError, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 2.5}, ValueError, "steps must be a whole number"),
        ({"steps": True}, ValueError, "steps must be a whole number"),
        ({"lr": 0.0}, ValueError, "lr must be above 0"),
        ({"lr": float("nan")}, ValueError, "lr must be above 0"),
        ({"ema": 1.0}, ValueError, r"ema must lie in \[0, 1\), got 1.0"),
        ({"ema": -0.1}, ValueError, "ema must lie in"),
        ({"ema": float("nan")}, ValueError, "ema must lie in"),
        ({"warmup": 100}, ValueError, "warmup must lie in"),
        ({"clip": 0.0}, ValueError, "clip must be above 0"),
        ({"schedule": "cosin"}, ValueError, "schedule must be one of 'cosine', 'constant', got 'cosin'"),
        ({"log_every": 0}, ValueError, "log_every must be a whole number"),
        ({"threads": 0}, ValueError, "threads must be a whole number of at least 1, got 0"),
        ({"checkpoint_every": -1}, ValueError, "checkpoint_every must be a whole number"),
        ({"generators": torch.Generator()}, TypeError, "generators must be a sequence"),
        ({"checkpoint": __file__}, ValueError, "checkpoint must be a folder, got the file"),
        ({"learning_rate": 0.1}, TypeError, "learning_rate"),
        ({"model": 3}, TypeError, "model must be a torch.nn.Module, got int"),
        ({"model": nn.ReLU()}, ValueError, "model must have something to train"),
        ({"loss": torch.zeros(())}, TypeError, "loss must be a function without arguments"),
        ({"loss": lambda: 1.0}, TypeError, "loss must return a torch.Tensor, got float"),
        ({"loss": lambda: torch.tensor(1.0)}, ValueError, "no gradient: was it detached"),
        (
            {"loss": lambda: nn.Parameter(torch.ones(())) * 1},
            ValueError,
            "no parameter of the model received a gradient",
        ),
    ],
)
def test_refuses(change: dict, error: type[Exception], match: str) -> None:
    model = nn.Linear(1, 1)
    arguments = {"model": model, "loss": lambda: model.weight.sum(), "steps": 3, "progress": False, **change}
    with pytest.raises(error, match=match):
        fit(**arguments)


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3))
@settings(deadline=None, max_examples=15)
def test_refuses_a_loss_of_any_other_shape(shape: list[int]) -> None:
    model = nn.ParameterList([nn.Parameter(torch.ones(shape))])
    with pytest.raises(ValueError, match="loss must return a scalar, got shape"):
        quiet(model, lambda: model[0] * 2, steps=1)


@pytest.mark.parametrize(("shown", "variable"), [(False, None), (True, "1")])
def test_progress_never_litters(shown, variable, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    if variable:
        monkeypatch.setenv("TQDM_DISABLE", variable)
    model = net()
    fit(model, regression(model), steps=20, log_every=5, progress=shown)
    fit(model, regression(model), steps=20, log_every=5)  # standard error is not a terminal here
    assert capfd.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("variable", "shown"), [("", True), ("1", False)])
def test_somebody_who_watches_sees_a_bar_unless_it_is_turned_off(variable, shown, monkeypatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", variable)
    monkeypatch.setattr(sys, "stderr", Terminal())
    model = net()
    fit(model, regression(model), steps=20, log_every=5)
    assert ("20/20" in sys.stderr.getvalue()) == ("loss " in sys.stderr.getvalue()) == shown
    assert bool(sys.stderr.getvalue()) == shown
