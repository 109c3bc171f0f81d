"""`fmtutor.images.data`: splits that never overlap, and files that are read whole or refused by name."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import os
import struct
import subprocess
import sys
import tarfile
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from fmtutor.images import cifar10, data, digits, fashion_mnist, folder, mnist, quantize, read_idx

NAMES = tuple(data._FASHION)


def idx(array: torch.Tensor, kind: int = 8) -> bytes:
    """The array as IDX, built by struct rather than by the reader's own arithmetic."""
    return struct.pack(f">BBBB{array.dim()}I", 0, 0, kind, array.dim(), *array.shape) + bytes(array.flatten().tolist())


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None: ...


@pytest.fixture
def archive(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    array = torch.randint(0, 256, (5, 3, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    path = tmp_path / "some-images.gz"
    path.write_bytes(gzip.compress(idx(array)))
    return path, array


def test_digits_have_the_promised_shape_range_and_levels() -> None:
    for split, n in (("train", 1352), ("test", 445)):
        x, y = digits(split)
        assert x.shape == (n, 1, 8, 8)
        assert x.dtype == torch.float32
        assert y.dtype == torch.int64
        assert torch.equal(x.unique(), torch.arange(17) / 8 - 1)
        assert set(y.tolist()) == set(range(10))


def test_the_splits_partition_the_collection_class_by_class() -> None:
    bundle = load_digits()
    whole = sorted((*row, label) for row, label in zip(bundle.data.astype(int).tolist(), bundle.target, strict=True))
    parts = []
    for x, y in (digits("train"), digits("test")):
        rows = ((x.flatten(1) + 1) * 8).int().tolist()
        parts += [(*row, label) for row, label in zip(rows, y.tolist(), strict=True)]
    assert sorted(parts) == whole
    held, of = digits("test").labels.bincount(), torch.from_numpy(bundle.target).bincount()
    assert torch.equal(held, of // 4)


def test_no_digit_is_in_both_splits_and_no_seed_changes_them() -> None:
    torch.manual_seed(1)
    first, test = digits("train"), digits("test")
    torch.manual_seed(2)
    assert torch.equal(first.images, digits("train").images)
    assert torch.cdist(test.images.flatten(1), first.images.flatten(1)).min() > 0.1


def test_an_unknown_split_is_named_with_the_known_ones() -> None:
    for load in (digits, fashion_mnist, mnist, cifar10):
        with pytest.raises(ValueError, match=r"split must be one of 'train', 'test', got 'valid'"):
            load("valid")


def test_quantize_leaves_scans_alone_and_moves_anything_else_to_their_greys() -> None:
    x = digits("test").images
    assert torch.equal(quantize(x), x)
    moved = quantize(x + 0.06 * (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) - 1))
    assert torch.equal(moved, x)  # 0.06 is less than half a level
    grey = torch.arange(256) / 127.5 - 1
    torch.testing.assert_close(quantize(grey, levels=256), grey)
    with pytest.raises(ValueError, match="levels must be a whole number of at least 2, got 1"):
        quantize(x, levels=1)
    with pytest.raises(ValueError, match="1 NaN"):
        quantize(torch.tensor([float("nan")]))


def test_idx_comes_back_as_it_was_written(archive: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    path, array = archive
    assert torch.equal(read_idx(path), array)
    plain = tmp_path / "plain"
    plain.write_bytes(idx(array))
    assert torch.equal(read_idx(plain), array)
    plain.write_bytes(idx(torch.empty(0, 4, dtype=torch.uint8)))
    assert read_idx(plain).shape == (0, 4)


def test_one_altered_byte_is_seen_by_the_checksum(archive: tuple[Path, torch.Tensor]) -> None:
    path, array = archive
    good = idx(array)
    checksum = __import__("hashlib").sha256(good).hexdigest()
    assert torch.equal(read_idx(path, sha256=checksum), array)
    path.write_bytes(gzip.compress(good[:-1] + bytes([good[-1] ^ 1])))
    read_idx(path)  # well-formed, so only the checksum can tell
    with pytest.raises(ValueError, match=r"some-images\.gz is altered: the sha256"):
        read_idx(path, sha256=checksum)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda raw: raw[:-1], "truncated or altered: .* takes 76 bytes, it has 75"),
        (lambda raw: raw + b"\0", "truncated or altered: .* takes 76 bytes, it has 77"),
        (lambda raw: raw[:9], "truncated or altered"),
        (lambda raw: raw[:2], "no IDX file"),
        (lambda raw: b"", "no IDX file"),
        (lambda raw: b"\x80\x04" + raw[2:], "no IDX file of unsigned bytes: it starts with '80 04 08 03'"),
        (lambda raw: raw[:2] + b"\x0d" + raw[3:], "no IDX file of unsigned bytes"),
        (lambda raw: raw[:4] + b"\xff" * 12 + raw[16:], "truncated or altered"),
    ],
    ids=["short", "long", "half a header", "two bytes", "empty", "a pickle", "floats", "absurd dimensions"],
)
def test_a_spoilt_file_is_refused_by_name(archive: tuple[Path, torch.Tensor], spoil, message: str) -> None:
    path, array = archive
    path.write_bytes(gzip.compress(spoil(idx(array))))
    with pytest.raises(ValueError, match=rf"some-images\.gz is {message}"):
        read_idx(path)


def test_a_spoilt_archive_is_refused_by_name(archive: tuple[Path, torch.Tensor]) -> None:
    path, _ = archive
    raw = path.read_bytes()
    for bad in (raw[:-9], raw[:20], raw[:40] + bytes([raw[40] ^ 255]) + raw[41:]):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"some-images\.gz is a truncated or altered gzip file"):
            read_idx(path)


