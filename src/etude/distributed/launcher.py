"""`launch`: starts the processes of one run on this machine, watches them, and ends all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from etude.distributed.environment import PORT, TIMEOUT, ProcessPlace
from etude.distributed.failures import Failure, FailureNotes
from etude.errors import BadValueError, WorldError

ADDRESS = "127.0.0.1"
GRACE = 15.0
"""Seconds that the other processes get to end by themselves once one has failed."""

LEAVE = 5.0
"""Seconds between asking a process to end and killing it."""

POLL = 0.05

INTERRUPTED = 130
"""The exit code of an interrupted run, also of one that had no time to say so."""

LOST = 75
"""The exit code of a process that has lost another one: the same as of a temporary failure."""

PARENT = "ETUDE_PARENT_PIPE"
"""Names the pipe that closes when the process that started this one has ended."""

Say = Callable[[str], None]


@dataclass
class Ended:
    """How a process has ended.

    Attributes:
        rank: Its number.
        code: Its exit code; negative if a signal ended it.
    """

    rank: int
    code: int

    @property
    def what(self) -> str:
        """What happened, as the end of a sentence."""
        if self.code >= 0:
            return f"ended with exit code {self.code}"
        name = signal.Signals(-self.code).name
        hint = " (the machine may have run out of memory)" if name == "SIGKILL" else ""
        return f"was killed by {name}{hint}"

    @property
    def is_passing(self) -> bool:
        """Whether the same command may succeed when it is started again."""
        return self.code < 0 or self.code == LOST


def launch(
    command: Sequence[str],
    processes: int,
    *,
    restarts: int = 0,
    timeout: float | None = None,
    say: Say = print,
) -> int:
    """Start a command in several processes of this machine, and return the exit code of all.

    Each gets the environment variables of `torchrun`. If one fails, the others are ended; after a
    loss (a signal, or a cut connection) all are started again as often as `restarts` allows. The
    first Ctrl-C or SIGTERM asks every process to save and end, the second ends them at once.

    Args:
        command: The program and its arguments.
        processes: The number of processes.
        restarts: How often to start them again after a loss.
        timeout: The seconds after which a process that does not answer counts as lost.
        say: Called with the one message that no process could print itself.

    Raises:
        BadValueError: If there is no process to start.
        WorldError: If the port in MASTER_PORT is taken.

    >>> import sys
    >>> launch([sys.executable, "-c", "import os; assert os.environ['WORLD_SIZE'] == '2'"], 2)
    0
    """
    if processes < 1:
        raise BadValueError(f"nproc={processes}: give the number of processes, at least 1")
    if restarts < 0:
        raise BadValueError(f"restarts={restarts}: give a number of at least 0")
    store = _store()
    for attempt in range(restarts + 1):
        group = _Group(command, processes, store, attempt, timeout)
        with group.signals():
            ended = group.wait()
        lost = [one for one in ended if one.is_passing]
        if not ended or group.asked is not None or not lost or attempt == restarts:
            return _code(ended, group, say)
        say(
            f"process {lost[0].rank} {lost[0].what}: starting all again, restart {attempt + 1} of "
            f"{restarts}"
        )
    raise AssertionError("unreachable")


def _code(ended: Sequence[Ended], group: _Group, say: Say) -> int:
    """Return the exit code of all, and say what process 0 could not say itself."""
    if not ended:
        return 0
    own = {one.rank: one.code for one in ended}.get(0, 0)
    if group.asked is not None:
        if own <= 0:
            say(
                "interrupted; the processes were ended at once: the last checkpoint is what is kept"
            )
        return own if own > 0 else INTERRUPTED
    if own <= 0:
        say(f"process {ended[0].rank} of {group.count} {ended[0].what}")
    return own if own > 0 else 1


class _Group:
    """The processes of one attempt."""

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        store: TCPStore,
        attempt: int,
        timeout: float | None,
    ) -> None:
        self.count = count
        self.asked: int | None = None
        self._notes = FailureNotes(PrefixStore(f"notes{attempt * count}", store))
        self._reader, self._writer = os.pipe()
        threads = max(1, (os.cpu_count() or 1) // count)
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        for rank in range(count):
            place = ProcessPlace(rank, count, rank, count, ADDRESS, store.port, True, attempt)
            variables = {
                "OMP_NUM_THREADS": str(threads), **os.environ, **place.variables(),
                PARENT: str(self._reader),
            }  # fmt: skip
            if timeout is not None:
                variables[TIMEOUT] = str(timeout)
            self._running[rank] = subprocess.Popen(
                list(command),
                env=variables,
                stdin=subprocess.DEVNULL,
                pass_fds=(self._reader,),
                start_new_session=True,
            )

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Pass Ctrl-C and SIGTERM on to every process inside a block; at its end all have ended."""
        before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, self._handle)
        try:
            yield
        finally:
            self._end()
            for number, handler in before.items():
                signal.signal(number, handler)
            for pipe in (self._reader, self._writer):
                os.close(pipe)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._send(number if self.asked is None else signal.SIGKILL)
        self.asked = number

    def _send(self, number: int) -> None:
        for process in self._running.values():
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    process.send_signal(number)

    def wait(self) -> list[Ended]:
        """Wait until all have ended; return those that failed, in the order of their ends."""
        failed: list[Ended] = []
        waiting = set(self._running)
        end = float("inf")
        while waiting and time.monotonic() < end:
            for rank in sorted(waiting):
                code = self._running[rank].poll()
                if code is None:
                    continue
                waiting.discard(rank)
                if code != 0:
                    failed.append(Ended(rank, code))
                    if len(failed) == 1 and self.asked is None:
                        end = time.monotonic() + GRACE
                        self._note(failed[0])
            time.sleep(POLL)
        return failed

    def _note(self, ended: Ended) -> None:
        if ended.code < 0 and self.asked is None:
            self._notes.write_end(Failure(ended.rank, "", ended.what))

    def _end(self) -> None:
        """End every process that still runs."""
        running = [p for p in self._running.values() if p.poll() is None]
        if not running:
            return
        self._send(signal.SIGTERM)
        end = time.monotonic() + LEAVE
        while any(p.poll() is None for p in running) and time.monotonic() < end:
            time.sleep(POLL)
        self._send(signal.SIGKILL)
        for process in running:
            process.wait()


def _store() -> TCPStore:
    """Return the store in which the processes meet, on the port that the environment names.

    Raises:
        WorldError: If the port is taken.
    """
    text = os.environ.get(PORT, "").strip() or "0"
    if not text.isdigit() or int(text) > 65_535:
        raise BadValueError(f"{PORT}={text!r}: give a port, a number up to 65535")
    try:
        return TCPStore(
            ADDRESS,
            int(text),
            is_master=True,
            timeout=timedelta(seconds=60),
            wait_for_workers=False,
        )
    except (RuntimeError, OSError) as error:
        raise WorldError(
            f"{PORT}={text} is taken by another program: give another port, or unset {PORT}, so "
            "that a free one is found"
        ) from error


def end_with_parent() -> None:
    """End this process when the one that started it has ended, if that has said how to know."""
    text = os.environ.get(PARENT, "")
    if not text.isdigit():
        return
    reader = int(text)

    def watch() -> None:
        with suppress(OSError):
            while os.read(reader, 1):
                pass
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(GRACE)
            os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
