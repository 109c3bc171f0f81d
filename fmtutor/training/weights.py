"""The weights of a model in one file, to be read into the same model elsewhere.

A safetensors file holds numbers and nothing that could run, and here its own SHA-256 as well: a damaged
file is refused by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fmtutor.training.checkpoints import newest, section, write


def save_weights(model: nn.Module, path: str | Path, **meta: Any) -> Path:
    """Write the parameters and buffers of `model` to one safetensors file.

    Args:
        model: Any module, compiled or not; its weights may live on any device.
        path: File to write, replaced at once and as a whole if it exists; `~` is the user's home.
        meta: Notes to keep with the weights, as JSON can hold them: `steps=2000`, `data="checkerboard"`.

    Returns:
        The path.

    Raises:
        ValueError: A weight has no numbers: it is on the meta device, or of a lazy layer that was never called.

    Example:
        >>> from tempfile import mkdtemp
        >>> layer, other = nn.Linear(2, 3), nn.Linear(2, 3)
        >>> path = save_weights(layer, mkdtemp() + "/layer.safetensors", steps=2000)
        >>> load_weights(other, path)
        {'steps': 2000}
        >>> torch.equal(layer.weight, other.weight)
        True
    """
    path, tensors, notes = Path(path).expanduser(), weights(model), json.dumps(meta, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, safetensors.torch.save(tensors, {"meta": notes, "sha256": _digest(tensors, notes)}))
    return path


def load_weights(model: nn.Module, path: str | Path) -> dict[str, Any]:
    """Copy weights from a file into `model`, in place, whatever device it is on.

    Args:
        model: Module with the names and shapes that were saved, compiled or not.
        path: File written by `save_weights`, or the `checkpoint` folder of a `fit`: then the averaged
            weights of the newest checkpoint (the latest ones where training ran without averaging).

    Returns:
        The notes given to `save_weights`; of a checkpoint, its `step`.

    Raises:
        FileNotFoundError: There is no such file, or no checkpoint in the folder.
        ValueError: The file is damaged or of another kind, or holds other names or shapes than the model; or
            the model has no memory for numbers.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        tensors, meta = read_weights(path)
    elif found := newest(path):
        tensors = section(found[0], "model") | section(found[0], "average")
        meta = {"step": found[1]["step"]}
    else:
        raise FileNotFoundError(f"no checkpoint in {path}")
    copy_weights(model, tensors, str(path))
    return meta


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy on the CPU of every parameter and buffer of `model`, shared ones once."""
    return {name: copied(tensor) for name, tensor in named(model).items()}


def named(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer of `model`, those that `state_dict` leaves out as well; shared ones once."""
    found = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in found.items():
        if is_lazy(tensor):
            raise ValueError(f"{name} of the model has no numbers yet: call a lazy layer once, on data, before")
        if tensor.is_meta:
            raise ValueError(
                f"{name} of the model is on the meta device, which holds no numbers: "
                "give them memory first, by model.to_empty(device='cpu')"
            )
    return {plain(name): tensor for name, tensor in found.items()}


def plain(name: str) -> str:
    """The name that a weight has without `torch.compile`, which puts its own wrapper in between."""
    return name.replace("_orig_mod.", "")


def copy_weights(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy `tensors` into the parameters and buffers of `model`; all of them are compared before one is touched."""
    here = named(model)
    there = {plain(name): tensor for name, tensor in tensors.items()}
    for name in sorted(here.keys() | there.keys()):
        ours = tuple(here[name].shape) if name in here else "absent"
        theirs = tuple(there[name].shape) if name in there else "absent"
        if ours != theirs:
            raise ValueError(f"{source} does not fit the model: {name} is {theirs} in the file and {ours} in the model")
    with torch.no_grad():
        for name, tensor in here.items():
            tensor.copy_(there[name])


def copied(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU that shares memory with nothing, as safetensors wants it."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _digest(tensors: Mapping[str, Tensor], notes: str) -> str:
    sha = hashlib.sha256(notes.encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the notes in a file that `save_weights` wrote, verified."""
    try:
        with safe_open(path, "pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(_unreadable(path, error)) from error
    if meta.get("sha256") != _digest(tensors, meta.get("meta", "")):
        raise ValueError(f"weights file {path} was altered, or not written by save_weights: its SHA-256 does not fit")
    return tensors, json.loads(meta["meta"])


def _unreadable(path: Path, error: Exception) -> str:
    """Why a file cannot be read: of another kind, where its first bytes say so, or else damaged."""
    with open(path, "rb") as file:
        start = file.read(9)
    if len(start) < 9 or start[8:] == b"{":  # after eight bytes of length, a safetensors file has JSON
        return f"weights file {path} was cut short or altered: {error}"
    if start[:2] == b"PK" or start[:1] == b"\x80":  # a zip archive; a pickle
        return (
            f"{path} is no safetensors file but looks like one of torch.save, which could run code as it is loaded. "
            "If you know where it comes from: model.load_state_dict(torch.load(path, weights_only=True)), and "
            "save_weights writes what can be read here"
        )
    return f"{path} is no safetensors file: it begins with {start[:4].hex(' ')}, see save_weights"
