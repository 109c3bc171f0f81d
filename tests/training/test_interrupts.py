"""Ctrl-C, as the system sends it: the step at hand is finished, and what is left is whole."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from training_runs import fingerprint, net, quiet, regression, resumed, run, train

from fmtutor.training import load_weights
from fmtutor.training.weights import weights


def press(*steps: int):
    """Ctrl-C in the middle of these steps."""

    def act(now: int) -> None:
        for _ in range(steps.count(now)):
            signal.raise_signal(signal.SIGINT)

    return act


@pytest.fixture(autouse=True)
def _answered_as_python_does() -> Iterator[None]:
    """A shell that starts the tests in the background has them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys, "ps1", raising=False)


def is_as_saved(model: nn.Module, folder: Path, step: int) -> bool:
    other = net(1)
    assert load_weights(other, folder) == {"step": step}
    return all(torch.equal(w, weights(other)[name]) for name, w in weights(model).items()) and not model.training


@pytest.mark.usefixtures("notebook")
def test_in_a_notebook_model_and_history_are_there(tmp_path: Path) -> None:
    whole = train(None)
    with pytest.warns(UserWarning, match=r"training was interrupted at step 36 of 60: .*step-00000036\.json") as seen:
        model, history = run(tmp_path, press(36))
    assert Path(seen[0].filename).name == "training_runs.py"  # the line that called fit
    assert (history.steps, history.stopped) == (36, "interrupted at step 36 of 60")
    assert repr(history).endswith("interrupted at step 36 of 60")
    assert is_as_saved(model, tmp_path, 36)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert resumed(tmp_path) == whole  # the same call goes on, as if nobody had pressed anything


@pytest.mark.usefixtures("notebook")
def test_without_a_folder_too() -> None:
    with pytest.warns(UserWarning, match="interrupted at step 3 of 60: the model is ready for use$"):
        model, history = run(None, press(3))
    assert history.steps == 3
    assert not model.training


@pytest.mark.usefixtures("notebook")
def test_in_the_last_step_there_is_nothing_to_say(recwarn: pytest.WarningsRecorder) -> None:
    assert fingerprint(*run(None, press(60))) == train(None)
    assert not recwarn.list
    assert run(None, press(60))[1].stopped == ""


@pytest.mark.usefixtures("notebook")
def test_who_stops_in_the_same_step_has_the_last_word(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    def callback(step: int) -> None:
        raise StopIteration

    history = run(tmp_path, press(7), callback=callback)[1]
    assert history.stopped == "stopped by its callback at step 7 of 60"
    assert not recwarn.list


@pytest.mark.usefixtures("program")
def test_a_program_ends_and_goes_on_next_time(tmp_path: Path) -> None:
    whole, model = train(None), net()
    with pytest.raises(KeyboardInterrupt):
        quiet(model, regression(model, act=press(36)), steps=60, checkpoint=tmp_path / "other")
    assert is_as_saved(model, tmp_path / "other", 36)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, press(36))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, press(2), seed=3)
    assert (tmp_path / "step-00000038.json").exists()
    assert resumed(tmp_path) == whole


@pytest.mark.parametrize("where", ["notebook", "program"])
def test_the_second_press_does_not_wait(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(where)
    whole, model, seen = train(None), net(), []

    def act(step: int) -> None:
        seen.append(step)
        press(36, 36)(step)
        seen.append("after")

    with pytest.raises(KeyboardInterrupt):
        quiet(model, regression(model, act=act), steps=60, checkpoint=tmp_path / "other", checkpoint_every=10)
    assert seen[-1] == 36
    assert not model.training
    assert not list((tmp_path / "other").glob("step-00000035*"))  # a broken step is never saved
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, press(36, 36))
    assert resumed(tmp_path) == whole
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_after_a_broken_step_the_model_holds_its_average() -> None:
    """A weight that is k after k steps, and whose average is 0.9 k: see test_fit."""
    model = nn.ParameterList([nn.Parameter(torch.zeros((), dtype=torch.float64))])

    def loss() -> torch.Tensor:
        if model[0] == 20:
            raise KeyboardInterrupt
        return -model[0]

    sgd = {"lr": 1.0, "warmup": 0, "schedule": "constant", "optimizer": torch.optim.SGD}
    with pytest.raises(KeyboardInterrupt):
        quiet(model, loss, steps=60, **sgd)
    assert model[0].item() == pytest.approx(18)


@pytest.mark.usefixtures("program")
def test_an_answer_of_the_programs_own_is_left_alone() -> None:
    asked = []
    before = signal.signal(signal.SIGINT, lambda *_: asked.append(True))
    try:
        assert run(None, press(5, 5, 9))[1].steps == 60
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(asked) == 3


def test_a_thread_may_train() -> None:
    found = []
    thread = threading.Thread(target=lambda: found.append(run(None)[1].steps))
    thread.start()
    thread.join()
    assert found == [60]
