"""What a process of the pool does: take the run it is given further, and send its state home."""

from __future__ import annotations

import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from etude.training.engines.parcel import pack
from etude.training.run import Run

TOLD = 0.05
"""Seconds between two messages on how far a run is."""


@dataclass(frozen=True)
class Job:
    """One run to take further.

    Attributes:
        index: Its place among the runs.
        until: The updates to stand at.
        marks: The updates at which to evaluate.
        keep: Seconds after which its state is sent home.
    """

    index: int
    until: int | None
    marks: frozenset[int]
    keep: float


def alone(parent: int) -> bool:
    """Say whether the process that started this one is gone."""
    return os.getppid() != parent


def serve(
    home: Connection, run_of: Callable[[Job, bytes | None], Run], flag: Any, parent: int
) -> None:
    """Do jobs until told to stop.

    Args:
        home: Where jobs, each with a state or None, come from and answers go to.
        run_of: Finds or builds the run of a job.
        flag: A shared number; anything but 0 asks to stop.
        parent: The process to work for; when it is gone, so is this one.
    """
    # Ctrl-C reaches the whole terminal: the parent decides, and asks through the flag.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    try:
        while True:
            while not home.poll(0.5):
                if alone(parent):
                    return
            message = home.recv()
            if message is None:
                return
            job, state = message
            home.send(_do(home, job, run_of, state, flag, parent))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # nobody is left to answer to


def _do(
    home: Connection,
    job: Job,
    run_of: Callable[[Job, bytes | None], Run],
    state: bytes | None,
    flag: Any,
    parent: int,
) -> tuple[Any, ...]:
    run: Run | None = None
    try:
        run = run_of(job, state)
        _walk(home, job, run, flag, parent)
    except Exception as error:  # noqa: BLE001  (it is raised again at home)
        kept = None if run is None else _kept(run)
        return "failed", job.index, kept, *_described(error)
    return "done", job.index, pack(run.state())


def _walk(home: Connection, job: Job, run: Run, flag: Any, parent: int) -> None:
    told = sent = time.monotonic()

    def stop() -> bool:
        return bool(flag.value) or alone(parent)

    def on_step(run: Run) -> None:
        nonlocal told, sent
        now = time.monotonic()
        if now - sent > job.keep:
            home.send(("kept", job.index, pack(run.state())))
            told = sent = now
        elif now - told > TOLD:
            home.send(("at", job.index, run.step))
            told = now

    run.threads = 1
    run.walk(set(job.marks), job.until, stop=stop, on_step=on_step)


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
