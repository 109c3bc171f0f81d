"""Ctrl-C, and the stop button of a notebook: training ends after the step at hand, so that what it leaves is whole."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def noted(note: Callable[[], None]) -> Iterator[None]:
    """Call `note` at the first Ctrl-C, where Python would raise KeyboardInterrupt; the second one does raise it.

    A step that is broken off in the middle leaves weights, averages and random numbers that do not fit each other. So
    the first Ctrl-C waits for its end. A program that answers Ctrl-C by itself keeps its own answer.
    """
    notes = 0

    def answer(number: int, frame: FrameType | None) -> None:
        nonlocal notes
        notes += 1
        if notes > 1:
            signal.default_int_handler(number, frame)
        note()

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, answer)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def somebody_is_there() -> bool:
    """Whether a prompt or a notebook waits for what comes next, rather than the next line of a program."""
    return hasattr(sys, "ps1")
