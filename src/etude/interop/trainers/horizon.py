"""Binds schedules to the length of a run, which some trainers know only when they start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etude.interop._text import read
from etude.interop.torch.columns import Relative
from etude.schedules import Clock, Schedule


def over(form: Any, clock: Clock) -> Any:
    """Return an argument of `Scheduler` with every schedule in it bound to the run's length.

    Examples:
        >>> over({"head": "warmup('10%') >> cosine()", "*": None}, Clock(horizon=100))
        {'head': warmup(10) >> cosine(90), '*': None}
    """
    if isinstance(form, str):
        form = read(form)
    if isinstance(form, Schedule):
        return form if form.is_bound else form.over(clock)
    if isinstance(form, Relative):
        return Relative(over(form.shape, clock))
    if isinstance(form, Mapping):
        return {key: over(value, clock) for key, value in form.items()}
    if isinstance(form, list | tuple):
        return [over(value, clock) for value in form]
    return form


def all_over(schedules: Mapping[str, Any], clock: Clock) -> dict[str, Any]:
    """Return the arguments of `Scheduler`, bound to the run's length."""
    return {name: over(form, clock) for name, form in schedules.items()}
