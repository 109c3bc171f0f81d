"""Files of images on disk and on the way there: found or fetched, verified, and read without running anything in them.

`data` turns them into the images of chapter 8.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

CIFAR_ROW = 3073  # a label, then 1024 bytes each of red, green and blue


def locate(name: str, url: str, md5: str, home: str, root: str | os.PathLike[str] | None, download: bool) -> Path:
    """The path of a file of a collection: in the folder, in its subfolder `home`, or fetched into that."""
    import pooch

    folder = Path(root or os.environ.get("FMTUTOR_DATA") or pooch.os_cache("fmtutor")).expanduser()
    for path in (folder / name, folder / home / name):
        if path.is_file():
            return path
    home_folder = folder / home
    if not download:
        raise FileNotFoundError(f"{name} is neither in {folder} nor in {home_folder}, and download is False")
    try:
        return Path(pooch.retrieve(url + name, known_hash=f"md5:{md5}", fname=name, path=home_folder))
    except (OSError, ValueError) as error:  # no network, no such page, or something else in its place
        message = (
            f"{name} is neither in {folder} nor in {home_folder}, and could not be downloaded from {url}{name}: "
            f"{error}. Put it into {home_folder} by hand, or name the folder that holds it in the environment variable "
            "FMTUTOR_DATA"
        )
        raise (OSError if isinstance(error, OSError) else ValueError)(message) from error


def verified(path: Path, md5: str) -> Path:
    """`path`, if the file is byte for byte the official one."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != md5:
        raise ValueError(
            f"{path} is truncated or altered: its md5 is {found}, wanted {md5}; delete it to fetch it anew"
        )
    return path


def read_idx(path: str | os.PathLike[str], sha256: str | None = None) -> UInt8[Tensor, "*shape"]:
    """The array of bytes in an IDX file, gzipped or not.

    An IDX file is two zero bytes, a byte for the type (8: unsigned byte), a byte for the number of dimensions, each
    dimension as four bytes with the highest first, and then the numbers. Nothing of a file is ever executed.

    Args:
        path: file to read.
        sha256: of the uncompressed content, compared when given.

    Raises:
        ValueError: for anything but a complete IDX file of unsigned bytes with that content; the file is named.

    Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits", section "File formats".

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "two-by-three"
        >>> _ = path.write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6]))
        >>> read_idx(path).tolist()
        [[1, 2, 3], [4, 5, 6]]
    """
    content = _unpack(Path(path).expanduser())
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is no IDX file of unsigned bytes: it starts with {content[:4].hex(' ')!r}")
    start = 4 + 4 * content[3]
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4)]
    if len(content) != start + math.prod(shape):
        wanted = start + math.prod(shape)
        raise ValueError(f"{path} is truncated or altered: {tuple(shape)} takes {wanted} bytes, it has {len(content)}")
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(f"{path} is altered: the sha256 of its content is {found}, wanted {sha256}")
    # A bytearray, because torch wants memory that it may write to; `[start:]` copies it once.
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[start:].reshape(shape)


def read_cifar(
    path: str | os.PathLike[str], members: Sequence[str]
) -> tuple[UInt8[Tensor, "n 3 32 32"], Int[Tensor, " n"]]:
    """The images and labels in some members of CIFAR-10's archive of binary files, which is read and never unpacked.

    Args:
        path: the archive, `cifar-10-binary.tar.gz`.
        members: names of files in it, each a row of 3 073 bytes for each image: the label, then the pixels.

    Raises:
        ValueError: for an archive that is damaged or lacks a member, or a member that is no such file.

    Source: Krizhevsky (2009), "Learning multiple layers of features from tiny images", the binary version.
    """
    rows = []
    try:
        with tarfile.open(path, "r:gz") as archive:
            for name in members:
                if (file := archive.extractfile(name)) is None:
                    raise ValueError(f"{path} has no file {name}")
                content = file.read()
                if not content or len(content) % CIFAR_ROW:
                    raise ValueError(f"{name} in {path} must hold rows of {CIFAR_ROW} bytes, got {len(content)} bytes")
                rows.append(torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(-1, CIFAR_ROW))
    except (KeyError, tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is truncated or altered: {error}") from error
    table = torch.cat(rows)
    if (table[:, 0] > 9).any():
        raise ValueError(f"{path} is altered: labels must lie in [0, 9], got {table[:, 0].max()}")
    return table[:, 1:].reshape(-1, 3, 32, 32), table[:, 0].long()


def _unpack(path: Path) -> bytes:
    """The content of a file, decompressed if it starts like a gzip file."""
    raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is a truncated or altered gzip file: {error}") from error
