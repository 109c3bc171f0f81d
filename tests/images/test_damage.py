"""Each damage that can befall a run, planted: what is said, and that the same call then ends with the same bits."""

from __future__ import annotations

import builtins
import errno
import http.server
import io
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fmtutor.images import ImageModel, data, fashion_mnist, train
from fmtutor.images.__main__ import main
from fmtutor.images.pretrained import WEIGHTS
from fmtutor.training import checkpoints, save_weights

SMALL: dict[str, Any] = {"steps": 12, "batch": 8, "width": 8, "multipliers": (1,), "look_every": 12}
SMALL |= {"checkpoint_every": 4, "progress": False}


def run(folder: Path, **changes: Any) -> ImageModel:
    return train(folder, "digits", **(SMALL | changes))[0]


def weights_of(model: ImageModel) -> torch.Tensor:
    return torch.cat([p.flatten() for p in model.network.parameters()])


def stopped(folder: Path, **changes: Any) -> None:
    """Broken off after eleven steps, so that checkpoints of four and of eight are there."""

    def stop(model: ImageModel, step: int) -> dict[str, float]:
        if step == 11:
            raise InterruptedError("killed")
        return {}

    with pytest.raises(InterruptedError):
        run(folder, look=stop, look_every=11, **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.Tensor, Path, Path]:
    """The weights in the end, the folder of a finished run, and that of one that was broken off."""
    finished, half = tmp_path_factory.mktemp("finished"), tmp_path_factory.mktemp("half")
    stopped(half)
    return weights_of(run(finished)), finished, half


