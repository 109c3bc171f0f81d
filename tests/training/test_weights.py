"""`save_weights` and `load_weights`: all of a model, or a refusal."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy
import pytest
import safetensors.torch
import torch
from torch import nn
from training_runs import fingerprint, flip, net, quiet, regression

from fmtutor import VelocityMLP
from fmtutor.training import History, fit, load_weights, save_weights
from fmtutor.training.weights import weights


def test_weights_survive_a_file_or_are_refused(tmp_path: Path) -> None:
    model, other = net(0), net(1)
    path = save_weights(model, tmp_path / "deep" / "net.safetensors", steps=3)
    assert load_weights(other, path) == {"steps": 3}
    nothing = History(torch.zeros(1), torch.zeros(1), 0, "cpu", 0)
    assert fingerprint(other, nothing) == fingerprint(model, nothing)
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        flip(path, place)
        with pytest.raises(ValueError, match=r"net\.safetensors"):
            load_weights(other, path)
        path.write_bytes(content)
    os.truncate(path, 700)
    with pytest.raises(ValueError, match="cut short"):
        load_weights(other, path)
    save_weights(nn.Linear(3, 16), path)
    with pytest.raises(ValueError, match=r"0.bias is absent in the file and \(16,\) in the model"):
        load_weights(other, path)
    with pytest.raises(FileNotFoundError):
        load_weights(other, tmp_path / "nothing")


def test_weights_of_a_checkpoint_are_the_averaged_ones(tmp_path: Path) -> None:
    model, other = net(0), net(1)
    quiet(model, regression(model), steps=20, checkpoint=tmp_path)
    assert load_weights(other, tmp_path) == {"step": 20}
    for name, tensor in weights(model).items():
        assert torch.equal(tensor, weights(other)[name])


def test_a_tilde_is_the_users_home(home: Path) -> None:
    model, other = net(0), net(1)
    assert save_weights(model, "~/deep/net.safetensors") == home / "deep" / "net.safetensors"
    load_weights(other, "~/deep/net.safetensors")
    assert torch.equal(model[0].weight, other[0].weight)
    quiet(model, regression(model), steps=2, checkpoint="~/run")
    load_weights(other, "~/run")
    assert torch.equal(model[0].weight, other[0].weight)
    assert not list(Path().iterdir())


@pytest.mark.parametrize("old", [True, False], ids=["zip", "pickle"])
def test_a_file_of_torch_save_is_called_by_its_name(old: bool, tmp_path: Path) -> None:
    model, path = net(), tmp_path / "net.pt"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=old)
    with pytest.raises(ValueError, match=r"net\.pt is no safetensors file but looks like one of torch\.save") as error:
        load_weights(model, path)
    assert "weights_only=True" in str(error.value)
    assert "altered" not in str(error.value)


def test_other_files_are_told_from_damaged_ones(tmp_path: Path) -> None:
    model = net()
    numpy.save(tmp_path / "net.npy", numpy.ones(3))
    with pytest.raises(ValueError, match=r"net\.npy is no safetensors file: it begins with 93 4e 55 4d"):
        load_weights(model, tmp_path / "net.npy")
    safetensors.torch.save_file(weights(model), tmp_path / "theirs.safetensors")
    with pytest.raises(ValueError, match=r"theirs\.safetensors was altered, or not written by save_weights"):
        load_weights(model, tmp_path / "theirs.safetensors")
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="empty was cut short or altered"):
        load_weights(model, tmp_path / "empty")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*folder"):
        load_weights(model, tmp_path / "folder")


def test_a_header_of_640_bytes_is_no_pickle(tmp_path: Path) -> None:
    """A pickle begins with 80 02, and so does the length of a header of 640 bytes."""
    path = save_weights(nn.Linear(1, 1), tmp_path / "net.safetensors", note="")
    missing = 640 - int.from_bytes(path.read_bytes()[:8], "little")
    save_weights(nn.Linear(1, 1), path, note="x" * missing)
    assert path.read_bytes()[:2] == b"\x80\x02"
    os.truncate(path, 500)
    with pytest.raises(ValueError, match="was cut short or altered"):
        load_weights(nn.Linear(1, 1), path)


def compiled(model: nn.Module) -> nn.Module:
    """In both places that put `_orig_mod.` into a name; nothing is compiled before the first call."""
    model[0] = torch.compile(model[0])
    return torch.compile(model)


def test_a_compiled_model_and_a_plain_one_read_each_others_weights(tmp_path: Path) -> None:
    for seed, (first, second) in enumerate([(compiled, nn.Sequential), (nn.Sequential, compiled)]):
        model, other = net(seed), net(seed + 10)
        save_weights(first(model) if first is compiled else model, tmp_path / "w")
        load_weights(second(other) if second is compiled else other, tmp_path / "w")
        assert all(torch.equal(a, b) for a, b in zip(weights(model).values(), weights(other).values(), strict=True))
    assert not any("_orig_mod" in name for name in safetensors.torch.load_file(tmp_path / "w"))


def test_a_refused_file_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    """Its first layer fits, and only the last one does not."""
    path = save_weights(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)), tmp_path / "net")
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 6))
    before = weights(model)
    with pytest.raises(ValueError, match=r"1\.bias is \(5,\) in the file and \(6,\) in the model"):
        load_weights(model, path)
    assert all(torch.equal(w, before[name]) for name, w in weights(model).items())


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    old, new = net(0), net(1)
    path = save_weights(old, tmp_path / "net")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save_weights(new, path)
    assert [file.name for file in tmp_path.iterdir()] == ["net"]
    load_weights(new, path)
    assert all(torch.equal(w, weights(old)[name]) for name, w in weights(new).items())


def test_two_exchanged_names_are_damage(tmp_path: Path) -> None:
    path = save_weights(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), tmp_path / "net")
    content = path.read_bytes().replace(b"0.weight", b"?.weight").replace(b"1.weight", b"0.weight")
    path.write_bytes(content.replace(b"?.weight", b"1.weight"))
    assert set(safetensors.torch.load_file(path)) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    with pytest.raises(ValueError, match="net was altered"):
        load_weights(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), path)


def test_a_file_that_says_orig_mod_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they were written once, with a SHA-256 over those names."""
    from fmtutor.training import weights as module

    model, other = net(0), net(1)
    with monkeypatch.context() as patch:
        patch.setattr(module, "plain", lambda name: "_orig_mod." + name)
        save_weights(model, tmp_path / "old")
    assert all(name.startswith("_orig_mod.") for name in safetensors.torch.load_file(tmp_path / "old"))
    load_weights(other, tmp_path / "old")
    assert torch.equal(model[0].weight, other[0].weight)


