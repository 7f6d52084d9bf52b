"""What kinds of run, trials and intervals are called in the report on a study."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from etude.report import words
from etude.studies.analysis.groups import BATCH, SizeDrift
from etude.studies.analysis.intervals import Interval
from etude.studies.rows import PARTS, RunKind

HEADS = {
    "task": "task",
    "options": "model",
    "optimizer": "optimizer",
    "schedule": "schedule",
    "batch_size": "batch",
    "clip_norm": "clip",
    "steps": "updates",
    "recipe": "recipe",
}
"""The heading of each part of a kind."""

LONGEST = 50
"""The largest number of letters of a name in a figure that is read on a phone."""

MOST_RANGES = 8
"""The largest number of ranges of trial numbers in a sentence."""


def differing_parts(kinds: Sequence[RunKind]) -> tuple[str, ...]:
    """Return the parts of the kinds that are not the same everywhere; 'task' if none is.

    >>> one = RunKind("a", (), "sgd", "cosine()", 64, None, 10)
    >>> differing_parts([one])
    ('task',)
    """
    found = tuple(name for name in PARTS if len({getattr(one, name) for one in kinds}) > 1)
    return found or ("task",)


def name_of(kind: RunKind, differing: Sequence[str]) -> str:
    """Return a kind as text: the parts that differ within the study; its task if none does.

    >>> one = RunKind("a", (("depth", 2),), "sgd", "cosine()", 64, None, 10)
    >>> name_of(one, ("task", "options", "batch_size"))
    'a, depth=2, batch 64'
    """
    named = {"batch_size": "batch ", "clip_norm": "clip ", "steps": ""}
    told = [
        named.get(name, "") + text + (" updates" if name == "steps" and text.isdigit() else "")
        for name in differing
        if (text := cell(kind, name)) != "–"
    ]
    return ", ".join(told) or kind.task


def besides_task(kind: RunKind, differing: Sequence[str]) -> str:
    """Return a kind as text without its task; '' if nothing else differs within the study."""
    rest = [name for name in differing if name != "task" and cell(kind, name) != "–"]
    return name_of(kind, rest) if rest else ""


def cell(kind: RunKind, name: str) -> str:
    """Return a part of a kind as text; an en dash if it is not given."""
    return value_text(getattr(kind, name))


def value_text(value: Any) -> str:
    """Return a value of a part as text; an en dash if it is not given."""
    if value in (None, ""):
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def clipped(name: str, longest: int = LONGEST) -> str:
    """Return a name that fits: its end is left out.

    >>> clipped("transformer, depth=4", 12)
    'transformer…'
    """
    return name if len(name) <= longest else name[: longest - 1].rstrip(" ,") + "…"


def trials_text(numbers: Iterable[int]) -> str:
    """Return the numbers of trials, neighbours as a range.

    >>> trials_text([4, 0, 1, 2]), trials_text([7])
    ('trials 0–2, 4', 'trial 7')
    """
    known = sorted(set(numbers))
    ranges: list[list[int]] = []
    for number in known:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    told = [f"{a}" if a == b else f"{a}–{b}" for a, b in ranges]
    more = len(told) - MOST_RANGES
    shown = ", ".join(told[:MOST_RANGES]) + (f" and {more} more ranges" if more > 0 else "")
    return f"trial{'' if len(known) == 1 else 's'} {shown}"


def interval_text(found: Interval, digits: int = 4) -> str:
    """Return a number with its interval, or that there is one seed only.

    >>> interval_text(Interval(2.0, 1.0, 3.0, seeds=2)), interval_text(Interval(2.0, 2.0, 2.0, 1))
    ('2 (1 to 3)', '2 (one seed)')
    """
    if found.seeds < 2:
        return f"{words.number(found.value, digits)} (one seed)"
    return (
        f"{words.number(found.value, digits)} "
        f"({words.number(found.low, digits)} to {words.number(found.high, digits)})"
    )


def share_text(found: Interval) -> str:
    """Return a share with its interval in percent.

    >>> share_text(Interval(0.25, 0.2, 0.3, seeds=2))
    '25% (20% to 30%)'
    """
    value, low, high = (f"{100 * v:.3g}%" for v in (found.value, found.low, found.high))
    return f"{value} (one seed)" if found.seeds < 2 else f"{value} ({low} to {high})"


def rates_text(low: float, high: float) -> str:
    """Return an interval of rates.

    >>> rates_text(0.1, 0.1), rates_text(0.1, 1.0)
    ('0.1', '0.1 to 1')
    """
    if low == high:
        return rate_text(low)
    return f"{rate_text(low)} to {rate_text(high)}"


def rate_text(value: float) -> str:
    """Return a rate with three digits; `export csv` has all of them.

    >>> rate_text(0.0149005), rate_text(1e-05)
    ('0.0149', '1e-5')
    """
    return words.number(value, 3)


def mean_of(values: Iterable[float]) -> float:
    """Return the mean of the finite values; NaN if there is none."""
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def without_option(kind: RunKind, option: str) -> RunKind:
    """Return a kind without one of the task's options."""
    return replace(kind, settings=tuple(pair for pair in kind.settings if pair[0] != option))


def shared_name(found: SizeDrift, differing: Sequence[str]) -> str:
    """Return the name of what the kinds of run at all sizes have in common."""
    parts = [name for name in differing if not (name == "batch_size" and found.size == BATCH)]
    return name_of(without_option(found.summaries[0].kind, found.size), parts)
