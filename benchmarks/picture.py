"""Draws the still of the README: the program's flow, from noise to data, in `book/_static/flow.png`.

python benchmarks/picture.py
"""

from __future__ import annotations

from pathlib import Path

import torch

from fmtutor import AffinePath, Checkerboard, ContinuousFlow, StandardNormal, VelocityMLP

from fmtutor import conditional_flow_matching_loss, fit, plots  # isort: skip

OUT = Path(__file__).parents[1] / "book" / "_static" / "flow.png"


def main() -> None:
    torch.manual_seed(0)
    target, base, path = Checkerboard(), StandardNormal(2), AffinePath()
    model = VelocityMLP(dim=2)

    def loss() -> torch.Tensor:
        x0, x1 = base.sample((1024,)), target.sample((1024,))
        return conditional_flow_matching_loss(model, path, x0, x1)

    fit(model, loss, steps=2000, progress=False)
    times = [0.0, 0.5, 0.75, 0.9, 1.0]
    states = ContinuousFlow(model, base).trajectory(base.sample((4000,)), times).states
    with plots.style():
        fig, axes = plots.panels([f"t = {t:g}" for t in times], columns=len(times))
        for ax, points, t in zip(axes, states, times, strict=True):
            noise, data = (torch.tensor([int(plots.COLORS[n][i : i + 2], 16) / 255 for i in (1, 3, 5)])
                           for n in ("noise", "data"))  # fmt: skip
            plots.samples(points, ax=ax, limits=5, color=tuple(torch.lerp(noise, data, t).tolist()))
            ax.set_axis_off()
        fig.savefig(OUT, dpi=110)


if __name__ == "__main__":
    main()
