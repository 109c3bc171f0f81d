"""What `fit` is handed, looked at before the first step: numbers in their ranges, a loss that has a gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fmtutor import _validate
from fmtutor.training.weights import named


def scalar(value: Tensor) -> Tensor:
    """What `loss` returned, if a gradient can be taken of it."""
    if not isinstance(value, Tensor):
        raise TypeError(f"loss must return a torch.Tensor, got {type(value).__name__}")
    if value.dim() != 0:
        raise ValueError(f"loss must return a scalar, got shape {tuple(value.shape)}: take its mean")
    if not value.requires_grad:
        raise ValueError("loss must depend on the model, but what it returned has no gradient: was it detached?")
    return value


def settings(
    steps: int, lr: float, warmup: float, schedule: str, ema: float | None, clip: float | None
) -> dict[str, Any]:
    """What decides the course of a training, checked, as plain numbers that a checkpoint can hold."""
    ema = 0.0 if ema is None else ema
    for name, part in {"warmup": warmup, "ema": ema}.items():
        if not 0 <= _validate.number(name, part) < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {part}")
    return {
        "steps": _validate.whole("steps", steps),
        "lr": float(_validate.positive("lr", lr)),
        "warmup": float(warmup),
        "schedule": _validate.choice("schedule", schedule, ("cosine", "constant")),
        "ema": float(ema),
        "clip": None if clip is None else float(_validate.positive("clip", clip)),
    }


def trainable(model: nn.Module, loss: Callable[[], Tensor]) -> list[nn.Parameter]:
    """What there is to train in `model`."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not callable(loss):
        raise TypeError(f"loss must be a function without arguments that draws a batch, got {type(loss).__name__}")
    named(model)  # all of it with numbers
    if not (parameters := [p for p in model.parameters() if p.requires_grad]):
        raise ValueError("model must have something to train, got no parameter that requires a gradient")
    return parameters


def folder(folder: str | Path | None) -> Path | None:
    """The folder for checkpoints, made now: that it cannot be is no news for step 1000."""
    if folder is None:
        return None
    if folder == "":
        raise ValueError("checkpoint must name a folder, got an empty name")
    if (path := Path(folder).expanduser()).is_file():
        raise ValueError(f"checkpoint must be a folder, got the file {path}")
    path.mkdir(parents=True, exist_ok=True)
    return path


def numbers(returned: Any) -> dict[str, float]:
    """What a callback returned, if it is numbers by name."""
    if returned is None:
        return {}
    if not isinstance(returned, Mapping):
        raise TypeError(f"callback must return a dict of numbers by name, or None, got {type(returned).__name__}")
    plain_numbers = {k: v.detach() if isinstance(v, Tensor) else v for k, v in returned.items()}
    return {str(k): float(_validate.number(f"what callback returns as {k!r}", v)) for k, v in plain_numbers.items()}
