"""One training run of an image model in one folder: settings, checkpoints, pictures and numbers on the way, the model.

`python -m fmtutor.images train` (see `__main__`) and chapter 8 call `train`; the loop is `fmtutor.training.fit`.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Generator, Tensor, nn

from fmtutor import _validate
from fmtutor.fields import Bound
from fmtutor.guidance import drop_labels
from fmtutor.images import data as collections
from fmtutor.images.data import Images
from fmtutor.images.logbook import Logbook
from fmtutor.images.model import SCHEDULES, ImageModel
from fmtutor.images.unet import UNet
from fmtutor.losses import conditional_flow_matching_loss
from fmtutor.paths import AffinePath
from fmtutor.training import History, fit
from fmtutor.training.checkpoints import write

COLLECTIONS = ("digits", "fashion_mnist", "mnist", "cifar10")
TIMES = ("uniform", "logit_normal", "late")
CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO}
NO_MEMORY = ("out of memory", "can't allocate memory")  # what Apple's devices say, and what a CPU does
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
    tell: Callable[[str], object] | None = None,
    progress: bool = True,
) -> tuple[ImageModel, History]:
    """Train a model of images in a folder of its own, or go on with the training that the folder holds.

    The folder gets `settings.json`, checkpoints, a grid of samples and a line of `log.jsonl` at each look, both in
    `board/` too where TensorBoard is installed, and at the end `model.safetensors`. The same call goes on exactly where
    a killed one was, in one process or in several (`accelerate launch -m fmtutor.images train ...`).

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
        tell: is handed each line of the log as a text, `print` for example.
        progress: show a bar, in images per second.

    Returns:
        The model and its history.

    Raises:
        ValueError: an argument is out of range, or the folder holds a run with other settings (they are named).
        RuntimeError: the device ran out of memory; what to change is named, and checkpoints stay.
        OSError: a file could not be written; the newest checkpoint stays.
        KeyboardInterrupt: Ctrl-C; a checkpoint and the model as it is then are in the folder.
        ImportError: precision or processes are asked for, and accelerate is not installed.
    """
    (images, levels), folder = load(data, root=root, size=size), Path(folder).expanduser()
    _validate.whole("steps", steps)
    settings = {
        "data": data, "batch": batch, "width": width, "multipliers": list(multipliers), "attention": attention,
        "schedule": _validate.choice("schedule", schedule, SCHEDULES), "labelled": labelled, "drop": drop,
        "times": times, "flip": flip, "dequantize": dequantize, "seed": seed, "size": size,
        "images": list(images.images.shape),
    }  # fmt: skip
    engine = accelerator(precision)
    device = engine.device if engine else "cuda" if torch.cuda.is_available() else "cpu"
    writes = engine is None or engine.is_main_process
    if engine and batch % engine.num_processes:
        raise ValueError(f"batch must be a multiple of the {engine.num_processes} processes, got {batch}")
    torch.manual_seed(seed)
    model = _model(images, levels, settings, device)
    share = slice(engine.process_index, None, engine.num_processes) if engine else slice(None)
    batches = Batches(images, levels, batch, device=device, times=times, drop=drop, flip=flip, dequantize=dequantize,
                      seed=seed, share=share)  # fmt: skip
    same_run(folder, settings, writes)
    network: Any = torch.compile(model.network) if compiled else model.network
    network = engine.prepare(network) if engine else network
    losses: list[float] = []
    logbook = Logbook(folder, model, losses, look, tell)
    with _ending(model, folder, batch, writes), closing(logbook):
        history = fit(
            network, _loss(network, batches, schedule, labelled), steps=steps, lr=lr, warmup=warmup, ema=ema, clip=clip,
            generators=[batches.generator], callback=logbook if writes else None, losses=losses, log_every=look_every,
            checkpoint=folder, checkpoint_every=checkpoint_every, progress=batch if progress else 0, accelerator=engine,
        )  # fmt: skip
        model.notes |= {"steps": history.steps, "seconds": round(history.seconds, 1)}
        released(model.network)
    return model, history


def _model(images: Images, levels: int, settings: Mapping[str, Any], device: torch.device | str) -> ImageModel:
    """A network that knows nothing yet, for images of this shape."""
    channels, height, width = images.images.shape[1:]
    classes = int(images.labels.max()) + 1 if settings["labelled"] else None
    network = UNet(channels, settings["width"], settings["multipliers"], classes, settings["attention"]).to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ImageModel(network, (channels, height, width), levels, settings["schedule"], {"settings": settings})


def _loss(network: Any, batches: Batches, schedule: str, labelled: bool) -> Callable[[], Tensor]:
    """What `fit` makes small: the loss of this process's share of the next batch."""
    path = AffinePath(SCHEDULES[schedule]())

    def loss() -> Tensor:
        x0, x1, t, labels = batches()
        x1 = x1.to(memory_format=torch.channels_last)
        return conditional_flow_matching_loss(Bound(network, label=labels) if labelled else network, path, x0, x1, t)

    return loss


