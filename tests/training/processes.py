"""Trains on its own share of each batch in one process and in two, in peace and killed, in forks of one that has torch.

Run by `test_accelerator.py`: `python processes.py FOLDER`. What a process ended with is in FOLDER/RUN/RANK.safetensors.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import torch
import torch._dynamo  # every optimizer loads it: once here, rather than in each fork
from accelerate import Accelerator
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


def together(processes: int, folder: Path, result: Path, kill: bool = False) -> None:
    """So many processes that know of each other; if the first is killed, the others are ended too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(processes):
        if pid := os.fork():
            children.append(pid)
            continue
        status = 1
        try:
            if processes > 1:
                world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
                os.environ.update({"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in world.items()}})
            train(folder, result, kill)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(children[0], 0)
    if kill:
        assert os.WIFSIGNALED(status), "nothing was killed"
    for child in children[1:]:
        if kill:
            os.kill(child, signal.SIGKILL)
        status |= os.waitpid(child, 0)[1]
    if status and not kill:
        raise SystemExit(f"training failed with status {status}")


if __name__ == "__main__":
    top = Path(sys.argv[1])
    torch.set_num_threads(1)
    for count in (1, 2):
        together(count, top / f"checkpoints {count}", top / f"whole {count}")
    together(2, top / "killed", top / "nothing", kill=True)
    together(2, top / "killed", top / "resumed 2")
