"""Ctrl-C while the program is still being loaded: it leaves at once, for there is nothing to save.

A KeyboardInterrupt raised in the middle of an import ends in a traceback, in an ImportError, or,
if Python happens to be in a callback, nowhere at all.
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


def _leave(number: int, frame: FrameType | None) -> None:
    if "--json" in sys.argv:
        os.write(document, b'{"error": "interrupted"}\n')
    os.write(2, b"etude: interrupted\n")
    os._exit(INTERRUPTED)


@contextmanager
def leave_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process without a word more, until `raise_again` or the block's end.

    Where Ctrl-C is ignored, or somebody else's, it stays so; likewise outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        raise_again()


def raise_again() -> None:
    """Let Ctrl-C raise KeyboardInterrupt, as usual: from here on there is something to save."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
