"""Whole training runs on disk: safetensors for numbers, JSON for the rest, and never a file that runs code.

`fmtutor.training.fit` (chapter 4) writes a checkpoint every so often, so that a run that is killed goes on from there.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

KEEP = 2  # the newest checkpoint, and one to fall back on should its file be damaged
# What a file system answers that cannot do it at all (a share of another machine, a cloud's bucket).
CANNOT_SYNC = {errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


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
    write(record.with_suffix(".safetensors"), content)
    try:
        write(record, _seal(body))
    except OSError:  # without the record nobody reads the weights
        record.with_suffix(".safetensors").unlink(missing_ok=True)
        raise
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


def section(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Those of `tensors` whose key begins with `name/`, by the rest of the key."""
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}


def same_settings(there: Mapping[str, Any], here: Mapping[str, Any], record: Path) -> None:
    """Raise unless a training may go on from `record`: with the same settings, or more steps at a constant rate."""
    names = [name for name in {**there, **here} if there.get(name, "absent") != here.get(name, "absent")]
    if names == ["steps"] and here["schedule"] == "constant" and here["steps"] > there["steps"]:
        return
    if names:
        lines = [
            f"{name} is {there.get(name, 'absent')} there and {here.get(name, 'absent')} now" for name in names[:3]
        ]
        more = f", and {len(names) - 3} more" if len(names) > 3 else ""
        cosine = ". A cosine schedule ends at zero, with its steps: only a constant one can go on to more"
        raise ValueError(
            f"checkpoint {record} belongs to another training: {'; '.join(lines)}{more}"
            f"{cosine if names == ['steps'] and here['schedule'] == 'cosine' else ''}. "
            "Use the same settings to go on, or another folder to start anew"
        )


def write(path: Path, content: bytes) -> None:
    """Put `content` at `path`: the file is there whole, or not at all, even if the power fails in between.

    Where the disk is full, what was at `path` is still there, and nothing is left beside it.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            _sync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk names no file
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name is on disk only when the folder is
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            _sync(handle)
        finally:
            os.close(handle)


def _sync(handle: int) -> None:
    """Wait until it is on disk, where the file system knows how to."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise


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
