"""The differences between two schedules, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from difflib import SequenceMatcher

from etude.errors import BadTypeError
from etude.schedules._base import Schedule
from etude.schedules._kind import Kind
from etude.schedules._numbers import written
from etude.schedules.algebra import Join, Pointwise

_SAMPLES = 2_000


def diff(a: Schedule, b: Schedule) -> list[str]:
    """Describe in words how schedule `b` differs from schedule `a`.

    Args:
        a: The schedule before.
        b: The schedule after.

    Returns:
        One sentence per difference, outermost first. If both are bound, the last sentence gives
        the largest difference of their values. Empty if the two are equal.

    Examples:
        >>> from etude.schedules import cosine, warmup
        >>> for line in diff(warmup(500) >> cosine(100), warmup(500) >> cosine(100, floor=0.5)):
        ...     print(line)
        segment 2: floor of cosine is 0.5, was 0.0
        values differ most at step 600: 0.5, was 0
    """
    for schedule in (a, b):
        if not isinstance(schedule, Schedule):
            raise BadTypeError(f"{schedule!r} is not a schedule: parse(text) makes one")
    if a == b:
        return []
    lines = list(_compare("", a, b))
    if a.is_bound and b.is_bound:
        lines.append(_largest(a, b))
    return lines


def _compare(place: str, a: Schedule, b: Schedule) -> Iterator[str]:
    if a == b:
        return
    if type(a) is not type(b):
        yield f"{place}{b!r} instead of {a!r}"
    elif isinstance(a, Join) and isinstance(b, Join):
        yield from _compare_parts(place, "segment", a, b)
    elif isinstance(a, Pointwise):
        yield from _compare_parts(place, "term" if a.precedence == 2 else "factor", a, b)
    else:
        yield from _compare_fields(place, a, b)


def _compare_parts(place: str, noun: str, a: Schedule, b: Schedule) -> Iterator[str]:
    matcher = SequenceMatcher(None, a.parts, b.parts, autojunk=False)
    for what, i, j, k, m in matcher.get_opcodes():
        if what == "equal":
            continue
        shared = min(j - i, m - k)
        for n in range(shared):
            yield from _compare(f"{place}{noun} {k + n + 1}: ", a.parts[i + n], b.parts[k + n])
        for n in range(i + shared, j):
            yield f"{place}{noun} {n + 1} is gone: {a.parts[n]!r}"
        for n in range(k + shared, m):
            yield f"{place}{noun} {n + 1} is new: {b.parts[n]!r}"


def _compare_fields(place: str, a: Schedule, b: Schedule) -> Iterator[str]:
    name = a.name if isinstance(a, Kind) else type(a).__name__.lower()
    spelling = a.spelling if isinstance(a, Kind) else {}
    for field in fields(a):  # type: ignore[arg-type]
        before, after = a.argument(field.name), b.argument(field.name)
        if not field.init or before == after:
            continue
        if isinstance(before, Schedule):
            yield from _compare(place, before, after)
        else:
            label = spelling.get(field.name, field.name)
            yield f"{place}{label} of {name} is {written(after)}, was {written(before)}"


def _largest(a: Schedule, b: Schedule) -> str:
    """Return where the values differ most, among evenly spaced steps and both ends."""
    ends = [int(s.length) for s in (a, b) if s.length is not None]
    last = max(ends, default=10_000)
    steps = sorted({*(last * i // _SAMPLES for i in range(_SAMPLES + 1)), *ends})
    gaps = [(abs(a(t) - b(t)), t) for t in steps]
    gap, where = max(gaps, key=lambda g: 0.0 if math.isnan(g[0]) else g[0])
    if gap == 0.0:
        return f"all values compared, up to step {last:_}, are the same"
    return f"values differ most at step {where:_}: {b(where):.6g}, was {a(where):.6g}"
