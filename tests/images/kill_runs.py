"""The command line, killed at random moments, in one process and in two, in forks of one that has torch loaded.

Run by `test_kills.py`: `python kill_runs.py FOLDER SEED` prints what each way ended with.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import sys
import time
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "training"))

import accelerate.optimizer  # noqa: F401 (once here, rather than in each fork)
import PIL.PngImagePlugin  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch
from forks import finished, together

from fmtutor.images.__main__ import main
from fmtutor.training.checkpoints import newest
from fmtutor.training.weights import read_weights

OPTIONS = "--batch 8 --width 8 --multipliers 1 --look-samples 0 --look-every 25 --checkpoint-every 2 --drop 0.5"
OPTIONS += " --flip --dequantize --steps 30"


def command(folder: Path) -> None:
    """What somebody would type; a checkpoint every other step, so that many kills fall into a write."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # which is for the result
        main(["train", str(folder), *OPTIONS.split()])


def result(folder: Path) -> dict[str, object]:
    """All that a run leaves, less its times and dates."""
    tensors, notes = read_weights(folder / "model.safetensors")
    sha = hashlib.sha256(b"".join(tensor.numpy().tobytes() for _, tensor in sorted(tensors.items())))
    for picture in sorted(folder.glob("samples-*.png")):
        sha.update(picture.name.encode() + picture.read_bytes())
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    losses = newest(folder)[0]["losses"].tolist()  # type: ignore[index]
    looks = [[line["step"], line["loss"]] for line in lines]
    return {"sha256": sha.hexdigest(), "losses": losses, "looks": looks, "steps": notes["notes"]["steps"]}


def killed(top: Path, processes: int, kills: int, moments: random.Random) -> dict[str, object]:
    """A run in peace, and what is left of runs that are killed so many times in all."""
    began = time.monotonic()
    assert finished(together(processes, partial(command, top / "whole")), 300)
    seconds, resumed, ends = time.monotonic() - began, 0, []
    left = kills
    while left:
        shutil.rmtree(top / "run", ignore_errors=True)
        while True:
            resumed += any((top / "run").glob("step-*.json"))
            patience = moments.uniform(0.1, 0.4) * seconds if left else 300
            if finished(together(processes, partial(command, top / "run")), patience):
                break
            left -= 1
        ends.append(result(top / "run"))
    return {"whole": result(top / "whole"), "ends": ends, "resumed": resumed, "seconds": seconds}


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, numbers = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
    print(json.dumps({n: killed(place / str(n), n, kills, numbers) for n, kills in ((1, 10), (2, 1))}))
