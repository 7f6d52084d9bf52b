"""Tables of the report on a study: each kind of run, and the ranks of optimizers and schedules."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from etude.report import words
from etude.report.document import DataTable, TableColumn, TableRow, Tone
from etude.report.study.naming import (
    HEADS,
    cell,
    interval_text,
    rate_text,
    rates_text,
    trials_text,
)
from etude.studies.analysis.groups import RankedPart
from etude.studies.analysis.progress import ToTarget
from etude.studies.summary import RateSummary

MOST = 400
"""The largest number of rows of the page's table."""

Cell = tuple[str, float | str | None]
"""The text of a cell, and what it is sorted by where that is not the text."""

NOTHING: Cell = ("–", None)

LAST = 1e300
"""Sorts below all numbers."""

NUMBERS = (
    "best rate", "interval", "loss", "metric", "sensitivity", "decades", "edge / predicted",
    "updates to target", "diverged",
)  # fmt: skip


def kinds_table(
    summaries: Sequence[RateSummary],
    differing: Sequence[str],
    targets: Mapping[int, ToTarget],
    choices: Mapping[int, tuple[str, int]],
) -> DataTable:
    """Return the table with a row for each kind of run.

    Args:
        summaries: The kinds.
        differing: The parts that differ; one column each.
        targets: The updates to the target of some, by their places.
        choices: The figures that rows choose, by the places of the kinds.
    """
    rows = [
        _row(one, differing, targets.get(i), choices.get(i))
        for i, one in enumerate(summaries[:MOST])
    ]
    filled = {
        i
        for i, name in enumerate(NUMBERS)
        if any(row.cells[len(differing) + i] != "–" for row in rows)
    }
    kept = [*range(len(differing)), *(len(differing) + i for i in sorted(filled)),
            len(differing) + len(NUMBERS)]  # fmt: skip
    columns = (
        *(TableColumn(HEADS[name], whole=True) for name in differing),
        *(TableColumn(name, number=True) for name in NUMBERS),
        TableColumn("trials", whole=True),
    )
    return DataTable(
        tuple(columns[i] for i in kept),
        tuple(
            TableRow(
                tuple(row.cells[i] for i in kept),
                row.tone,
                keys=tuple(row.keys[i] for i in kept),
                choice=row.choice,
            )
            for row in rows
        ),
        _caption(len(summaries), filled),
        sortable=True,
    )


def _caption(kinds: int, filled: set[int]) -> str:
    told = [
        "The rate with the least mean loss over seeds (* at the end of the range), the interval "
        "of that choice, and that loss; in brackets 90% intervals over seeds.",
        "Sensitivity: what a rate of the range costs on average, in units of the loss (Wortsman et "
        "al., arXiv 2309.14322). Decades: the width of the range of rates that end below the "
        "untrained loss; > where no rate beyond one of its ends was tried.",
    ]
    if NUMBERS.index("edge / predicted") in filled:
        told.append(
            "Edge / predicted: the last rate that trains and the next one, over the rate at which "
            "the curvature before training makes a step unstable."
        )
    if NUMBERS.index("updates to target") in filled:
        told.append(
            "Updates to target: to the first evaluation with 90% of the largest drop of the loss "
            "in the study on that task, at the best rate."
        )
    if kinds > MOST:
        told.append(f"The first {MOST} of {kinds:,} kinds of run.")
    return " ".join(told)


def _row(
    one: RateSummary,
    differing: Sequence[str],
    target: ToTarget | None,
    choice: tuple[str, int] | None,
) -> TableRow:
    best, loss, metric = one.optimum, one.best_loss, one.best_metric
    cells: list[Cell] = [(cell(one.kind, name), None) for name in differing]
    if best is None or loss is None:
        cells += [NOTHING] * 4
    else:
        cells += [
            (rate_text(best.lr) + (" *" if one.at_edge else ""), None),
            (rates_text(best.low, best.high), None),
            (interval_text(loss, 3) if loss.seeds > 1 else words.number(loss.value), None),
            NOTHING if metric is None else (words.number(metric.value), None),
        ]
    cells += [_sensitivity(one), _decades(one), _edge(one), _target(target), _diverged(one)]
    cells.append((trials_text(one.trials).partition(" ")[2] or "–", min(one.trials, default=None)))
    return TableRow(
        tuple(text for text, _ in cells),
        Tone.SOFT if best is None else Tone.PLAIN,
        keys=tuple(key for _, key in cells),
        choice=choice,
    )


def _sensitivity(one: RateSummary) -> Cell:
    found = one.sensitivity_interval
    return NOTHING if found is None else (words.number(found.value, 3), None)


def _decades(one: RateSummary) -> Cell:
    found = one.stable
    if found is None:
        return NOTHING
    text = words.number(found.decades, 2)
    return (text, None) if found.bounded else (f"> {text}", float(f"{found.decades:.4g}"))


def _edge(one: RateSummary) -> Cell:
    if one.edge is None:
        return NOTHING
    low, high = one.edge.ratio
    return f"{words.number(low, 2)} to {words.number(high, 2)}", None


def _target(found: ToTarget | None) -> Cell:
    if found is None:
        return NOTHING
    if math.isinf(found.updates.value):
        return "not reached", LAST
    return words.number(found.updates.value, 4), None


def _diverged(one: RateSummary) -> Cell:
    return (words.percent(one.diverged), float(f"{one.diverged:.4g}")) if one.runs else NOTHING


def ranks_table(found: Sequence[RankedPart]) -> DataTable | None:
    """Return the ranks of optimizers, or of schedules, over all comparisons; None without one."""
    if not found:
        return None
    ends: dict[str, list[int]] = defaultdict(list)
    halves: dict[str, list[int]] = defaultdict(list)
    for one in found:
        for rival in one.ranking.rivals:
            ends[rival.name].append(rival.rank)
            if rival.half_rank is not None:
                halves[rival.name].append(rival.half_rank)
    order = sorted(ends, key=lambda name: sum(ends[name]) / len(ends[name]))
    part = found[0].part
    means = {name: sum(ranks) / len(ranks) for name, ranks in halves.items() if ranks}
    return DataTable(
        (
            TableColumn(part),
            TableColumn("mean rank at the end", number=True),
            TableColumn("at half way", number=True),
            TableColumn("best in", number=True),
        ),
        tuple(
            TableRow(
                (
                    name,
                    mean_rank(ends[name]),
                    mean_rank(halves[name]) if name in means else "–",
                    f"{sum(rank == 1 for rank in ends[name])} of {len(ends[name])}",
                ),
            )
            for name in order
        ),
        f"Each {part} stands at its best rate{' and schedule' if part == 'optimizer' else ''}, "
        "wherever two or more were run that are alike otherwise. The rank at half way is that of "
        "the same runs.",
        sortable=True,
    )


def mean_rank(ranks: Sequence[int]) -> str:
    """Return a mean rank with one decimal.

    >>> mean_rank([1, 2])
    '1.5'
    """
    return f"{sum(ranks) / len(ranks):.1f}"
