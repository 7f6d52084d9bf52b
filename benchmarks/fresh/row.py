"""One row of the table of fresh tasks, and the recipes that several rows share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from etude.tasks.task import Task

ADAMW: Mapping[str, Any] = {"optimizer": "adamw", "schedule": "warmup('5%') >> cosine()"}
MOMENTUM: Mapping[str, Any] = {
    "optimizer": {"name": "sgd", "momentum": 0.9},
    "schedule": "cosine()",
}
PLAIN: Mapping[str, Any] = {
    "optimizer": {"name": "sgd", "momentum": 0.0},
    "schedule": "cosine()",
}
STABLE = "warmup('5%') >> constant(length='65%') >> linear()"
"""Warmup, a long constant part, and a decay: the schedule known as WSD."""


@dataclass(frozen=True)
class Row:
    """One task that the tuner was not shaped on.

    Attributes:
        name: The task's name.
        kind: What it stands for, in a few words.
        source: The package that ships its data and what they are; 'synthetic' without any.
        build: Returns the task.
        data: The names of its arrays in `benchmarks.fresh.data`.
        late: Whether validation shows little or nothing for the first part of a good run.
    """

    name: str
    kind: str
    source: str
    build: Callable[[], Task]
    data: tuple[str, ...] = ()
    late: bool = False