def test_a_file_found_in_the_folder_is_checked_and_not_replaced(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("pooch.retrieve", lambda *a, **k: pytest.fail("went to the network"))
    monkeypatch.setenv("FMTUTOR_DATA", str(tmp_path))
    path = tmp_path / NAMES[0]
    path.write_bytes(gzip.compress(idx(torch.zeros(2, 28, 28, dtype=torch.uint8))))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"{NAMES[0]} is altered"):
        fashion_mnist("train")
    assert path.read_bytes() == before


@pytest.mark.parametrize("given", ["environment", "argument"])
def test_what_is_missing_is_fetched_into_the_named_folder_with_its_checksum(tmp_path, monkeypatch, given) -> None:
    asked = []

    def retrieve(url: str, known_hash: str, fname: str, path: Path) -> str:
        asked.append((url, known_hash, Path(path)))
        Path(path).mkdir(exist_ok=True)
        (Path(path) / fname).write_bytes(b"not what was promised")
        return str(Path(path) / fname)

    monkeypatch.setattr("pooch.retrieve", retrieve)
    monkeypatch.setenv("FMTUTOR_DATA", str(tmp_path if given == "environment" else tmp_path / "elsewhere"))
    with pytest.raises(ValueError, match="no IDX file"):
        fashion_mnist("test", root=None if given == "environment" else tmp_path)
    assert asked == [(data._URL + NAMES[2], "md5:bef4ecab320f06d8554ea6380940ec79", tmp_path / "fashion-mnist")]
    assert data._URL.startswith("https://")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home for `~`, and a folder to stand in where nothing may appear."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@pytest.mark.parametrize("given", ["environment", "argument"])
def test_a_tilde_is_the_users_home(home: Path, monkeypatch, given: str) -> None:
    asked = []
    monkeypatch.setattr("pooch.retrieve", lambda *a, path, **k: asked.append(path) or os.devnull)
    monkeypatch.setenv("FMTUTOR_DATA", "~/data" if given == "environment" else "~/elsewhere")
    with pytest.raises(ValueError, match="no IDX file"):
        fashion_mnist("test", root=None if given == "environment" else "~/data")
    assert asked == [home / "data" / "fashion-mnist"]
    (home / "some").write_bytes(idx(torch.ones(2, dtype=torch.uint8)))
    assert read_idx("~/some").tolist() == [1, 1]
    assert not list(Path().iterdir())


def test_without_a_network_the_error_says_where_the_file_belongs(tmp_path: Path, monkeypatch) -> None:
    """A real refusal: nothing listens on the discard port of this machine."""
    monkeypatch.setattr(data, "_URL", "http://127.0.0.1:9/")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(OSError, match="could not be downloaded") as error:
        fashion_mnist("test", root=tmp_path)
    for word in (NAMES[2], str(tmp_path / "fashion-mnist"), "http://127.0.0.1:9/", "FMTUTOR_DATA", "by hand"):
        assert word in str(error.value)


