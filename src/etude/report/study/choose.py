"""Chooses which kinds of run a figure shows, where a study has more than can be seen."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from etude.studies.analysis.groups import rest
from etude.studies.rows import PARTS
from etude.studies.summary import RateSummary

MOST_ROWS = 40
"""The largest number of rows of a figure with one for each kind of run."""

MOST_LINES = 8
"""The largest number of lines of a panel that can be told apart."""


MOST_FIGURES = 24
"""The largest number of figures of a gallery."""


def best_schedules(summaries: Sequence[RateSummary]) -> list[RateSummary]:
    """Return the kinds at their best schedule: one of those that differ in the schedule alone."""
    best: dict[Hashable, RateSummary] = {}
    for one in summaries:
        key = rest(one.kind, "schedule")
        if key not in best or _loss(one) < _loss(best[key]):
            best[key] = one
    return list(best.values())


def shown_rows(
    summaries: Sequence[RateSummary], most: int = MOST_ROWS
) -> tuple[list[RateSummary], str]:
    """Return the kinds that a figure with a row for each shows, and what it leaves out.

    Where there are too many, each kind stands at its best schedule; of still too many, the first.
    """
    known = [one for one in summaries if one.lrs]
    if len(known) <= most:
        return known, ""
    at_best = best_schedules(known)
    told = " Each at its best schedule." if len(at_best) < len(known) else ""
    if len(at_best) > most:
        told += f" The first {most} of {len(at_best):,}; the table has all."
    return at_best[:most], told


def panels(
    summaries: Sequence[RateSummary], differing: Sequence[str], most: int = MOST_LINES
) -> tuple[dict[tuple[str, ...], list[RateSummary]], tuple[str, ...]]:
    """Return kinds in panels of few lines, and the parts that are equal within a panel.

    Kinds of one task share a panel; where these are too many, those that share the options too,
    then the optimizer, and so on. The schedule comes last.
    """
    order = [p for p in (*(p for p in PARTS if p != "schedule"), "schedule") if p in differing]
    for count in range(1, len(order) + 1):
        parts = tuple(order[:count])
        found: dict[tuple[str, ...], list[RateSummary]] = {}
        for one in summaries:
            key = tuple(str(getattr(one.kind, part)) for part in parts)
            found.setdefault(key, []).append(one)
        if max(map(len, found.values()), default=0) <= most:
            break
    return found, tuple(part for part in differing if part in parts)


def _loss(one: RateSummary) -> float:
    return math.inf if one.optimum is None else one.optimum.loss