@pytest.fixture
def half(whole: tuple[torch.Tensor, Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole[2], tmp_path / "half"))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Refuses(io.BytesIO):
    """A file that takes nothing."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code

    def write(self, content: Any) -> int:
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("name", ["step-00000012", "samples-", "log.jsonl", "model.safetensors"])
def test_a_full_disk_or_a_folder_that_may_not_be_written_to_costs_nothing(
    name: str, code: int, half: Path, whole: tuple[torch.Tensor, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(path: Path, mode: str) -> Any:
        wanted = "w" in mode and Path(path).name.startswith(name)
        return Refuses(code) if wanted else builtins.open(path, mode)

    before = files(half)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "open", refusing, raising=False)
        with pytest.raises(OSError, match="the same call then goes on from the last checkpoint") as error:
            run(half)
    assert error.value.errno == code
    for words in (os.strerror(code), str(half), "Make room there, or see that it may be written to"):
        assert words in str(error.value)
    assert before.items() <= files(half).items() or name == "model.safetensors"  # the oldest has made room by then
    assert not list(half.glob("*.tmp"))
    assert weights_of(run(half)).equal(whole[0])


def test_a_folder_that_is_a_file_or_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("something")
    with pytest.raises(ValueError, match=r"folder must be a folder, got the file .*file"):
        run(tmp_path / "file")

    def refuse(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(SystemExit, match=r"PermissionError: .*Permission denied: '.*nowhere'"):
        main(["train", str(tmp_path / "nowhere"), "--look-samples", "0"])


def test_memory_that_is_not_there_says_what_to_change(half: Path, whole: tuple[torch.Tensor, Path, Path]) -> None:
    def full(model: ImageModel, step: int) -> dict[str, float]:
        raise torch.OutOfMemoryError("8 GB were asked for")

    def real(model: ImageModel, step: int) -> dict[str, float]:
        return {"never": torch.empty(2**50)[0].item()}

    before = files(half)
    for look in (full, real):
        with pytest.raises(RuntimeError, match=r"ran out of memory. Try batch=4 or precision='bf16', in another fol"):
            run(half, look=look)
    assert {name: files(half)[name] for name in before} == before
    with pytest.raises(RuntimeError, match=r"^something else$"):
        run(half, look=lambda *_: (_ for _ in ()).throw(RuntimeError("something else")))
    assert weights_of(run(half)).equal(whole[0])


def test_another_setting_is_named_and_nothing_is_touched(whole: tuple[torch.Tensor, Path, Path]) -> None:
    before = files(whole[1])
    with pytest.raises(ValueError, match=r"batch is 8 there and 16 now; flip is False there and True now\. Use"):
        run(whole[1], batch=16, flip=True)
    with pytest.raises(ValueError, match=r"lr is 0\.002 there and 0\.01 now"):
        run(whole[1], lr=1e-2)
    assert before == files(whole[1])


def test_other_pictures_are_another_setting(tmp_path: Path) -> None:
    from PIL import Image

    pictures, folder = tmp_path / "pictures", tmp_path / "run"
    pictures.mkdir()
    for k in range(2):
        Image.new("L", (4, 4), 40 * k).save(pictures / f"{k}.png")
    train(folder, str(pictures), size=4, **(SMALL | {"steps": 4}))
    Image.new("L", (4, 4), 200).save(pictures / "2.png")
    with pytest.raises(ValueError, match=r"images is \[2, 3, 4, 4\] there and \[3, 3, 4, 4\] now"):
        train(folder, str(pictures), size=4, **(SMALL | {"steps": 4}))


def test_a_folder_in_which_nothing_was_learned_yet_takes_other_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sides divisible by 16"):
        run(tmp_path, multipliers=(1, 1, 1, 1, 1))
    assert (tmp_path / "settings.json").exists()
    run(tmp_path, steps=1)
    assert json.loads((tmp_path / "settings.json").read_text())["multipliers"] == [1]


@pytest.mark.parametrize(
    "content", [b"", b'{"batch": 8', b"12", b"\xff\x00"], ids=["empty", "cut", "a number", "bytes"]
)
def test_settings_that_cannot_be_read_are_named(content: bytes, half: Path) -> None:
    (half / "settings.json").write_bytes(content)
    before = files(half)
    with pytest.raises(ValueError, match=r"settings\.json is damaged: .* delete the file to go on with them"):
        run(half)
    assert files(half) == before


def test_without_its_settings_and_with_half_a_log_a_run_goes_on(
    half: Path, whole: tuple[torch.Tensor, Path, Path]
) -> None:
    (half / "settings.json").unlink()  # as the message above says
    (half / "log.jsonl").write_bytes(b'{"step": 4, "loss": 1.5, "seconds": 100.0, "cpu_seconds": 1.0}\n{"step": 8, "lo')
    assert weights_of(run(half)).equal(whole[0])
    lines = [json.loads(line) for line in (half / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 12]
    assert lines[1]["seconds"] > 100


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("kind", ["json", "safetensors"])
@pytest.mark.parametrize(
    "spoil", [flip, lambda file: os.truncate(file, 100), Path.unlink], ids=["altered", "cut", "gone"]
)
def test_a_damaged_checkpoint_is_named_with_the_one_to_go_on_from(
    kind: str, spoil: Callable[[Path], None], half: Path, whole: tuple[torch.Tensor, Path, Path]
) -> None:
    spoil(half / f"step-00000008.{kind}")
    before = files(half)
    if (kind, spoil) != ("json", Path.unlink):  # without the record it is as if it had never been written
        with pytest.raises(
            ValueError, match=r"step-00000008.* Nothing was changed; delete (.*) to go on from .*4\.json"
        ):
            run(half)
        assert files(half) == before
        (half / "step-00000008.json").unlink()
    assert weights_of(run(half)).equal(whole[0])


def test_weights_of_something_else_are_no_model(
    tmp_path: Path, whole: tuple[torch.Tensor, Path, Path], half: Path
) -> None:
    model, file = whole[1] / "model.safetensors", tmp_path / "model.safetensors"
    save_weights(torch.nn.Linear(2, 2), tmp_path / "linear.safetensors", steps=3)
    torch.save({"a": torch.zeros(2)}, tmp_path / "pickle.safetensors")
    for path, words in {
        WEIGHTS / "classifier_digits.safetensors": "holds weights, but no image model",
        tmp_path / "linear.safetensors": "holds weights, but no image model",
        tmp_path / "pickle.safetensors": "looks like one of torch.save, which could run code",
        half / "step-00000008.safetensors": "was altered, or not written by save_weights",
        half / "settings.json": "is no safetensors file",
        half: r"holds no model\.safetensors yet: its training is not at its end",
    }.items():
        with pytest.raises(SystemExit, match=words):
            main(["sample", str(path)])
    for spoil in (flip, lambda file: os.truncate(file, 100)):
        shutil.copy(model, file)
        spoil(file)
        with pytest.raises(ValueError, match=rf"{file} was (altered|cut short)"):
            ImageModel.load(file)


class Half(http.server.BaseHTTPRequestHandler):
    """Promises a million bytes, sends ten, and hangs up."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.wfile.write(b"0123456789")

    def log_message(self, *_: object) -> None:
        pass


def test_a_download_that_breaks_off_leaves_no_file_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Half)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(data, "_URL", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    try:
        with pytest.raises((OSError, ValueError), match=r"could not be downloaded from .*Put it into .* by hand"):
            fashion_mnist("test", root=tmp_path)
    finally:
        server.shutdown()
        server.server_close()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_that_was_cut_or_altered_can_be_fetched_anew(tmp_path: Path) -> None:
    name = data._idx_names("test")[0]
    for content in (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", b"\0\0\x08\x01\0\0\0\x02\x01\x02"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} is .*altered.*; delete it to fetch it anew"):
            fashion_mnist("test", root=tmp_path)
        assert (tmp_path / name).read_bytes() == content


def test_unknown_data_and_a_folder_without_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data must be one of digits, .*, or a folder of pictures, got 'cats'"):
        train(tmp_path / "run", "cats", **SMALL)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty holds no picture \(\.png"):
        train(tmp_path / "run", str(tmp_path / "empty"), **SMALL)
    assert not (tmp_path / "run").exists()
