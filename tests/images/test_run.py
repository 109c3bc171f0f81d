"""An image run in its folder: killed and gone on with, shared by processes, saved and read, judged, by command too."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from fmtutor.images import (
    ImageModel,
    Images,
    UNet,
    digits,
    quantize,
    train,
)
from fmtutor.images import run as run_module
from fmtutor.images.__main__ import main
from fmtutor.images.logbook import save_grid
from fmtutor.images.run import Batches, load
from fmtutor.ode import ADAPTIVE, FIXED

SMALL: dict[str, Any] = {"batch": 8, "width": 8, "multipliers": (1,), "look_every": 4, "checkpoint_every": 4}
SMALL |= {"progress": False}


def run(folder: Path, steps: int = 12, **changes: Any) -> ImageModel:
    return train(folder, "digits", steps=steps, **(SMALL | changes))[0]


def weights_of(model: ImageModel) -> torch.Tensor:
    return torch.cat([p.flatten() for p in model.network.parameters()])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageModel, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return run(folder), folder


def test_a_run_leaves_settings_pictures_numbers_and_a_model(whole: tuple[ImageModel, Path]) -> None:
    model, folder = whole
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert sorted(path.name for path in folder.glob("samples-*.png"))[-1] == "samples-00000012.png"
    again = ImageModel.load(folder / "model.safetensors")
    assert weights_of(again).equal(weights_of(model))
    assert (again.shape, again.levels, again.schedule) == ((1, 8, 8), 17, "linear")
    assert again.notes["settings"]["data"] == "digits"
    assert again.notes["steps"] == 12
    draws = [m.sample(5, label=3, generator=torch.Generator().manual_seed(0), steps=2) for m in (model, again)]
    assert draws[0].equal(draws[1])
    assert set(draws[0].unique().tolist()) <= set((torch.arange(17) / 8 - 1).tolist())


def test_killed_and_started_again_it_ends_at_the_same_bits(whole: tuple[ImageModel, Path], tmp_path: Path) -> None:
    def kill(model: ImageModel, step: int) -> dict[str, float]:
        if step == 8:
            raise InterruptedError("killed")
        return {}

    with pytest.raises(InterruptedError):
        run(tmp_path, look=kill)
    assert not (tmp_path / "model.safetensors").exists()
    torch.manual_seed(99), torch.rand(3)
    assert weights_of(run(tmp_path)).equal(weights_of(whole[0]))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
    assert not weights_of(run(tmp_path / "other", seed=1)).equal(weights_of(whole[0]))


def test_ctrl_c_leaves_a_model_and_the_way_on(tmp_path: Path, whole: tuple[ImageModel, Path]) -> None:
    def interrupt(model: ImageModel, step: int) -> dict[str, float]:
        if step == 8:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, look=interrupt)
    assert ImageModel.load(tmp_path / "model.safetensors").sample(2, steps=1).shape == (2, 1, 8, 8)
    assert weights_of(run(tmp_path)).equal(weights_of(whole[0]))


@pytest.mark.usefixtures("_fresh_state")
@pytest.mark.parametrize("compiled", [False, True])
def test_half_precision_is_for_training_alone(
    compiled: bool, tmp_path: Path, whole: tuple[ImageModel, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph that is only traced stands for the compiled one: it is wrapped in the same way, and made at once."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network: compile_(network, backend="eager"))
    model = run(tmp_path, precision="bf16", compiled=compiled)
    x, again = torch.randn(3, 1, 8, 8), ImageModel.load(tmp_path / "model.safetensors")
    torch.testing.assert_close(model.network(0.5, x), again.network(0.5, x), rtol=0, atol=1e-5)  # bf16: 1e-3
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}
    halved, exact = (json.loads((f / "log.jsonl").read_text().splitlines()[0])["loss"] for f in (tmp_path, whole[1]))
    assert 1e-5 < abs(halved - exact) < 1e-2
    with pytest.raises(ValueError, match="precision is bf16 there and no now"):
        run(tmp_path)


def test_several_processes_are_never_several_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(
        sys.modules, "accelerate", SimpleNamespace(Accelerator=lambda **_: SimpleNamespace(num_processes=1))
    )
    with pytest.raises(RuntimeError, match=r"2 processes were started \(WORLD_SIZE\), but accelerate knows of 1"):
        run(tmp_path)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match="a run in 2 processes needs the package accelerate: pip install accelerate"):
        run(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(ImportError, match="precision='fp16' needs the package accelerate"):
        run(tmp_path, precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_each_process_takes_its_own_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the whole batch in each, the gradients would be the same, and the second process of no use."""
    engine = SimpleNamespace(num_processes=2, process_index=1, is_main_process=False, device=torch.device("cpu"))
    monkeypatch.setattr(run_module, "accelerator", lambda _: engine)
    taken: list[slice] = []

    def batches(*_: Any, share: slice, **__: Any) -> Batches:
        taken.append(share)
        raise InterruptedError

    monkeypatch.setattr(run_module, "Batches", batches)
    with pytest.raises(InterruptedError):
        run(tmp_path)
    assert taken == [slice(1, None, 2)]
    with pytest.raises(ValueError, match="batch must be a multiple of the 2 processes, got 7"):
        run(tmp_path, batch=7)
    assert list(tmp_path.iterdir()) == []


