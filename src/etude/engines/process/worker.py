"""A worker process of the pool: trains the runs of its jobs, and sends their states back."""

from __future__ import annotations

import contextvars
import gc
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import torch

from etude.engines.base import Engine, pending
from etude.engines.process.state_transfer import PackedState, StateTransfer
from etude.recipe import Recipe
from etude.training.observer import Observer
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.training.state.state import RunState

TOLD = 0.05
"""Seconds between two messages about the progress of a run."""

STRIDE = 256
"""The number of updates between the first two times that states of several runs may be sent."""


@dataclass(frozen=True)
class Job:
    """The runs to train: one in the plain loop, or several in another engine.

    Attributes:
        numbers: The pool's numbers of the runs.
        until: The number of updates to train to; None for the end of each run.
        evaluation_steps: The updates after which to evaluate, for each run.
        keep: Seconds after which states are sent to the calling process.
        threads: The number of threads to compute with.
    """

    numbers: tuple[int, ...]
    until: int | None
    evaluation_steps: Mapping[int, frozenset[int]]
    keep: float
    threads: int = 1


@dataclass(frozen=True)
class RunParts:
    """The parts from which a worker builds a run of its task.

    Attributes:
        recipe: The recipe.
        observers: Copies of the caller's observers; their states come with the run's state.
    """

    recipe: Recipe
    observers: tuple[Observer, ...]


@dataclass(frozen=True)
class JobMessage:
    """A job, and everything that a worker needs for it.

    Attributes:
        job: The job.
        packed_states: The states of its runs.
        parts: The parts of the runs that the worker does not have yet.
        forgotten: The numbers of runs that no longer exist.
    """

    job: Job
    packed_states: list[PackedState]
    parts: dict[int, RunParts]
    forgotten: frozenset[int]


@dataclass(frozen=True)
class WorkerContext:
    """The objects that a worker uses.

    Attributes:
        connection: The connection to the pool.
        transfer: The memory through which states are sent.
        runs: The runs that the worker has, by number.
        build: Builds a run from its parts.
        inner: The engine for the runs of a job; None for the plain loop.
        flag: A shared number; the worker stops if it is not 0.
        parent: The ID of the pool's process; the worker ends if that process has ended.
    """

    connection: Connection
    transfer: StateTransfer
    runs: dict[int, Run]
    build: Callable[[RunParts], Run]
    inner: Engine | None
    flag: Any
    parent: int

    def stop(self) -> bool:
        """Return whether to stop after this update."""
        return bool(self.flag.value) or alone(self.parent)

    def pack(self, runs: Mapping[int, Run]) -> dict[int, PackedState]:
        """Return the packed states of the runs, by number."""
        packed_states = self.transfer.put([run.state_dict() for run in runs.values()])
        return dict(zip(runs, packed_states, strict=True))


def alone(parent: int) -> bool:
    """Return whether the parent process has ended."""
    return os.getppid() != parent


def serve(context: WorkerContext) -> None:
    """Run jobs until the pool closes or its process ends."""
    # Ctrl-C reaches every process of a terminal. Only the parent handles it, and sets the flag.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()  # or the first collection would write to, and so copy, all inherited memory
    torch.set_num_threads(1)
    try:
        while True:
            # If the parent is killed, the pipe may stay open: its other child processes have
            # copies of the parent's end.
            while not context.connection.poll(0.5):
                if alone(context.parent):
                    return
            message = context.connection.recv()
            if message is None:
                return
            context.connection.send(_done(context, message))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent has ended


def _done(context: WorkerContext, message: JobMessage) -> tuple[Any, ...]:
    """Do a job with its number of threads, and return the reply."""
    if message.job.threads == 1:
        return _do(context, message)
    # The threads of OpenMP do not exist in a forked process: the thread that was forked would wait
    # for them forever. A new thread starts its own.
    answers: list[tuple[Any, ...]] = []

    def work() -> None:
        torch.set_num_threads(message.job.threads)
        answers.append(_do(context, message))

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
    thread.start()
    thread.join()
    torch.set_num_threads(1)
    return answers[0]


def _do(context: WorkerContext, message: JobMessage) -> tuple[Any, ...]:
    job = message.job
    runs: dict[int, Run] = {}
    try:
        for number in message.forgotten:
            context.runs.pop(number, None)
        for number, state in zip(
            job.numbers, context.transfer.get(message.packed_states), strict=True
        ):
            if number not in context.runs:
                context.runs[number] = context.build(message.parts[number])
            runs[number] = context.runs[number]
            runs[number].load_state_dict(state)
            runs[number].limit_threads(job.threads)  # the state contains another number
        if context.inner is None:
            for number, run in runs.items():
                _train_alone(context, job, number, run)
        else:
            _train_together(context, job, context.inner, runs)
        return "done", job.numbers, context.pack(runs)
    except Exception as error:  # noqa: BLE001  (it is raised again by the caller)
        whole = {number: run for number, run in runs.items() if _is_whole(run)}
        return "failed", job.numbers, context.pack(whole), *_described(error)


def _train_alone(context: WorkerContext, job: Job, number: int, run: Run) -> None:
    told = sent = time.monotonic()

    def on_step(state: RunState, step: int) -> None:
        nonlocal told, sent
        now = time.monotonic()
        # While the last state is unread, the next one would be sent as bytes through the pipe.
        if now - sent > job.keep and not context.transfer.taken:
            context.connection.send(("kept", job.numbers, context.pack({number: run})))
            told = sent = now
        elif now - told > TOLD:
            context.connection.send(("at", job.numbers, {number: step}))
            told = now

    run.advance(AdvanceRequest(job.until, job.evaluation_steps[number], context.stop, on_step))


def _train_together(context: WorkerContext, job: Job, engine: Engine, runs: dict[int, Run]) -> None:
    """Train several runs, and send their states about every `keep` seconds."""
    numbers = {id(run.state): number for number, run in runs.items()}
    listed = list(runs.values())
    told, count = time.monotonic(), STRIDE

    def on_step(state: RunState, step: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told > TOLD:
            context.connection.send(("at", job.numbers, {numbers[id(state)]: step}))
            told = now

    def steps_of(state: RunState) -> frozenset[int]:
        return job.evaluation_steps[numbers[id(state)]]

    whole = AdvanceRequest(job.until, steps_of, context.stop, on_step)
    while left := pending(listed, whole):
        least = min(listed[i].step for i in left) + count
        until = least if job.until is None else min(least, job.until)
        started = time.monotonic()
        engine.advance(listed, replace(whole, until=until))
        if context.stop():
            return
        # Double the number of updates until they take `keep` seconds.
        if time.monotonic() - started < job.keep / 2:
            count *= 2
        elif pending(listed, whole):
            context.connection.send(("kept", job.numbers, context.pack(runs)))


def _is_whole(run: Run) -> bool:
    try:
        run.state_dict()
    except Exception:  # noqa: BLE001  (half an update: the last state that was sent is kept)
        return False
    return True


def _described(error: Exception) -> tuple[bytes | None, str, str]:
    """Return the pickled error (None if it cannot be pickled), its text and its traceback."""
    text = "".join(traceback.format_exception(error)).strip()
    try:
        blob = pickle.dumps(error)
        pickle.loads(blob)  # noqa: S301  (our own bytes; some errors cannot be rebuilt)
    except Exception:  # noqa: BLE001
        return None, f"{type(error).__name__}: {error}", text
    return blob, str(error), text