@contextmanager
def _ending(model: ImageModel, folder: Path, batch: int, writes: bool) -> Iterator[None]:
    """The model is left in its folder, after Ctrl-C too; where memory or disk ran out, what to do is said."""

    def save() -> None:
        if writes:
            model.save(folder / "model.safetensors")

    try:
        yield
        save()
    except KeyboardInterrupt:
        save()
        raise
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        then = "Make room there, or see that it may be written to: the same call then goes on from the last checkpoint"
        raise OSError(error.errno, f"{error.strerror}. {then}", error.filename or str(folder)) from error
    except RuntimeError as error:
        if not isinstance(error, torch.cuda.OutOfMemoryError) and not any(words in str(error) for words in NO_MEMORY):
            raise
        what = f"the device ran out of memory. Try batch={max(batch // 2, 1)} or precision='bf16', in another folder"
        raise RuntimeError(f"{what}; checkpoints in {folder} are as they were. {error}") from error


def accelerator(precision: str) -> Any:
    """What decides device, precision and processes; None where there is nothing to decide."""
    _validate.choice("precision", precision, ("no", "bf16", "fp16"))
    processes = int(os.environ.get("WORLD_SIZE", "1"))  # as torchrun and accelerate say it
    if precision == "no" and processes == 1:
        return None
    try:
        from accelerate import Accelerator
    except ImportError:
        what = f"precision={precision!r}" if precision != "no" else f"a run in {processes} processes"
        raise ImportError(f"{what} needs the package accelerate: pip install accelerate") from None
    # Without a GPU, torchrun's processes know of each other only if they are told that a CPU is meant.
    engine = Accelerator(mixed_precision=precision, cpu=processes > 1 and not torch.cuda.is_available())
    if engine.num_processes != processes:
        raise RuntimeError(
            f"{processes} processes were started (WORLD_SIZE), but accelerate knows of {engine.num_processes}: each "
            "would write over the other's files. Start them by `accelerate launch`"
        )
    return engine


def released(network: nn.Module) -> None:
    """Take off what accelerate put around the forward, so that it is exact again; the weights always were."""
    for wrapper in ("forward", "_original_forward"):
        vars(network).pop(wrapper, None)


def same_run(folder: Path, settings: Mapping[str, Any], writes: bool = True) -> None:
    """Write the settings of a new run; raise where the folder holds one with others.

    A folder without a checkpoint and without a model holds nothing that other settings could spoil.
    """
    if folder.is_file():
        raise ValueError(f"folder must be a folder, got the file {folder}")
    file = folder / "settings.json"
    begun = any(folder.glob("step-*.json")) or (folder / "model.safetensors").exists()
    if not begun or not file.exists():
        if writes:
            folder.mkdir(parents=True, exist_ok=True)
            write(file, json.dumps(settings, indent=1).encode())
        return
    try:
        there = dict(json.loads(file.read_text(errors="replace")))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{file} is damaged: {error}. Nothing was changed. If this call has the settings of that run, delete the "
            "file to go on with them; otherwise use another folder"
        ) from error
    changed = [f"{name} is {there[name]} there and {settings.get(name)} now"
               for name in there if there[name] != settings.get(name)]  # fmt: skip
    if changed:
        raise ValueError(
            f"{folder} holds a run with other settings: {'; '.join(changed)}. Use the same settings to go on with it, "
            "or another folder to start anew"
        )
