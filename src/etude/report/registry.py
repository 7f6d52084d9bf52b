"""`present`: creates the report on a result of any type.

Each type of result has one file in `etude.report.kinds`, which registers the function that creates
its report. To add a type, add a file there; it is found automatically.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from functools import cache, singledispatch
from importlib import import_module
from typing import Any, TypeVar

from etude.errors import BadTypeError, kind_of
from etude.report.document import Report
from etude.tasks.task import Task

R = TypeVar("R")


def present(result: object, *, task: Task | None = None) -> Report:
    """Return the report on a result, as plain data that the terminal and the page draw.

    Args:
        result: What `train`, `tune`, `grid`, `range_test`, `compare_methods`, `edge`, `transfer`,
            `sensitivity`, `coordinate_check` or `layer_rates` returned, or a `ScheduleValues`.
        task: The task; if it has a `step`, the printed PyTorch loop calls that step.

    Raises:
        BadTypeError: If there is no report for this type of result.

    >>> from etude.recipe import Recipe
    >>> from etude.training.train import train
    >>> import torch
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> task = Task(torch.nn.Linear(1, 1), (x, x), loss=torch.nn.functional.mse_loss, name="line")
    >>> report = present(train(task, Recipe(lr=0.1, steps=20, batch_size=16)))
    >>> report.title, report.facts[0].value
    ('line trained at a learning rate of 0.1', 'finished')
    """
    known()
    return _report_on(result, task)


def presents(kind: type[R]) -> Callable[[Callable[[R, Task | None], Report]], object]:
    """Register the function that creates the report for a type of result.

    Args:
        kind: The class of the results, or a base class.
    """
    return _report_on.register(kind)


@cache
def known() -> tuple[type, ...]:
    """Return the types of results for which there is a report."""
    kinds = import_module("etude.report.kinds")
    for found in pkgutil.iter_modules(kinds.__path__, "etude.report.kinds."):
        import_module(found.name)
    return tuple(kind for kind in _report_on.registry if kind is not object)


@singledispatch
def _report_on(result: Any, task: Task | None) -> Report:
    names = sorted(f"{'an' if k.__name__[0] in 'AEIOU' else 'a'} {k.__name__}" for k in known())
    raise BadTypeError(
        f"there is no report for {kind_of(result)}, only for {', '.join(names[:-1])} or "
        f"{names[-1]}: give the result of tune or train"
    )
