"""Checkpoints: a resume against the uninterrupted run bit by bit, damaged files, kills."""

from __future__ import annotations

import copy
import errno
import itertools
import json
import os
import random
import shutil
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor, nn
from training_runs import fingerprint, flip, kill_at, killed, net, quiet, resumed, run, train

from fmtutor.training import checkpoints, load_weights, randomness, save_weights
from fmtutor.training import run as run_module

# --- resume: in one process ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema": None},
        {"optimizer": partial(torch.optim.SGD, momentum=0.9)},
        {"optimizer": torch.optim.SGD},
        {"generators": []},
    ],
    ids=["default", "no average", "momentum", "no optimizer state", "none of the loss's own"],
)
def test_resume_is_exact(changes: dict, tmp_path: Path) -> None:
    whole = train(None, **changes)
    killed(tmp_path, **changes)
    if changes != {"generators": []}:
        assert resumed(tmp_path, **changes) == whole
    else:  # the loss draws from generators that `fit` was not told of: the docstring promises nothing
        assert resumed(tmp_path, **changes) != whole
    assert len(list(tmp_path.iterdir())) == 4  # two checkpoints of two files


def test_resume_is_exact_where_weights_lie_channels_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moments read from a file lie row by row, and a fused Adam would give each weight those of another."""

    def fitted(folder: Path | None, act=None) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
        steps = itertools.count(1)

        def loss() -> Tensor:
            if act is not None:
                act(next(steps))
            return (model(torch.randn(4, 8, 5, 5)) - 1).square().mean()

        history = quiet(model, loss, steps=60, checkpoint=folder, checkpoint_every=10)
        return [history.losses, *model.parameters()]

    whole = fitted(None)
    with pytest.raises(InterruptedError):
        fitted(tmp_path, kill_at(36))
    again = tmp_path.with_name("again")
    shutil.copytree(tmp_path, again)
    assert all(a.equal(b) for a, b in zip(fitted(tmp_path), whole, strict=True))
    monkeypatch.setattr(torch, "empty_like", lambda like, dtype: torch.empty(like.shape, dtype=dtype))
    assert not all(a.equal(b) for a, b in zip(fitted(again), whole, strict=True))


@torch.no_grad()
def parameters_only(model: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    for key, parameter in model.named_parameters():
        parameter.copy_(tensors[key])


def forget(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant a resume that leaves one thing out."""
    resume, restore = run_module.Run._resume, randomness.set_state

    def forgetful(run: run_module.Run) -> None:
        resume(run)
        if name == "averages":
            run.averages = [p.detach().clone() for p in run.parameters]

    def without_own(state, generators):
        own = list(generators)
        place = {"torch": 0, "numpy": 1, "mersenne": 2, "python": 3}[name.removeprefix("own ")]
        own[place] = copy.deepcopy(own[place]) if place else own[place].clone_state()
        restore(state, own)

    if name == "optimizer":
        monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", lambda self, state: None)
    elif name == "global torch":
        monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    elif name == "global numpy":
        monkeypatch.setattr(numpy.random, "set_state", lambda state: None)
    elif name == "global python":
        monkeypatch.setattr(random, "setstate", lambda state: None)
    elif name.startswith("own"):
        monkeypatch.setattr(randomness, "set_state", without_own)
    elif name == "buffers":
        monkeypatch.setattr(run_module, "copy_weights", parameters_only)
    monkeypatch.setattr(run_module.Run, "_resume", forgetful)


FORGOTTEN = ["optimizer", "averages", "buffers", "global torch", "global numpy", "global python"]
FORGOTTEN += ["own torch", "own numpy", "own mersenne", "own python"]


@pytest.mark.parametrize("name", FORGOTTEN)
def test_a_resume_that_forgets_fails_the_same_check(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(None)
    killed(tmp_path)
    forget(name, monkeypatch)
    forgetful = resumed(tmp_path)
    monkeypatch.undo()
    assert forgetful != whole


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"steps": 61}, r"steps is 60 there and 61 now\. A cosine schedule ends at zero.*another folder"),
        ({"steps": 59}, "steps is 60 there and 59 now"),
        ({"lr": 0.02}, r"lr is 0.01 there and 0.02 now\. Use the same"),
        ({"ema": None}, "ema is 0.999 there and 0.0 now"),
        ({"clip": None}, "clip is 1.0 there and None now"),
        ({"generators": []}, r"generators is \['torch', 'numpy', 'numpy', 'random'\] there and \[\] now"),
        ({"schedule": "constant", "steps": 100}, "steps is 60 there and 100 now; schedule is cosine there and"),
        ({"optimizer": torch.optim.SGD}, r"optimizer is AdamW\(betas=\(0.9, 0.999\), .* there and SGD\("),
    ],
)
def test_resume_refuses_other_settings(changes: dict, match: str, tmp_path: Path) -> None:
    whole = train(None)
    killed(tmp_path)
    with pytest.raises(ValueError, match=match):
        train(tmp_path, **changes)
    assert resumed(tmp_path) == whole


