"""Executes one call of a pool: sends jobs to the workers, and receives the states of the runs."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from typing import Any

from etude.engines.base import describe, pending, with_run
from etude.engines.process.state_transfer import take_back
from etude.engines.process.worker import Job
from etude.engines.process.worker_pool import WorkerHandle, WorkerPool, cause_of_death
from etude.errors import EtudeError, TaskError
from etude.training.request import AdvanceRequest
from etude.training.run import Run

DEATHS = 3
"""The number of processes that may die in a row at one run before it makes progress."""


@dataclass(frozen=True)
class Work:
    """A job that is not yet assigned to a worker.

    Attributes:
        places: The indices of its runs.
        until: The number of updates to train to; None for the end of each run.
        threads: The number of threads to compute with.
    """

    places: tuple[int, ...]
    until: int | None
    threads: int


class Dispatcher:
    """Assigns jobs to a pool's workers, and loads the states that they send.

    Args:
        pool: The pool; the jobs' indices refer to its runs.
        jobs: The jobs, in the order in which to begin them; those of one run in its own order.
        count: The largest number of workers that have a job at the same time.
        keep: Seconds after which states are sent to the calling process.
        request: As for `Engine.advance`.
    """

    def __init__(
        self,
        pool: WorkerPool,
        jobs: list[Work],
        count: int,
        keep: float,
        request: AdvanceRequest,
    ) -> None:
        self.pool, self.runs, self.open = pool, pool.runs, list(jobs)
        self.places = {pool.number(run): place for place, run in enumerate(pool.runs)}
        self.running: dict[WorkerHandle, Work] = {}
        self.count, self.keep, self.request = count, keep, request
        self.deaths: dict[int, int] = {}
        self.failure: BaseException | None = None

    def work(self) -> None:
        """Do all jobs, or those that begin before `stop` returns True.

        Raises:
            BaseException: The error of a worker, or of one of the caller's functions.
        """
        stopping = False
        try:
            while self.running or (self.open and not stopping):
                if not stopping:
                    self._send_jobs()
                self._receive()
                if not stopping and (self.failure is not None or self.request.stop()):
                    stopping = True
                    self.pool.ask_to_stop()
        except BaseException:
            self._save_what_there_is()
            raise
        if self.failure is not None:
            raise self.failure

    def _send_jobs(self) -> None:
        while len(self.running) < self.count and (work := self._next()) is not None:
            numbers = tuple(self.pool.number(self.runs[place]) for place in work.places)
            idle = [worker for worker in self.pool.workers if worker.job is None]
            # A worker that already has the runs does not need to build their models.
            idle.sort(key=lambda worker: not worker.known.issuperset(numbers))
            worker = idle[0] if idle else self.pool.start_worker()
            steps = {
                self.pool.number(run): frozenset(self.request.steps_of(run.state))
                for run in self._runs_of(work)
            }
            self.running[worker] = work
            self.pool.give(worker, Job(numbers, work.until, steps, self.keep, work.threads))

    def _next(self) -> Work | None:
        """Return the first job whose runs no worker is training; drop jobs of ended runs."""
        self.open = [
            work
            for work in self.open
            if pending(self._runs_of(work), replace(self.request, until=work.until))
        ]
        away = {place for work in self.running.values() for place in work.places}
        for index, work in enumerate(self.open):
            if away.isdisjoint(work.places):
                return self.open.pop(index)
        return None

    def _runs_of(self, work: Work) -> list[Run]:
        return [self.runs[place] for place in work.places]

    def _receive(self) -> None:
        # Not longer, or the caller's `stop` would be called too rarely.
        for worker, message in self.pool.receive(0.05):
            if message is None:
                self._note_death(worker)
            else:
                self._take(worker, message)

    def _take(self, worker: WorkerHandle, message: tuple[Any, ...]) -> None:
        kind, numbers, about, *error = message
        places = tuple(self.places[number] for number in numbers)
        if kind == "at":
            for number, step in about.items():
                self._report_step(self.runs[self.places[number]], step)
            return
        states = worker.transfer.get(list(about.values()))
        for number, state in zip(about, states, strict=True):
            self._load(self.places[number], state)
        if kind in ("done", "failed"):
            worker.job = None
            del self.running[worker]
        if kind == "failed" and self.failure is None:
            self.failure = _rebuilt(self.runs[places[0]], *error)
        for number in about:
            run = self.runs[self.places[number]]
            self._report_step(run, run.step)

    def _load(self, place: int, state: dict[str, Any]) -> None:
        run = self.runs[place]
        before = run.step
        take_back(run, state)
        if run.step > before:
            self.deaths.pop(place, None)

    def _report_step(self, run: Run, step: int) -> None:
        if self.request.on_step is not None:
            self.request.on_step(run.state, step)

    def _note_death(self, worker: WorkerHandle) -> None:
        """Handle the death of a process: put its job back, or fail after too many deaths."""
        code = self.pool.dismiss(worker)
        work = self.running.pop(worker, None)
        if work is None:
            return
        place = work.places[0]
        self.deaths[place] = self.deaths.get(place, 0) + 1
        if self.deaths[place] < DEATHS:
            # At the front: later pieces of the same run continue from where this one ends.
            self.open.insert(0, work)
            return
        run = self.runs[place]
        self.failure = TaskError(
            f"{describe(run)}: its process died {DEATHS} times after update {run.step} "
            f"({cause_of_death(code)}): it may need more memory than there is; train it with the "
            "loop to see why"
        )

    def _save_what_there_is(self) -> None:
        """Stop the workers after an error or Ctrl-C, and load the states that they send."""
        self.request = replace(self.request, on_step=None)  # it may be what failed
        self.pool.ask_to_stop()
        for _ in range(100):  # about five seconds: a process that hangs must not delay the error
            if not self.running:
                return
            self._receive()


def _rebuilt(run: Run, blob: bytes | None, text: str, trace: str) -> BaseException:
    """Return the error of a worker, to be raised in this process."""
    try:
        # The bytes come from our own process, never from a file.
        error = pickle.loads(blob) if blob is not None else TaskError(text)  # noqa: S301
    except Exception:  # noqa: BLE001
        error = TaskError(text)
    named: BaseException = error
    if isinstance(error, EtudeError):
        named = with_run(error, run)
    elif isinstance(error, BaseException):
        error.add_note(f"in {describe(run)}")
    named.add_note(trace)
    return named
