"""What a number was measured on and with: the machine, the versions, the commit.

Every result of `fmtutor.images.judge` and of `benchmarks/` carries it.
"""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import fmtutor


def processor() -> str:
    """The name of the processor, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """What numbers are measured on.

    Example:
        >>> list(machine())
        ['processor', 'cores', 'threads', 'gpu', 'python', 'torch']
    """
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def commit() -> str:
    """The commit of the checkout that the package is used from, and whether it has changes; else its version."""
    top = Path(fmtutor.__file__).parents[1]
    version = f"fmtutor {fmtutor.__version__}"
    if not (top / ".git").exists():  # a folder of somebody else's may be under git, with our package somewhere in it
        return version
    try:
        found = _git(top, "rev-parse", "--short=12", "HEAD")
        return found + (" with changes" if _git(top, "status", "--porcelain", "fmtutor") else "")
    except (OSError, subprocess.CalledProcessError):
        return version


def _git(top: Path, *command: str) -> str:
    return subprocess.run(["git", "-C", str(top), *command], capture_output=True, text=True, check=True).stdout.strip()
