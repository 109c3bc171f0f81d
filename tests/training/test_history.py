"""`History`: what it keeps, against what was seen."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from training_runs import net, quiet, regression


def test_history_records_every_loss_and_smooths_it() -> None:
    model, seen = net(seed=5), []

    def loss() -> Tensor:
        seen.append(regression(model)())
        return seen[-1]

    history = quiet(model, loss, steps=25, log_every=10)
    assert history.losses.tolist() == [value.item() for value in seen]
    assert (history.steps, history.device, history.seed) == (25, "cpu", 5)
    assert "25 steps in " in repr(history)
    assert "seed 5" in repr(history)
    direct = torch.stack([history.losses[max(0, i - 6) : i + 1].mean() for i in range(25)])
    torch.testing.assert_close(history.smooth(7), direct)


def test_a_loss_that_is_a_weight_is_the_one_before_the_update() -> None:
    model = nn.ParameterList([nn.Parameter(torch.zeros(()))])
    plain = {"lr": 1.0, "warmup": 0, "schedule": "constant", "optimizer": torch.optim.SGD}
    assert quiet(model, lambda: model[0], steps=4, **plain).losses.tolist() == [0, -1, -2, -3]
