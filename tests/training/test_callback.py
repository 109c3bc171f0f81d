"""The hook of `fit`: what it is shown, what it may say, and that looking changes nothing."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor, nn
from training_runs import fingerprint, kill_at, net, quiet, run, train

from fmtutor.training import load_weights
from fmtutor.training.weights import weights

STEPS = [7, 14, 21, 28, 35, 42, 49, 56, 60]  # every seven of sixty, and the last


def test_it_is_called_every_so_often_and_at_the_end() -> None:
    seen = []
    run(None, callback=seen.append)
    assert seen == STEPS
    seen.clear()
    run(None, callback=seen.append, steps=21)
    assert seen == [7, 14, 21]  # the last one once


def averages_by_hand(model: nn.Module, steps: int) -> tuple[list[float], list[float]]:
    """What a callback sees of a weight that is k after k steps, and what it should: 0.9 k, see test_fit."""
    seen = []
    sgd = {"lr": 1.0, "warmup": 0, "schedule": "constant", "optimizer": torch.optim.SGD}
    quiet(model, lambda: -model[0], steps=steps, log_every=5, callback=lambda k: seen.append(model[0].item()), **sgd)
    return seen, [0.9 * k for k in range(5, steps + 1, 5)]


def test_it_sees_the_averaged_weights() -> None:
    model = nn.ParameterList([nn.Parameter(torch.zeros((), dtype=torch.float64))])
    seen, expected = averages_by_hand(model, 30)
    assert seen == pytest.approx(expected, abs=1e-9)  # those of each step would be 5, 10, 15 ...
    assert model[0].item() == pytest.approx(27)


def test_it_sees_what_a_training_of_that_length_would_leave(tmp_path: Path) -> None:
    """The second route: a checkpoint of that step, read into another network."""
    model, other, kept = net(), net(1), {}

    def callback(step: int) -> None:
        assert not any(module.training for module in model.modules())
        kept[step] = weights(model)

    with pytest.raises(InterruptedError):
        run(tmp_path, kill_at(36), model=model, callback=callback, log_every=10)
    assert load_weights(other, tmp_path) == {"step": 30}
    assert all(torch.equal(w, kept[30][name]) for name, w in weights(other).items())


def test_looking_changes_no_bit_of_the_training() -> None:
    model = net()

    def callback(step: int) -> dict[str, float]:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)  # a gradient left behind is nobody's
        return {"at one": model(torch.ones(5, 3)).square().mean().item()}

    assert fingerprint(*run(None, model=model, callback=callback)) == train(None)


def test_a_part_that_the_loss_keeps_in_evaluation_mode_stays_there() -> None:
    model, seen = nn.Sequential(nn.Linear(1, 1), nn.Dropout()), []

    def loss() -> Tensor:
        if not seen:
            model[1].eval()
        seen.append((model[0].training, model[1].training))
        return model(torch.ones(4, 1)).square().mean()

    quiet(model, loss, steps=6, log_every=2, callback=lambda step: None)
    assert seen == [(True, False)] * 6


def test_numbers_go_into_the_history() -> None:
    def callback(step: int) -> dict[str, object]:
        numbers = {"step": step, "half": torch.tensor(step / 2, requires_grad=True), "nan": numpy.float32("nan")}
        return numbers if step > 20 else {"step": step}

    history = run(None, callback=callback)[1]
    steps, values = history.logged["step"]
    assert steps.tolist() == values.tolist() == STEPS
    assert (steps.dtype, values.dtype) == (torch.int64, torch.float64)
    steps, values = history.logged["half"]
    assert (steps.tolist(), values.tolist()) == (STEPS[2:], [k / 2 for k in STEPS[2:]])
    assert history.logged["nan"][1].isnan().all()
    assert run(None)[1].logged == {}


@pytest.mark.parametrize(
    ("returned", "match"),
    [
        (0.5, "callback must return a dict of numbers by name, or None, got float"),
        ([1.0], "callback must return a dict .* got list"),
        ({"loss": "low"}, "what callback returns as 'loss' must be a number, got 'low'"),
        ({"loss": torch.ones(2)}, "what callback returns as 'loss' must be a number"),
    ],
)
def test_anything_else_is_refused(returned: object, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        run(None, callback=lambda step: returned)
    with pytest.raises(TypeError, match="callback must be a function, got dict"):
        run(None, callback={})


def stop_at_28(step: int) -> dict[str, float]:
    if step == 28:
        raise StopIteration({"n": 0.5})
    return {"n": step}


def test_it_can_stop_the_training() -> None:
    model, history = run(None, callback=stop_at_28)
    assert (history.steps, history.stopped) == (28, "stopped by its callback at step 28 of 60")
    assert len(history.learning_rates) == 28
    assert "28 steps in " in repr(history)
    assert repr(history).endswith(", stopped by its callback at step 28 of 60")
    assert history.logged["n"][1].tolist() == [7, 14, 21, 0.5]
    assert not model.training


def test_a_stopped_training_stays_stopped_until_it_is_asked_for_more(tmp_path: Path) -> None:
    model, history = run(tmp_path, callback=stop_at_28, schedule="constant", warmup=0.0)
    assert [file.name for file in sorted(tmp_path.glob("*.json"))] == ["step-00000020.json", "step-00000028.json"]
    with pytest.warns(UserWarning, match=r"takes no step: .*, stopped by its callback at step 28 of 60, and"):
        again, same = run(tmp_path, kill_at(1), seed=5, callback=stop_at_28, schedule="constant", warmup=0.0)
    assert fingerprint(again, same) == fingerprint(model, history)
    assert same.stopped == history.stopped
    more = run(tmp_path, callback=stop_at_28, schedule="constant", warmup=0.0, steps=61)[1]
    assert (more.steps, more.resumed, more.stopped) == (61, 28, "")
    assert more.logged["n"][0].tolist() == [7, 14, 21, 28, 35, 42, 49, 56, 61]


def test_numbers_and_draws_survive_a_kill(tmp_path: Path) -> None:
    """What was logged is in the checkpoint, and so is what a callback drew from a generator."""

    def callback(step: int) -> dict[str, float]:
        return {"drawn": torch.randn(()).item()}

    def logged(history) -> list[list[float]]:
        return [part.tolist() for part in history.logged["drawn"]]

    whole = run(None, callback=callback, log_every=10)[1]
    with pytest.raises(InterruptedError):  # the last checkpoint is of a step in which it was called
        run(tmp_path, kill_at(36), callback=callback, log_every=10)
    history = run(tmp_path, seed=9, callback=callback, log_every=10)[1]
    assert logged(history) == logged(whole)
    assert torch.equal(history.losses, whole.losses)


def test_when_it_fails_the_model_is_ready_for_use() -> None:
    def callback(step: int) -> None:
        if step == 42:
            kept.update({name: w.clone() for name, w in model.named_parameters()})
            raise ZeroDivisionError

    kept, model = {}, net()
    with pytest.raises(ZeroDivisionError):
        run(None, model=model, callback=callback)
    assert not model.training
    assert all(torch.equal(w, kept[name]) for name, w in model.named_parameters())


def test_early_stopping_is_worth_it() -> None:
    """Twenty rows, a network that learns them by heart: the best held-out weights are better than the last ones."""
    x = torch.randn(40, 8)
    y = x[:, :1] + torch.randn(40, 1)
    net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1))
    best = {"error": float("inf")}

    def error(rows: slice) -> Tensor:
        return (net(x[rows]) - y[rows]).square().mean()

    def callback(step: int) -> dict[str, float]:
        now = error(slice(20, 40)).item()
        if now < best["error"]:
            best.update(error=now, weights=copy.deepcopy(net.state_dict()))
        return {"held out": now}

    history = quiet(net, lambda: error(slice(20)), steps=400, log_every=10, callback=callback)
    last = error(slice(20, 40)).item()
    assert history.logged["held out"][1][-1] == pytest.approx(last, rel=1e-6)  # the weights that `fit` leaves
    net.load_state_dict(best["weights"])
    assert error(slice(20, 40)).item() == pytest.approx(best["error"], rel=1e-6)
    assert best["error"] < 0.7 * last


def test_it_may_look_at_the_losses_so_far(tmp_path: Path) -> None:
    losses, seen = [9.9], []

    def callback(step: int) -> None:
        seen.append((step, len(losses), losses[-1]))

    with pytest.raises(InterruptedError):
        run(tmp_path, kill_at(36), callback=callback, losses=losses)
    _, history = run(tmp_path, callback=callback, losses=losses)  # and once more those from before the resume
    assert history.resumed == 30
    assert losses == history.losses.tolist()
    assert seen == [(k, k, losses[k - 1]) for k in (7, 14, 21, 28, 35, 35, 42, 49, 56, 60)]
    with pytest.raises(TypeError, match="losses must be a list, got tuple"):
        run(None, losses=())
