"""What a Ray worker does: builds a run from what was sent, trains it for a while, sends it back."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from etude import errors
from etude.engines.process.state_transfer import pack, unpack
from etude.engines.ray.sent import built_run, built_task
from etude.engines.worker_settings import use
from etude.errors import EtudeError, TaskError
from etude.tasks.task import Task
from etude.training.request import AdvanceRequest

Failure: TypeAlias = tuple[str, str, str]
"""The class of an error, its message, and its traceback."""


@dataclass(frozen=True)
class Piece:
    """How far a worker trains a run.

    Attributes:
        until: The number of updates to train to.
        evaluation_steps: The updates after which to evaluate.
        seconds: Seconds after which to pause before that.
    """

    until: int
    evaluation_steps: tuple[int, ...]
    seconds: float


class _Kept:
    """The task of this process: the next run needs it too."""

    task: Task | None = None
    key: str = ""


def train_piece(
    told: Mapping[str, Any],
    sent: Mapping[str, Any],
    run: Mapping[str, Any],
    state: bytes,
    piece: tuple[int, tuple[int, ...], float],
) -> tuple[Failure | None, bytes | None]:
    """Train a run from a state, and return what failed, and the new state.

    Args:
        told: What `worker_settings` returned.
        sent: What `sent_task` returned.
        run: What `sent_run` returned.
        state: The packed state of the run.
        piece: The fields of a `Piece`.

    Returns:
        The failure, or None; and the packed state, or None if it is not whole after a failure.
    """
    asked = Piece(*piece)
    trained = None
    try:
        use(told)
        trained = built_run(_task(sent), run, unpack(state))
        end = time.monotonic() + asked.seconds
        first = trained.step

        def stop() -> bool:
            # At least one update: a piece that does none would be sent back and forth forever.
            return trained.step > first and time.monotonic() > end

        trained.advance(AdvanceRequest(asked.until, asked.evaluation_steps, stop))
        return None, pack(trained.state_dict())
    except Exception as error:  # noqa: BLE001  (the driver raises it again)
        whole = None
        if trained is not None:
            with contextlib.suppress(Exception):  # half an update: the driver's state is kept
                whole = pack(trained.state_dict())
        return failure_of(error), whole


def _task(sent: Mapping[str, Any]) -> Task:
    if _Kept.task is None or _Kept.key != sent["key"]:
        _Kept.task, _Kept.key = None, ""
        _Kept.task, _Kept.key = built_task(sent), sent["key"]
    return _Kept.task


def failure_of(error: BaseException) -> Failure:
    """Return what is sent of an error: text alone, which nothing needs to unpickle."""
    trace = "".join(traceback.format_exception(error)).strip()
    if isinstance(error, EtudeError):
        return type(error).__name__, str(error), trace
    return "", f"{type(error).__name__}: {error}", trace


def error_of(failure: Failure) -> EtudeError:
    """Return the error that `failure_of` described; one that is not Etude's is a TaskError.

    >>> error_of(failure_of(errors.BadValueError("too large")))
    BadValueError('too large')
    >>> error_of(failure_of(ZeroDivisionError("division by zero")))
    TaskError('ZeroDivisionError: division by zero')
    """
    name, text, trace = failure
    kind = getattr(errors, name, TaskError) if name else TaskError
    known = isinstance(kind, type) and issubclass(kind, EtudeError)
    error: EtudeError = (kind if known else TaskError)(text)
    error.add_note(trace)
    return error
