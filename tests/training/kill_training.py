"""Trains once in peace and then under SIGKILL, in forks of one process that has torch loaded, and prints both results.

Run by `test_checkpoints.py`: `python kill_training.py FOLDER SEED`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sys
import time
from functools import partial
from pathlib import Path

import torch
from forks import finished, forked
from torch import nn

from fmtutor.training import fit
from fmtutor.training.weights import weights


def train(folder: Path | None, result: Path) -> None:
    """Most of the time goes into writing checkpoints, so that many kills fall into a write."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 32), nn.BatchNorm1d(32), nn.SiLU(), nn.Dropout(0.1), nn.Linear(32, 2))
    generator = torch.Generator().manual_seed(1)

    def loss() -> torch.Tensor:
        x0, x1 = torch.randn(32, 2), torch.rand(32, 2, generator=generator)
        t = torch.rand(32, 1)
        return (model(torch.cat([t, (1 - t) * x0 + t * x1], 1)) - (x1 - x0)).square().mean()

    history = fit(
        model,
        loss,
        steps=400,
        generators=[generator],
        checkpoint=folder,
        checkpoint_every=4,
        log_every=7,
        progress=False,
    )
    sha = hashlib.sha256(history.losses.numpy().tobytes())
    for tensor in weights(model).values():
        sha.update(tensor.numpy().tobytes())
    result.with_suffix(".tmp").write_text(sha.hexdigest())
    os.replace(result.with_suffix(".tmp"), result)


def main(folder: Path, seed: int) -> None:
    torch.set_num_threads(1)
    moments, start = random.Random(seed), time.monotonic()

    def training(place: Path | None, result: str) -> list[int]:
        return [forked(partial(train, place, folder / result))]

    finished(training(folder / "whole", "whole.txt"), 120)
    seconds = time.monotonic() - start
    finished(training(None, "plain.txt"), 120)
    assert (folder / "plain.txt").read_text() == (folder / "whole.txt").read_text(), "saving alone changes the result"
    kills, resumed, killed = 0, 0, []
    while kills < 10:
        shutil.rmtree(folder / "run", ignore_errors=True)
        while True:
            resumed += any((folder / "run").glob("step-*.json"))
            patience = moments.uniform(0, seconds / 8) if kills < 10 else 120
            if finished(training(folder / "run", "killed.txt"), patience):
                break
            kills += 1
        killed.append((folder / "killed.txt").read_text())
    whole = (folder / "whole.txt").read_text()
    print(json.dumps({"kills": kills, "resumed": resumed, "seconds": seconds, "whole": whole, "killed": killed}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