def test_a_page_that_is_not_the_file_is_refused_and_says_where_the_file_belongs(tmp_path: Path, monkeypatch) -> None:
    """As a hotel's login page would be, by pooch's own comparison of the checksum."""
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / NAMES[2]).write_text("<html>please log in</html>")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(tmp_path / "page")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(data, "_URL", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    try:
        with pytest.raises(ValueError, match=r"does not match the known hash.*FMTUTOR_DATA"):
            fashion_mnist("test", root=tmp_path)
    finally:
        server.shutdown()
        server.server_close()
    assert not list((tmp_path / "fashion-mnist").glob("*.gz"))


def test_without_download_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=NAMES[2]):
        fashion_mnist("test", root=tmp_path, download=False)


def test_mnist_is_read_from_the_official_archives_alone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("pooch.retrieve", lambda *a, **k: pytest.fail("went to the network"))
    pictures = torch.randint(0, 256, (3, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    raw = {NAMES[2]: gzip.compress(idx(pictures)), NAMES[3]: gzip.compress(idx(torch.tensor([7, 0, 9]).byte()))}
    (tmp_path / "mnist").mkdir()
    for name, content in raw.items():
        (tmp_path / "mnist" / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{NAMES[2]} is truncated or altered: its md5 is .*, wanted 9fb629c4"):
        mnist("test", root=tmp_path)
    monkeypatch.setattr(data, "_MNIST", {name: hashlib.md5(content).hexdigest() for name, content in raw.items()})
    x, y = mnist("test", root=tmp_path)
    assert torch.equal(((x + 1) * 127.5).round(), pictures[:, None].float())
    assert y.tolist() == [7, 0, 9]


def cifar_archive(path: Path, files: dict[str, bytes]) -> str:
    """A gzipped tar as the official one, written by the standard library, and its md5."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def row(label: int, picture: torch.Tensor) -> bytes:
    """One image as its document describes it: a label, then all red bytes, all green ones, all blue ones."""
    return bytes([label]) + b"".join(bytes(channel.flatten().tolist()) for channel in picture)


def test_cifar_is_read_in_colour_and_in_order(tmp_path: Path, monkeypatch) -> None:
    pictures = torch.randint(0, 256, (6, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    parts = {f"data_batch_{k}.bin": row(k, pictures[k - 1]) for k in range(1, 6)}
    archive = tmp_path / data._CIFAR
    md5 = cifar_archive(archive, {**parts, "test_batch.bin": row(9, pictures[5]) * 2})
    with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz is truncated or altered: its md5"):
        cifar10("train", root=tmp_path)
    monkeypatch.setattr(data, "_CIFAR_MD5", md5)
    x, y = cifar10("train", root=tmp_path)
    assert torch.equal(((x + 1) * 127.5).round(), pictures[:5].float())
    assert y.tolist() == [1, 2, 3, 4, 5]
    x, y = cifar10("test", root=tmp_path)
    assert torch.equal(((x + 1) * 127.5).round(), pictures[[5, 5]].float())
    assert y.tolist() == [9, 9]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"other.bin": b""}, "is truncated or altered: .*test_batch.bin"),
        ({"test_batch.bin": row(1, torch.zeros(3, 32, 32).byte())[:-1]}, "must hold rows of 3073 bytes, got 3072"),
        ({"test_batch.bin": b""}, "must hold rows of 3073 bytes, got 0"),
        ({"test_batch.bin": row(10, torch.zeros(3, 32, 32).byte())}, r"labels must lie in \[0, 9\], got 10"),
    ],
    ids=["no such member", "short", "empty", "an eleventh class"],
)
def test_a_spoilt_cifar_is_refused(tmp_path: Path, monkeypatch, files: dict[str, bytes], message: str) -> None:
    monkeypatch.setattr(data, "_CIFAR_MD5", cifar_archive(tmp_path / data._CIFAR, files))
    with pytest.raises(ValueError, match=message):
        cifar10("test", root=tmp_path)


def test_a_damaged_archive_is_refused_wherever_it_was_cut(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / data._CIFAR
    noise = torch.randint(0, 256, (3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    cifar_archive(path, {"test_batch.bin": row(1, noise) * 3})
    raw = path.read_bytes()
    for bad in (b"", raw[:100], raw[: len(raw) // 2], b"no archive"):  # one byte alone is what the md5 is for
        path.write_bytes(bad)
        monkeypatch.setattr(data, "_CIFAR_MD5", hashlib.md5(bad).hexdigest())
        with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz"):
            cifar10("test", root=tmp_path)


def test_a_folder_of_pictures_becomes_images_with_a_class_for_each_subfolder(tmp_path: Path) -> None:
    for kind, grey in (("cats", 0), ("dogs", 255)):
        (tmp_path / kind / "deep").mkdir(parents=True)
        Image.new("RGB", (40, 20), (grey, grey, grey)).save(tmp_path / kind / "a.PNG")
        Image.new("L", (7, 9), grey).save(tmp_path / kind / "deep" / "b.png")
    (tmp_path / "cats" / "notes.txt").write_text("no picture")
    x, y = folder(tmp_path, size=8)
    assert x.shape == (4, 3, 8, 8)
    assert y.tolist() == [0, 0, 1, 1]
    assert x.flatten(1).mean(1).tolist() == [-1, -1, 1, 1]
    assert folder(tmp_path, size=8, channels=1).images.shape == (4, 1, 8, 8)


def test_a_picture_keeps_its_middle_upright_and_in_its_colours(tmp_path: Path) -> None:
    wide = Image.new("RGB", (30, 10))
    wide.paste((255, 0, 0), (10, 0, 20, 5))  # the upper half of the middle is red, the lower one blue
    wide.paste((0, 0, 255), (10, 5, 20, 10))
    wide.save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: to be turned by a quarter clockwise
    wide.crop((10, 0, 20, 10)).rotate(90).save(tmp_path / "b.png", exif=exif)
    x, y = folder(tmp_path, size=10)
    assert y.tolist() == [0, 0]
    for picture in x:
        assert picture[:, 1, 5].tolist() == [1, -1, -1]
        assert picture[:, 8, 5].tolist() == [-1, -1, 1]


def test_a_folder_without_pictures_or_with_a_broken_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no picture"):
        folder(tmp_path, size=8)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        folder(tmp_path / "nowhere", size=8)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG and nothing more")
    with pytest.raises(ValueError, match=r"broken\.png is no picture that can be read"):
        folder(tmp_path, size=8)
    with pytest.raises(ValueError, match="size must be a whole number"):
        folder(tmp_path, size=0)
    with pytest.raises(ValueError, match=r"channels must be 1 \(grey\) or 3 \(colour\), got 4"):
        folder(tmp_path, size=8, channels=4)


def real_folder() -> Path | None:
    """Where Fashion-MNIST lies, if it lies anywhere."""
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    for place in (os.environ.get("FMTUTOR_DATA"), beside):
        if place and any((Path(place) / sub / NAMES[0]).is_file() for sub in ("", "fashion-mnist")):
            return Path(place)
    return None


@pytest.mark.skipif(real_folder() is None, reason="Fashion-MNIST is not here: name its folder in FMTUTOR_DATA")
def test_the_real_files_have_the_promised_content(monkeypatch) -> None:
    monkeypatch.setattr("pooch.retrieve", lambda *a, **k: pytest.fail("went to the network"))
    monkeypatch.setenv("FMTUTOR_DATA", str(real_folder()))
    x, y = fashion_mnist("test")
    assert x.shape == (10_000, 1, 28, 28)
    assert (x.min(), x.max()) == (-1, 1)
    assert torch.equal(quantize(x, 256).unique(), x.unique())
    assert y.bincount().tolist() == [1000] * 10
    for name, n in zip(NAMES[:2], ((60_000, 28, 28), (60_000,)), strict=True):
        path = next(p for sub in ("", "fashion-mnist") if (p := real_folder() / sub / name).is_file())
        assert read_idx(path, sha256=data._FASHION[name][1]).shape == n


def test_importing_the_package_loads_no_heavy_library_and_every_name_is_what_it_says() -> None:
    """Three files are called as the functions in them, and the first import of a file would hide its function."""
    code = (
        "import sys; from fmtutor.images import strip, watch, pretrained_classifier; "
        "import fmtutor.images.grid, fmtutor.images.pretrained, fmtutor.images.judge as _, fmtutor.images as i; "
        "print(sorted({'sklearn', 'pooch', 'matplotlib', 'PIL', 'accelerate', 'torchmetrics'} & set(sys.modules)), "
        "[n for n in i.__all__ if not callable(getattr(i, n))], set(i.__all__) <= set(dir(i)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[] [] True"
