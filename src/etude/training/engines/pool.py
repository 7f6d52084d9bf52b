"""One process per core, one thread each; a process that dies costs only its unfinished updates."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from etude.errors import BadValueError, EtudeError, TaskError
from etude.training.engines.engine import (
    Engine,
    Marks,
    OnStep,
    blame,
    check_runs,
    describe,
    no_marks,
    pending,
)
from etude.training.engines.loop import LoopEngine
from etude.training.engines.parcel import unpack
from etude.training.engines.team import Seat, Start, Team, cause_of_death, usual_start
from etude.training.engines.worker import Job
from etude.training.run import Run
from etude.training.threads import use_threads

DEATHS = 3
"""Times that processes may die over one run in a row, without its getting further."""


def cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux says which of them are ours
        return os.cpu_count() or 1


class PoolEngine(Engine):
    """Takes the runs further in processes of one thread each.

    The results equal the loop's with one thread, to the bit. When a process dies, its run goes on
    in a new one from the last state that it sent home.

    Args:
        workers: How many processes; None for one per core.
        keep: Seconds after which a run's state is sent home.
        start: 'fork' or 'spawn'; None forks where that is safe.

    Raises:
        BadValueError: If a number is out of bounds.

    >>> PoolEngine(workers=2).name
    'pool'
    """

    name: ClassVar[str] = "pool"

    def __init__(
        self, workers: int | None = None, *, keep: float = 2.0, start: Start | None = None
    ) -> None:
        super().__init__()
        if workers is not None and (isinstance(workers, bool) or workers < 1):
            raise BadValueError(f"workers={workers!r}: give at least 1, or None for one per core")
        if not keep > 0:
            raise BadValueError(f"keep={keep!r}: give seconds above 0")
        self.workers, self.keep, self.start = workers, keep, start
        self.processes: list[int] = []

    def advance(
        self,
        runs: Sequence[Run],
        until: int | None = None,
        *,
        marks: Marks = no_marks,
        stop: Callable[[], bool] = bool,
        on_step: OnStep | None = None,
    ) -> None:
        """Train every run in a process of the pool; see `Engine.advance`."""
        check_runs(runs)
        waiting = pending(runs, until, marks)
        if not waiting or stop():
            return
        reason = self._unfit(runs)
        shares = [] if reason else self._shares(runs, waiting, until)
        team = None if reason else self._team(runs)
        if team is not None:
            try:
                team.hire()
            except Exception as error:  # noqa: BLE001  (whatever a task's parts do when pickled)
                team.close()
                reason = f"the task cannot be sent to another process ({error})"
        if reason or team is None:
            self.explain(f"pool: {reason}; the runs are trained one after the other instead")
            with use_threads(1):
                LoopEngine().advance(runs, until, marks=marks, stop=stop, on_step=on_step)
            return
        jobs = [
            Job(places, until, {i: frozenset(marks(runs[i])) for i in places}, self.keep)
            for places in shares
        ]
        count = min(self.workers or cores(), len(jobs))
        _Shift(team, jobs, count, stop, on_step, self.processes).work()

    def _shares(
        self, runs: Sequence[Run], waiting: list[int], until: int | None
    ) -> list[tuple[int, ...]]:
        """Return the places of the runs of each job: here one."""
        return [(place,) for place in waiting]

    def _team(self, runs: Sequence[Run]) -> Team:
        return Team(runs, self.start or usual_start())

    def _unfit(self, runs: Sequence[Run]) -> str:
        for run in runs:
            if run.device.type != "cpu":
                return f"the runs are on {run.device}, which processes would have to share"
            if run.probes and (self.start or usual_start()) == "spawn":
                return "the runs have probes, which cannot be sent to another process"
        return ""


class _Shift:
    """The work of one `advance`: jobs are given out, states come home."""

    def __init__(
        self,
        team: Team,
        jobs: list[Job],
        count: int,
        stop: Callable[[], bool],
        on_step: OnStep | None,
        processes: list[int],
    ) -> None:
        self.team, self.runs = team, team.runs
        self.open = list(reversed(jobs))
        self.count = count
        self.stop, self.on_step = stop, on_step
        self.deaths: dict[int, int] = {}
        self.failure: BaseException | None = None
        self.processes = processes

    def work(self) -> None:
        """Do all jobs, or as many as `stop` allows; leave no process behind."""
        stopping = False
        try:
            while self._busy() or (self.open and not stopping):
                if not stopping:
                    self._give_out()
                self._listen()
                if not stopping and (self.failure is not None or self.stop()):
                    stopping = True
                    self.team.ask_to_stop()
        except BaseException:
            self._save_what_there_is()
            raise
        finally:
            self.processes[:] = []
            self.team.close()
        if self.failure is not None:
            raise self.failure

    def _busy(self) -> list[Seat]:
        return [seat for seat in self.team.seats if seat.job is not None]

    def _give_out(self) -> None:
        while self.open:
            seat = next((s for s in self.team.seats if s.job is None), None)
            if seat is None:
                if len(self.team.seats) >= self.count:
                    return
                seat = self.team.hire()
            self.team.give(seat, self.open.pop())
            self.processes[:] = [s.process.pid for s in self.team.seats]

    def _listen(self) -> None:
        for seat, message in self.team.hear(0.05):
            if message is None:
                self._bury(seat)
            else:
                self._take(seat, message)

    def _take(self, seat: Seat, message: tuple[Any, ...]) -> None:
        kind, places, about, *error = message
        for place, what in about.items():
            if kind == "at":
                self._tell(self.runs[place], what)
            else:
                self._load(place, what)
        if kind in ("done", "failed"):
            seat.job = None
        if kind == "failed" and self.failure is None:
            self.failure = _rebuilt(places, self.runs, *error)
        for place in about if kind != "at" else ():
            self._tell(self.runs[place], self.runs[place].step)

    def _load(self, index: int, parcel: bytes) -> None:
        run = self.runs[index]
        threads, before = run.threads, run.step
        run.load(unpack(parcel))
        run.threads = threads  # a process of the pool has one; whoever goes on has what it had
        if run.step > before:
            self.deaths.pop(index, None)

    def _tell(self, run: Run, step: int) -> None:
        if self.on_step is not None:
            self.on_step(run, step)

    def _bury(self, seat: Seat) -> None:
        """Note the death of a process; its job is open again."""
        job = seat.job
        code = self.team.dismiss(seat)
        if job is None:
            return
        place = job.places[0]
        self.deaths[place] = self.deaths.get(place, 0) + 1
        if self.deaths[place] < DEATHS:
            self.open.append(job)
            return
        run = self.runs[place]
        self.failure = TaskError(
            f"{describe(place, run)}: its process died {DEATHS} times after update {run.step} "
            f"({cause_of_death(code)}): it may need more memory than there is; train it with the "
            "loop to see why"
        )

    def _save_what_there_is(self) -> None:
        """After an error here, or Ctrl-C: let the processes end their update and send home."""
        self.on_step = None
        self.team.ask_to_stop()
        for _ in range(100):
            if not self._busy():
                return
            self._listen()


def _rebuilt(
    places: tuple[int, ...], runs: Sequence[Run], blob: bytes | None, text: str, trace: str
) -> BaseException:
    """Return the error that a process met, as one to be raised here."""
    index, run = places[0], runs[places[0]]
    try:
        # Bytes of our own process, never of a file.
        error = pickle.loads(blob) if blob is not None else TaskError(text)  # noqa: S301
    except Exception:  # noqa: BLE001
        error = TaskError(text)
    named: BaseException = error
    own = re.match(r"member (\d+) ", str(error))
    if isinstance(error, EtudeError) and own:
        # An engine in the process counts from its own first run.
        text = str(error).replace(own[0], f"member {places[int(own[1])]} ", 1)
        named = type(error)(text)
    elif isinstance(error, EtudeError):
        named = blame(error, index, run)
    elif isinstance(error, BaseException):
        error.add_note(f"in {describe(index, run)}")
    named.add_note(trace)
    return named
