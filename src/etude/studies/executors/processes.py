"""Trains groups in several processes of this machine: one for each GPU or share of its cores."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

from etude.engines.process.devices import VISIBLE, gpu_names
from etude.engines.process.engine import cores
from etude.engines.process.worker_pool import cause_of_death
from etude.studies.executors.remote import Lost, RemoteExecutor, RemoteJob, refuse_count
from etude.studies.executors.worker import PlainResult, settings

PATIENCE = 5.0
"""Seconds that an idle process has to end before it is killed."""


@dataclass(eq=False)
class _Process:
    """A process with its connection, and the job that it trains."""

    process: subprocess.Popen[bytes]
    connection: Connection
    job: RemoteJob | None = None


class ProcessExecutor(RemoteExecutor):
    """Trains groups in processes, each with an equal share of the cores, or its own GPU.

    Args:
        workers: How many processes.
        engine: The name of the engine.

    Raises:
        BadValueError: If there are less than 1.
        UnknownNameError: If there is no engine of this name.

    >>> ProcessExecutor(2, "loop").slots
    2
    """

    def __init__(self, workers: int, engine: str = "auto") -> None:
        super().__init__()
        refuse_count("workers", workers)
        self.workers = workers
        self._told = settings(engine, max(1, cores() // workers))
        self._devices = gpu_names()
        self._waiting: deque[RemoteJob] = deque()
        self._processes: dict[int, _Process] = {}

    @property
    def slots(self) -> int:
        """One group for each process."""
        return self.workers

    @property
    def processes(self) -> list[int]:
        """The process IDs."""
        return [one.process.pid for one in self._processes.values()]

    def start(self, job: RemoteJob) -> None:
        """Give a job to an idle process, or to the next one that is."""
        self._waiting.append(job)
        self._give()

    def ended(self, seconds: float) -> Iterable[tuple[RemoteJob, Sequence[PlainResult] | Lost]]:
        """Return the jobs that have ended."""
        busy = {place: one for place, one in self._processes.items() if one.job is not None}
        ready = set(wait([one.connection for one in busy.values()], seconds))
        found: list[tuple[RemoteJob, Sequence[PlainResult] | Lost]] = []
        for place, one in busy.items():
            job = one.job
            if job is None or one.connection not in ready:
                continue
            one.job = None
            try:
                found.append((job, one.connection.recv()))
            except (EOFError, OSError):
                del self._processes[place]
                found.append((job, Lost(f"the process ended ({cause_of_death(_end(one))})")))
        self._give()
        return found

    def close(self) -> None:
        """End the processes, and what is in training."""
        self._waiting.clear()
        processes = list(self._processes.values())
        self._processes.clear()
        for one in processes:
            one.connection.close()
            if one.job is not None:
                one.process.terminate()
        for one in processes:
            _end(one)

    def _give(self) -> None:
        for place in range(self.workers):
            if not self._waiting:
                return
            one = self._processes.get(place)
            if one is not None and one.job is not None:
                continue
            if one is None:
                one = self._processes[place] = self._begin(place)
            one.job = self._waiting.popleft()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `ended` sees it
                one.connection.send((self._told, list(one.job.trials)))

    def _begin(self, place: int) -> _Process:
        """Start a process; it does not import the program that calls this."""
        ours, theirs = multiprocessing.Pipe()
        own = {"PYTHONPATH": os.pathsep.join(entry or os.curdir for entry in sys.path)}
        if self._devices:
            own[VISIBLE] = self._devices[place % len(self._devices)]
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "etude.studies.executors.serve", str(theirs.fileno())],
                env={**os.environ, **own},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        finally:
            theirs.close()
        return _Process(process, ours)


def _end(one: _Process) -> int:
    """Wait for a process to end, or kill it; return its exit code."""
    one.connection.close()
    try:
        return one.process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        one.process.kill()
        return one.process.wait()
