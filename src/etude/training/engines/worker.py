"""What a process of the pool does: take the run it is given further, and send its state home."""

from __future__ import annotations

import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from etude.training.engines.engine import Engine, pending
from etude.training.engines.parcel import pack
from etude.training.run import Run

TOLD = 0.05
"""Seconds between two messages on how far a run is."""

STRIDE = 256
"""Updates of the first stride of several runs."""


@dataclass(frozen=True)
class Job:
    """Runs to take further: one by the plain loop, several by an engine of their own.

    Attributes:
        places: Theirs among the runs.
        until: The updates to stand at.
        marks: The updates at which to evaluate each.
        keep: Seconds after which states are sent home.
    """

    places: tuple[int, ...]
    until: int | None
    marks: Mapping[int, frozenset[int]]
    keep: float


@dataclass(frozen=True)
class Post:
    """What a process works with.

    Attributes:
        home: Where jobs, each with its runs' states, come from and answers go to.
        run_of: Finds or builds the run of a place, in a state.
        inner: What takes several runs further; None for the plain loop.
        flag: A shared number; anything but 0 asks to stop.
        parent: The process to work for; when it is gone, so is this one.
    """

    home: Connection
    run_of: Callable[[int, bytes], Run]
    inner: Engine | None
    flag: Any
    parent: int

    def stop(self) -> bool:
        """Whether to leave after this update."""
        return bool(self.flag.value) or alone(self.parent)


def alone(parent: int) -> bool:
    """Say whether the process that started this one is gone."""
    return os.getppid() != parent


def serve(post: Post) -> None:
    """Do jobs until told to leave."""
    # Ctrl-C reaches the whole terminal: the parent decides, and asks through the flag.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    try:
        while True:
            while not post.home.poll(0.5):
                if alone(post.parent):
                    return
            message = post.home.recv()
            if message is None:
                return
            job, states = message
            post.home.send(_do(post, job, states))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # nobody is left to answer to


def _do(post: Post, job: Job, states: Sequence[bytes]) -> tuple[Any, ...]:
    runs: dict[int, Run] = {}
    try:
        for place, state in zip(job.places, states, strict=True):
            runs[place] = post.run_of(place, state)
            runs[place].threads = 1
        if post.inner is None:
            for place, run in runs.items():
                _walk(post, job, place, run)
        else:
            _stride(post, job, post.inner, runs)
    except Exception as error:  # noqa: BLE001  (it is raised again at home)
        kept = {place: parcel for place, run in runs.items() if (parcel := _kept(run))}
        return "failed", job.places, kept, *_described(error)
    return "done", job.places, {place: pack(run.state()) for place, run in runs.items()}


def _walk(post: Post, job: Job, place: int, run: Run) -> None:
    told = sent = time.monotonic()

    def on_step(run: Run) -> None:
        nonlocal told, sent
        now = time.monotonic()
        if now - sent > job.keep:
            post.home.send(("kept", job.places, {place: pack(run.state())}))
            told = sent = now
        elif now - told > TOLD:
            post.home.send(("at", job.places, {place: run.step}))
            told = now

    run.walk(set(job.marks[place]), job.until, stop=post.stop, on_step=on_step)


def _stride(post: Post, job: Job, engine: Engine, runs: dict[int, Run]) -> None:
    """Take several runs further, and their states home between strides of `keep` seconds."""
    places = {id(run): place for place, run in runs.items()}
    listed = list(runs.values())
    told, count = time.monotonic(), STRIDE

    def on_step(run: Run, step: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told > TOLD:
            post.home.send(("at", job.places, {places[id(run)]: step}))
            told = now

    def marks(run: Run) -> frozenset[int]:
        return job.marks[places[id(run)]]

    while left := pending(listed, job.until, marks):
        least = min(listed[i].step for i in left) + count
        until = least if job.until is None else min(least, job.until)
        started = time.monotonic()
        engine.advance(listed, until, marks=marks, stop=post.stop, on_step=on_step)
        if post.stop():
            return
        # Strides that double find the length that takes `keep` seconds.
        if time.monotonic() - started < job.keep / 2:
            count *= 2
        elif pending(listed, job.until, marks):
            kept = {place: pack(run.state()) for place, run in runs.items()}
            post.home.send(("kept", job.places, kept))


def _kept(run: Run) -> bytes | None:
    try:
        return pack(run.state())
    except Exception:  # noqa: BLE001  (half an update: the last state that was sent stands)
        return None


def _described(error: Exception) -> tuple[bytes | None, str, str]:
    """Return the error as it can be raised elsewhere, if it can be, and in words."""
    text = "".join(traceback.format_exception(error)).strip()
    try:
        blob = pickle.dumps(error)
        pickle.loads(blob)  # noqa: S301  (our own bytes; some errors cannot be rebuilt)
    except Exception:  # noqa: BLE001
        return None, f"{type(error).__name__}: {error}", text
    return blob, str(error), text
