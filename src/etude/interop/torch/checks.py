"""Checks of a scheduler: values within bounds, one signal, no value replaced by accident."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

from torch.optim import Optimizer

from etude.errors import BadValueError
from etude.interop.torch import slots as _slots
from etude.interop.torch.columns import EVERY, Column, Entry
from etude.layerwise.capabilities import row_of
from etude.optimizers.bounds import bounds_of
from etude.optimizers.hyperparameters import Number, strided
from etude.optimizers.own_values import get
from etude.schedules import Schedule

_SCOPE = 3
"""Frames from a warning to the call of `Scheduler(...)`."""


class ScheduledSlot(NamedTuple):
    """Where one schedule is written: group[slot] = s(t), or base · s(t), with low <= value < high.

    Args:
        schedule: The schedule.
        slot: Where a group keeps the value.
        key: The slot's key.
        low: The lowest value.
        high: The first value that is too high.
        members: The groups, each with its base value where the schedule multiplies one.
    """

    schedule: Schedule
    slot: _slots.Slot
    key: str
    low: float
    high: float
    members: list[tuple[dict[str, Any], float | None]]


def bounds(optimizer: Optimizer, name: str, group: Mapping[str, Any], slot: _slots.Slot) -> Number:
    """Return the bounds of a hyperparameter of a group."""
    return bounds_of(name, row_of(type(optimizer)), group, inside=slot.inside is not None)


def values(optimizer: Optimizer, columns: Iterable[Column]) -> None:
    """Raise for a schedule with a length if one of its values is out of bounds.

    Of an endless schedule only the first value is checked here; `refuse` checks the others when
    they are written.

    Raises:
        BadValueError: The message gives the step, the value and the bounds.
    """
    for column in columns:
        for place, group, entry in _scheduled(optimizer, column):
            slot = _slots.find(column.name, group, place)
            base = _slots.base(column.name, group, slot, place) if entry.relative else 1.0
            limits = bounds(optimizer, column.name, group, slot)
            for t in _checked_steps(entry.schedule):
                value = base * entry.schedule.at(t)
                if not _allowed(limits.limits, entry.schedule, t, value):
                    limits.check(f"{column.name} of group {place} at step {t}", value)


def refuse(row: ScheduledSlot, t: int, value: float) -> None:
    """Raise for a value out of bounds, unless it is the limit at which a schedule ends.

    For instance, a momentum that rises to 1 over a run is below 1 at every update of the run.

    Raises:
        BadValueError: The message gives the step, the value and the bounds.
    """
    if not _allowed((row.low, row.high), row.schedule, t, value):
        _out_of_bounds(row, t, value)


def one_signal(columns: Iterable[Column]) -> None:
    """Raise for schedules that react to different signals, since `step(metric)` reports one.

    Raises:
        BadValueError: The message names the signals.
    """
    entries = (entry for column in columns for entry in column.entries.values() if entry)
    signals = sorted({signal for entry in entries for signal in entry.schedule.signals})
    if len(signals) > 1:
        raise BadValueError(
            f"the schedules react to different signals ({' and '.join(signals)}), and step(metric) "
            "reports one: create a Scheduler for each, on the same optimizer"
        )


def warn_of_lost_values(optimizer: Optimizer, columns: Iterable[Column]) -> None:
    """Warn if one schedule for all groups replaces values that differ, or looks like a factor."""
    for column in columns:
        entry = column.entries.get(EVERY)
        if entry is None or entry.relative or column.spelled_out:
            continue
        before = [
            _value_before(column.name, group, place)
            for place, group, other in _scheduled(optimizer, column)
            if other is entry
        ]
        known = [value for value in before if value is not None]
        if column.name == "lr" and any(v != 1.0 for v in known) and _is_factor(entry.schedule):
            rate = known[0]
            warnings.warn(
                f"lr is {entry.schedule!r}, whose peak is 1: it replaces the optimizer's rate "
                f"{rate:g} by a rate of 1. Use Scheduler(optimizer, scale=...) to multiply the "
                f"optimizer's rate by the schedule, lr={rate:g} * (...) to set the rate, or "
                "lr={'*': ...} if a rate of 1 is intended",
                stacklevel=_SCOPE,
            )
        elif len(set(known)) > 1:
            shown = ", ".join(f"{value:g}" for value in dict.fromkeys(known))
            keep = "scale=..." if column.name == "lr" else f"{column.name}=relative(...)"
            warnings.warn(
                f"{column.name} sets all groups to the same value, but they had {shown}. Use "
                f"Scheduler(optimizer, {keep}) to multiply each group's own value, "
                f"{column.name}=[..., ...] to give each group a schedule, or "
                f"{column.name}={{'*': ...}} if one schedule for all groups is intended",
                stacklevel=_SCOPE,
            )


def _scheduled(optimizer: Optimizer, column: Column) -> Iterator[tuple[int, Any, Entry]]:
    """Yield each group that the column schedules, with its number and its entry."""
    for place, group in enumerate(optimizer.param_groups):
        entry = column.of(place, group)
        if entry is not None:
            yield place, group, entry


def _value_before(name: str, group: dict[str, Any], place: int) -> float | None:
    """Return a group's value from before any schedule; None if it has none."""
    slot = _slots.find(name, group, place)
    if get(group, slot) is None:
        return None
    return _slots.base(name, group, slot, place)


def _is_factor(schedule: Schedule) -> bool:
    return abs(max(schedule.at(t) for t in _checked_steps(schedule)) - 1.0) < 1e-9


def _checked_steps(schedule: Schedule) -> list[int]:
    """Return the steps at which a schedule is checked in advance: both ends, and many between."""
    return [0] if schedule.length is None else [*strided(_end(schedule)), _end(schedule)]


def _end(schedule: Schedule) -> int:
    end: int = math.ceil(schedule.length)
    return end


def _allowed(limits: tuple[float, float], schedule: Schedule, t: int, value: float) -> bool:
    low, high = limits
    if low <= value < high:
        return True
    ends = schedule.length is not None and t == _end(schedule)
    return ends and value == high


def _out_of_bounds(row: ScheduledSlot, t: int, value: float) -> NoReturn:
    upper = "" if row.high == float("inf") else f" and below {row.high:g}"
    name = row.key if row.slot.inside is None else f"{row.key}[{row.slot.inside}]"
    raise BadValueError(
        f"{name} would be {value:g} at step {t}: it must be at least {row.low:g}{upper}; end the "
        "schedule earlier, or .clip it"
    )
