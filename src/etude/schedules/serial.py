"""Schedules as JSON: a tree of plain data, validated when it is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from etude.errors import BadTypeError, BadValueError, EtudeError, kind_of, shown, unknown_name
from etude.schedules._base import Schedule
from etude.schedules._kind import Kind
from etude.schedules.algebra import Join, Product, Sum
from etude.schedules.feedback.log import EventLog
from etude.schedules.registry import KINDS
from etude.schedules.text import MAX_DEPTH
from etude.schedules.timing import Fit, Repeat, Shift, Stretch, Take
from etude.schedules.wrappers import Clip, Offset, Scale

MAX_JSON_CHARACTERS = 100_000_000
"""The longest JSON that is read, enough for a log of a few million events."""

OPERATIONS: dict[str, type[Schedule]] = {
    "clip": Clip,
    "fit": Fit,
    "join": Join,
    "offset": Offset,
    "product": Product,
    "repeat": Repeat,
    "scale": Scale,
    "shift": Shift,
    "stretch": Stretch,
    "sum": Sum,
    "take": Take,
}
"""The nodes of the algebra, by their name in JSON."""

_NAMES = {cls: name for name, cls in OPERATIONS.items()}


def to_json(schedule: Schedule) -> str:
    """Write a schedule as JSON: each node an object with its `kind` and its arguments.

    Args:
        schedule: Any schedule, bound or not.

    Returns:
        One line of JSON, from which `from_json` builds an equal schedule.

    Examples:
        >>> from etude.schedules import cosine
        >>> to_json(0.1 * cosine(500))
        '{"kind": "scale", "factor": 0.1, "body": {"kind": "cosine", "length": 500}}'
    """
    if not isinstance(schedule, Schedule):
        raise BadTypeError(f"schedule is {schedule!r}; it must be a schedule: parse(text)")
    return json.dumps(_written(schedule), allow_nan=False)


def from_json(text: str) -> Schedule:
    """Read a schedule from JSON.

    Args:
        text: The JSON that `to_json` wrote, nested at most 100 deep.

    Returns:
        The schedule.

    Raises:
        BadValueError: The text is not valid JSON, or not a schedule.

    Examples:
        >>> from_json('{"kind": "cosine", "length": 500}')
        cosine(500)
    """
    if not isinstance(text, str):
        raise BadTypeError(f"JSON must be text, not {kind_of(text)}")
    if len(text) > MAX_JSON_CHARACTERS:
        raise BadValueError(f"the JSON has {len(text)} characters; at most 10**8 are read")
    try:
        data = json.loads(text)
    except RecursionError:
        raise BadValueError(f"the JSON is nested more than {MAX_DEPTH} deep") from None
    except ValueError as error:
        raise BadValueError(f"this is not JSON: {error}") from None
    return _read(data, 0)


def _written(schedule: Schedule) -> dict[str, Any]:
    name = schedule.name if isinstance(schedule, Kind) else _NAMES[type(schedule)]
    spelling = schedule.spelling if isinstance(schedule, Kind) else {}
    data: dict[str, Any] = {"kind": name}
    for field in fields(schedule):  # type: ignore[arg-type]
        value = schedule.argument(field.name)
        if not field.init or (isinstance(schedule, Kind) and value == field.default):
            continue
        if isinstance(value, EventLog):
            if len(value):
                data["log"] = list(value)
        elif isinstance(value, Schedule):
            data[field.name] = _written(value)
        elif isinstance(value, tuple) and value and isinstance(value[0], Schedule):
            data[field.name] = [_written(v) for v in value]
        else:
            data[spelling.get(field.name, field.name)] = value
    return data


def _read(data: Any, depth: int) -> Schedule:
    if depth > MAX_DEPTH:
        raise BadValueError(f"the JSON is nested more than {MAX_DEPTH} deep: make it flatter")
    if not isinstance(data, dict) or not isinstance(data.get("kind"), str):
        raise BadValueError(f'{shown(data)} is not a schedule; expected {{"kind": ..., ...}}')
    name = data["kind"]
    make: Callable[..., Any]
    if name in OPERATIONS:
        make = OPERATIONS[name]
    elif name in KINDS:
        make = KINDS[name].make
    else:
        raise unknown_name("kind", name, [*KINDS, *OPERATIONS])
    given = {key: _value(value, depth + 1) for key, value in data.items() if key != "kind"}
    try:
        schedule = make(**given)
    except EtudeError:
        raise
    except TypeError as error:
        raise BadValueError(f"cannot read {shown(data)}: {error}") from None
    assert isinstance(schedule, Schedule)
    return schedule


def _value(value: Any, depth: int) -> Any:
    if isinstance(value, dict):
        return _read(value, depth)
    if not isinstance(value, list):
        return value
    if depth > MAX_DEPTH:
        raise BadValueError(f"the JSON is nested more than {MAX_DEPTH} deep: make it flatter")
    return tuple(_value(v, depth + 1) for v in value)
