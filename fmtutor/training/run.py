"""The state of one training run: what `fmtutor.training.fit` (chapter 4) carries from step to step.

It stands apart so that the loop shows the method alone; what it saves makes a resume exact to the bit.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fmtutor.training import checks, randomness
from fmtutor.training.checkpoints import newest, record_of, same_settings, save, section
from fmtutor.training.history import History
from fmtutor.training.interrupts import noted, somebody_is_there
from fmtutor.training.weights import copied, copy_weights, named, plain, weights

FORMAT = 2  # of a checkpoint: another one is refused


class Run:
    """Everything that decides how a training goes on, and so everything that a checkpoint has to hold."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        settings: Mapping[str, Any],
        rates: Sequence[float],
        generators: Sequence[randomness.Source] = (),
        folder: str | Path | None = None,
        accelerator: Any = None,
        losses: list[float] | None = None,
    ) -> None:
        self.accelerator = accelerator
        model = model if accelerator is None else accelerator.unwrap_model(model)
        trained = {plain(name): p for name, p in model.named_parameters() if p.requires_grad}
        self.model, self.optimizer, self.generators = model, optimizer, randomness.sources(generators)
        self.names, self.parameters = list(trained), list(trained.values())
        # In half precision a thousandth of the way to the weights rounds to none: averages have 32 bits.
        self.averages = (
            [p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True) for p in self.parameters]
            if settings["ema"]
            else []
        )
        self.losses = [] if losses is None else losses
        self.losses.clear()
        self.pending: list[Tensor] = []  # losses still on the device
        self.rates = list(rates)
        self.logged: dict[str, list[tuple[int, float]]] = {}
        self.stopped, self.interrupted, self.resumed = "", False, 0
        self.settings = {**settings, **_description(model, optimizer, self.generators, accelerator)}
        self.folder = checks.folder(folder)
        if self.folder is not None:
            _optimized(model, optimizer)
        self.saved: Path | None = None
        self.started = time.perf_counter()
        self._resume()
        self.seed = torch.initial_seed()

    @property
    def writes(self) -> bool:
        """Whether this process writes files and shows a bar; of several, the first does."""
        return self.accelerator is None or bool(self.accelerator.is_main_process)

    @property
    def step(self) -> int:
        """Number of finished steps."""
        return len(self.losses) + len(self.pending)

    @property
    def seconds(self) -> float:
        """Time since the first step, without the pauses between a kill and a resume."""
        return time.perf_counter() - self.started

    def remaining(self) -> Iterator[int]:
        """Numbers of the steps that are still to be taken, until something stops the training."""
        while self.step < len(self.rates) and not (self.stopped or self.interrupted):
            yield self.step

    def record(self, loss: Tensor) -> None:
        """Keep the loss of a finished step, without looking at it."""
        if all(p.grad is None for p in self.parameters):
            raise ValueError("loss must depend on the model, but no parameter of the model received a gradient from it")
        self.pending.append(loss)

    def look(self) -> float:
        """The latest loss; here, and nowhere else, training waits for the device.

        Raises:
            ValueError: A loss since the last look, or a weight now, is NaN or infinite.
        """
        values = self._everywhere(torch.stack(self.pending)).tolist() if self.pending else []
        self.pending = []
        for value in values:
            self.losses.append(value)
            if not math.isfinite(value):
                raise ValueError(self._broken(f"loss must be finite, got {value}"))
        if values and not torch.stack([p.isfinite().all() for p in self.parameters]).all():
            raise ValueError(
                self._broken(f"weights must be finite, got NaN or infinity after a loss of {values[-1]:.4g},")
            )
        return self.losses[-1]

    def call(self, callback: Callable[[int], Mapping[str, float] | None] | None) -> None:
        """Show `callback` the model as it would be handed over now, and keep the numbers that it returns."""
        if callback is None:
            return
        now = [p.detach().clone() for p in self.parameters] if self.averages else []
        modes = [(module, module.training) for module in self.model.modules()]
        try:
            self.hand_over()
            numbers = callback(self.step)
        except StopIteration as stop:
            numbers, self.stopped = stop.value, f"stopped by its callback at step {self.step} of {len(self.rates)}"
        finally:
            _copy(self.parameters, now)
            for module, mode in modes:
                module.training = mode
        for name, value in checks.numbers(numbers).items():
            self.logged.setdefault(name, []).append((self.step, value))

    def save(self) -> None:
        """Write a checkpoint, if a folder was given: only ever one whose losses and weights are finite."""
        if self.folder is None or self.saved == record_of(self.folder, self.step):
            return
        self.look()
        if not self.writes:
            return
        info = {"seconds": self.seconds, "settings": self.settings, "stopped": self.stopped}
        try:
            self.saved = save(self.folder, self.step, self._tensors(), info)
        except OSError as error:
            what = f"the checkpoint of step {self.step} could not be written: {error.strerror}. {self._last()}"
            kept = "The model holds what it has learned, ready for save_weights to another place"
            raise OSError(error.errno, f"{what}. {kept}", str(self.folder)) from error

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Whatever ends the training, the model is handed over; where nothing failed, it is saved first."""
        try:
            with noted(self._interrupt):
                yield
                self.look()
                self.save()
        finally:
            self.hand_over()
        if self.interrupted and not somebody_is_there():
            raise KeyboardInterrupt
        if self.interrupted and not self.stopped and self.step < len(self.rates):
            self.stopped = f"interrupted at step {self.step} of {len(self.rates)}"
            then = f"; the same call goes on from {self.saved}" if self.saved else ""
            warnings.warn(f"training was {self.stopped}: the model is ready for use{then}", stacklevel=4)

    @torch.no_grad()
    def hand_over(self) -> None:
        """Leave the model ready for use: averaged, in evaluation mode."""
        _copy(self.parameters, self.averages)
        self.model.eval()

    def history(self) -> History:
        """What happened, as numbers on the CPU."""
        curves = torch.tensor([self.losses, self.rates[: len(self.losses)]], dtype=torch.float64)
        logged = {name: torch.tensor(pairs, dtype=torch.float64) for name, pairs in self.logged.items()}
        return History(
            curves[0],
            curves[1],
            self.seconds,
            str(self.parameters[0].device),
            self.seed,
            {name: (pairs[:, 0].long(), pairs[:, 1]) for name, pairs in logged.items()},
            self.resumed,
            self.stopped,
        )

    def _everywhere(self, losses: Tensor) -> Tensor:
        """Losses of shares of a batch, as those of the whole."""
        return losses if self.accelerator is None else self.accelerator.reduce(losses, reduction="mean")

    def _interrupt(self) -> None:
        self.interrupted = True

    def _resume(self) -> None:
        """Go back to the newest checkpoint, down to the states of the random number generators."""
        if self.folder is None or (found := newest(self.folder)) is None:
            return
        tensors, info = found
        self.saved = record_of(self.folder, info["step"])
        planned = info["settings"].get("steps")
        same_settings(info["settings"], self.settings, self.saved)
        copy_weights(self.model, section(tensors, "model"), str(self.saved))
        for name, mean in zip(self.names, self.averages, strict=False):
            mean.copy_(tensors[f"average/{name}"])
        self._resume_optimizer(section(tensors, "optimizer"))
        if scaler := getattr(self.accelerator, "scaler", None):
            state = dict(zip(scaler.state_dict(), tensors["scaler"].tolist(), strict=True))
            scaler.load_state_dict(
                {
                    name: int(v) if name.startswith("_growth") or name == "growth_interval" else v
                    for name, v in state.items()
                }
            )
        self.losses[:], self.resumed = tensors["losses"].tolist(), info["step"]
        # Past the end of a training that is to go on, the rate stays where it was.
        self.rates = tensors["learning_rates"].tolist() + [self.settings["lr"]] * (len(self.rates) - planned)
        for name, pairs in section(tensors, "logged").items():
            self.logged[name] = [(int(step), value) for step, value in pairs.tolist()]
        self.stopped = info["stopped"] if len(self.rates) == planned else ""
        self.started -= info["seconds"]
        randomness.set_state(section(tensors, "random"), self.generators)
        if self.stopped or self.step == len(self.rates):
            more = "" if self.settings["schedule"] == "cosine" else ", or ask for more steps to go on"
            warnings.warn(
                f"fit takes no step: {self.saved} is the end of this training, {self.stopped or 'finished'}, and the "
                f"model now holds its weights. To train anew, name another folder{more}",
                stacklevel=4,
            )

    def _resume_optimizer(self, kept: Mapping[str, Tensor]) -> None:
        """Give each weight its own moments back, by name and in its layout, which fused optimizers rely on."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        places = {name: index for index, name in enumerate(_optimized(self.model, self.optimizer))}
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in kept.items():
            name, _, what = key.rpartition("/")
            like = parameters[places[name]]
            laid = torch.empty_like(like, dtype=value.dtype).copy_(value) if value.shape == like.shape else value
            state.setdefault(places[name], {})[what] = laid
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model/{name}": tensor for name, tensor in weights(self.model).items()}
        tensors |= {f"average/{name}": copied(mean) for name, mean in zip(self.names, self.averages, strict=False)}
        names = _optimized(self.model, self.optimizer)
        for index, state in self.optimizer.state_dict()["state"].items():
            for what, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{names[index]}/{what}"] = copied(value)
                elif value is not None:
                    raise TypeError(f"optimizer must keep tensors alone to be saved, got {what} = {value!r}")
        tensors |= {f"random/{name}": state for name, state in randomness.state(self.generators).items()}
        if scaler := getattr(self.accelerator, "scaler", None):
            tensors["scaler"] = torch.tensor([*scaler.state_dict().values()], dtype=torch.float64)
        for name, pairs in self.logged.items():
            tensors[f"logged/{name}"] = torch.tensor(pairs, dtype=torch.float64)
        curves = {"losses": self.losses, "learning_rates": self.rates}
        return tensors | {name: torch.tensor(curve, dtype=torch.float64) for name, curve in curves.items()}

    def _broken(self, what: str) -> str:
        step, lr = len(self.losses), self.settings["lr"]
        cause = (
            "Nothing has been learned yet: look at the data, and at what the model makes of it"
            if step == 1
            else f"The usual cause is a learning rate that is too high: try lr={lr / 3:.1g}, or clip=1.0"
        )
        return f"{what} at step {step} of {len(self.rates)}. {cause}. {self._last()}."

    def _last(self) -> str:
        return f"The last good checkpoint is {self.saved}" if self.saved else "No checkpoint was written"


