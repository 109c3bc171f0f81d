"""The one training loop of the book: every model, from a line of points to images, is fitted by `fit`.

Chapter 4 builds one from scratch, and then prints this one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from tqdm.auto import tqdm

from fmtutor import _validate
from fmtutor.training import checks
from fmtutor.training.history import History
from fmtutor.training.randomness import Source
from fmtutor.training.run import Run
from fmtutor.training.weights import load_weights, save_weights

__all__ = [
    "SMALL",
    "History",
    "adam",
    "average",
    "few_threads",
    "fit",
    "learning_rate",
    "load_weights",
    "save_weights",
    "update",
]

SMALL = 50_000
"""Weights from which on a dense network is worth more than one CPU thread."""


def adam(parameters: Iterable[Tensor], lr: float) -> Optimizer:
    """Adam, in its fused form: one call updates all parameters, where a loop over them costs a small network more."""
    parameters = list(parameters)
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    return AdamW(parameters, lr=lr, weight_decay=0.0, fused=fused or None)


def fit(
    model: nn.Module,
    loss: Callable[[], Tensor],
    *,
    steps: int,
    lr: float = 1e-2,
    warmup: float = 0.05,
    schedule: str = "cosine",
    ema: float | None = 0.999,
    clip: float | None = None,
    optimizer: Callable[..., Optimizer] = adam,
    threads: int | None = None,
    generators: Sequence[Source] = (),
    callback: Callable[[int], Mapping[str, float] | None] | None = None,
    losses: list[float] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1000,
    log_every: int = 100,
    progress: bool | int = True,
    accelerator: Any = None,
) -> History:
    """Train `model` for `steps` steps on what `loss` returns, and leave it ready for use.

    Afterwards the model is in evaluation mode and its weights are the running average of those it had during training;
    buffers keep their last value. With `ema=None` the weights are simply the last ones.

    A `checkpoint` folder whose training has finished is only loaded, with a warning. At a constant rate
    training goes on when more `steps` are asked for; a cosine is drawn for its number of steps and is
    refused another.

    Args:
        model: Module to train in place, on whatever device it is.
        loss: Function without arguments that draws its own batch and returns a scalar to make small.
        steps: Number of updates.
        lr: Peak learning rate.
        warmup: Part of the steps, in [0, 1), over which the learning rate rises linearly.
        schedule: "cosine" (falls to zero after the warm-up) or "constant".
        ema: Decay of the running average of the weights, in [0, 1); None or 0 for no average. See `average`.
        clip: Largest norm of the gradient; a longer one is scaled down to it. None leaves it alone.
        optimizer: Called with the parameters and `lr`: `torch.optim.SGD`, say, or a `functools.partial` of it.
        threads: CPU threads that share the work of an operation. None leaves the number to torch, but gives a small
            dense network a single one, see `few_threads`.
        generators: Generators that `loss` draws from, if it has its own, of torch, of numpy or of `random`. Their
            states go into checkpoints, beside those of the global generators of all three.
        callback: Called with the number of finished steps every `log_every` steps and after the last one. The model is
            then as `fit` would leave it: averaged, in evaluation mode. A dict of numbers that it returns goes into
            `History.logged`; if it raises StopIteration (as `next` does at the end of a loader), training ends there.
        losses: A list to keep the loss of every step in, those before a resume too. When `callback` is called, it holds
            all of them so far.
        checkpoint: Folder for checkpoints. Where it holds one already, training goes on from there, and on a CPU it
            arrives at the same bits as if it had never stopped, as long as every draw comes from a generator named
            above. The place of a DataLoader in its data is not kept, nor what a callback keeps for itself.
        checkpoint_every: Steps between two checkpoints; the newest two are kept.
        log_every: Steps between two looks at the losses. A look waits for the device; nothing else does.
        progress: Show a bar where somebody can watch it: not in a file, nor where `TQDM_DISABLE` is set. A number is
            how many examples a step takes: the bar then counts those.
        accelerator: an `accelerate.Accelerator` that has prepared the model: it decides the precision, and averages
            the gradients of several processes, each of which calls `fit` with its own share of the batch in `loss`.
            Callbacks run in every process, and must stop in all of them or in none; the first one alone writes.

    Returns:
        Loss and learning rate of every step, what `callback` returned, time, device and seed.

    Raises:
        TypeError: `loss` does not return a tensor, or an argument is of the wrong kind.
        ValueError: A setting is out of range; the loss is not a scalar, does not depend on the model, or is NaN or
            infinite at some step; a checkpoint is damaged, or belongs to other settings.
        OSError: A checkpoint could not be written; the model is ready for use all the same.
        KeyboardInterrupt: Ctrl-C, in a program. At a prompt or in a notebook `fit` warns and returns what there is.
            Both end the step at hand, write a checkpoint and leave the model ready for use; a second one does not wait.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> line = nn.Linear(1, 1)
        >>> def loss():
        ...     x = torch.randn(64, 1)
        ...     return (line(x) - 3 * x).square().mean()
        >>> fit(line, loss, steps=400, lr=0.1)
        400 steps in ... s on cpu, seed 0: loss 9.249 -> ...
        >>> round(line.weight.item(), 3)
        3.0

        Twenty rows are soon learned by heart. Stop when the error on twenty others has not fallen for 100
        steps, and go back to the best weights:

        >>> from copy import deepcopy
        >>> x = torch.randn(40, 8)
        >>> y = x[:, :1] + torch.randn(40, 1)
        >>> net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1))
        >>> def error(rows):
        ...     return (net(x[rows]) - y[rows]).square().mean()
        >>> best = {"error": float("inf")}
        >>> def callback(step):
        ...     now = error(slice(20, 40)).item()
        ...     if now < best["error"]:
        ...         best.update(error=now, step=step, weights=deepcopy(net.state_dict()))
        ...     if step >= best["step"] + 100:
        ...         raise StopIteration
        ...     return {"held out": now}
        >>> fit(net, lambda: error(slice(20)), steps=2000, log_every=10, callback=callback)
        1... steps in ..., stopped by its callback at step 1... of 2000
        >>> net.load_state_dict(best["weights"])
        <All keys matched successfully>

    Source: Adam, arXiv 1412.6980; averaged weights, Polyak and Juditsky (1992); cosine schedule, arXiv 1608.03983.
    """
    settings = checks.settings(steps, lr, warmup, schedule, ema, clip)
    names = ("steps", "lr", "warmup", "ema", "clip")
    steps, lr, warmup, ema, clip = (settings[name] for name in names)
    _validate.whole("checkpoint_every", checkpoint_every), _validate.whole("log_every", log_every)
    if callback is not None:
        _validate.function("callback", callback)
    if losses is not None:
        _validate.kind("losses", losses, list)
    parameters = checks.trainable(model, loss)
    rates = [learning_rate(step, steps, lr, warmup, schedule) for step in range(steps)]
    optim = _validate.function("optimizer", optimizer)(parameters, lr=lr)
    run = Run(model, optim, settings, rates, generators, checkpoint, accelerator, losses)
    run.model.train()
    stepping = optim if accelerator is None else accelerator.prepare(optim)
    bar = _bar(progress, run.step, steps, run.writes)
    with few_threads(parameters, threads), run.under_way(), bar:
        for step in run.remaining():
            value = update(loss, parameters, stepping, run.rates[step], clip, accelerator)
            if ema:
                average(run.averages, parameters, ema, step)
            run.record(value)
            bar.update(int(progress))
            if run.step % log_every == 0 or run.step == steps:
                bar.set_postfix_str(f"loss {run.look():.4g}")
                run.call(callback)
            if run.step % checkpoint_every == 0:
                run.save()
    return run.history()


def update(
    loss: Callable[[], Tensor],
    parameters: Iterable[Tensor],
    optimizer: Optimizer,
    lr: float,
    clip: float | None,
    accelerator: Any = None,
) -> Tensor:
    """One step against the gradient of what `loss` returns, at most `clip` long before the optimizer scales it.

    Example:
        >>> weight = nn.Parameter(torch.tensor(3.0))
        >>> update(lambda: weight**2, [weight], torch.optim.SGD([weight], lr=1.0), lr=0.5, clip=None)
        tensor(9.)
        >>> weight.item()
        0.0
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    value = checks.scalar(loss())
    before = value.detach().clone()  # for it may be a weight itself
    optimizer.zero_grad()
    value.backward() if accelerator is None else accelerator.backward(value)
    if clip is not None:
        (accelerator or nn.utils).clip_grad_norm_(parameters, clip)
    optimizer.step()
    return before