def test_shares_of_a_batch_are_the_batch() -> None:
    """Two processes draw what one draws, each its half."""
    data, levels = load("digits")
    options: dict[str, Any] = {"seed": 3, "flip": True, "dequantize": True}
    whole, *shares = (
        Batches(data, levels, 10, share=s, **options) for s in (slice(None), *(slice(k, None, 2) for k in (0, 1)))
    )
    for _ in range(3):
        all_of_it, halves = whole(), [share() for share in shares]
        for part, (a, b) in zip(all_of_it, zip(*halves, strict=True), strict=True):
            assert torch.stack([a, b], 1).flatten(0, 1).equal(part)


def test_batches_are_the_images_with_their_labels() -> None:
    data, levels = load("digits")
    x0, x1, t, label = Batches(data, levels, 400, drop=0.5)()
    rows = {tuple(image.flatten().tolist()): int(kind) for image, kind in zip(*data, strict=True)}
    kinds = torch.tensor([rows[tuple(image.flatten().tolist())] for image in x1])  # none that is not in the data
    assert label[label != 10].equal(kinds[label != 10])
    assert 0.4 < (label == 10).float().mean() < 0.6
    assert 0 <= t.min() < t.max() < 1
    assert abs(x0.std() - 1) < 0.05
    _, turned, _, _ = Batches(data, levels, 400, flip=True)()
    mirrored = [tuple(image.flip(-1).flatten().tolist()) in rows for image in turned]
    upright = [tuple(image.flatten().tolist()) in rows for image in turned]
    assert all(a or b for a, b in zip(mirrored, upright, strict=True))
    assert 0.3 < sum(mirrored) / 400 < 0.7
    _, spread, _, _ = Batches(data, levels, 400, dequantize=True)()
    assert (spread * 8 - (spread * 8).round()).abs().max() > 0.45
    assert tuple(((spread[0] * 8).round() / 8).flatten().tolist()) in rows


@pytest.mark.parametrize(
    ("times", "mean", "middle"),  # the share between a quarter and three quarters, by the distribution function
    [("uniform", 0.5, 0.5), ("logit_normal", 0.5, 0.728), ("late", 0.6, 0.75 ** (2 / 3) - 0.25 ** (2 / 3))],
)
def test_times_have_the_densities_of_their_names(times: str, mean: float, middle: float) -> None:
    """20 000 draws, within 5 standard errors; the other two are 8 away in one number at least."""
    data, levels = load("digits")
    t = Batches(Images(data.images[:1], data.labels[:1]), levels, 20_000, times=times)()[2]
    assert abs(t.mean() - mean) < 5 * 0.29 / math.sqrt(20_000)
    assert abs(((t > 0.25) & (t < 0.75)).float().mean() - middle) < 5 * 0.5 / math.sqrt(20_000)


class Scaling(UNet):
    """Multiplies by e^rate on the way to the data: its Jacobian is diagonal, so one Rademacher probe is exact."""

    rate = 0.0

    def forward(self, t: Any, x: torch.Tensor, label: Any = None) -> torch.Tensor:
        return self.rate * x


@pytest.mark.parametrize("rate", [0.0, -0.4])
@pytest.mark.parametrize("levels", [17, 256])
def test_bits_of_a_field_that_scales_are_those_of_the_normal_distribution(levels: int, rate: float) -> None:
    """A second route: counted in grey levels, the spread pixels are normal around the middle one.

    A forgotten volume moves every number by a constant: of the flow by 0.6, of a grey level by 3 or 7.
    """
    model = ImageModel(Scaling(1, 8, (1,)).eval(), (1, 8, 8), levels)
    model.network.rate = rate  # type: ignore[assignment]
    x = quantize(digits("test").images[:6], levels)
    found = model.bits_per_dim(x, steps=40, method="rk4", generator=torch.Generator().manual_seed(1))
    u = torch.rand(x.shape, generator=torch.Generator().manual_seed(1))
    middle = (levels - 1) / 2  # grey 0 is -1, the last one is 1
    grey = torch.distributions.Normal(middle, middle * math.exp(rate))
    wanted = -grey.log_prob((x + 1) * middle + u - 0.5).flatten(1).mean(1) / math.log(2)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_likelihood_of_few_steps_is_refused_whatever_the_method() -> None:
    model, x = ImageModel(Scaling(1, 8, (1,)).eval(), (1, 8, 8), 17), digits("test").images[:2]
    for method in FIXED:
        with pytest.raises(ValueError, match="steps must be at least 10 for a likelihood to mean anything, got 9"):
            model.bits_per_dim(x, steps=9, method=method)
    for method in ADAPTIVE:
        assert model.bits_per_dim(x, steps=1, method=method).isfinite().all()  # it chooses its own
    with pytest.raises(ValueError, match=r"method must be one of .*got 'rk5'"):
        model.bits_per_dim(x, steps=1, method="rk5")
    with pytest.raises(ValueError, match=r"images must have shape \(n, 1, 8, 8\), got \(2, 1, 4, 4\)"):
        model.bits_per_dim(torch.zeros(2, 1, 4, 4))