def test_resume_refuses_another_model(tmp_path: Path) -> None:
    small, large = nn.Linear(2, 2), nn.Linear(3, 2)
    quiet(small, lambda: small.weight.square().sum(), steps=2, checkpoint=tmp_path)
    before = large.weight.clone()
    with pytest.raises(
        ValueError, match=r"weight weight is torch.float32 \(2, 2\) there and torch.float32 \(2, 3\) now"
    ):
        quiet(large, lambda: large.weight.square().sum(), steps=2, checkpoint=tmp_path)
    assert torch.equal(large.weight, before)


def test_a_checkpoint_in_an_older_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "FORMAT", 1)
    killed(tmp_path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="format is 1 there and 2 now"):
        train(tmp_path)


# --- a training that is over -----------------------------------------------------------------------------------------


def test_a_finished_training_is_loaded_and_says_that_it_took_no_step(tmp_path: Path) -> None:
    whole, history = run(tmp_path)
    assert history.resumed == 0
    assert "checkpoint" not in repr(history)
    with pytest.warns(UserWarning, match=r"fit takes no step: .*step-00000060\.json.*another folder$") as seen:
        again, history = run(tmp_path, kill_at(1), seed=99)
    assert Path(seen[0].filename).name == "training_runs.py"  # the line that called fit
    assert fingerprint(again, history)[:-2] == fingerprint(whole, history)[:-2]
    assert history.resumed == history.steps == 60
    assert repr(history).endswith(", 60 of them from a checkpoint")


