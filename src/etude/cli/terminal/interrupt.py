"""Handles Ctrl-C and SIGTERM: while the program loads it exits at once, as nothing is to be saved.

A KeyboardInterrupt during an import would end in a traceback or an ImportError, or would be
ignored, if Python is in a callback. After the verb has ended, a further signal must not change how
the process ends either: Python would print a traceback, or die of the signal.
"""

from __future__ import annotations

import atexit
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

_code = INTERRUPTED
"""The exit code of the process once its verb has ended."""


def _exit(number: int, frame: FrameType | None) -> None:
    if os.environ.get("RANK", "0") == "0":  # of several processes, one tells
        if "--json" in sys.argv:
            os.write(document, b'{"error": "interrupted"}\n')
        os.write(2, b"etude: interrupted\n")
    os._exit(INTERRUPTED)


def _raise(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _hold(number: int, frame: FrameType | None) -> None:
    """Do nothing: what is being printed is printed to its end."""


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(_code)


USUAL: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}
"""What Python does at these signals: raise KeyboardInterrupt, and end without a word."""


@contextmanager
def exit_on_interrupt(*, ends: bool = False) -> Iterator[None]:
    """Make Ctrl-C and SIGTERM end the process at once, until `raise_on_interrupt`.

    A signal that is ignored or has another handler keeps it; outside the main thread, and for
    SIGTERM in one of several processes that train together, nothing changes. At the end of the
    block both are as usual again.

    Args:
        ends: Whether the process ends with the block: then signals stay handled until it has, and
            its exit code is that of the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    for number, usual in USUAL.items():
        alone = "RANK" not in os.environ and "WORLD_SIZE" not in os.environ
        if signal.getsignal(number) is usual and (alone or number == signal.SIGINT):
            signal.signal(number, _exit)
    if ends:
        # What is registered first is called last; then Python gives up its handlers, and a signal
        # that is not ignored kills the process.
        atexit.register(_set, signal.SIG_IGN)
    code = 1
    try:
        yield
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        raise
    finally:
        if ends:
            leave_on_interrupt(code)
        else:
            for number, usual in USUAL.items():
                if _is_ours(number):
                    signal.signal(number, usual)


def raise_on_interrupt() -> None:
    """Make Ctrl-C and SIGTERM raise KeyboardInterrupt, so that results can be saved."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) is _exit:
        signal.signal(signal.SIGTERM, _raise)


@contextmanager
def interruption_told() -> Iterator[None]:
    """Let an interruption be reported within the block: a further signal waits for its end.

    After the block a further signal ends the process at once.
    """
    _set(_hold)
    try:
        yield
    finally:
        leave_on_interrupt(INTERRUPTED)


def leave_on_interrupt(code: int) -> None:
    """Make Ctrl-C and SIGTERM end the process at once with an exit code, without a word."""
    global _code
    _code = code
    _set(_leave)


def _set(handler: Any) -> None:
    """Set the handler of both signals where they are handled here."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in USUAL:
        if _is_ours(number) or signal.getsignal(number) is signal.default_int_handler:
            signal.signal(number, handler)


def _is_ours(number: signal.Signals) -> bool:
    """Return whether a signal is handled by Etude, also while it trains."""
    module = getattr(signal.getsignal(number), "__module__", None) or ""
    return module.partition(".")[0] == "etude"
