"""Handles Ctrl-C and SIGTERM: while the program loads it exits at once, as nothing is to be saved.

A KeyboardInterrupt during an import would end in a traceback or an ImportError, or would be
ignored, if Python is in a callback.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

INTERRUPTED = 130

document = 1
"""The file descriptor that a JSON document is written to."""


def _exit(number: int, frame: FrameType | None) -> None:
    if os.environ.get("RANK", "0") == "0":  # of several processes, one tells
        if "--json" in sys.argv:
            os.write(document, b'{"error": "interrupted"}\n')
        os.write(2, b"etude: interrupted\n")
    os._exit(INTERRUPTED)


def _raise(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


USUAL: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}
"""What Python does at these signals: raise KeyboardInterrupt, and end without a word."""


@contextmanager
def exit_on_interrupt() -> Iterator[None]:
    """Make Ctrl-C and SIGTERM end the process at once, until `raise_on_interrupt`.

    A signal that is ignored or has another handler keeps it; outside the main thread, and for
    SIGTERM in one of several processes that train together, nothing changes. At the end of the
    block both are as usual again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    for number, usual in USUAL.items():
        alone = "RANK" not in os.environ and "WORLD_SIZE" not in os.environ
        if signal.getsignal(number) is usual and (alone or number == signal.SIGINT):
            signal.signal(number, _exit)
    try:
        yield
    finally:
        for number, usual in USUAL.items():
            if signal.getsignal(number) in (_exit, _raise):
                signal.signal(number, usual)


def raise_on_interrupt() -> None:
    """Make Ctrl-C and SIGTERM raise KeyboardInterrupt, so that results can be saved."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) is _exit:
        signal.signal(signal.SIGTERM, _raise)
