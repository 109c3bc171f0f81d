"""Images to learn from: 1 797 scanned digits that need no network, larger collections, and any folder of pictures.

Chapter 8 trains on the first on two CPU cores and on the second on a GPU.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fmtutor import _validate
from fmtutor.images.files import locate, read_cifar, read_idx, verified

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


_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_MNIST = {  # md5 of each archive
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
_CIFAR_URL, _CIFAR = "https://www.cs.toronto.edu/~kriz/", "cifar-10-binary.tar.gz"
_CIFAR_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
_CIFAR_PARTS = {"train": [f"data_batch_{k}.bin" for k in range(1, 6)], "test": ["test_batch.bin"]}
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


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
    images, labels = (
        _official(locate(name, _URL, _FASHION[name][0], "fashion-mnist", root, download), _FASHION[name][1])
        for name in _idx_names(split)
    )
    return Images(images[:, None].float() / 127.5 - 1, labels.long())


def _official(path: Path, sha256: str) -> UInt8[Tensor, "*shape"]:
    try:
        return read_idx(path, sha256)
    except ValueError as error:
        raise ValueError(f"{error}; delete it to fetch it anew") from error


def mnist(split: str = "train", root: str | os.PathLike[str] | None = None, download: bool = True) -> Images:
    """MNIST: handwritten digits, 28x28, grey, from -1 (paper) to 1 (ink) in 256 levels; all as in `fashion_mnist`.

    Source: LeCun, Bottou, Bengio and Haffner (1998); from the mirror that PyTorch keeps.
    """
    images, labels = (
        read_idx(verified(locate(name, _MNIST_URL, _MNIST[name], "mnist", root, download), _MNIST[name]))
        for name in _idx_names(split)
    )
    return Images(images[:, None].float() / 127.5 - 1, labels.long())


def cifar10(split: str = "train", root: str | os.PathLike[str] | None = None, download: bool = True) -> Images:
    """CIFAR-10: photographs in ten classes, 32x32, in colour, from -1 to 1 in 256 levels; all as in `fashion_mnist`.

    The archive (162 MB) is looked for in `root` and its subfolder `cifar-10`, and read where it lies.

    Source: Krizhevsky (2009), "Learning multiple layers of features from tiny images".
    """
    parts = _CIFAR_PARTS[_validate.choice("split", split, ("train", "test"))]
    archive = verified(locate(_CIFAR, _CIFAR_URL, _CIFAR_MD5, "cifar-10", root, download), _CIFAR_MD5)
    images, labels = read_cifar(archive, [f"cifar-10-batches-bin/{name}" for name in parts])
    return Images(images.float() / 127.5 - 1, labels)


def folder(path: str | os.PathLike[str], size: int, channels: int = 3) -> Images:
    """Every picture below a folder, in the order of their names: its middle square, resized; subfolders are classes.

    Args:
        path: the folder. A picture's label is the place of its subfolder among their sorted names, 0 where there is
            none; what lies deeper belongs to the subfolder at the top.
        size: side of the images, in pixels.
        channels: 3 for colour, 1 for grey.

    Returns:
        Images `(n, channels, size, size)` from -1 to 1, and labels.

    Raises:
        FileNotFoundError: no such folder, or no picture in it.
        ValueError: a picture cannot be read (it is named), or an argument is out of range.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> path = Path(tempfile.mkdtemp())
        >>> Image.new("L", (20, 10), 255).save(path / "white.png")
        >>> folder(path, size=4, channels=1).images.unique()
        tensor([1.])
    """
    if _validate.whole("size", size) and channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (colour), got {channels}")
    top = Path(path).expanduser()
    files = sorted(file for file in top.rglob("*") if file.suffix.lower() in _PICTURES and file.is_file())
    if not files:
        raise FileNotFoundError(f"{top} holds no picture ({', '.join(_PICTURES)})")
    kinds = [file.relative_to(top).parts[0] if file.parent != top else "" for file in files]
    classes = sorted(set(kinds))
    pixels = torch.stack([_square(file, size, channels) for file in files])
    return Images(pixels.float() / 127.5 - 1, torch.tensor([classes.index(kind) for kind in kinds]))


def _square(file: Path, size: int, channels: int) -> UInt8[Tensor, "channels size size"]:
    """The middle of a picture, as bytes."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGB" if channels == 3 else "L")
            fitted = ImageOps.fit(upright, (size, size), Image.Resampling.LANCZOS)
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} is no picture that can be read: {error}") from error
    return (
        torch.frombuffer(bytearray(fitted.tobytes()), dtype=torch.uint8).reshape(size, size, channels).permute(2, 0, 1)
    )


def _idx_names(split: str) -> list[str]:
    prefix = {"train": "train", "test": "t10k"}[_validate.choice("split", split, ("train", "test"))]
    return [f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"]
