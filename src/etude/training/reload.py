"""A run put back to a saved state: of the same recipe, or of one that differs in its length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from etude.errors import EtudeError, StorageError, member, shorten, shown
from etude.optimizers.state import restore
from etude.record import Evaluation, Status
from etude.storage.model_weights import load_state
from etude.tasks.source import Cursor

if TYPE_CHECKING:
    from etude.training.run import Run


def reload(run: Run, state: Mapping[str, Any]) -> None:
    """Put a run back to a saved state; see `Run.load`.

    Raises:
        StorageError: If the state is of another recipe or model, or damaged.
    """
    try:
        _reload(run, state)
    except EtudeError:
        raise
    except Exception as error:
        raise StorageError(f"the checkpoint is damaged: {type(error).__name__}: {error}") from error


def _reload(run: Run, state: Mapping[str, Any]) -> None:
    same = state["recipe"] == run.recipe.digest
    if not same and not _of_another_length(run, state):
        raise StorageError(
            f"the checkpoint is of recipe {state['recipe']}, not {run.recipe.digest}: "
            "resume with the recipe.toml beside it"
        )
    try:
        load_state(run.model, state["model"])
        restore(run.optimizer, state["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        said = " ".join(str(error).split())
        raise StorageError(f"the checkpoint is of another model: {shorten(said, 300)}") from error
    _check_plain(state)
    run.step, run.reason = state["step"], state["reason"]
    run.status = member(Status, state["status"], "status")
    run.extended = [(step, length) for step, length in state.get("extended", ())]
    if not same and state["length"] != run.length:
        run.extended.append((run.step, state["length"]))
    run.heard = heard(run.extended, run.length, run.recipe.evaluations)
    if run.status == Status.FINISHED and run.step == state.get("length", run.length) < run.length:
        run.status = Status.STOPPED
        if run.weights is not None and run.weights.settled:
            run.optimizer.train()  # type: ignore[attr-defined]
    if run.status == Status.STOPPED:
        run.reason = ""  # whatever stopped it is over
    run.seconds, run.threads = state["seconds"], state["threads"]
    run.extra, run.graded = state["extra"], -1
    if run.stopping is not None:
        run.stopping.load(state["stopping"])
    run.series = {name: values.tolist() for name, values in state["series"].items()}
    run.evaluations = [Evaluation.of(e) for e in state["evaluations"]]
    run._react(run.evaluations)
    run._randomness.load(state["random"])
    run._cursor = Cursor(**state["place"])
    run._place = run._cursor
    run._stream = None
    run._pending.clear()
    run.loaded = run.step
    if run.step >= run.length and not run.ended:
        run._finish()  # it was killed between its last update and saying so


@contextmanager
def refused_state(loaded: bool) -> Iterator[None]:
    """Say so where an optimizer cannot go on from the state that was read for it.

    What an optimizer remembers has shapes and types of its own making: only its first update shows
    whether a file holds them.

    Args:
        loaded: Whether this is the first update after the state was put back.

    Raises:
        StorageError: In place of the optimizer's own error.
    """
    try:
        yield
    except (EtudeError, torch.linalg.LinAlgError, torch.OutOfMemoryError):  # type: ignore[attr-defined]
        raise
    except Exception as error:
        if not loaded:
            raise
        reason = str(error).partition("\n")[0]
        raise StorageError(
            f"the checkpoint holds an optimizer's state that does not fit: {reason}; go on from "
            "an earlier checkpoint, or train anew in another folder"
        ) from error


def _of_another_length(run: Run, state: Mapping[str, Any]) -> bool:
    """Whether a state is of the run's recipe but for `steps`."""
    steps = state.get("steps")
    return steps is not None and run.recipe.replace(steps=steps).digest == state["recipe"]


def _check_plain(state: Mapping[str, Any]) -> None:
    """Refuse numbers and texts of a state that no run has written."""
    whole = {"step": 0, "threads": 1, "extra": 0}
    for name, least in whole.items():
        value = state[name]
        if not _whole(value) or value < least:
            raise StorageError(f"the checkpoint is damaged: its {name} is {shown(value)}")
    if state["status"] not in set(Status):
        raise StorageError(f"the checkpoint is damaged: its status is {shown(state['status'])}")
    if not isinstance(state["reason"], str) or not _real(state["seconds"]):
        raise StorageError("the checkpoint is damaged: its reason or its seconds are of no run")
    place = state["place"]
    if not all(_whole(place[name]) for name in ("epoch", "batch")):
        raise StorageError(f"the checkpoint is damaged: its place is {shown(place)}")
    for one in state["evaluations"]:
        numbers = [one["loss"], *one["parts"], *(() if one["metric"] is None else [one["metric"]])]
        if not _whole(one["step"]) or not all(_real(number) for number in numbers):
            raise StorageError(f"the checkpoint is damaged: an evaluation is {shown(one)}")
    if not all(_whole(n) for pair in state.get("extended", ()) for n in pair):
        raise StorageError("the checkpoint is damaged: it was extended at no update")
    lengths = {len(values) for values in state["series"].values()}
    if lengths != {state["step"]}:
        raise StorageError(
            f"the checkpoint is damaged: its series are {sorted(lengths)} long after "
            f"{state['step']} updates"
        )


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2**53


def _real(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def marks_of(length: int, count: int) -> set[int]:
    """Return the updates that cut a length into `count` parts, both ends included.

    >>> sorted(marks_of(10, 4))
    [0, 2, 5, 7, 10]
    """
    return {length * i // count for i in range(count + 1)}


def heard(extended: Iterable[tuple[int, int]], length: int, count: int) -> set[int]:
    """Return the updates at which a run's own looks lie, whose length was changed on the way.

    Args:
        extended: (update, length until then), in order.
        length: From the last of them on.
        count: Looks over a run.

    >>> sorted(heard([(10, 10)], 20, 4))
    [0, 2, 5, 7, 10, 15, 20]
    """
    found: set[int] = {0}
    begin = 0
    for until, own in (*extended, (length, length)):
        found |= {mark for mark in marks_of(own, count) if begin < mark <= until}
        begin = until
    return found
