"""The benchmark of speed, at a size that says nothing of speed: every row is there, and the work is counted rightly."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import images as speed

TINY = {"shape": (1, 4, 4), "batch": 4, "width": 8, "other": 8, "steps": 1, "windows": 2, "product": 16}


class Two(nn.Module):
    """Two convolutions, the second of which strides."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 7, 1, stride=2)

    def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x))


def test_the_work_of_a_step_is_that_of_its_three_products() -> None:
    """Each convolution is done forwards, for its weights, and for its input unless that is the image."""
    one, two = 2 * 3 * 5 * 9 * 64, 2 * 5 * 7 * 1 * 16
    assert speed.operations(Two(), (3, 8, 8)) == 2 * one + 3 * two


@pytest.mark.usefixtures("_fresh_state")
def test_every_row_is_measured_and_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcfm.models.unet", None)
    theirs = SimpleNamespace(UNetModel=lambda **how: XFirst(how["in_channels"], how["model_channels"]))
    monkeypatch.setitem(sys.modules, "models", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "models.unet", theirs)
    found = speed.measure(TINY, compiled=False)
    what = {row["what"]: row for row in found["rows"]}
    assert what["torchcfm"]["images_per_second"] == "not installed"
    assert len(found["rows"]) == 2 * 3 + 1 + 3
    for name, row in what.items():
        if name != "torchcfm":
            wanted = row["images_per_second"] * row["operations_per_image"] / max(found["matrix_rate"].values())
            assert row["share_of_matrix_rate"] == pytest.approx(wanted, rel=0.1, abs=1e-4)
    attention, without = (what[f"ours{words}, fit, float32"] for words in (", attention", ""))
    assert attention["operations_per_image"] > without["operations_per_image"]
    assert found["convolutions_share_of_bfloat16_rate"] > 0


class XFirst(nn.Module):
    """A network that is called as that of flow_matching's example is."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, x: torch.Tensor, t: torch.Tensor, extra: dict[str, torch.Tensor]) -> torch.Tensor:
        assert t.shape == x.shape[:1]
        assert extra == {}
        return self.layers(x)


XFirst.__module__ = "models.unet"
