"""Finds out whether a batch, rather than the rate, makes runs diverge."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from etude.errors import EtudeError
from etude.model_copy import copy_model
from etude.randomness import random_state_kept
from etude.tasks.sources.data import Cursor, IndexedData, TensorData
from etude.training.checks.check import faults
from etude.training.evaluation.evaluate import move
from etude.training.machine.eager import eagerly
from etude.training.run import Run

APART = 6.0
"""The range of rates, in decades, that must diverge at the same update to exclude the rate as the
cause."""

FURTHEST = 2_000
"""The number of batches up to which data that cannot be indexed are searched."""

ROWS = 4
"""The largest number of rows in a message."""


@dataclass(frozen=True)
class End:
    """The end of a run: its rate, its number of updates, and whether the next update diverged."""

    lr: float
    steps: int
    diverged: bool


def common_update(ends: Sequence[End]) -> int | None:
    """Return the update at which every run that reached it diverged; None if there is none.

    >>> common_update([End(0.1, 7, True), End(0.01, 7, True), End(0.001, 5, False)])
    7
    >>> common_update([End(0.1, 7, True), End(0.01, 7, True), End(0.001, 8, False)]) is None
    True
    """
    broke = {end.steps for end in ends if end.diverged}
    if len(broke) != 1:
        return None
    (update,) = broke
    return None if any(end.steps > update for end in ends) else update


def last_update(ends: Sequence[End]) -> int | None:
    """Return the update that no run got past; None if there is none.

    Runs at rates above those that diverged there may have diverged before: their rate may be to
    blame, and a batch for the others.

    >>> last_update([End(9.0, 5, True), End(0.1, 7, True), End(0.01, 7, True)])
    7
    >>> last_update([End(9.0, 5, True), End(0.1, 7, True), End(0.01, 8, False)]) is None
    True
    """
    update = max((end.steps for end in ends if end.diverged), default=None)
    if update is None or any(end.steps > update for end in ends):
        return None
    there = [end.lr for end in ends if end.diverged and end.steps == update]
    before = [end.lr for end in ends if end.diverged and end.steps < update]
    return None if before and min(before) < max(there) else update


def verdict(ends: Sequence[End], batch_said: Callable[[int], str]) -> tuple[int | None, str]:
    """Return the update at which all runs diverge, and the cause if it is not the rate.

    Args:
        ends: How the runs ended, which differ in their rates only.
        batch_said: Returns what is wrong with the batch of an update; empty if nothing is.

    Returns:
        The update, None if there is none; and the cause in words, empty if it may be the rate.
    """
    last, common = last_update(ends), common_update(ends)
    if last is not None and (said := batch_said(last)):
        return last, said
    if common is None:
        return None, ""
    return common, "rates six decades apart break there" if far_apart(ends) else ""


def far_apart(ends: Sequence[End]) -> bool:
    """Return whether the rates that diverged differ so much that the rate is not the cause."""
    rates = [end.lr for end in ends if end.diverged]
    return math.log10(max(rates) / min(rates)) >= APART - 1e-9


@eagerly()
def bad_batch(run: Run, update: int) -> str:
    """Return what is wrong with the batch of an update at any rate; empty if nothing is.

    It computes the loss of the untrained model on that batch, without a gradient.

    Args:
        run: A new run; its model and its position in the data do not change.
        update: The number of the update, from 0.
    """
    data, micro = run.task.train, run.recipe.accumulate
    place = micro * update
    if not isinstance(data, IndexedData) and place + micro > FURTHEST:
        return ""
    size, seed = run.batch_size, run.recipe.seed
    with random_state_kept(0), data.untouched():
        cursor = Cursor()
        if isinstance(data, IndexedData):
            cursor = Cursor(*divmod(place, data.steps_per_epoch(size)))
            index = TensorData((torch.arange(data.samples),)).stream(size, seed, _copy(cursor))
        stream = data.stream(size, seed, cursor)
        if not isinstance(data, IndexedData):
            for _ in range(place):
                next(stream)
        for _ in range(micro):
            batch = move(next(stream), run.device)
            rows = next(index)[0] if isinstance(data, IndexedData) else None
            if said := _fault(run, batch):
                return f"{said}{_named(rows, getattr(data, 'origin', None))}"
    return ""


def batch_to_blame(ends: Sequence[End], fresh: Callable[[], Run]) -> str:
    """Return in a sentence that a batch ends every run at any rate; empty if none does.

    Args:
        ends: How the runs ended, which differ in their rates only.
        fresh: Returns a new run of the same data and seed.
    """
    update = last_update(ends)
    if update is None:
        return ""
    run = fresh()
    found = bad_batch(run, update)
    return found and said_of_break(update, found, run.parameters)


def said_of_break(update: int, cause: str, parameters: Iterable[Tensor]) -> str:
    """Return in a sentence that no rate gets past an update, and why.

    Args:
        update: The update.
        cause: Why it breaks at any rate.
        parameters: The weights of the model, whose types may be to blame.
    """
    kinds = {str(parameter.dtype).removeprefix("torch.") for parameter in parameters}
    narrow = sorted(kinds & {"float16", "bfloat16"})
    said = (
        f"Every rate that came to update {update} broke there, and the rate is not the cause: "
        f"{cause}"
    )
    if not narrow:
        return f"{said}. Look at that data, and at what model and loss make of it."
    return (
        f"{said}. The weights are {narrow[0]}: keep them in float32, and give the recipe "
        "precision='bfloat16' for speed."
    )


def _copy(cursor: Cursor) -> Cursor:
    return Cursor(cursor.epoch, cursor.batch)


def _fault(run: Run, batch: Any) -> str:
    """Return the untrained model's loss on a batch in words, if it is not finite."""
    model = copy_model(run.model)
    try:
        with torch.no_grad(), run.autocast():
            found = run.task.weighed(model, batch)[0].read()
    except (EtudeError, RuntimeError):
        return ""
    loss = float(found.mean)
    if math.isfinite(loss) or found.weight == 0:
        return ""
    cause = faults(batch, run.task)
    held = f" ({cause.partition(', the first')[0]})" if cause else ""
    return f"the loss on its batch is {loss} even with the untrained weights{held}"


def _named(rows: Tensor | None, origin: Tensor | None) -> str:
    """Return the rows of the training data in a batch, in words."""
    if rows is None:
        return ""
    numbers = sorted((rows if origin is None else origin[rows]).tolist())
    shown = ", ".join(map(str, numbers[:ROWS]))
    more = f" and {len(numbers) - ROWS} more" if len(numbers) > ROWS else ""
    return f"; it holds the training row{'s' if len(numbers) > 1 else ''} {shown}{more}"
