"""What each part of the one-screen program is worth on the checkerboard: nats and seconds, over several seeds.

    python benchmarks/checkerboard.py            # about eight minutes on two idle cores

Every run is a process of its own, as a reader's would be. The table goes to `book/results/checkerboard.json` and from
there into the README.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

FIRST_SEED = 100  # the settings were chosen with seeds below
README = Path(__file__).parents[1] / "README.md"
MARK = "<!-- measured: benchmarks/checkerboard.py -->"
LONG = 18_000

VARIANTS = {
    "the program as it stands, 2 000 steps": {},
    "without Fourier features of position": {"frequencies": 0},
    "with Fourier features that ignore the noise": {"damped": False},
    "with a constant learning rate": {"schedule": "constant"},
    "without the average of the weights (EMA)": {"ema": 0.0},
    "with a constant learning rate and without EMA": {"schedule": "constant", "ema": 0.0},
    "with times drawn uniformly": {"uniform": True},
    "beside a process that keeps a core busy": {"busy": True},
    "on two threads": {"threads": 2},
    "on two threads, beside a process that keeps a core busy": {"threads": 2, "busy": True},
    f"the program with {LONG // 1000} 000 steps": {"steps": LONG},
    f"{LONG // 1000} 000 steps with times drawn uniformly": {"steps": LONG, "uniform": True},
}


def run(
    seed: int,
    steps: int = 2000,
    frequencies: int = 96,
    damped: bool = True,
    uniform: bool = False,
    schedule: str = "cosine",
    ema: float = 0.999,
    threads: int | None = None,
    busy: bool = False,
) -> dict[str, float]:
    """Train once; the gap in nats, its standard error, and the seconds that training took."""
    import torch

    from fmtutor import AffinePath, Checkerboard, ContinuousFlow, StandardNormal, VelocityMLP
    from fmtutor import conditional_flow_matching_loss, fit, metrics  # isort: skip

    torch.manual_seed(seed)
    target, base, path = Checkerboard(), StandardNormal(2), AffinePath()
    model = VelocityMLP(dim=2, frequencies=frequencies)
    if not damped:
        features = model.position.forward
        model.position.forward = lambda x, noise, *beside: features(x, 0 * noise, *beside)  # type: ignore[method-assign]

    def loss() -> torch.Tensor:
        x0, x1 = base.sample((1024,)), target.sample((1024,))
        t = torch.rand(1024) if uniform else None
        return conditional_flow_matching_loss(model, path, x0, x1, t)

    with one_core_busy() if busy else nullcontext():
        start = time.perf_counter()
        fit(model, loss, steps=steps, schedule=schedule, ema=ema, threads=threads, progress=False)
        seconds = time.perf_counter() - start
    gap = metrics.kl(target, ContinuousFlow(model, base), n=20_000)
    return {"gap": float(gap.value), "error": float(gap.error), "seconds": seconds}


@contextmanager
def one_core_busy() -> Iterator[None]:
    """A process that does nothing, as fast as it can."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()


def table(result: dict[str, Any]) -> str:
    """The measured rows as Markdown, with where and when they were measured."""
    lines = ["| | runs | gap to the truth, nats | training, s |", "|---|---|---|---|"]
    for row in result["measured"]:
        gaps, seconds = row["gaps"], row["seconds"]
        lines.append(f"| {row['what']} | {len(gaps)} "
                     f"| {statistics.mean(gaps):.3f} ({min(gaps):.3f} to {max(gaps):.3f}) "
                     f"| {statistics.mean(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f}) |")  # fmt: skip
    on = result["machine"]
    where = (
        f"{on['cores']} cores of {on['processor']}, torch {on['torch']}, {result['date']}, commit {result['commit']}"
    )
    seeds = f"seeds from {result['measured'][0]['first_seed']} on, none of which the settings were chosen with"
    lines += ["", f"Mean and range over {seeds}; {where}, `{result['command']}`."]
    return "\n".join(lines)


def into_readme(text: str, result: dict[str, Any]) -> str:
    """`text` with the table between its two marks."""
    before, _, after = text.split(MARK)
    return f"{before}{MARK}\n{table(result)}\n{MARK}{after}"


def main() -> None:
    from record import record

    rows = []
    for what, settings in VARIANTS.items():
        runs = []
        how_many = 5 if not settings else 1 if {"steps", "uniform"} <= settings.keys() else 2
        for seed in range(FIRST_SEED, FIRST_SEED + how_many):
            command = [sys.executable, "-W", "ignore", __file__, json.dumps({"seed": seed, **settings})]
            runs.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
            print(what, seed, runs[-1], flush=True)
        rows.append({"what": what, "settings": settings, "first_seed": FIRST_SEED, "gaps": [r["gap"] for r in runs],
                     "errors": [r["error"] for r in runs], "seconds": [r["seconds"] for r in runs]})  # fmt: skip
    path = record("checkerboard", rows)
    README.write_text(into_readme(README.read_text(), json.loads(path.read_text())))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(run(**json.loads(sys.argv[1]))))
    else:
        main()
