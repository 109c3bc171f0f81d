"""Trains on its own share of each batch in one process and in two, in peace and killed, in forks of one that has torch.

Run by `test_accelerator.py`: `python processes.py FOLDER`. What a process ended with is in FOLDER/RUN/RANK.safetensors.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from forks import finished, together
from torch import Tensor, nn

from fmtutor.training import fit
from fmtutor.training.weights import save_weights

KILL_AT = 21


def train(folder: Path, result: Path, kill: bool) -> None:
    accelerator = Accelerator(cpu=True)
    rank, processes = accelerator.process_index, accelerator.num_processes
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 2))
    model, generator, steps = accelerator.prepare(network), torch.Generator().manual_seed(1), 0

    def loss() -> Tensor:
        nonlocal steps
        steps += 1
        if kill and steps == KILL_AT and rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        x = torch.randn(32, 3, generator=generator)[rank::processes]
        return (model(x).float() - x[:, :2].sin()).square().mean()

    history = fit(
        model, loss, steps=40, clip=0.5, generators=[generator], checkpoint=folder, checkpoint_every=8, log_every=5,
        callback=lambda step: {"seen": step}, progress=False, accelerator=accelerator,
    )  # fmt: skip
    save_weights(network, result / f"{rank}.safetensors", losses=history.losses.tolist(), resumed=history.resumed)


def trained(processes: int, folder: Path, result: Path, kill: bool = False) -> None:
    """So many processes; where the first kills itself, the others are ended too."""
    pids = together(processes, partial(train, folder, result, kill))
    if kill:
        _, status = os.waitpid(pids[0], 0)
        assert os.WIFSIGNALED(status), "nothing was killed"
        finished(pids[1:], 0)
    elif not finished(pids, 120):
        raise SystemExit("a training took more than two minutes")


if __name__ == "__main__":
    top = Path(sys.argv[1])
    torch.set_num_threads(1)
    for count in (1, 2):
        trained(count, top / f"checkpoints {count}", top / f"whole {count}")
    trained(2, top / "killed", top / "nothing", kill=True)
    trained(2, top / "killed", top / "resumed 2")
