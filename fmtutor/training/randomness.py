"""The state of everything that a loss may draw from, as tensors that a checkpoint can hold."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

Source = torch.Generator | numpy.random.Generator | random.Random


def sources(generators: Sequence[Source]) -> list[Source]:
    """`generators` as a list, if their states can be kept."""
    known = isinstance(generators, Sequence) and all(isinstance(g, Source) for g in generators)
    if not known:
        raise TypeError(
            "generators must be a sequence of torch.Generator, numpy.random.Generator or random.Random, "
            f"got {generators!r}"
        )
    return list(generators)


def state(generators: Sequence[Source]) -> dict[str, Tensor]:
    """Where the global generators of torch, numpy and Python stand, and those of `generators`."""
    states = {
        "cpu": torch.get_rng_state(),
        "numpy": _packed(numpy.random.get_state(legacy=False)),  # noqa: NPY002 (a loss may use it)
        "python": _packed(random.getstate()),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states |= {f"cuda {index}": value for index, value in enumerate(torch.cuda.get_rng_state_all())}
    return states | {f"generator {index}": _get(g) for index, g in enumerate(generators)}


def set_state(states: Mapping[str, Tensor], generators: Sequence[Source]) -> None:
    """Put all of them back to where `state` found them."""
    torch.set_rng_state(states["cpu"])
    numpy.random.set_state(_unpacked(states["numpy"]))  # noqa: NPY002
    random.setstate(_unpacked(states["python"]))
    for name in states:
        if name.startswith("cuda "):
            torch.cuda.set_rng_state(states[name], int(name.removeprefix("cuda ")))
    for index, generator in enumerate(generators):
        _set(generator, states[f"generator {index}"])


def _get(generator: Source) -> Tensor:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, numpy.random.Generator):
        return _packed(generator.bit_generator.state)
    return _packed(generator.getstate())


def _set(generator: Source, value: Tensor) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(value)
    elif isinstance(generator, numpy.random.Generator):
        generator.bit_generator.state = _unpacked(value)
    else:
        generator.setstate(_unpacked(value))


def _packed(value: Any) -> Tensor:
    """Numbers, names and arrays as the bytes of a JSON text; integers of 128 bits keep all of them."""
    return torch.frombuffer(bytearray(json.dumps(_plain(value)).encode()), dtype=torch.uint8)


def _unpacked(packed: Tensor) -> Any:
    return _restored(json.loads(packed.numpy().tobytes()))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, numpy.ndarray):
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    return value.item() if isinstance(value, numpy.generic) else value


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"array", "dtype"}:
            return numpy.array(value["array"], dtype=value["dtype"])
        return {name: _restored(part) for name, part in value.items()}
    return tuple(map(_restored, value)) if isinstance(value, list) else value
