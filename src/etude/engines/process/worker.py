"""What a process of the pool does: take the run it is given further, and send its state back."""

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
from etude.training.observer import Observer
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.training.state import RunState

TOLD = 0.05
"""Seconds between two messages on how far a run is."""

STRIDE = 256
"""Updates of the first stride of several runs."""


@dataclass(frozen=True)
class Job:
    """Runs to take further: one by the plain loop, several by an engine of their own.

    Attributes:
        numbers: What the pool calls them.
        until: The updates to stand at.
        evaluation_steps: The updates after which to evaluate each.
        keep: Seconds after which states are sent to the caller's process.
        threads: How many to compute with.
    """

    numbers: tuple[int, ...]
    until: int | None
    evaluation_steps: Mapping[int, frozenset[int]]
    keep: float
    threads: int = 1


@dataclass(frozen=True)
class RunParts:
    """What a process builds a run of its task from.

    Attributes:
        recipe: In plain values.
        observers: Copies of the caller's; what they hold comes with the run's state.
    """

    recipe: dict[str, Any]
    observers: tuple[Observer, ...]


@dataclass(frozen=True)
class JobMessage:
    """What a process is sent: a job, and what it needs to know for it.

    Attributes:
        job: The job.
        packed_states: Its runs' states.
        parts: Of the runs that the process does not know.
        forgotten: Runs that are no more.
    """

    job: Job
    packed_states: list[PackedState]
    parts: dict[int, RunParts]
    forgotten: frozenset[int]


@dataclass(frozen=True)
class WorkerContext:
    """What a process works with.

    Attributes:
        connection: Where messages come from and answers go to.
        transfer: Where states lie that are named in them.
        runs: Those it knows, by number.
        build: Makes one from its parts.
        inner: What takes several runs further; None for the plain loop.
        flag: A shared number; anything but 0 asks to stop.
        parent: The process to work for; when it is gone, so is this one.
    """

    connection: Connection
    transfer: StateTransfer
    runs: dict[int, Run]
    build: Callable[[RunParts], Run]
    inner: Engine | None
    flag: Any
    parent: int

    def stop(self) -> bool:
        """Whether to leave after this update."""
        return bool(self.flag.value) or alone(self.parent)

    def pack(self, runs: Mapping[int, Run]) -> dict[int, PackedState]:
        """Put the runs' states where the parent finds them."""
        packed_states = self.transfer.put([run.state_dict() for run in runs.values()])
        return dict(zip(runs, packed_states, strict=True))


def alone(parent: int) -> bool:
    """Say whether the process that started this one is gone."""
    return os.getppid() != parent


def serve(context: WorkerContext) -> None:
    """Do jobs until told to leave."""
    # Ctrl-C reaches the whole terminal: the parent decides, and asks through the flag.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()  # or its first sweep would touch, and so copy, all that was inherited
    torch.set_num_threads(1)
    try:
        while True:
            # A parent that is killed may leave the pipe open: other processes that it forked have
            # its end too.
            while not context.connection.poll(0.5):
                if alone(context.parent):
                    return
            message = context.connection.recv()
            if message is None:
                return
            context.connection.send(_done(context, message))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # nobody is left to answer to


def _done(context: WorkerContext, message: JobMessage) -> tuple[Any, ...]:
    """Do a job with as many threads as it asks for, and return the answer."""
    if message.job.threads == 1:
        return _do(context, message)
    # OpenMP's threads were not forked along: the thread that was would wait for them for ever. One
    # that is new here starts its own.
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
            runs[number].limit_threads(job.threads)  # the state brings those it was saved with
        if context.inner is None:
            for number, run in runs.items():
                _walk(context, job, number, run)
        else:
            _stride(context, job, context.inner, runs)
        return "done", job.numbers, context.pack(runs)
    except Exception as error:  # noqa: BLE001  (it is raised again by the caller)
        whole = {number: run for number, run in runs.items() if _is_whole(run)}
        return "failed", job.numbers, context.pack(whole), *_described(error)


def _walk(context: WorkerContext, job: Job, number: int, run: Run) -> None:
    told = sent = time.monotonic()

    def on_step(state: RunState, step: int) -> None:
        nonlocal told, sent
        now = time.monotonic()
        # While the last state lies unread, the next would travel as bytes through the pipe.
        if now - sent > job.keep and not context.transfer.taken:
            context.connection.send(("kept", job.numbers, context.pack({number: run})))
            told = sent = now
        elif now - told > TOLD:
            context.connection.send(("at", job.numbers, {number: step}))
            told = now

    run.advance(AdvanceRequest(job.until, job.evaluation_steps[number], context.stop, on_step))


def _stride(context: WorkerContext, job: Job, engine: Engine, runs: dict[int, Run]) -> None:
    """Take several runs further, and send their states between strides of `keep` seconds."""
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
        # Strides that double find the length that takes `keep` seconds.
        if time.monotonic() - started < job.keep / 2:
            count *= 2
        elif pending(listed, whole):
            context.connection.send(("kept", job.numbers, context.pack(runs)))


def _is_whole(run: Run) -> bool:
    try:
        run.state_dict()
    except Exception:  # noqa: BLE001  (half an update: the last state that was sent stands)
        return False
    return True


def _described(error: Exception) -> tuple[bytes | None, str, str]:
    """Return the error as it can be raised elsewhere, if it can be, and in words."""
    text = "".join(traceback.format_exception(error)).strip()
    try:
        blob = pickle.dumps(error)
        pickle.loads(blob)  # noqa: S301  (our own bytes; some errors cannot be rebuilt)
    except Exception:  # noqa: BLE001
        return None, f"{type(error).__name__}: {error}", text
    return blob, str(error), text
