"""The columns of a scheduler: for each hyperparameter, the schedule of each group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from etude.errors import BadTypeError, BadValueError, unknown_name
from etude.interop._text import bound, read, write
from etude.schedules import EventLog, Schedule, diff

EVERY = "*"
"""The key that stands for every group without a key of its own."""

_RELATIVE = "base * "


@dataclass(frozen=True, slots=True)
class Entry:
    """A schedule of values, or of multiples of each group's base value."""

    schedule: Schedule
    relative: bool = False

    def text(self) -> str:
        """Return the entry as text: `0.1 * cosine(500)`, or `base * (cosine(500))`."""
        text = write(self.schedule)
        return f"{_RELATIVE}({text})" if self.relative else text

    @classmethod
    def of_text(cls, text: str) -> Entry:
        """Return the entry that `text` wrote."""
        relative = text.startswith(_RELATIVE)
        return cls(read(text.removeprefix(_RELATIVE)[1:-1] if relative else text), relative)

    def with_events(self, log: EventLog) -> Entry:
        """Return the entry after more events."""
        if not self.schedule.has_feedback:
            return self
        return replace(self, schedule=self.schedule.with_events(log, add=True))


@dataclass(frozen=True, slots=True)
class Relative:
    """A schedule of multiples of each group's base value; `relative` creates it."""

    shape: Any


@dataclass(frozen=True, slots=True)
class Column:
    """One hyperparameter: entries by group number, by group name, or for every group ('*').

    Args:
        name: The hyperparameter, such as 'lr'.
        entries: The entries by key; None leaves a group unchanged.
        exact: The number of groups, if a list gives one schedule for each; None for other forms.
        spelled_out: Whether the user gave a mapping, whose keys may include '*'.
    """

    name: str
    entries: Mapping[int | str, Entry | None]
    exact: int | None = None
    spelled_out: bool = False

    def of(self, place: int, group: Mapping[str, Any]) -> Entry | None:
        """Return the entry of a group, or None if it is left unchanged."""
        name = group.get("name")
        if name is not None and name in self.entries:
            return self.entries[name]
        if place in self.entries:
            return self.entries[place]
        if self.exact is not None:
            raise BadValueError(
                f"the optimizer has a group {place}, but {self.name} lists schedules for "
                f"{self.exact}: add groups with scheduler.add_param_group(group, {self.name}=...), "
                f"or give a mapping such as {{0: ..., '{EVERY}': ...}}"
            )
        return self.entries.get(EVERY)

    def texts(self) -> dict[str, str | None]:
        """Return the entries as text, by key."""
        return {
            str(key): None if entry is None else entry.text() for key, entry in self.entries.items()
        }

    def with_events(self, log: EventLog) -> Column:
        """Return the column after more events."""
        entries = {k: None if e is None else e.with_events(log) for k, e in self.entries.items()}
        return replace(self, entries=entries)

    def plus(self, place: int, form: Any) -> Column:
        """Return the column with an entry for a new group, unless '*' applies to it."""
        if form is None and self.exact is None:
            return self
        entry = None if form is None else _entry(f"{self.name} of group {place}", form, False)
        exact = None if self.exact is None else max(self.exact, place + 1)
        return replace(self, entries={**self.entries, place: entry}, exact=exact)

    @property
    def has_feedback(self) -> bool:
        """Whether one of its schedules reacts to a metric."""
        return any(e.schedule.has_feedback for e in self.entries.values() if e is not None)


def column(name: str, form: Any, groups: list[dict[str, Any]], relative: bool = False) -> Column:
    """Return the column that a user's argument describes.

    Args:
        name: The hyperparameter.
        form: A schedule or its text for every group; a sequence with one for each group; or a
            mapping from a group's number or name, or '*' for all others. None leaves a group
            unchanged.
        groups: The optimizer's current groups.
        relative: Whether the values are multiples of each group's base value.

    Raises:
        BadTypeError: The form is none of these.
        BadValueError: A list has more or fewer entries than there are groups, or a key names no
            group.
    """
    if isinstance(form, Mapping):
        names = [g["name"] for g in groups if g.get("name") is not None]
        for key in form:
            _check_key(name, key, len(groups), names)
        entries = {k: _entry(f"{name}[{k!r}]", v, relative) for k, v in form.items()}
        return Column(name, entries, spelled_out=True)
    if isinstance(form, list | tuple):
        if len(form) != len(groups):
            raise BadValueError(
                f"{name} lists {len(form)} schedules, but the optimizer has {len(groups)} groups: "
                "give one for each, or a single one for all"
            )
        listed: dict[int | str, Entry | None] = {
            i: _entry(f"{name}[{i}]", v, relative) for i, v in enumerate(form)
        }
        return Column(name, listed, exact=len(form))
    return Column(name, {EVERY: _entry(name, form, relative)})


def differences(
    name: str, saved: Mapping[str, str | None], now: Mapping[str, str | None]
) -> list[str]:
    """Describe how the entries of a column differ from saved ones, a line for each difference."""
    lines: list[str] = []
    for key in sorted({*saved, *now}):
        before, after = saved.get(key), now.get(key)
        if before != after:
            label = name if key == EVERY else f"{name} of group {key}"
            lines.extend(f"{label}: {line}" for line in _difference(before, after))
    return lines


def _difference(before: str | None, after: str | None) -> list[str]:
    if before is None or after is None:
        return [f"{after or 'no schedule'} instead of {before or 'no schedule'}"]
    try:
        a, b = Entry.of_text(before), Entry.of_text(after)
    except BadValueError:  # for instance, a function that is not registered here
        return [f"{after} instead of {before}"]
    lines = diff(a.schedule, b.schedule)
    if a.relative != b.relative:
        kinds = ("values", "multiples of each group's base value")
        lines.insert(0, f"{kinds[b.relative]} instead of {kinds[a.relative]}")
    return lines


def _check_key(name: str, key: object, count: int, names: list[str]) -> None:
    if key == EVERY or key in names:
        return
    if isinstance(key, str):
        raise unknown_name("group", key, [*names, EVERY])
    if isinstance(key, bool) or not isinstance(key, int):
        raise BadTypeError(
            f"{name} has the key {key!r}; a key is a group's number, its name or '{EVERY}'"
        )
    if not 0 <= key < count:
        raise BadValueError(f"{name} has the key {key}; the groups are 0 to {count - 1}")


def _entry(name: str, form: Any, relative: bool) -> Entry | None:
    if form is None:
        return None
    if isinstance(form, Relative):
        return Entry(bound(name, form.shape), True)
    return Entry(bound(name, form), relative)
