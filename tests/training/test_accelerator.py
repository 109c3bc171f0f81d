"""`fit` with an Accelerator: one training in one process and in two, killed and gone on with, in other precisions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from training_runs import quiet

from fmtutor.training import load_weights
from fmtutor.training.weights import weights

SCRIPT = Path(__file__).with_name("processes.py")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What each process of each training ended with: its weights, its losses, and the step from which it went on."""
    folder = tmp_path_factory.mktemp("processes")
    done = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, timeout=600)
    assert not done.returncode, done.stderr[-2000:]
    found: dict[str, list[dict[str, Any]]] = {}
    for name, processes in (("whole 1", 1), ("whole 2", 2), ("resumed 2", 2)):
        for rank in range(processes):
            network = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 2))
            notes = load_weights(network, folder / name / f"{rank}.safetensors")
            notes["weights"] = torch.cat([w.flatten() for w in weights(network).values()])
            found.setdefault(name, []).append(notes)
    return found


def test_two_processes_take_the_steps_of_one_with_the_whole_batch(runs) -> None:
    (alone,), (first, second) = runs["whole 1"], runs["whole 2"]
    assert first["weights"].equal(second["weights"])
    assert first["losses"] == second["losses"]  # of the whole batch, in both
    torch.testing.assert_close(first["weights"], alone["weights"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.tensor(first["losses"]), torch.tensor(alone["losses"]), rtol=1e-5, atol=1e-6)


def test_a_share_of_the_batch_alone_is_another_training() -> None:
    """The wrong version: each process keeps its own gradient. The test above would see it in the second digit."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    x = torch.randn(32, 3, generator=torch.Generator().manual_seed(1))
    gradients = []
    for rows in (x, x[::2]):
        model.zero_grad()
        (model(rows) - rows[:, :2].sin()).square().mean().backward()
        gradients.append(model.weight.grad.clone())
    assert (gradients[0] - gradients[1]).norm() > 0.01 * gradients[0].norm()


def test_two_processes_killed_and_started_again_end_at_the_same_bits(runs) -> None:
    for run, other in zip(runs["resumed 2"], runs["whole 2"], strict=True):
        assert run["resumed"] == 16
        assert run["losses"] == other["losses"]
        assert run["weights"].equal(other["weights"])


def plain(model: nn.Module, generator: torch.Generator):
    def loss() -> Tensor:
        x = torch.randn(16, 3, generator=generator)
        return (model(x).float() - x[:, :2]).square().mean()

    return loss


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 2))


def fitted(accelerator: Accelerator | None, folder: Path | None = None, **changes) -> tuple[nn.Module, torch.Tensor]:
    model, generator = small(), torch.Generator().manual_seed(5)
    prepared = model if accelerator is None else accelerator.prepare(model)
    options = {"steps": 30, "clip": 0.3, "generators": [generator], "checkpoint": folder, "checkpoint_every": 10}
    history = quiet(prepared, plain(prepared, generator), accelerator=accelerator, **(options | changes))
    return model, history.losses


def test_an_accelerator_alone_changes_no_bit() -> None:
    (model, losses), (other, other_losses) = fitted(None), fitted(Accelerator(cpu=True))
    assert losses.equal(other_losses)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert a.equal(b)


@pytest.mark.usefixtures("_fresh_state")
def test_half_precision_keeps_weights_whole_and_is_part_of_the_settings(tmp_path: Path) -> None:
    _, exact = fitted(None)
    model, losses = fitted(Accelerator(cpu=True, mixed_precision="bf16"), tmp_path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert 1e-5 < (losses - exact).abs().max() < 0.05  # it was in half precision, and still learns
    AcceleratorState._reset_state(True)
    with pytest.raises(ValueError, match="precision is bf16 there and no now"):
        fitted(Accelerator(cpu=True), tmp_path)


class Scaled:
    """What an Accelerator does in fp16 on a GPU, with torch's own scaler on a CPU."""

    mixed_precision, is_main_process = "fp16", True

    def __init__(self) -> None:
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=7)
        self.optimizer: Any = None

    def unwrap_model(self, model: nn.Module) -> nn.Module:
        return model

    def prepare(self, optimizer: Any) -> Any:
        if isinstance(optimizer, nn.Module):
            return optimizer
        self.optimizer = optimizer
        outer = self

        class Stepping:
            param_groups, zero_grad = optimizer.param_groups, optimizer.zero_grad

            def step(self) -> None:
                outer.scaler.step(optimizer)
                outer.scaler.update()

        return Stepping()

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def clip_grad_norm_(self, parameters: Any, norm: float) -> None:
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(parameters, norm)

    def reduce(self, value: Tensor, reduction: str) -> Tensor:
        return value


def test_the_scale_of_the_gradients_goes_on_where_it_was(tmp_path: Path) -> None:
    """Its growth after every seventh step changes no finite number, so what is compared is its own state."""
    first = Scaled()
    fitted(first, tmp_path / "a")  # type: ignore[arg-type]
    second = Scaled()
    second.scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=7)
    model, generator = small(), torch.Generator()
    with pytest.warns(UserWarning, match="fit takes no step"):
        quiet(model, plain(model, generator), steps=30, clip=0.3, generators=[generator],
              checkpoint=tmp_path / "a", accelerator=second)  # fmt: skip
    assert first.scaler.get_scale() == 1024 * 2 ** (30 // 7)
    assert second.scaler.state_dict() == first.scaler.state_dict()


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    other = Scaled()
    other.is_main_process = False  # type: ignore[misc]
    fitted(other, tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