@torch.no_grad()
def _copy(to: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(to, values, strict=False):
        tensor.copy_(value)


def _optimized(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """The names of what `optimizer` moves, in its own order."""
    names = {id(p): plain(name) for name, p in model.named_parameters()}
    moved = [p for group in optimizer.param_groups for p in group["params"]]
    if any(id(p) not in names for p in moved):
        raise ValueError("optimizer must move parameters of the model alone, or the rest would be in no checkpoint")
    return [names[id(p)] for p in moved]


def _description(
    model: nn.Module, optimizer: Optimizer, generators: Sequence[randomness.Source], accelerator: Any
) -> dict[str, Any]:
    """What else has to be the same on a resume, as plain text."""
    numbers = {k: v for k, v in optimizer.defaults.items() if isinstance(v, int | float | tuple) and k != "lr"}
    rule = ", ".join(f"{key}={value}" for key, value in sorted(numbers.items()) if not isinstance(value, bool))
    moved = {id(p) for group in optimizer.param_groups for p in group["params"]}
    shapes = {
        f"weight {name}": f"{tensor.dtype} {tuple(tensor.shape)}"
        + (", frozen" if isinstance(tensor, nn.Parameter) and id(tensor) not in moved else "")
        for name, tensor in named(model).items()
    }
    return {
        "format": FORMAT,
        "optimizer": f"{type(optimizer).__name__}({rule})",
        "generators": [type(g).__module__.partition(".")[0] for g in generators],
        "device": next(model.parameters()).device.type,
        "precision": "no" if accelerator is None else accelerator.mixed_precision,
        **shapes,
    }