def test_labels_and_guidance_reach_the_network_or_are_refused() -> None:
    torch.manual_seed(0)
    network = UNet(1, 8, (1,), classes=3).eval()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.2)
    model = ImageModel(network, (1, 4, 4), levels=256)

    def drawn(**how: Any) -> torch.Tensor:
        return model.sample(4, generator=torch.Generator().manual_seed(0), steps=3, batch=3, **how)

    a, b, both = drawn(label=0), drawn(label=1), drawn(label=torch.tensor([0, 1, 0, 1]))
    assert not a.equal(b)
    assert both[::2].equal(a[::2])
    assert both[1::2].equal(b[1::2])
    assert not drawn(label=1, scale=3.0).equal(b)
    x, y, none = torch.randn(2, 1, 4, 4), torch.tensor([1, 1]), torch.tensor([3, 3])
    by_hand = 3 * network(0.3, x, label=y) - 2 * network(0.3, x, label=none)
    torch.testing.assert_close(model.flow(1, 3.0).velocity(0.3, x), by_hand)
    torch.testing.assert_close(model.flow().velocity(0.3, x), network(0.3, x, label=none))
    assert [ImageModel(network, (1, 4, 4), 256, name).flow().t1 for name in ("linear", "cosine", "vp")] == [
        1, 1, 1 - 1e-5,  # where the velocity of the last is infinite
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"scale 2\.0 must come with a label"):
        drawn(scale=2.0)
    with pytest.raises(ValueError, match="trained without labels"):
        ImageModel(UNet(1, 8, (1,)), (1, 4, 4), 256).sample(2, label=1)


def test_the_three_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], whole: tuple[ImageModel, Path]) -> None:
    folder = str(tmp_path / "run")
    command = ["train", folder, "--steps", "12", "--batch", "8", "--width", "8", "--multipliers", "1"]
    main([*command, "--look-every", "4", "--checkpoint-every", "4"])
    assert "12 steps in" in capsys.readouterr().out
    assert weights_of(ImageModel.load(Path(folder) / "model.safetensors")).equal(weights_of(whole[0]))
    main(["sample", folder, "--n", "10", "--steps", "2", "--out", str(tmp_path / "a.png")])
    assert Image.open(tmp_path / "a.png").size == (8 * 8 * 2, 2 * 8 * 2)
    short = ["--samples", "20", "--steps", "2", "--likelihood", "0", "--out", str(tmp_path / "a.json")]
    main(["evaluate", folder, *short])
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["numbers"]["calls_per_sample"] == 4
    assert found["protocol"]["data"] == "digits"
    assert found["protocol"]["command"].startswith(f"python -m fmtutor.images evaluate {folder} --samples 20")
    with pytest.raises(
        SystemExit, match=r"ValueError: .* holds a run with other settings: batch is 8 there and 16 now"
    ):
        main([*command[:4], "--batch", "16", *command[6:]])
    with pytest.raises(SystemExit, match=r"ValueError: data must be one of digits, .* got 'nothing'"):
        main(["train", folder, "--data", "nothing"])
    with pytest.raises(SystemExit, match="No such file"):
        main(["sample", str(tmp_path / "nowhere.safetensors")])


def test_a_grid_has_each_image_in_its_place(tmp_path: Path) -> None:
    images = torch.full((3, 3, 2, 2), -1.0)
    images[1, 0], images[2, 2] = 1.0, 1.0
    save_grid(images, tmp_path / "a.png", columns=2, zoom=1)
    picture = Image.open(tmp_path / "a.png")
    assert picture.size == (4, 4)
    assert [picture.getpixel(at) for at in ((0, 0), (3, 1), (0, 3))] == [(0, 0, 0), (255, 0, 0), (0, 0, 255)]
    save_grid(torch.full((1, 1, 2, 2), 1.0), tmp_path / "b.png", columns=1, zoom=3)
    assert Image.open(tmp_path / "b.png").getpixel((5, 5)) == 0  # ink is dark


def test_a_folder_of_pictures_can_be_trained_on(tmp_path: Path) -> None:
    for k in range(3):
        Image.new("RGB", (9, 9), (80 * k, 0, 0)).save(tmp_path / f"{k}.png")
    model, history = train(tmp_path / "run", str(tmp_path), steps=2, size=4, attention=True, **(SMALL | {"width": 32}))
    assert model.shape == (3, 4, 4)
    assert len(history.losses) == 2
    assert ImageModel.load(tmp_path / "run" / "model.safetensors").network.settings["attention"]


def test_a_run_without_steps_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="steps"):
        run(tmp_path / "none", steps=0)
    assert not (tmp_path / "none").exists()


def test_a_grid_is_written_into_a_new_folder(tmp_path: Path) -> None:
    save_grid(torch.zeros(2, 1, 4, 4), tmp_path / "new" / "grid.png")
    assert (tmp_path / "new" / "grid.png").exists()