def test_a_resumed_training_says_how_much_of_it_is_old(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    killed(tmp_path)
    assert run(tmp_path)[1].resumed == 30
    assert not recwarn.list


def test_time_adds_up_without_the_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that moves by one second a step, and by an hour between kill and resume."""
    now = 0.0

    def tick(step: int) -> None:
        nonlocal now
        now += 1

    def tick_and_die(step: int) -> None:
        tick(step)
        kill_at(36)(step)

    monkeypatch.setattr(run_module.time, "perf_counter", lambda: now)
    with pytest.raises(InterruptedError):
        run(tmp_path, tick_and_die)
    now += 3600
    assert run(tmp_path, tick)[1].seconds == 60


CONSTANT = {"schedule": "constant", "log_every": 10, "steps": 60}


def test_a_finished_training_goes_on_at_a_constant_rate(tmp_path: Path) -> None:
    """To the bits of one that had been so long from the start; the only difference may be the length of a warm-up."""
    long = train(None, warmup=0.0, **CONSTANT | {"steps": 90})
    train(tmp_path, warmup=0.0, **CONSTANT)
    assert resumed(tmp_path, warmup=0.0, **CONSTANT | {"steps": 90}) == long


def test_a_warm_up_is_not_taken_twice(tmp_path: Path) -> None:
    first = run(tmp_path, warmup=0.5, **CONSTANT)[1].learning_rates
    then = run(tmp_path, warmup=0.5, **CONSTANT | {"steps": 600})[1].learning_rates
    assert torch.equal(then[:60], first)
    assert (then[60:] == 0.01).all()
    with pytest.raises(ValueError, match="steps is 600 there and 60 now"):
        train(tmp_path, warmup=0.5, **CONSTANT)


def test_a_training_at_a_constant_rate_goes_on_from_the_middle_too(tmp_path: Path) -> None:
    killed(tmp_path, warmup=0.0, **CONSTANT)
    long = train(None, warmup=0.0, **CONSTANT | {"steps": 90})
    assert resumed(tmp_path, warmup=0.0, **CONSTANT | {"steps": 90}) == long
    with pytest.warns(UserWarning, match="or ask for more steps to go on"):
        train(tmp_path, warmup=0.0, **CONSTANT | {"steps": 90})


# --- what the optimizer remembers, and for whom ----------------------------------------------------------------------


def twins() -> nn.Module:
    """Two layers of one shape, so that nothing but its name tells whose moments are whose."""
    torch.manual_seed(3)
    return nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})


def fit_twins(model: nn.Module, **changes) -> list[bytes]:
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(1))
    rate = itertools.count(1)

    def loss() -> Tensor:
        if changes.get("act"):
            changes["act"](next(rate))
        return (model["b"](model["a"](x).tanh()) - 3 * x).square().mean() * 100

    options = {"steps": 40, "checkpoint_every": 10, **{k: v for k, v in changes.items() if k != "act"}}
    return fingerprint(model, quiet(model, loss, **options))


def test_moments_come_back_to_their_own_layer_in_whatever_order_the_optimizer_has_them(tmp_path: Path) -> None:
    def backwards(parameters, lr):
        return torch.optim.Adam(list(parameters)[::-1], lr=lr)

    whole = fit_twins(twins(), optimizer=torch.optim.Adam)
    with pytest.raises(InterruptedError):
        fit_twins(twins(), optimizer=torch.optim.Adam, checkpoint=tmp_path, act=kill_at(25))
    again = fit_twins(twins(), optimizer=backwards, checkpoint=tmp_path)
    assert again == whole


def test_another_choice_of_frozen_layers_is_refused(tmp_path: Path) -> None:
    model = twins()
    model["a"].requires_grad_(False)
    with pytest.raises(InterruptedError):
        fit_twins(model, checkpoint=tmp_path, act=kill_at(25))
    for frozen, match in (("b", r"a\.weight is torch.float32 \(2, 2\), frozen there"), ("", "frozen there")):
        other = twins()
        if frozen:
            other[frozen].requires_grad_(False)
        with pytest.raises(ValueError, match=match):
            fit_twins(other, checkpoint=tmp_path)
    same = twins()
    same["a"].requires_grad_(False)
    fit_twins(same, checkpoint=tmp_path)
    assert torch.equal(same["a"].weight, twins()["a"].weight)


def test_a_parameter_beside_the_model_is_refused_before_it_is_lost(tmp_path: Path) -> None:
    extra, model = nn.Parameter(torch.ones(1)), nn.Linear(1, 1)

    def with_extra(parameters, lr):
        return torch.optim.SGD([*parameters, extra], lr=lr)

    def loss() -> Tensor:
        return (model.weight.sum() - extra).square().mean()

    quiet(model, loss, steps=2, optimizer=with_extra)  # nothing is to be saved
    with pytest.raises(ValueError, match="optimizer must move parameters of the model alone"):
        quiet(model, loss, steps=2, optimizer=with_extra, checkpoint=tmp_path)


def test_a_compiled_model_and_a_plain_one_go_on_from_each_other(tmp_path: Path) -> None:
    whole = fit_twins(twins(), optimizer=torch.optim.Adam)
    for first, second, folder in ((wrapped, twins, "a"), (twins, wrapped, "b")):
        with pytest.raises(InterruptedError):
            fit_twins(first(), optimizer=torch.optim.Adam, checkpoint=tmp_path / folder, act=kill_at(25))
        assert fit_twins(second(), optimizer=torch.optim.Adam, checkpoint=tmp_path / folder) == whole


def wrapped() -> nn.Module:
    """Both ways in which `_orig_mod.` comes into a name, at the front and in the middle."""
    model = twins()
    model["a"] = torch.compile(model["a"], backend="eager")
    return model


# --- the world -------------------------------------------------------------------------------------------------------


def test_a_tilde_is_the_users_home(home: Path) -> None:
    train("~/runs/first")
    assert len(list((home / "runs" / "first").glob("*.json"))) == 2
    assert not list(Path().iterdir())


def test_a_folder_that_cannot_be_made_is_no_news_for_later(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    model, seen = net(), []
    with pytest.raises(NotADirectoryError):
        quiet(model, lambda: seen.append(1), steps=5, checkpoint=tmp_path / "file" / "folder")
    assert not seen


@pytest.mark.parametrize(("code", "fine"), [("EINVAL", True), ("ENOTSUP", True), ("ENOSYS", True), ("EIO", False)])
def test_a_file_system_that_cannot_sync_a_folder(code, fine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, asked = os.fsync, []

    def fsync(handle: int) -> None:
        asked.append(stat.S_ISDIR(os.fstat(handle).st_mode))
        if asked[-1]:
            raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    if fine:
        train(tmp_path)
        assert asked == [False, True] * 12  # both files of six checkpoints, each beside its folder
    else:
        with pytest.raises(OSError, match="could not be written: Input/output error"):
            train(tmp_path)
    assert before in (0, len(os.listdir("/proc/self/fd")))


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on the size of files is needed")
def test_a_full_disk_is_named_and_loses_nothing(tmp_path: Path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step: int) -> None:
        if step == 36:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))

    whole, model = train(None), net()
    try:
        with pytest.raises(OSError, match="checkpoint of step 40 could not be written: File too large") as error:
            run(tmp_path, fill, model=model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.errno == errno.EFBIG
    assert f"The last good checkpoint is {tmp_path / 'step-00000030.json'}" in str(error.value)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        f"step-000000{step}.{kind}" for step in (20, 30) for kind in ("json", "safetensors")
    ]
    assert not model.training
    before = model[0].weight.clone()
    load_weights(model, save_weights(model, tmp_path / "other" / "place"))  # as the message says
    assert torch.equal(model[0].weight, before)
    assert resumed(tmp_path) == whole


def test_a_disk_that_is_full_for_the_record_leaves_no_weights_behind(tmp_path: Path, monkeypatch) -> None:
    write = checkpoints.write

    def full(path: Path, content: bytes) -> None:
        if path.name == "step-00000040.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(checkpoints, "write", full)
    with pytest.raises(OSError, match="No space left on device"):
        train(tmp_path)
    assert not list(tmp_path.glob("step-00000040*"))


# --- damaged files ----------------------------------------------------------------------------------------------------

DAMAGES = {
    "flipped byte in the weights": ("safetensors", lambda file: flip(file, 5000), "was altered"),
    "flipped byte in the record": ("json", lambda file: flip(file, 40), "altered"),
    "weights cut short": ("safetensors", lambda file: os.truncate(file, 3000), "holds 3000 bytes, but"),
    "weights emptied": ("safetensors", lambda file: os.truncate(file, 0), "holds 0 bytes, but"),
    "record cut short": ("json", lambda file: os.truncate(file, 300), "was cut short or altered"),
    "record emptied": ("json", lambda file: os.truncate(file, 0), "was cut short or altered"),
    "weights missing": ("safetensors", os.remove, "is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_nothing_is_lost(damage: str, tmp_path: Path) -> None:
    whole = train(None)
    killed(tmp_path)
    suffix, harm, match = DAMAGES[damage]
    harm(tmp_path / f"step-00000030.{suffix}")
    files = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=rf"step-00000030\.{suffix} .*{match}") as error:
        train(tmp_path)
    newest, older = tmp_path / "step-00000030.json", tmp_path / "step-00000020.json"
    assert f"delete {newest} to go on from {older}" in str(error.value)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == files
    newest.unlink()
    assert train(tmp_path) == whole


def test_when_no_checkpoint_is_whole_the_message_says_so(tmp_path: Path) -> None:
    train(tmp_path)
    for file in tmp_path.glob("*.safetensors"):
        flip(file, 1000)
    with pytest.raises(ValueError, match=r"step-00000060\.safetensors was altered.*start from the beginning"):
        train(tmp_path)


def test_what_a_killed_write_leaves_is_passed_over(tmp_path: Path) -> None:
    whole = train(None)
    killed(tmp_path)
    for name in ("step-00000040.safetensors", "step-00000040.json.tmp", "step-00000050.safetensors.tmp"):
        (tmp_path / name).write_bytes(b"half of it")
    assert resumed(tmp_path) == whole
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json"] * 2 + [".safetensors"] * 2


def test_any_changed_byte_is_refused(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    quiet(model, lambda: model.weight.square().sum(), steps=2, checkpoint=tmp_path)
    (record,) = tmp_path.glob("*.json")
    for file, stride in ((record, 7), (record.with_suffix(".safetensors"), 211)):
        content = file.read_bytes()
        for place in range(0, len(content), stride):
            flip(file, place)
            with pytest.raises(ValueError, match=file.name):
                checkpoints.read(record)
            file.write_bytes(content)
    checkpoints.read(record)
    renamed = record.with_name("step-00000009.json")
    record.rename(renamed)
    with pytest.raises(ValueError, match="its name does not fit"):
        checkpoints.read(renamed)


# --- resume: SIGKILL --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL and fork are needed")
def test_ten_kills_at_random_moments_change_no_bit(tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    command = [sys.executable, Path(__file__).with_name("kill_training.py"), tmp_path, str(seed)]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    result = json.loads(done.stdout)
    print(f"seed {seed}: {result}")
    assert result["kills"] >= 10, f"seed {seed}"
    assert result["resumed"] >= 3, f"seed {seed}: hardly any kill fell between the first checkpoint and the end"
    assert result["killed"] == [result["whole"]] * len(result["killed"]), f"seed {seed}: {result}"
