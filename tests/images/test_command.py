"""The command line: what is typed arrives, under its name, where it belongs."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fmtutor.images import ImageModel, digits, pretrained_classifier, train
from fmtutor.images import __main__ as command
from fmtutor.images.pretrained import WEIGHTS

CLOTHES = str(WEIGHTS / "fashion_mnist.safetensors")


def test_every_option_of_train_arrives(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: dict[str, Any] = {}

    def training(folder: str, **settings: Any) -> tuple[None, str]:
        seen.update(settings, folder=folder)
        return None, "the history"

    monkeypatch.setattr(command, "train", training)
    monkeypatch.setattr(command, "watch", lambda *asked, **how: (asked, how))
    numbers = {"steps": 11, "batch": 12, "lr": 0.5, "warmup": 0.25, "ema": 0.75, "clip": 2.0, "width": 16, "drop": 0.2}
    numbers |= {"size": 24, "seed": 7, "look_every": 3, "checkpoint_every": 5}
    words = {"data": "digits", "root": "somewhere", "schedule": "vp", "times": "late", "precision": "bf16"}
    switches = ("attention", "flip", "dequantize", "compiled", "unlabelled")
    typed = [f"--{name.replace('_', '-')}={value}" for name, value in {**numbers, **words}.items()]
    command.main(["train", "runs/a", *typed, *(f"--{name}" for name in switches), "--multipliers", "1", "3",
                  "--look-samples", "40"])  # fmt: skip
    classifier, held_out = seen.pop("look")[0]
    assert held_out.images.equal(digits("test").images)
    assert weights(classifier).equal(weights(pretrained_classifier("digits")))
    seen.pop("tell")("a line")
    wanted = {**numbers, **words, "multipliers": (1, 3), "folder": "runs/a", "labelled": False}
    assert seen == wanted | {name: True for name in switches if name != "unlabelled"}
    assert capsys.readouterr().out.split("\n") == ["the history", "a line", ""]
    given_in_notebooks = set(inspect.signature(train).parameters)
    assert given_in_notebooks - set(seen) == {"look", "tell", "progress"}  # nothing that the command line lacks

    command.main(["train", "runs/a"])
    defaults = {name: p.default for name, p in inspect.signature(train).parameters.items()}
    for name in set(seen) - {"folder", "look", "tell"}:
        assert seen[name] == defaults[name], name
    command.main(["train", "runs/a", "--look-samples", "0"])
    assert seen["look"] is None


def weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.flatten() for p in network.parameters()])


def test_what_is_drawn_is_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []

    def sample(self: ImageModel, n: int, *asked: Any, **how: Any) -> torch.Tensor:
        seen.append((n, *asked, how.pop("generator").initial_seed(), how))
        return torch.zeros(n, 1, 2, 2)

    monkeypatch.setattr(ImageModel, "sample", sample)
    typed = ["sample", CLOTHES, "--n", "12", "--out", str(tmp_path / "a.png"), "--method", "rk4", "--steps", "3"]
    command.main([*typed, "--label", "7", "--scale", "2.5", "--seed", "4"])
    assert seen.pop() == (12, 7, 2.5, 4, {"method": "rk4", "steps": 3})
    command.main(typed)
    _, label, scale, seed, _ = seen.pop()
    assert label.tolist() == [*range(10), 0, 1]
    assert (scale, seed) == (1.0, 0)


def test_what_is_judged_is_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def judge(*asked: Any, **how: Any) -> dict[str, Any]:
        seen.update(how, asked=asked)
        return {"protocol": {"samples": how["samples"]}}

    monkeypatch.setattr(command, "judge", judge)
    monkeypatch.setattr(command, "load", lambda name, split="train", root=None: (f"{split} of {name} in {root}", 256))
    monkeypatch.setattr(command, "Inception", lambda: "the network of the FID")
    numbers = {"samples": 30, "steps": 6, "scale": 1.5, "likelihood": 4, "likelihood_steps": 12, "seed": 9}
    typed = [word for name, value in numbers.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    out = tmp_path / "a b.json"
    command.main(
        ["evaluate", CLOTHES, *typed, "--root", "there", "--method", "heun2", "--inception", "--out", str(out)]
    )
    model, classifier, known, held_out = seen.pop("asked")
    assert weights(model.network).equal(weights(ImageModel.load(CLOTHES).network))
    assert weights(classifier).equal(weights(pretrained_classifier("fashion_mnist")))
    assert (known, held_out) == ("train of fashion_mnist in there", "test of fashion_mnist in there")
    assert seen == numbers | {"method": "heun2", "inception": "the network of the FID"}
    protocol = json.loads(out.read_text())["protocol"]
    assert protocol["data"] == "fashion_mnist"
    assert protocol["command"].startswith(f"python -m fmtutor.images evaluate {CLOTHES} --samples 30 --steps 6")
    assert protocol["command"].endswith(f"--root there --method heun2 --inception --out '{out}'")
    command.main(["evaluate", CLOTHES, "--data", "digits"])
    assert seen["asked"][2:] == ("train of digits in None", "test of digits in None")
    assert seen["inception"] is None
    monkeypatch.setattr(command, "train_classifier", lambda *_, **__: SimpleNamespace(to=lambda _: "trained here"))
    command.main(["evaluate", CLOTHES, "--data", "mnist"])
    assert seen["asked"][1] == "trained here"  # for want of one that is shipped
    with pytest.raises(SystemExit, match=r"data must be one of digits, .* which have held-out images, got 'cats'"):
        command.main(["evaluate", CLOTHES, "--data", "cats"])
