"""What a run writes down on its way: the mean loss between two looks, a board where there is one, a line, a bar."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fmtutor.images import ImageModel, UNet, train
from fmtutor.images.logbook import Logbook, sheet
from fmtutor.training import History

SMALL: dict[str, Any] = {"steps": 10, "batch": 8, "width": 8, "multipliers": (1,), "progress": False}
SMALL |= {"look_every": 4, "checkpoint_every": 3}


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


class Board:
    """Writes down what TensorBoard's writer would be told."""

    made: list[Board] = []

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.told, self.pictures, self.closed = folder, purge_step, [], [], False
        Board.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.told.append((name, value, step))

    def add_image(self, name: str, picture: torch.Tensor, step: int, dataformats: str) -> None:
        self.pictures.append((name, tuple(picture.shape), picture.dtype, step, dataformats))

    def flush(self) -> None:
        assert not self.closed

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def boards(monkeypatch: pytest.MonkeyPatch) -> list[Board]:
    Board.made = []
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Board))
    return Board.made


def interrupted_and_gone_on_with(folder: Path, **changes: Any) -> History:
    """Broken off just after the second look, so that its line is there and is then written anew."""

    def fail(line: str) -> None:
        if line.startswith("step 8:"):
            raise InterruptedError("killed")

    def look(model: ImageModel, step: int) -> dict[str, float]:
        return {"more": step / 8}

    with pytest.raises(InterruptedError):
        train(folder, "digits", look=look, tell=fail, **SMALL)
    assert [line["step"] for line in lines(folder)] == [4, 8]
    return train(folder, "digits", look=look, **SMALL, **changes)[1]


def test_a_line_has_the_mean_loss_since_the_line_before(tmp_path: Path, boards: list[Board]) -> None:
    told: list[str] = []
    history = interrupted_and_gone_on_with(tmp_path, tell=told.append)
    assert history.resumed == 6
    found = lines(tmp_path)
    wanted = [history.losses[a:b].mean().item() for a, b in ((0, 4), (4, 8), (8, 10))]
    assert [line["step"] for line in found] == [4, 8, 10]
    assert [line["loss"] for line in found] == pytest.approx(wanted, abs=1e-6)
    since_the_resume, last = history.losses[6:8].mean().item(), history.losses[7].item()
    assert abs(found[1]["loss"] - since_the_resume) > 1e-3 < abs(found[1]["loss"] - last)  # what it would be by mistake
    assert [re.sub("seconds [^,]+", "seconds", line) for line in told] == [
        f"step {line['step']}: loss {line['loss']:.4g}, seconds, cpu_seconds, more {line['step'] / 8:.4g}"
        for line in found[1:]
    ]

    first, second = boards
    assert [board.purge_step for board in boards] == [4, 8]  # what was written of step 8 before is hidden
    assert first.folder == second.folder == str(tmp_path / "board")
    assert first.closed
    assert second.closed
    numbers = [(name, line[name], line["step"]) for line in found for name in line if name != "step"]
    assert [each for each in first.told if each[2] < 8] + second.told == numbers
    picture = ("samples", (64, 64, 1), torch.uint8)
    assert first.pictures[:1] + second.pictures == [(*picture, step, "HWC") for step in (4, 8, 10)]


def test_without_tensorboard_nothing_is_missed_and_a_cut_line_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(tmp_path, "digits", **(SMALL | {"steps": 4}))
    assert not (tmp_path / "board").exists()
    (first,), log = lines(tmp_path), tmp_path / "log.jsonl"
    log.write_bytes(log.read_bytes() + b'{"step": 8, "loss": 1.\n\xff\x00\n{"st')
    book = Logbook(tmp_path, ImageModel.load(tmp_path / "model.safetensors"), [2.0] * 6)
    book(6)
    assert lines(tmp_path)[0] == first
    assert {name: lines(tmp_path)[1][name] for name in ("step", "loss")} == {"step": 6, "loss": 2.0}
    pictures = [(tmp_path / f"samples-{step:08d}.png").read_bytes() for step in (4, 6)]
    assert pictures[0] == pictures[1]  # the model is the same, and so is the noise


def test_the_grid_shows_all_classes_in_turn(tmp_path: Path) -> None:
    model = ImageModel(UNet(1, 8, (1,), classes=5), (1, 4, 4), 256)
    seen = []
    model.sample = lambda n, label, **_: seen.append((n, label.tolist())) or torch.zeros(n, 1, 4, 4)  # type: ignore
    Logbook(tmp_path, model, [1.0])(1)
    assert seen == [(64, [k % 5 for k in range(64)])]


def test_the_bar_counts_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TQDM_DISABLE", "")
    monkeypatch.setattr(sys, "stderr", Terminal())
    train(tmp_path, "digits", **(SMALL | {"progress": True}))
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "80/80" in shown  # ten steps of eight
    assert re.search(r"\d[.\d]*ex/s, loss 1\.", shown)


def test_a_sheet_has_each_image_in_its_place() -> None:
    images = torch.arange(6.0).reshape(3, 1, 1, 2) / 5 * 2 - 1
    grey = (255 - (images.flatten() + 1) * 127.5).round().byte().reshape(3, 2)
    found = sheet(images, columns=2).squeeze(-1)
    assert torch.equal(found[0], grey[:2].flatten())
    assert found[1].tolist() == [*grey[2].tolist(), 0, 0]
