"""Tasks that the tuner was not shaped on: data of no bundled task, and tasks that learn late.

    from benchmarks.fresh import HELD, OPEN, TASKS
    task = TASKS["vowels-lstm"]()

`OPEN` may be looked at while the tuner is changed. `HELD` stays unopened until a design is fixed:
no run of rates on it is looked at before. Which is which was drawn by lot. README.md lists the
tasks and the sources of their data; `python -m benchmarks.fresh` fills the cache of the data.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from benchmarks.fresh import late, pictures, series, tables
from benchmarks.fresh.data import missing
from benchmarks.fresh.row import Row
from etude.tasks.task import Task

__all__ = ["HELD", "OPEN", "ROWS", "TASKS", "Row", "absent", "get"]

ROWS = {row.name: row for row in (*series.ROWS, *tables.ROWS, *pictures.ROWS, *late.ROWS)}
"""Every task by name."""

TASKS: dict[str, Callable[[], Task]] = {name: row.build for name, row in ROWS.items()}
"""Name -> function that builds the task."""


def _lot() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the open and the held names: half each, of tasks that learn late as of the others."""
    draw = random.Random("etude fresh tasks")
    held: set[str] = set()
    for is_late in (False, True):
        names = sorted(name for name, row in ROWS.items() if row.late == is_late)
        held.update(draw.sample(names, len(names) // 2))
    return tuple(n for n in ROWS if n not in held), tuple(n for n in ROWS if n in held)


OPEN, HELD = _lot()


def get(name: str) -> Task:
    """Return a fresh task by name."""
    return TASKS[name]()


def absent(name: str) -> str:
    """Say why a task cannot be built here; empty if it can."""
    return missing(ROWS[name].data)
