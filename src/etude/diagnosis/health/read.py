"""Reads back what the watch of a run has noted in its record."""

from __future__ import annotations

from etude.diagnosis.finding import Diagnosis
from etude.diagnosis.health.finding_plain import diagnosis_of
from etude.diagnosis.health.history_tree import from_plain
from etude.diagnosis.health.shape import HealthShape
from etude.errors import StorageError
from etude.record import Record
from etude.record_shape import refuse_other

NAME = "watch"
"""The name of the observer, under which a record has its note."""

UNWATCHED = " not watched."
"""How the sentence ends that says which updates nobody watched."""


def health_of(record: Record) -> Diagnosis | None:
    """Return what a watch has found in a run; None if the run was not watched.

    Raises:
        StorageError: If the note is damaged.

    >>> import torch
    >>> from etude import Recipe, Task
    >>> from etude.diagnosis.health.watched import train
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> task = Task(lambda: torch.nn.Linear(1, 1), (x, 3 * x), loss=torch.nn.functional.mse_loss)
    >>> record = train(task, Recipe(lr=0.1, steps=60, batch_size=16), watch=True)
    >>> print(health_of(record))
    healthy
    """
    note = record.notes.get(NAME)
    if note is None:
        return None
    try:
        refuse_other(note, HealthShape)
        history = note.get("history")
        return diagnosis_of(note["diagnosis"], None if history is None else from_plain(history))
    except (StorageError, ValueError, TypeError) as error:
        raise StorageError(f"what the watch noted is damaged: {error}") from error
