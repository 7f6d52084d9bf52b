"""Handles Ctrl-C while the program is loading: exits at once, because there is nothing to save.

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

INTERRUPTED = 130

document = 1
"""The file descriptor that a JSON document is written to."""


def _exit(number: int, frame: FrameType | None) -> None:
    if os.environ.get("RANK", "0") == "0":  # of several processes, one tells
        if "--json" in sys.argv:
            os.write(document, b'{"error": "interrupted"}\n')
        os.write(2, b"etude: interrupted\n")
    os._exit(INTERRUPTED)


@contextmanager
def exit_on_interrupt() -> Iterator[None]:
    """Make Ctrl-C end the process at once, until `raise_on_interrupt` or the end of the block.

    If Ctrl-C is ignored or has another handler, nothing changes; neither outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)
    try:
        yield
    finally:
        raise_on_interrupt()


def raise_on_interrupt() -> None:
    """Make Ctrl-C raise KeyboardInterrupt, as usual, so that results can be saved."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)
