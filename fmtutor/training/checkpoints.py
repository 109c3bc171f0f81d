"""Weights and whole training runs on disk: safetensors for numbers, JSON for the rest, and never a file that runs code.

`fmtutor.training.fit` (chapter 4) writes a checkpoint every so often, so that a run that is killed goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

KEEP = 2  # the newest checkpoint, and one to fall back on should its file be damaged


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> Path:
    """Write one checkpoint so that a kill at any moment leaves either all of it or nothing.

    Args:
        folder: Where checkpoints of this run live; made if it is missing.
        step: Number of finished training steps.
        tensors: Numbers to keep, by name.
        info: Everything else, as JSON can hold it.

    Returns:
        The JSON file. It holds the SHA-256 of the weights file and is written last: without it, there is no
        checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = record_of(folder, step)
    content = safetensors.torch.save(dict(tensors))
    body = {"step": step, **info, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    _write(record.with_suffix(".safetensors"), content)
    _write(record, _seal(body))
    _prune(folder)
    return record


def newest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and info of the newest checkpoint in `folder`, or None where there is none.

    Raises:
        ValueError: A file of the newest checkpoint is damaged. The message names it, and says how to go on from the one
            before. Nothing is deleted.
    """
    records = sorted(folder.glob("step-*.json"), reverse=True)
    if not records:
        return None
    try:
        return read(records[0])
    except ValueError as error:
        older = next((r for r in records[1:] if _readable(r)), None)
        then = f"go on from {older}" if older else "start from the beginning: no other checkpoint is whole"
        raise ValueError(f"{error}. Nothing was changed; delete {records[0]} to {then}") from error


def read(record: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and info of one checkpoint, after every byte of both files has been verified.

    Raises:
        ValueError: A file is missing, cut short or altered; the message names it.
    """
    info = _unseal(record)
    file = record.with_suffix(".safetensors")
    if not file.exists():
        raise ValueError(f"checkpoint file {file} is missing, though {record.name} describes it")
    content = file.read_bytes()
    if len(content) != info["bytes"]:
        raise ValueError(f"checkpoint file {file} holds {len(content)} bytes, but {info['bytes']} were written")
    if hashlib.sha256(content).hexdigest() != info["sha256"]:
        raise ValueError(f"checkpoint file {file} was altered: its SHA-256 is not the one in {record.name}")
    return safetensors.torch.load(content), info


def record_of(folder: Path, step: int) -> Path:
    """The JSON file of the checkpoint after `step` steps."""
    return folder / f"step-{step:08d}.json"


def save_weights(model: nn.Module, path: str | Path, **meta: Any) -> Path:
    """Write the parameters and buffers of `model` to one safetensors file.

    Args:
        model: Any module; its weights may live on any device.
        path: File to write, replaced at once and as a whole if it exists.
        meta: Notes to keep with the weights, as JSON can hold them: `steps=2000`, `data="checkerboard"`.

    Returns:
        The path.

    Example:
        >>> from tempfile import mkdtemp
        >>> layer, other = nn.Linear(2, 3), nn.Linear(2, 3)
        >>> path = save_weights(layer, mkdtemp() + "/layer.safetensors", steps=2000)
        >>> load_weights(other, path)
        {'steps': 2000}
        >>> torch.equal(layer.weight, other.weight)
        True
    """
    path, tensors, notes = Path(path), weights(model), json.dumps(meta, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, safetensors.torch.save(tensors, {"meta": notes, "sha256": _digest(tensors, notes)}))
    return path


def load_weights(model: nn.Module, path: str | Path) -> dict[str, Any]:
    """Copy weights from a file into `model`, in place, whatever device it is on.

    Args:
        model: Module with the names and shapes that were saved.
        path: File written by `save_weights`, or the `checkpoint` folder of a `fit`: then the averaged weights of the
            newest checkpoint (the latest ones where training ran without averaging).

    Returns:
        The notes given to `save_weights`, or `{"step": ...}` of the checkpoint.

    Raises:
        FileNotFoundError: There is no such file, or no checkpoint in the folder.
        ValueError: The file is damaged, or holds other names or shapes than the model.
    """
    path = Path(path)
    if not path.is_dir():
        tensors, meta = _read_weights(path)
    elif found := newest(path):
        tensors = section(found[0], "model") | section(found[0], "average")
        meta = {"step": found[1]["step"]}
    else:
        raise FileNotFoundError(f"no checkpoint in {path}")
    copy_weights(model, tensors, str(path))
    return meta


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy on the CPU of every parameter and buffer of `model`, shared ones once."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: copied(tensor) for name, tensor in named.items()}


def copy_weights(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy `tensors` into the parameters and buffers of `model`; all of them are compared before one is touched."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name in sorted(named.keys() | tensors.keys()):
        here = tuple(named[name].shape) if name in named else "absent"
        there = tuple(tensors[name].shape) if name in tensors else "absent"
        if here != there:
            raise ValueError(f"{source} does not fit the model: {name} is {there} in the file and {here} in the model")
    with torch.no_grad():
        for name, tensor in named.items():
            tensor.copy_(tensors[name])


def copied(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU that shares memory with nothing, as safetensors wants it."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def section(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Those of `tensors` whose key begins with `name/`, by the rest of the key."""
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}


def _write(path: Path, content: bytes) -> None:
    """Put `content` at `path`: the file is there whole, or not at all, even if the power fails in between."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    if os.name == "posix":  # the new name is on disk only when the folder is
        handle = os.open(path.parent, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def _prune(folder: Path) -> None:
    """Remove all but the newest checkpoints, and what a killed write has left."""
    records = sorted(folder.glob("step-*.json"))
    for record in records[:-KEEP]:
        record.unlink()  # first: from here on it is no checkpoint any more
    kept = {record.stem for record in records[-KEEP:]}
    leftover = [file for file in folder.glob("step-*.safetensors") if file.stem not in kept]
    for file in [*leftover, *folder.glob("step-*.tmp")]:
        file.unlink()


def _seal(body: Mapping[str, Any]) -> bytes:
    """JSON text of `body` with a checksum of itself as its last entry."""
    checksum = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return json.dumps({**body, "checksum": checksum}, indent=1).encode()


def _unseal(record: Path) -> dict[str, Any]:
    """The body of a sealed JSON file; a single changed byte, even between two entries, is an error."""
    content = record.read_bytes()
    try:
        body = json.loads(content)
        body.pop("checksum")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"checkpoint file {record} was cut short or altered: it cannot be read as JSON") from error
    if _seal(body) != content or record != record_of(record.parent, body["step"]):
        raise ValueError(f"checkpoint file {record} was altered: its checksum or its name does not fit its content")
    return body


def _readable(record: Path) -> bool:
    try:
        read(record)
    except ValueError:
        return False
    return True


def _digest(tensors: Mapping[str, Tensor], notes: str) -> str:
    sha = hashlib.sha256(notes.encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, "pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"weights file {path} was cut short or altered: {error}") from error
    if meta.get("sha256") != _digest(tensors, meta.get("meta", "")):
        raise ValueError(f"weights file {path} was altered, or not written by save_weights: its SHA-256 does not fit")
    return tensors, json.loads(meta["meta"])
