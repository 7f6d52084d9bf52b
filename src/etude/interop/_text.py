"""Writes and reads schedules as text for files of other libraries, whatever their length."""

from __future__ import annotations

import math
from typing import Any

from etude.errors import BadTypeError, BadValueError
from etude.optimizers.hyperparameters import Number, checked_steps
from etude.schedules import Schedule, from_json, parse, to_json
from etude.schedules.text import MAX_CHARACTERS


def write(schedule: Schedule) -> str:
    """Return the text of a schedule, or its JSON if the text is too long for `parse`.

    Examples:
        >>> from etude.schedules import cosine
        >>> write(0.1 * cosine(500))
        '0.1 * cosine(500)'
    """
    text = repr(schedule)
    return text if len(text) <= MAX_CHARACTERS else to_json(schedule)


def read(text: str) -> Schedule:
    """Return the schedule that `write` wrote.

    Examples:
        >>> read('{"kind": "cosine", "length": 500}')
        cosine(500)
    """
    return from_json(text) if text.lstrip().startswith("{") else parse(text)


def pure(value: Any, peer: str, way_out: str) -> Schedule:
    """Return a bound schedule that depends on the step alone.

    Args:
        value: The schedule, or its text.
        peer: The library that will call it, for the error message.
        way_out: What to do instead if it reacts to a metric, for the error message.

    Raises:
        BadTypeError: It is not a schedule.
        BadValueError: It lacks a length, or reacts to a metric.
    """
    schedule = bound("schedule", value)
    if schedule.has_feedback:
        raise BadValueError(
            f"schedule is {schedule!r}, which reacts to a metric, and {peer} calls a schedule with "
            f"the step alone: without a metric its value would never change. {way_out}"
        )
    return schedule


def within(limits: Number, name: str, schedule: Schedule, way_out: str) -> None:
    """Raise if a schedule has a value outside of the bounds of its hyperparameter.

    A schedule with a length is checked up to its end, an endless one at step 0 and at the powers
    of two up to a million.

    Raises:
        BadValueError: The message gives the step, the value, the bounds and the fix.
    """
    end = None if schedule.length is None else math.ceil(schedule.length)
    steps = (
        [0, *(2**i for i in range(21))]
        if end is None
        else [*checked_steps(schedule, end, limits.limits), end]
    )
    for t in steps:
        try:
            limits.check(f"{name} at step {t}", schedule(t))
        except BadValueError as error:
            raise BadValueError(f"{error}; {way_out}") from None


def bound(name: str, value: Any) -> Schedule:
    """Return a bound schedule, from a schedule or its text.

    Raises:
        BadTypeError: It is neither.
        BadValueError: It lacks a length.
    """
    schedule = read(value) if isinstance(value, str) else value
    if not isinstance(schedule, Schedule):
        raise BadTypeError(
            f"{name} is {value!r}; it must be a schedule or its text, such as constant(0.1) or "
            "'0.1 * cosine(10_000)'"
        )
    if not schedule.is_bound:
        raise BadValueError(
            f"{name} is {schedule!r}, which has no length in steps yet: pass it as "
            f"schedule.over(10_000), with the number of updates of the run"
        )
    return schedule
