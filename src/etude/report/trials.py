"""The table of trials: each rate, how long it was trained, and the verdict on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from etude.record import Status
from etude.report import words
from etude.report.document import DataTable, TableColumn, TableRow, Tone
from etude.report.figures.palette import places
from etude.tuning.outcome import Outcome
from etude.tuning.result import TuneResult
from etude.tuning.trial_summary import TrialSummary


@dataclass(frozen=True)
class TrialRow:
    """A rate in the table.

    Attributes:
        lr: The rate.
        updates: The number of updates done.
        share: The same as a share of the full run.
        loss: The last validation loss; NaN if there is none, infinite if the trial diverged.
        metric: The last metric; None if the task has no metric.
        compared: The value by which the rate was compared, where it is that of the mean of the
            weights; None elsewhere.
        verdict: The verdict in a few words.
        chosen: Whether it is the chosen rate.
        tone: The emphasis of the row.
    """

    lr: float
    updates: int
    share: float
    loss: float
    metric: float | None
    compared: float | None
    verdict: str
    chosen: bool
    tone: Tone = Tone.PLAIN


def trial_rows(result: TuneResult) -> tuple[TrialRow, ...]:
    """Return the rows of the trials, ascending by rate."""
    return tuple(_row(trial, result) for trial in result.trials)


def _row(trial: TrialSummary, result: TuneResult) -> TrialRow:
    record = trial.record
    loss = record.evaluations[-1].loss if record.evaluations else math.nan
    verdict, tone = _verdict(trial, result)
    return TrialRow(
        lr=trial.lr,
        updates=record.cost.steps,
        share=record.cost.steps / record.length,
        loss=math.inf if record.status == Status.DIVERGED else loss,
        metric=record.valid_metric,
        compared=trial.compared,
        verdict=verdict,
        chosen=trial.lr == result.lr,
        tone=tone,
    )


def _verdict(trial: TrialSummary, result: TuneResult) -> tuple[str, Tone]:
    reason = trial.record.reason
    if trial.record.status == Status.DIVERGED:
        return f"diverged: {reason}" if reason else "diverged", Tone.WARN
    if trial.broken_seed is not None:
        return f"diverged with seed {trial.broken_seed.seed}", Tone.WARN
    if trial.unstable:
        return "lost what it had learned", Tone.WARN
    if trial.lr == result.lr:
        if result.outcome == Outcome.NOTHING_TRAINS:
            return "best of the failed", Tone.PLAIN
        return "chosen", Tone.GOOD
    if trial.tied:
        return "tied" if trial.followed else "left, may tie", Tone.PLAIN
    return "worse" if trial.followed else "left", Tone.SOFT


def trial_table(result: TuneResult) -> DataTable:
    """Return the table of trials."""
    rows, metric = trial_rows(result), result.record.metric
    columns = [
        (TableColumn("rate", number=True), [words.rate(r.lr) for r in rows]),
        (TableColumn("updates", number=True), [words.count(r.updates) for r in rows]),
        (
            TableColumn("of the run", number=True, minor=True),
            [words.share(r.share, 1) for r in rows],
        ),
        (TableColumn("validation loss", number=True), [_loss(r) for r in rows]),
    ]
    if metric is not None:
        texts = [words.metric(metric, r.metric) for r in rows]
        columns.append((TableColumn(metric, number=True), texts))
    averaged = any(r.compared is not None for r in rows)
    if averaged:
        texts = [_compared(r, result.objective) for r in rows]
        columns.append((TableColumn("of the mean", number=True), texts))
    columns.append((TableColumn("verdict"), [r.verdict for r in rows]))
    heats = places([r.lr for r in rows])
    cells = zip(*(texts for _, texts in columns), strict=True)
    return DataTable(
        tuple(column for column, _ in columns),
        tuple(
            TableRow(texts, row.tone, heat=heat)
            for row, texts, heat in zip(rows, cells, heats, strict=True)
        ),
        "All rates that were tried, with their last validation loss. Losses are comparable only "
        "after the same number of updates. Left: not followed further."
        + (MEAN_SAID.format(result.objective) if averaged else ""),
    )


MEAN_SAID = (
    " Of the mean: the {} of the mean of the weights over the last 2% of the run, where it is "
    "better than that of the weights; then it is what was compared."
)
"""What the column of means holds."""


def _compared(row: TrialRow, objective: str) -> str:
    if row.compared is None:
        return ""
    return (
        words.number(row.compared) if objective == "loss" else words.metric(objective, row.compared)
    )


def _loss(row: TrialRow) -> str:
    return "diverged" if row.loss == math.inf else words.number(row.loss)
