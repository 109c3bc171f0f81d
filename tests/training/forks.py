"""Trainings in forks of one process that has torch loaded, killed at any moment."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable

import torch._dynamo  # noqa: F401 (every optimizer loads it: once here, rather than in each fork)


def forked(action: Callable[[], None], **environment: object) -> int:
    """The number of a new process that does `action`, and then ends."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        os.environ.update({name: str(value) for name, value in environment.items()})
        action()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def together(processes: int, action: Callable[[], None]) -> list[int]:
    """So many processes that know of each other; more than one find each other by torch's own variables."""
    if processes == 1:
        return [forked(action)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [forked(action, RANK=rank, LOCAL_RANK=rank, **world) for rank in range(processes)]


def finished(pids: list[int], patience: float) -> bool:
    """Whether all of them ended by themselves within `patience` seconds; otherwise all are killed."""
    end, running = time.monotonic() + patience, list(pids)
    while running and time.monotonic() < end:
        for pid in list(running):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done and status:
                raise SystemExit(f"training failed with status {status}")
            running = [other for other in running if other != done]
        time.sleep(0.001)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return not running
