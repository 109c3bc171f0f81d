"""What every test starts from: one seed, one default dtype, and as many threads as the run can afford."""

from __future__ import annotations

import os
from collections.abc import Iterator

import matplotlib
import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:  # one process per core already: threads on top would only wait for each other
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
matplotlib.use("Agg")  # here only: in the environment, the kernels of notebooks would draw every figure to nowhere


@pytest.fixture(autouse=True)
def same_start() -> Iterator[None]:
    """Seed torch before each test, and undo a default dtype that a test has changed."""
    dtype = torch.get_default_dtype()
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(dtype)


@pytest.fixture
def _fresh_state() -> Iterator[None]:
    """An Accelerator's settings belong to the process: without this the first one would decide for all."""
    state = pytest.importorskip("accelerate.state").AcceleratorState
    state._reset_state(True)
    yield
    state._reset_state(True)
