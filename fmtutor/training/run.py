"""The state of one training run: what `fmtutor.training.fit` (chapter 4) carries from step to step.

It stands apart so that the loop shows the method alone; what it saves makes a resume exact to the bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from fmtutor.training.checkpoints import copied, copy_weights, newest, record_of, save, section, weights


class Run:
    """Everything that decides how a training goes on, and so everything that a checkpoint has to hold."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        settings: Mapping[str, Any],
        generators: Sequence[Generator] = (),
        folder: str | Path | None = None,
    ) -> None:
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.model, self.optimizer, self.generators = model, optimizer, _generators(generators)
        self.names, self.parameters = list(trained), list(trained.values())
        self.averages = [p.detach().clone() for p in self.parameters] if settings["ema"] else []
        self.losses: list[float] = []
        self.pending: list[Tensor] = []  # losses still on the device
        self.settings = {**settings, **_description(model, optimizer, self.generators)}
        if folder == "":
            raise ValueError("checkpoint must name a folder, got an empty name")
        self.folder = None if folder is None else Path(folder)
        self.saved: Path | None = None
        self.started = time.perf_counter()
        self._resume()
        self.seed = torch.initial_seed()

    @property
    def step(self) -> int:
        """Number of finished steps."""
        return len(self.losses) + len(self.pending)

    @property
    def seconds(self) -> float:
        """Time since the first step, without the pauses between a kill and a resume."""
        return time.perf_counter() - self.started

    def record(self, loss: Tensor) -> None:
        """Keep the loss of a finished step, without looking at it."""
        if all(p.grad is None for p in self.parameters):
            raise ValueError("loss must depend on the model, but no parameter of the model received a gradient from it")
        self.pending.append(loss.detach().clone())

    def look(self) -> float:
        """The latest loss; here, and nowhere else, training waits for the device.

        Raises:
            ValueError: A loss since the last look, or a weight now, is NaN or infinite.
        """
        values = torch.stack(self.pending).tolist() if self.pending else []
        self.pending = []
        for value in values:
            self.losses.append(value)
            if not math.isfinite(value):
                raise ValueError(self._stopped(f"loss must be finite, got {value}"))
        if values and not torch.stack([p.isfinite().all() for p in self.parameters]).all():
            raise ValueError(
                self._stopped(f"weights must be finite, got NaN or infinity after a loss of {values[-1]:.4g},")
            )
        return self.losses[-1]

    def save(self) -> None:
        """Write a checkpoint, if a folder was given: only ever one whose losses and weights are finite."""
        if self.folder is not None:
            self.look()
            info = {"seconds": self.seconds, "settings": self.settings}
            self.saved = save(self.folder, self.step, self._tensors(), info)

    def finish(self) -> None:
        """Look, save if that has not been done, and hand over the model: averaged, in evaluation mode."""
        self.look()
        if self.folder is not None and self.saved != record_of(self.folder, self.step):
            self.save()
        with torch.no_grad():
            for parameter, mean in zip(self.parameters, self.averages, strict=False):
                parameter.copy_(mean)
        self.model.eval()

    def _resume(self) -> None:
        """Go back to the newest checkpoint, down to the states of the random number generators."""
        if self.folder is not None and self.folder.is_file():
            raise ValueError(f"checkpoint must be a folder, got the file {self.folder}")
        if self.folder is None or (found := newest(self.folder)) is None:
            return
        tensors, info = found
        self.saved = record_of(self.folder, info["step"])
        _same_settings(info["settings"], self.settings, self.saved)
        copy_weights(self.model, section(tensors, "model"), str(self.saved))
        for name, mean in zip(self.names, self.averages, strict=False):
            mean.copy_(tensors[f"average/{name}"])
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in section(tensors, "optimizer").items():
            index, name = key.split("/")
            state.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.losses = tensors["losses"].tolist()
        self.started -= info["seconds"]
        _set_random_state(section(tensors, "random"), self.generators)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model/{name}": tensor for name, tensor in weights(self.model).items()}
        tensors |= {f"average/{name}": copied(mean) for name, mean in zip(self.names, self.averages, strict=False)}
        for index, state in self.optimizer.state_dict()["state"].items():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{index}/{name}"] = copied(value)
                elif value is not None:
                    raise TypeError(f"optimizer must keep tensors alone to be saved, got {name} = {value!r}")
        tensors |= {f"random/{name}": state for name, state in _random_state(self.generators).items()}
        return tensors | {"losses": torch.tensor(self.losses, dtype=torch.float64)}

    def _stopped(self, what: str) -> str:
        step, lr = len(self.losses), self.settings["lr"]
        cause = (
            "Nothing has been learned yet: look at the data, and at what the model makes of it"
            if step == 1
            else f"The usual cause is a learning rate that is too high: try lr={lr / 3:.1g}, or clip=1.0"
        )
        last = f"The last good checkpoint is {self.saved}" if self.saved else "No checkpoint was written"
        return f"{what} at step {step} of {self.settings['steps']}. {cause}. {last}."


def _generators(generators: Sequence[Generator]) -> list[Generator]:
    if not isinstance(generators, Sequence) or not all(isinstance(g, Generator) for g in generators):
        raise TypeError(f"generators must be a sequence of torch.Generator, got {generators!r}")
    return list(generators)


def _description(model: nn.Module, optimizer: Optimizer, generators: Sequence[Generator]) -> dict[str, Any]:
    """What else has to be the same on a resume, as plain text."""
    numbers = {k: v for k, v in optimizer.defaults.items() if isinstance(v, int | float | tuple) and k != "lr"}
    rule = ", ".join(f"{key}={value}" for key, value in sorted(numbers.items()) if not isinstance(value, bool))
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {f"weight {name}": f"{tensor.dtype} {tuple(tensor.shape)}" for name, tensor in named.items()}
    device = next(model.parameters()).device.type
    return {
        "optimizer": f"{type(optimizer).__name__}({rule})",
        "generators": len(generators),
        "device": device,
        **shapes,
    }


def _same_settings(there: Mapping[str, Any], here: Mapping[str, Any], record: Path) -> None:
    names = [name for name in {**there, **here} if there.get(name, "absent") != here.get(name, "absent")]
    if names:
        lines = [
            f"{name} is {there.get(name, 'absent')} there and {here.get(name, 'absent')} now" for name in names[:3]
        ]
        more = f", and {len(names) - 3} more" if len(names) > 3 else ""
        raise ValueError(
            f"checkpoint {record} belongs to another training: {'; '.join(lines)}{more}. "
            "Use the same settings to go on, or another folder to start anew"
        )


def _random_state(generators: Sequence[Generator]) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state |= {f"cuda {index}": value for index, value in enumerate(torch.cuda.get_rng_state_all())}
    return state | {f"generator {index}": g.get_state() for index, g in enumerate(generators)}


def _set_random_state(state: Mapping[str, Tensor], generators: Sequence[Generator]) -> None:
    torch.set_rng_state(state["cpu"])
    for name in state:
        if name.startswith("cuda "):
            torch.cuda.set_rng_state(state[name], int(name.removeprefix("cuda ")))
    for index, generator in enumerate(generators):
        generator.set_state(state[f"generator {index}"])