def learning_rate(step: int, steps: int, lr: float, warmup: float, schedule: str) -> float:
    """Learning rate of the update after `step` others: up in a line, then level or down along a cosine.

    Example:
        >>> [round(learning_rate(step, 8, 1.0, 0.5, "cosine"), 2) for step in range(8)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.85, 0.5, 0.15]
    """
    rise = round(warmup * steps)
    if step < rise:
        return lr * (step + 1) / rise
    if schedule == "constant":
        return lr
    return lr * (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2


@torch.no_grad()
def average(averages: Sequence[Tensor], weights: Sequence[Tensor], decay: float, step: int) -> None:
    """Move each running average, in place, a little towards the weights after the update number `step`.

    The decay is (1 + step) / (10 + step) until that exceeds `decay`: an average over the last tenth of a short
    training, in which the random first weights are soon forgotten. Averages of half-precision weights must be in
    float32: in bfloat16 a step by a thousandth of the way rounds to none.

    Example:
        >>> mean, weight = torch.zeros(1), torch.ones(1)
        >>> average([mean], [weight], decay=0.999, step=0)
        >>> mean
        tensor([0.9000])
    """
    weights = [weight.to(mean.dtype) for mean, weight in zip(averages, weights, strict=True)]
    torch._foreach_lerp_(list(averages), weights, 1 - min(decay, (1 + step) / (10 + step)))


@contextmanager
def few_threads(parameters: Sequence[Tensor], threads: int | None = None) -> Iterator[None]:
    """So many CPU threads, or a single one for a small dense network; afterwards as many as before.

    Two threads finish a step of such a network a little sooner when both cores are free. When one of them is busy with
    anything else, each waits for the other many times a step, and training takes several times as long.
    """
    before = torch.get_num_threads()
    small = sum(p.numel() for p in parameters) < SMALL and all(p.dim() <= 2 for p in parameters)  # no convolution
    default = 1 if small else before
    torch.set_num_threads(default if threads is None else _validate.whole("threads", threads))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _bar(progress: bool | int, done: int, steps: int, here: bool) -> tqdm:
    """A bar that is gone when training is over; `disable=None` keeps it out of files and pipes."""
    hide = not (progress and here) or bool(os.environ.get("TQDM_DISABLE"))
    each, unit = (1, "step") if isinstance(progress, bool) else (_validate.whole("progress", progress, least=0), "ex")
    return tqdm(total=each * steps, initial=each * done, disable=True if hide else None, leave=False, unit=unit)
