"""The processes of a pool: started, told what to do, replaced when they die, never left behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

import torch
import torch.multiprocessing

from etude.recipe import Recipe
from etude.tasks.task import Task
from etude.training.engines.engine import Engine
from etude.training.engines.parcel import pack, unpack
from etude.training.engines.worker import Job, Post, serve
from etude.training.run import Run

Start = Literal["fork", "spawn"]
PATIENCE = 5.0
"""Seconds that a process which was asked to leave is given before it is killed."""


def usual_start() -> Start:
    """Return how to start processes here: by forking where that is safe, else anew.

    A forked process inherits the task, whatever it is made of, and shares its data. It is safe
    as it is for torch's own DataLoader: on Linux, with one thread in the child, and while no
    accelerator is in use.
    """
    if "fork" not in multiprocessing.get_all_start_methods() or sys.platform == "darwin":
        return "spawn"
    used = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return "spawn" if used else "fork"


@dataclass(eq=False)
class Seat:
    """One process of the team, and the job it is doing."""

    process: Any
    home: Connection
    job: Job | None = None


class Team:
    """Processes that take runs further.

    Args:
        runs: What the jobs' places refer to.
        start: How to start a process.
        inner: What takes the runs of a job further, if not the plain loop; forked only.
    """

    def __init__(self, runs: Sequence[Run], start: Start, inner: Engine | None = None) -> None:
        self.runs, self.start, self.inner = runs, start, inner
        # Typed as Any: torch's wrapper adds the sharing of tensors to the standard library's.
        self._context: Any = torch.multiprocessing.get_context(start)
        self._flag = self._context.RawValue("i", 0)
        self.seats: list[Seat] = []

    def hire(self) -> Seat:
        """Start one more process.

        Raises:
            Exception: If the task cannot be sent to a process that is not forked.
        """
        ours, theirs = self._context.Pipe()
        others = [seat.home for seat in self.seats] + [ours]
        main: Callable[..., None]
        args: tuple[Any, ...]
        if self.start == "fork":
            main, args = _forked, (theirs, self.runs, others, self.inner, self._flag, os.getpid())
        else:
            task, recipes = _parts(self.runs[0].task), [run.recipe.plain() for run in self.runs]
            main, args = _spawned, (theirs, task, recipes, self._flag, os.getpid())
        process = self._context.Process(target=main, args=args, name="etude-pool")
        try:
            with warnings.catch_warnings():
                # Python and JAX warn of forking beside threads: the child uses none of them.
                warnings.filterwarnings("ignore", message=".*fork")
                process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        seat = Seat(process, ours)
        self.seats.append(seat)
        return seat

    def give(self, seat: Seat, job: Job) -> None:
        """Let a process do a job, from the states that its runs have now."""
        # What was forked with a run may be older than the run is now.
        seat.job = job
        states = [pack(self.runs[place].state()) for place in job.places]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # found dead by `hear`
            seat.home.send((job, states))

    def hear(self, seconds: float) -> list[tuple[Seat, tuple[Any, ...] | None]]:
        """Wait for messages; None stands for the death of the one who would have sent it."""
        heard: list[tuple[Seat, tuple[Any, ...] | None]] = []
        ready = wait([seat.home for seat in self.seats], seconds)
        for seat in [s for s in self.seats if s.home in ready]:
            try:
                heard.append((seat, seat.home.recv()))
            except (EOFError, OSError):
                heard.append((seat, None))
        return heard

    def ask_to_stop(self) -> None:
        """Ask every process to end its job after the update it is in."""
        self._flag.value = 1

    def dismiss(self, seat: Seat) -> int | None:
        """End one process, and return its exit code."""
        self.seats.remove(seat)
        with contextlib.suppress(OSError):
            seat.home.send(None)
        seat.home.close()
        seat.process.join(0.0 if seat.job is not None else PATIENCE)
        if seat.process.is_alive():
            seat.process.kill()
            seat.process.join()
        code: int | None = seat.process.exitcode
        seat.process.close()
        return code

    def close(self) -> None:
        """End every process."""
        self.ask_to_stop()
        for seat in list(self.seats):
            self.dismiss(seat)


def cause_of_death(code: int | None) -> str:
    """Say what an exit code means.

    >>> cause_of_death(-9), cause_of_death(3)
    ('SIGKILL', 'exit code 3')
    """
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


def _forked(
    home: Connection,
    runs: Sequence[Run],
    others: list[Connection],
    inner: Engine | None,
    flag: Any,
    parent: int,
) -> None:
    for other in others:  # or the death of a sibling would go unnoticed
        other.close()

    def run_of(place: int, state: bytes) -> Run:
        runs[place].load(unpack(state))
        return runs[place]

    serve(Post(home, run_of, inner, flag, parent))


def _parts(task: Task) -> dict[str, Any]:
    """Return what a task is made of: unlike the task itself, it can be pickled."""
    names = ("model", "train", "valid", "loss", "step", "metric", "name")
    return {name: getattr(task, name) for name in names}


def _spawned(
    home: Connection, parts: dict[str, Any], recipes: list[dict[str, Any]], flag: Any, parent: int
) -> None:
    task = Task(**parts)

    def run_of(place: int, state: bytes) -> Run:
        run = Run(task, Recipe(**recipes[place]), device="cpu")
        run.load(unpack(state))
        return run

    serve(Post(home, run_of, None, flag, parent))
