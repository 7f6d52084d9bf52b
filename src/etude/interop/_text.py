"""Schedules as text inside other people's files: readable, and without a bound on their length."""

from __future__ import annotations

from typing import Any

from etude.errors import BadTypeError, BadValueError
from etude.schedules import Schedule, from_json, parse, to_json
from etude.schedules.text import MAX_CHARACTERS


def write(schedule: Schedule) -> str:
    """Return the text of a schedule; as JSON if it is longer than `parse` reads.

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


def bound(name: str, value: Any) -> Schedule:
    """Return a bound schedule, given as such or as text.

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