def test_a_model_without_numbers_is_refused_by_name(tmp_path: Path) -> None:
    path = save_weights(net(0), tmp_path / "net")
    with torch.device("meta"):
        hollow = net(1)
    for act in (lambda: load_weights(hollow, path), lambda: save_weights(hollow, path), lambda: one_step(hollow)):
        with pytest.raises(ValueError, match=r"0\.weight of the model is on the meta device.*to_empty"):
            act()
    hollow.to_empty(device="cpu")
    load_weights(hollow, path)  # as the message says
    assert all(torch.equal(a, b) for a, b in zip(weights(hollow).values(), weights(net(0)).values(), strict=True))
    lazy = nn.Sequential(nn.LazyLinear(2))
    for act in (lambda: load_weights(lazy, path), lambda: save_weights(lazy, path), lambda: one_step(lazy)):
        with pytest.raises(ValueError, match=r"0\.weight of the model has no numbers yet: call a lazy layer once"):
            act()


def one_step(model: nn.Module) -> None:
    fit(model, lambda: model(torch.ones(2, 3)).sum(), steps=1, progress=False)


def test_nothing_is_left_out(tmp_path: Path) -> None:
    """Buffers that a state_dict leaves out, weights with two names, and what has no extent."""
    model, other = (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), VelocityMLP(dim=2, width=8)) for _ in range(2))
    for k, one in enumerate((model, other)):
        one[1].weight = one[0].weight
        one.register_buffer("hidden", torch.full((3,), float(k)), persistent=False)
        one.register_buffer("number", torch.tensor(k))
        one.register_buffer("none", torch.empty(0))
    load_weights(other, save_weights(model, tmp_path / "net"))
    assert other.hidden.tolist() == [0, 0, 0]
    assert other.number.item() == 0
    assert other[1].weight is other[0].weight
    x = torch.randn(5, 2)
    assert torch.equal(model[1](model[0](x)), other[1](other[0](x)))
    t = torch.rand(5)
    assert torch.equal(model[2](t, x), other[2](t, x))


def test_half_precision_comes_back_as_it_was(tmp_path: Path) -> None:
    model, other = net(0).to(torch.bfloat16), net(1).to(torch.bfloat16)
    load_weights(other, save_weights(model, tmp_path / "net"))
    assert fingerprint_half(model) == fingerprint_half(other)


def fingerprint_half(model: nn.Module) -> list[list]:
    return [w.float().tolist() for w in weights(model).values()]
