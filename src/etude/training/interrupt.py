"""Turns Ctrl-C and SIGTERM into a request that the loop checks between two updates."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from etude.errors import TaskError


class StopRequest:
    """Whether a signal requested the run to stop, and which signal."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request; the second one interrupts at once.

    Python allows signal handlers only in the main thread. In another thread, nothing changes and
    the request is never set.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        if request:
            raise KeyboardInterrupt
        request.signal = signal.Signals(number)

    try:
        for number in before:
            signal.signal(number, handle)
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def broken_by(stop: Callable[[], bool]) -> Iterator[None]:
    """Suppress a failure of the task if `stop()` is true.

    Ctrl-C reaches every process of a terminal. It ends a DataLoader's workers, so that the next
    batch fails before the loop checks whether to stop.
    """
    try:
        yield
    except TaskError:
        if not stop():
            raise
