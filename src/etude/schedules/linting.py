"""Checks for probable mistakes in a schedule, before it is run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from etude.errors import BadTypeError, EtudeError
from etude.schedules._base import Schedule
from etude.schedules._kind import Kind
from etude.schedules._numbers import count, written
from etude.schedules.algebra import Join
from etude.schedules.timing import Fit, Repeat, Shift, Stretch, Take

_JUMP = 0.01
_HIGH = 0.1
_SAMPLES = 10_000
_REPEATS = 100
_SHORT = 2  # a warmup of fewer updates has no step between its start and the full rate


@dataclass(frozen=True, slots=True)
class Lint:
    """A probable mistake in a schedule.

    Args:
        code: The kind of mistake: 'unbound', 'not-finite', 'negative', 'zero', 'jump',
            'unreachable', 'warmup-too-short', 'warmup-too-long', 'still-high' or 'ends-early'.
        message: The value, its step, and the fix.
        step: The first step that shows the mistake, or None.
    """

    code: str
    message: str
    step: float | None = None

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def lint(schedule: Schedule, steps: int) -> tuple[Lint, ...]:
    """Check a schedule for mistakes in a run of `steps` steps.

    Runs of up to 10,000 steps are checked at every step, longer runs at 10,000 evenly spaced
    steps and at every boundary between segments.

    Args:
        schedule: The schedule; if it is not bound, it is bound to `steps`.
        steps: Length of the run.

    Returns:
        The findings, in the order of steps; empty if there are none.

    Raises:
        BadValueError: `steps` is not a positive whole number.

    Examples:
        >>> from etude.schedules import cosine, warmup
        >>> for found in lint(warmup(100) >> 0.5 * cosine(1_000), 1_100):
        ...     print(found)
        jump: the value jumps from 1 to 0.5 at step 100: scale the segments to meet there
    """
    if not isinstance(schedule, Schedule):
        raise BadTypeError(f"schedule is {schedule!r}; it must be a schedule: parse(text)")
    run = count("steps", steps)
    try:
        bound = schedule.over(run)
    except EtudeError as error:
        return (Lint("unbound", str(error)),)
    places = list(_places(bound, _Frame(1.0, 0.0, run)))
    edges = sorted({p.step for p in places if p.what == "segment" and 0 < p.step < run})
    sampled = {run * i // _SAMPLES for i in range(_SAMPLES)} if run > _SAMPLES else set(range(run))
    values = {t: bound(t) for t in sorted({*sampled, *map(math.ceil, edges), run - 1}) if t < run}
    peak = max((abs(v) for v in values.values() if math.isfinite(v)), default=0.0)
    found = [
        *_of_values(values, run),
        *_of_jumps(bound, edges, peak),
        *_of_places(places),
        *_of_end(bound, values, peak, run),
    ]
    if not any(lint.code == "warmup-too-short" for lint in found):
        found += _of_start(bound, run)
    return tuple(sorted(found, key=lambda f: -1.0 if f.step is None else f.step))


def _of_values(values: dict[int, float], run: int) -> Iterator[Lint]:
    bad = [t for t, v in values.items() if not math.isfinite(v)]
    negative = [t for t, v in values.items() if v < 0.0]
    zero = [t for t, v in values.items() if v == 0.0 and t > 0]
    if bad:
        yield Lint("not-finite", f"the value is {values[bad[0]]} at step {bad[0]:_}", bad[0])
    if negative:
        t = negative[0]
        yield Lint("negative", f"the value is {values[t]:.6g} at step {t:_}: .clip(0.0) it", t)
    if zero:
        t = zero[0]
        yield Lint(
            "zero",
            f"the value is 0 at step {t:_} of {run:_}: updates there change nothing; raise the "
            "floor, or lengthen the decay",
            t,
        )


def _of_start(schedule: Schedule, run: int) -> Iterator[Lint]:
    """Check for a first update at 0, which is normal in a warmup and wasted without one."""
    first, second, third = (schedule(t) for t in range(3))
    if first == 0.0 and (run == 1 or second >= third > 0.0 or second > third):
        risen = "" if run == 1 else f", and {second:.6g} is reached at step 1 already"
        yield Lint(
            "zero",
            f"the value is 0 at step 0{risen}: the first update changes nothing; start above 0, "
            "or rise over at least 2 updates",
            0,
        )


def _of_jumps(schedule: Schedule, edges: list[float], peak: float) -> Iterator[Lint]:
    """Compare the limit from the left with the value at each boundary of a join."""
    for t in edges:
        before, after = schedule(t * (1.0 - 1e-12)), schedule(t)
        if abs(after - before) > _JUMP * peak:
            yield Lint(
                "jump",
                f"the value jumps from {before:.6g} to {after:.6g} at step {_shown(t)}: scale the "
                "segments to meet there",
                t,
            )


def _of_places(places: list[_Place]) -> Iterator[Lint]:
    short: set[str] = set()
    for t, what, text, end in places:
        if what == "short":
            if text not in short and 0 <= t <= end:
                short.add(text)
                yield Lint(
                    "warmup-too-short",
                    f"{text}; give it at least 2 updates, or leave it out",
                    t,
                )
            continue
        if what == "warmup" and t > end:
            yield Lint(
                "warmup-too-long",
                f"{text} ends at step {_shown(t)}, but only steps before {_shown(end)} are used: "
                "the peak is never reached; shorten it",
                end,
            )
        if what != "warmup" and t >= end:
            yield Lint(
                "unreachable",
                f"{what} {text} begins at step {_shown(t)}, but only steps before {_shown(end)} "
                "are used: start it earlier, or leave it out",
                t,
            )


def _of_end(schedule: Schedule, values: dict[int, float], peak: float, run: int) -> Iterator[Lint]:
    length, last = schedule.length, values[run - 1]
    if length is not None and length < 0.99 * run:
        yield Lint(
            "ends-early",
            f"it covers {_shown(length)} of {run:_} steps and stays at {schedule(length):.6g} "
            "after them: lengthen it, or leave a length open",
            length,
        )
    if math.isfinite(last) and last > _HIGH * peak and not schedule.has_feedback:
        yield Lint(
            "still-high",
            f"the last value is {last:.6g}, {last / peak:.0%} of the peak {peak:.6g}: end with a "
            "decay, such as >> linear('10%')",
            run - 1,
        )


class _Place(NamedTuple):
    """A step of the run at which something begins, and the step before which it has an effect."""

    step: float
    what: str
    text: str
    end: float


class _Frame(NamedTuple):
    """The clock of an inner schedule: its step t is step scale·t + offset of the run, up to end."""

    scale: float
    offset: float
    end: float
    repeats: int = _REPEATS  # the number of repeats that are checked, so that nesting stays cheap

    def step(self, t: float) -> float:
        return self.scale * t + self.offset

    def inside(self, scale: float, offset: float, end: float = math.inf) -> _Frame:
        return self._replace(
            scale=self.scale * scale,
            offset=self.step(offset),
            end=min(self.end, self.step(end)),
        )

    def place(self, t: float, what: str, text: str) -> _Place:
        return _Place(self.step(t), what, text, self.end)


def _places(node: Schedule, frame: _Frame) -> Iterator[_Place]:
    if isinstance(node, Join):
        assert node.starts is not None
        for t, segment in zip(node.starts[1:], node.segments[1:], strict=True):
            yield frame.place(t, "segment", repr(segment))
    elif isinstance(node, Kind):
        for step in node.jumps:
            yield frame.place(float(step), "milestone", f"{step} of {node!r}")
        if node.warms_up:
            length = frame.scale * float(node.length or 0)
            if length < _SHORT:
                yield frame.place(0.0, "short", _too_short(node, length))
            yield frame.place(float(node.length or 0), "warmup", repr(node))
    for part, inner in _inner(node, frame):
        yield from _places(part, inner)


def _too_short(node: Kind, length: float) -> str:
    if length == 0:
        return f"{node!r} has no update, so there is no warmup"
    said = f"{node!r} takes {_shown(length)} update{'' if length == 1 else 's'}"
    first = "0, which changes nothing" if node.at(0) == 0 else f"{node.at(0):.6g} of the rate"
    return f"{said}: the first is at {first}, and the next at the full rate"


def _inner(node: Schedule, frame: _Frame) -> Iterator[tuple[Schedule, _Frame]]:
    """Yield the direct parts of a bound schedule, each with its clock."""
    if isinstance(node, Join):
        starts = node.starts or ()
        for part, start, end in zip(node.segments, starts, (*starts[1:], math.inf), strict=True):
            yield part, frame.inside(1.0, start, end)
    elif isinstance(node, Stretch):
        yield node.body, frame.inside(node.factor, 0.0)
    elif isinstance(node, Fit):
        yield node.body, frame.inside(float(node.length) / node.body.length, 0.0)
    elif isinstance(node, Shift):
        yield node.body, frame.inside(1.0, float(node.by))
    elif isinstance(node, Take):
        yield node.body, frame.inside(1.0, 0.0, float(node.length))
    elif isinstance(node, Repeat):
        times = min(node.times or frame.repeats, frame.repeats)
        nested = frame._replace(repeats=max(1, frame.repeats // times))
        for i in range(times):
            if frame.step(i * node.period) < frame.end:
                yield node.body, nested.inside(1.0, i * node.period)
    else:
        yield from ((part, frame) for part in node.parts)


def _shown(t: float) -> str:
    return written(int(t) if float(t).is_integer() else round(t, 3))
