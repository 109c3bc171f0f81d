"""Images to learn from: 1 797 scanned digits that need no network, and Fashion-MNIST.

Chapter 8 trains on the first on two CPU cores and on the second on a GPU.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fmtutor import _validate

_URL = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
# For each file: md5 of the official archive, then sha256 of what is inside, which any other compression shares.
_FASHION = {
    "train-images-idx3-ubyte.gz": (
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    "train-labels-idx1-ubyte.gz": (
        "25c81989df183df01b3e8a0aad5dffbe",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    "t10k-images-idx3-ubyte.gz": (
        "bef4ecab320f06d8554ea6380940ec79",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "bb300cfdad3c16e7a12a480ee83cd310",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}


class Images(NamedTuple):
    """Images with their labels; unpacks as `x, y = digits()`."""

    images: Float[Tensor, "n channels height width"]
    labels: Int[Tensor, " n"]


def digits(split: str = "train") -> Images:
    """Real handwritten digits, 8x8, grey, from -1 (paper) to 1 (ink), in 17 levels.

    Within each class, in the order of the collection, every fourth digit is held out. The collection is ordered by
    writer, so both splits have every writer and every class in the same proportions, and no random number decides.

    Args:
        split: "train" (1 352 digits) or "test" (445 digits, held out).

    Returns:
        Images `(n, 1, 8, 8)` in float32 and labels `(n,)` from 0 to 9.

    Raises:
        ValueError: for an unknown split.

    Source: Alpaydin and Kaynak 1998, UCI "Optical Recognition of Handwritten Digits" (CC BY 4.0), its test part, as
    bundled with scikit-learn.

    Example:
        >>> x, y = digits("test")
        >>> x.shape, x.min().item(), x.max().item()
        (torch.Size([445, 1, 8, 8]), -1.0, 1.0)
    """
    _validate.choice("split", split, ("train", "test"))
    from sklearn.datasets import load_digits

    bundle = load_digits()
    images = torch.tensor(bundle.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(bundle.target, dtype=torch.long)
    one_hot = torch.nn.functional.one_hot(labels)
    rank = (one_hot.cumsum(0) * one_hot).sum(1)  # 1 for the first digit of its class, 2 for the second ...
    keep = (rank % 4 == 0) == (split == "test")
    return Images(images[keep], labels[keep])


def quantize(images: Float[Tensor, "*shape"], levels: int = 17) -> Float[Tensor, "*shape"]:
    """Images moved to the nearest of `levels` greys between -1 and 1, as a scanner would have stored them.

    A generated image has any grey, a scanned one 17 of them (256 in Fashion-MNIST). Without this step a classifier
    tells the two apart by the last decimals and says nothing about the drawing.

    Raises:
        ValueError: for fewer than two levels, or images that are not finite.

    Example:
        >>> quantize(torch.tensor([-1.2, 0.01, 0.99]), levels=3).tolist()
        [-1.0, 0.0, 1.0]
    """
    _validate.whole("levels", levels, least=2)
    half = (levels - 1) / 2
    # The same division as where the images were read: a forest would find a difference in the last bit.
    return ((_validate.finite("images", images).clamp(-1, 1) + 1) * half).round() / half - 1


def fashion_mnist(split: str = "train", root: str | os.PathLike[str] | None = None, download: bool = True) -> Images:
    """Fashion-MNIST: photographs of clothes in ten classes, 28x28, grey, from -1 to 1 in 256 levels.

    Looks in `root`, else in the folder that the environment variable `FMTUTOR_DATA` names, else in the user's cache;
    the files may lie there or in a subfolder `fashion-mnist`. What is found is checked, never replaced. A `~` in front
    of either is the user's home.

    Args:
        split: "train" (60 000 images) or "test" (10 000).
        root: folder to look in, and to download into.
        download: fetch what is missing (30 MB) from the authors' repository.

    Returns:
        Images `(n, 1, 28, 28)` in float32 and labels `(n,)` from 0 to 9.

    Raises:
        ValueError: for an unknown split, or a file that is truncated, altered or of another kind; the file is named.
        FileNotFoundError: if a file is missing and `download` is False.
        OSError: if it cannot be fetched; the folder to put it into by hand is named.

    Source: Xiao, Rasul and Vollgraf 2017 (arXiv:1708.07747), MIT licence.

    Example:
        >>> x, y = fashion_mnist("test")  # doctest: +SKIP
        >>> x.shape  # doctest: +SKIP
        torch.Size([10000, 1, 28, 28])
    """
    prefix = {"train": "train", "test": "t10k"}[_validate.choice("split", split, ("train", "test"))]
    names = [f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"]
    images, labels = (read_idx(_locate(name, root, download), sha256=_FASHION[name][1]) for name in names)
    return Images(images[:, None].float() / 127.5 - 1, labels.long())


def _locate(name: str, root: str | os.PathLike[str] | None, download: bool) -> Path:
    """The path of one file of Fashion-MNIST, fetched if it is nowhere."""
    import pooch

    folder = Path(root or os.environ.get("FMTUTOR_DATA") or pooch.os_cache("fmtutor")).expanduser()
    home = folder / "fashion-mnist"
    for path in (folder / name, home / name):
        if path.is_file():
            return path
    if not download:
        raise FileNotFoundError(f"{name} is neither in {folder} nor in {home}, and download is False")
    try:
        return Path(pooch.retrieve(_URL + name, known_hash=f"md5:{_FASHION[name][0]}", fname=name, path=home))
    except (OSError, ValueError) as error:  # no network, no such page, or something else in its place
        message = (
            f"{name} is neither in {folder} nor in {home}, and could not be downloaded from {_URL}{name}: {error}. "
            f"Put it into {home} by hand, or name the folder that holds it in the environment variable FMTUTOR_DATA"
        )
        raise (OSError if isinstance(error, OSError) else ValueError)(message) from error


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


def _unpack(path: Path) -> bytes:
    """The content of a file, decompressed if it starts like a gzip file."""
    raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is a truncated or altered gzip file: {error}") from error
