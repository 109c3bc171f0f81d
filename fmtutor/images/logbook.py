"""What a training run of images leaves at each look: a grid of samples, a line of numbers, and both for TensorBoard.

`fmtutor.images.train` (chapter 8) hands a `Logbook` to `fit`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Generator, Tensor

from fmtutor.images.model import ImageModel
from fmtutor.training.checkpoints import write

CLOCKS = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}  # a busy machine parts them


class Logbook:
    """What `fit` calls at each look.

    The grid has the same noise every time. The line holds the mean loss of the steps since the line before, the time
    taken so far, and what `look` returns.

    Args:
        folder: of the run; gets `samples-STEP.png`, `log.jsonl` and, where TensorBoard is installed, `board/`.
        model: to draw from.
        losses: of every step so far, kept up to date by `fit`.
        look: returns more numbers, called with the model and the step.
        tell: is handed each line as a text to show.
    """

    def __init__(
        self,
        folder: Path,
        model: ImageModel,
        losses: Sequence[float],
        look: Callable[[ImageModel, int], Mapping[str, float]] | None = None,
        tell: Callable[[str], object] | None = None,
    ) -> None:
        self.folder, self.model, self.losses, self.more, self.tell = folder, model, losses, look, tell
        self.file = folder / "log.jsonl"
        self.board: Any = None
        self.earlier = [max((line[clock] for line in self.lines()), default=0.0) for clock in CLOCKS]
        self.began = [now() for now in CLOCKS.values()]

    def lines(self) -> list[dict[str, Any]]:
        """The lines so far; one that was cut off as the machine failed is left out."""
        found = []
        for text in self.file.read_text(errors="replace").splitlines() if self.file.exists() else []:
            try:
                found.append(json.loads(text))
            except json.JSONDecodeError:
                continue
        return found

    def __call__(self, step: int) -> dict[str, float]:
        """Draw, measure, and write it down."""
        drawn = sheet(self._drawn())
        write(self.folder / f"samples-{step:08d}.png", png(drawn))
        numbers = dict(self.more(self.model, step)) if self.more else {}
        kept = [other for other in self.lines() if other["step"] < step]  # a run that goes on takes some steps twice
        since = self.losses[kept[-1]["step"] if kept else 0 :]
        spent = {
            clock: round(before + now() - began, 1)
            for (clock, now), before, began in zip(CLOCKS.items(), self.earlier, self.began, strict=True)
        }
        line = {"step": step, "loss": round(sum(since) / len(since), 6), **spent, **numbers}
        write(self.file, "".join(json.dumps(each) + "\n" for each in [*kept, line]).encode())
        self._show(line, drawn)
        return numbers

    def close(self) -> None:
        """Let go of TensorBoard's file."""
        if self.board is not None:
            self.board.close()

    def _drawn(self) -> Tensor:
        classes = self.model.network.classes
        label = torch.arange(64) % classes if classes else None
        generator = Generator(next(self.model.network.parameters()).device).manual_seed(0)
        return self.model.sample(64, label, generator=generator)

    def _show(self, line: Mapping[str, float], drawn: Tensor) -> None:
        step, numbers = int(line["step"]), {name: value for name, value in line.items() if name != "step"}
        if self.board is None:
            self.board = _board(self.folder / "board", step)
        if self.board is not None:
            for name, value in numbers.items():
                self.board.add_scalar(name, value, step)
            self.board.add_image("samples", drawn, step, dataformats="HWC")
            self.board.flush()
        if self.tell is not None:
            self.tell(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()))


def _board(folder: Path, step: int) -> Any:
    """A writer for TensorBoard that hides what an earlier try has written from `step` on; None where it is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step)


def sheet(images: Tensor, columns: int = 8) -> UInt8[Tensor, "height width channels"]:
    """Images side by side, as bytes; ink is dark where they are grey."""
    pixels = ((images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    n, channels, height, width = pixels.shape
    rows = -(-n // columns)
    places = torch.zeros(rows * columns, channels, height, width, dtype=torch.uint8)
    places[:n] = pixels if channels == 3 else 255 - pixels
    in_rows = places.reshape(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    return in_rows.reshape(rows * height, columns * width, channels)


def png(drawn: UInt8[Tensor, "height width channels"], zoom: int = 2) -> bytes:
    """The content of a PNG file."""
    from PIL import Image

    file, picture = BytesIO(), Image.fromarray(drawn.squeeze(-1).numpy())
    big = picture.resize((zoom * picture.width, zoom * picture.height), Image.Resampling.NEAREST)
    big.save(file, format="PNG")
    return file.getvalue()


def save_grid(images: Tensor, path: Path, columns: int = 8, zoom: int = 2) -> None:
    """Images side by side in one PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, png(sheet(images, columns), zoom))
