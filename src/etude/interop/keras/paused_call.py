"""A call in a thread of its own that can be held where it stands, and let go on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from etude.tuning.loops.function import TrialPaused


class PausedCall:
    """Runs a function in a thread, one at a time with its caller: either runs, never both.

    It stands in for the pause that a library's own `fit` does not have.

    Args:
        call: The function; it is given what holds it where it stands.
    """

    def __init__(self, call: Callable[[Callable[[], None]], Any]) -> None:
        self._call = call
        self._here, self._there = threading.Semaphore(0), threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._closing = False
        self._error: BaseException | None = None
        self.value: Any = None
        self.ended = False

    def go(self) -> None:
        """Let it go on until it is held again, or ends; raise what it raised."""
        if self.ended:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="etude-fit")
            self._thread.start()
        else:
            self._there.release()
        self._here.acquire()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """End a call that is held: its `finally` blocks run."""
        if self._thread is None or self.ended:
            return
        self._closing = True
        self._there.release()
        self._thread.join()

    def _pause(self) -> None:
        """Hold the call where it stands; called in its thread."""
        self._here.release()
        self._there.acquire()
        if self._closing:
            raise TrialPaused

    def _run(self) -> None:
        try:
            self.value = self._call(self._pause)
        except TrialPaused:
            pass
        except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
            self._error = error
        finally:
            self.ended = True
            self._here.release()
