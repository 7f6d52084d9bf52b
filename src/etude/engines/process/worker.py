"""What a process of the pool does: take the run it is given further, and send its state home."""

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
from etude.engines.process.state_transfer import Parcel, StateTransfer
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
        numbers: What the team calls them.
        until: The updates to stand at.
        evaluation_steps: The updates after which to evaluate each.
        keep: Seconds after which states are sent home.
        threads: How many to compute with.
    """

    numbers: tuple[int, ...]
    until: int | None
    evaluation_steps: Mapping[int, frozenset[int]]
    keep: float
    threads: int = 1


@dataclass(frozen=True)
class JobMessage:
    """What a process is sent: a job, and what it needs to know for it.

    Attributes:
        job: The job.
        parcels: Its runs' states.
        recipes: Of the runs that the process does not know, in plain values.
        forgotten: Runs that are no more.
    """

    job: Job
    parcels: list[Parcel]
    recipes: dict[int, dict[str, Any]]
    forgotten: frozenset[int]


@dataclass(frozen=True)
class WorkerContext:
    """What a process works with.

    Attributes:
        home: Where letters come from and answers go to.
        desk: Where states lie that are named in them.
        runs: Those it knows, by number.
        build: Makes one from a recipe.
        inner: What takes several runs further; None for the plain loop.
        flag: A shared number; anything but 0 asks to stop.
        parent: The process to work for; when it is gone, so is this one.
    """

    home: Connection
    desk: StateTransfer
    runs: dict[int, Run]
    build: Callable[[dict[str, Any]], Run]
    inner: Engine | None
    flag: Any
    parent: int

    def stop(self) -> bool:
        """Whether to leave after this update."""
        return bool(self.flag.value) or alone(self.parent)

    def pack(self, runs: Mapping[int, Run]) -> dict[int, Parcel]:
        """Put the runs' states where the parent finds them."""
        parcels = self.desk.put([run.state_dict() for run in runs.values()])
        return dict(zip(runs, parcels, strict=True))


def alone(parent: int) -> bool:
    """Say whether the process that started this one is gone."""
    return os.getppid() != parent


def serve(post: WorkerContext) -> None:
    """Do jobs until told to leave."""
    # Ctrl-C reaches the whole terminal: the parent decides, and asks through the flag.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()  # or its first sweep would touch, and so copy, all that was inherited
    torch.set_num_threads(1)
    try:
        while True:
            while not post.home.poll(0.5):
                if alone(post.parent):
                    return
            letter = post.home.recv()
            if letter is None:
                return
            post.home.send(_done(post, letter))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # nobody is left to answer to


def _done(post: WorkerContext, letter: JobMessage) -> tuple[Any, ...]:
    """Do a job with as many threads as it asks for, and return the answer."""
    if letter.job.threads == 1:
        return _do(post, letter)
    # OpenMP's threads were not forked along: the thread that was would wait for them for ever. One
    # that is new here starts its own.
    answers: list[tuple[Any, ...]] = []

    def work() -> None:
        torch.set_num_threads(letter.job.threads)
        answers.append(_do(post, letter))

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
    thread.start()
    thread.join()
    torch.set_num_threads(1)
    return answers[0]


def _do(post: WorkerContext, letter: JobMessage) -> tuple[Any, ...]:
    job = letter.job
    runs: dict[int, Run] = {}
    try:
        for number in letter.forgotten:
            post.runs.pop(number, None)
        for number, state in zip(job.numbers, post.desk.get(letter.parcels), strict=True):
            if number not in post.runs:
                post.runs[number] = post.build(letter.recipes[number])
            runs[number] = post.runs[number]
            runs[number].load_state_dict(state)
            runs[number].limit_threads(job.threads)
        if post.inner is None:
            for number, run in runs.items():
                _walk(post, job, number, run)
        else:
            _stride(post, job, post.inner, runs)
        return "done", job.numbers, post.pack(runs)
    except Exception as error:  # noqa: BLE001  (it is raised again at home)
        whole = {number: run for number, run in runs.items() if _is_whole(run)}
        return "failed", job.numbers, post.pack(whole), *_described(error)


def _walk(post: WorkerContext, job: Job, number: int, run: Run) -> None:
    told = sent = time.monotonic()

    def on_step(state: RunState, step: int) -> None:
        nonlocal told, sent
        now = time.monotonic()
        if now - sent > job.keep and not post.desk.taken:
            post.home.send(("kept", job.numbers, post.pack({number: run})))
            told = sent = now
        elif now - told > TOLD:
            post.home.send(("at", job.numbers, {number: step}))
            told = now

    run.advance(AdvanceRequest(job.until, job.evaluation_steps[number], post.stop, on_step))


def _stride(post: WorkerContext, job: Job, engine: Engine, runs: dict[int, Run]) -> None:
    """Take several runs further, and their states home between strides of `keep` seconds."""
    numbers = {id(run.state): number for number, run in runs.items()}
    listed = list(runs.values())
    told, count = time.monotonic(), STRIDE

    def on_step(state: RunState, step: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told > TOLD:
            post.home.send(("at", job.numbers, {numbers[id(state)]: step}))
            told = now

    def steps_of(state: RunState) -> frozenset[int]:
        return job.evaluation_steps[numbers[id(state)]]

    whole = AdvanceRequest(job.until, steps_of, post.stop, on_step)
    while left := pending(listed, whole):
        least = min(listed[i].step for i in left) + count
        until = least if job.until is None else min(least, job.until)
        started = time.monotonic()
        engine.advance(listed, replace(whole, until=until))
        if post.stop():
            return
        # Strides that double find the length that takes `keep` seconds.
        if time.monotonic() - started < job.keep / 2:
            count *= 2
        elif pending(listed, whole):
            post.home.send(("kept", job.numbers, post.pack(runs)))


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
