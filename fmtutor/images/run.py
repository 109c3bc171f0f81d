"""One training run of an image model in one folder: settings, checkpoints, pictures and numbers on the way, the model.

`python -m fmtutor.images train` (see `__main__`) and chapter 8 call `train`; the loop is `fmtutor.training.fit`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Generator, Tensor

from fmtutor import _validate
from fmtutor.fields import Bound
from fmtutor.guidance import drop_labels
from fmtutor.images import data as collections
from fmtutor.images.data import Images
from fmtutor.images.model import SCHEDULES, ImageModel
from fmtutor.images.unet import UNet
from fmtutor.losses import conditional_flow_matching_loss
from fmtutor.paths import AffinePath
from fmtutor.training import History, fit
from fmtutor.training.checkpoints import write

COLLECTIONS = ("digits", "fashion_mnist", "mnist", "cifar10")
TIMES = ("uniform", "logit_normal", "late")
CLOCKS = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}  # of the log; a busy machine parts them
LAST = 1 - 1e-5  # the velocity of a VP path is infinite at 1


def load(data: str, split: str = "train", *, root: str | Path | None = None, size: int = 64) -> tuple[Images, int]:
    """A collection by its name, or the pictures below a folder, and how many grey levels its pixels have.

    Raises:
        ValueError: neither a known name nor a folder.
    """
    if data == "digits":
        return collections.digits(split), 17
    if data in COLLECTIONS:
        return getattr(collections, data)(split, root=root), 256
    if not Path(data).expanduser().is_dir():
        raise ValueError(f"data must be one of {', '.join(COLLECTIONS)}, or a folder of pictures, got {data!r}")
    return collections.folder(data, size), 256


class Batches:
    """Noise, images, times and labels for each step, this process's share of them, from one generator.

    The images stay on the device as bytes. Every process draws the whole batch from the same generator and keeps its
    share, so that a run in several processes sees what a run in one does; and the state of the generator is all that a
    checkpoint needs to know of the order of the data.
    """

    def __init__(
        self,
        images: Images,
        levels: int,
        batch: int,
        *,
        device: torch.device | str = "cpu",
        times: str = "uniform",
        drop: float = 0.1,
        flip: bool = False,
        dequantize: bool = False,
        seed: int = 0,
        share: slice = slice(None),
    ) -> None:
        self.half, self.batch = (levels - 1) / 2, _validate.whole("batch", batch)
        self.pixels = ((images.images + 1) * self.half).round().byte().to(device)
        self.labels = images.labels.to(device)
        self.classes = int(images.labels.max()) + 1
        self.times, self.drop = _validate.choice("times", times, TIMES), drop
        self.flip, self.dequantize, self.share = flip, dequantize, share
        self.generator = Generator(device).manual_seed(seed)

    def __call__(self) -> tuple[Tensor, Tensor, Tensor, Int[Tensor, " share"]]:
        """x0, x1, t and the labels, some of which are left out."""
        g, n, device = self.generator, self.batch, self.pixels.device
        rows = torch.randint(len(self.pixels), (n,), generator=g, device=device)
        labels = drop_labels(self.labels[rows], self.drop, null=self.classes, generator=g)
        t = self._times(torch.rand(n, generator=g, device=device), torch.randn(n, generator=g, device=device))
        x0 = torch.randn(n, *self.pixels.shape[1:], generator=g, device=device)
        turned = torch.rand(n, generator=g, device=device) < 0.5
        spread = torch.rand(x0.shape, generator=g, device=device) - 0.5 if self.dequantize else None
        values = self.pixels[rows[self.share]].float()
        if self.flip:
            values = torch.where(turned[self.share, None, None, None], values.flip(-1), values)
        if spread is not None:
            values = values + spread[self.share]
        return x0[self.share], values / self.half - 1, t[self.share], labels[self.share]

    def _times(self, uniform: Tensor, normal: Tensor) -> Tensor:
        drawn = {"uniform": uniform, "logit_normal": normal.sigmoid(), "late": 1 - (1 - uniform) ** 1.5}[self.times]
        return LAST * drawn


def train(
    folder: str | Path,
    data: str = "digits",
    *,
    steps: int = 2000,
    batch: int = 128,
    lr: float = 2e-3,
    warmup: float = 0.05,
    ema: float = 0.999,
    clip: float | None = 1.0,
    width: int = 32,
    multipliers: tuple[int, ...] = (1, 2, 2),
    attention: bool = False,
    schedule: str = "linear",
    labelled: bool = True,
    drop: float = 0.1,
    times: str = "uniform",
    flip: bool = False,
    dequantize: bool = False,
    precision: str = "no",
    compiled: bool = False,
    seed: int = 0,
    size: int = 64,
    root: str | Path | None = None,
    look_every: int = 500,
    checkpoint_every: int = 500,
    look: Callable[[ImageModel, int], Mapping[str, float]] | None = None,
    progress: bool = True,
) -> tuple[ImageModel, History]:
    """Train a model of images in a folder of its own, or go on with the training that the folder holds.

    The folder gets `settings.json`, checkpoints, a grid of samples and a line of `log.jsonl` at each look, and at the
    end `model.safetensors`. The same call goes on exactly where a killed one was, in one process or in several
    (`accelerate launch -m fmtutor.images train ...`).

    Args:
        folder: where the run lives.
        data: "digits", "fashion_mnist", "mnist", "cifar10", or a folder of pictures.
        steps, lr, warmup, ema, clip: as in `fit`.
        batch: images a step, over all processes.
        width, multipliers, attention: of the `UNet`.
        schedule: "linear", "cosine" or "vp".
        labelled: whether the network hears the labels; `drop` is how often one is left out.
        times: "uniform", "logit_normal" (most of them in the middle), or "late" (as losses draw them by themselves).
        flip: mirror images at random.
        dequantize: spread each pixel over its grey level, which a likelihood wants.
        precision: "no", "bf16" or "fp16".
        compiled: let `torch.compile` make the network faster, after a slow start.
        seed: of weights and draws.
        size: side of the images that are made of a folder's pictures.
        root: where collections lie, or are downloaded to.
        look_every: steps between two looks: samples, and what `look(model, step)` returns.
        checkpoint_every: steps between two checkpoints.
        progress: show a bar, in images per second.

    Returns:
        The model and its history.

    Raises:
        ValueError: an argument is out of range, or the folder holds a run with other settings (they are named).
        RuntimeError: the device ran out of memory; what to change is named, and checkpoints stay.
        KeyboardInterrupt: Ctrl-C; a checkpoint and the model as it is then are in the folder.
        ImportError: precision or processes are asked for, and accelerate is not installed.
    """
    (images, levels), folder = load(data, root=root, size=size), Path(folder).expanduser()
    settings = {
        "data": data, "batch": batch, "width": width, "multipliers": list(multipliers), "attention": attention,
        "schedule": _validate.choice("schedule", schedule, SCHEDULES), "labelled": labelled, "drop": drop,
        "times": times, "flip": flip, "dequantize": dequantize, "seed": seed, "size": size,
    }  # fmt: skip
    engine = accelerator(precision)
    first = engine is None or engine.is_main_process
    same_run(folder, settings, writes=first)
    device = engine.device if engine else "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    model = _model(images, levels, settings, device)
    share = slice(engine.process_index, None, engine.num_processes) if engine else slice(None)
    batches = Batches(images, levels, batch, device=device, times=times, drop=drop, flip=flip, dequantize=dequantize,
                      seed=seed, share=share)  # fmt: skip
    asked: Any = torch.compile(model.network) if compiled else model.network
    asked = engine.prepare(asked) if engine else asked
    path = AffinePath(SCHEDULES[schedule]())

    def loss() -> Tensor:
        x0, x1, t, labels = batches()
        x1 = x1.to(memory_format=torch.channels_last)
        return conditional_flow_matching_loss(Bound(asked, label=labels) if labelled else asked, path, x0, x1, t)

    logbook = Logbook(folder, model, look) if first else None
    with _ending(model if first else None, folder, batch):
        history = fit(
            asked, loss, steps=steps, lr=lr, warmup=warmup, ema=ema, clip=clip, generators=[batches.generator],
            callback=logbook, checkpoint=folder, checkpoint_every=checkpoint_every, log_every=look_every,
            progress=batch if progress else 0, accelerator=engine,
        )  # fmt: skip
    if first:
        model.notes |= {"steps": len(history.losses), "seconds": round(history.seconds, 1)}
        model.save(folder / "model.safetensors")
    return model, history


def _model(images: Images, levels: int, settings: Mapping[str, Any], device: torch.device | str) -> ImageModel:
    """A network that knows nothing yet, for images of this shape."""
    channels, height, width = images.images.shape[1:]
    classes = int(images.labels.max()) + 1 if settings["labelled"] else None
    network = UNet(channels, settings["width"], settings["multipliers"], classes, settings["attention"]).to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ImageModel(network, (channels, height, width), levels, settings["schedule"], {"settings": settings})


@contextmanager
def _ending(model: ImageModel | None, folder: Path, batch: int) -> Iterator[None]:
    """What is left where a training does not come to its end: a model after Ctrl-C, advice where memory ran out."""
    try:
        yield
    except KeyboardInterrupt:
        if model is not None:
            model.save(folder / "model.safetensors")
        raise
    except torch.OutOfMemoryError as error:
        what = f"the device ran out of memory. Try batch={max(batch // 2, 1)} in another folder, or precision='bf16'"
        raise RuntimeError(f"{what}; checkpoints in {folder} are as they were. {error}") from error


def accelerator(precision: str) -> Any:
    """What decides device, precision and processes; None where accelerate is missing and nothing needs it."""
    _validate.choice("precision", precision, ("no", "bf16", "fp16"))
    try:
        from accelerate import Accelerator
    except ImportError:
        if precision == "no":
            return None
        raise ImportError(f"precision={precision!r} needs the package accelerate: pip install accelerate") from None
    return Accelerator(mixed_precision=precision)


def same_run(folder: Path, settings: Mapping[str, Any], writes: bool = True) -> None:
    """Write the settings of a new run; raise where the folder holds one with others."""
    file, text = folder / "settings.json", json.dumps(settings, indent=1)
    if not file.exists():
        if writes:
            folder.mkdir(parents=True, exist_ok=True)
            write(file, text.encode())
        return
    there = json.loads(file.read_text())
    changed = [f"{name} is {there.get(name)} there and {settings.get(name)} now"
               for name in {**there, **settings} if there.get(name) != settings.get(name)]  # fmt: skip
    if changed:
        raise ValueError(
            f"{folder} holds a run with other settings: {'; '.join(changed)}. Use the same settings to go on with it, "
            "or another folder to start anew"
        )


class Logbook:
    """What `fit` calls at each look: a grid of samples from one noise, and a line of numbers."""

    def __init__(
        self, folder: Path, model: ImageModel, look: Callable[[ImageModel, int], Mapping[str, float]] | None
    ) -> None:
        self.folder, self.model, self.more = folder, model, look
        self.file = folder / "log.jsonl"
        self.earlier = [max((line[clock] for line in self.lines()), default=0.0) for clock in CLOCKS]
        self.began = [now() for now in CLOCKS.values()]

    def lines(self) -> list[dict[str, Any]]:
        """The lines so far."""
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []

    def __call__(self, step: int) -> dict[str, float]:
        classes = self.model.network.classes
        label = torch.arange(64) % classes if classes else None
        generator = Generator(next(self.model.network.parameters()).device).manual_seed(0)
        save_grid(self.model.sample(64, label, generator=generator), self.folder / f"samples-{step:08d}.png")
        numbers = dict(self.more(self.model, step)) if self.more else {}
        spent = {
            clock: round(before + now() - began, 1)
            for (clock, now), before, began in zip(CLOCKS.items(), self.earlier, self.began, strict=True)
        }
        line = {"step": step, **spent, **numbers}
        kept = [other for other in self.lines() if other["step"] < step]  # a run that goes on takes some steps twice
        write(self.file, "".join(json.dumps(each) + "\n" for each in [*kept, line]).encode())
        return numbers


def save_grid(images: Tensor, path: Path, columns: int = 8, zoom: int = 2) -> None:
    """Images side by side in one PNG file; ink is dark where they are grey."""
    from PIL import Image

    file = BytesIO()
    pixels = ((images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    n, channels, height, width = pixels.shape
    rows = -(-n // columns)
    sheet = torch.zeros(rows * columns, channels, height, width, dtype=torch.uint8)
    sheet[:n] = pixels if channels == 3 else 255 - pixels
    sheet = sheet.reshape(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    picture = Image.fromarray(sheet.reshape(rows * height, columns * width, channels).squeeze(-1).numpy())
    big = picture.resize((zoom * picture.width, zoom * picture.height), Image.Resampling.NEAREST)
    big.save(file, format="PNG")
    write(path, file.getvalue())
