"""What a study shows: one row for each trial, and one summary for each kind of run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from etude.recipe import Recipe
from etude.storage.study import StoredStudy, StoredTrial, TrialState
from etude.studies.axes import FIELDS
from etude.studies.measures import Optimum, optimum, sensitivity, stable_decades
from etude.studies.trials import STOPPED_AT, PlannedTrial


@dataclass(frozen=True)
class RunKind:
    """What a run is, besides its rate and seed.

    Attributes:
        task: The task's reference.
        options: The options of the task, as text; '' for none.
        optimizer: The optimizer, as text.
        schedule: The schedule, as text.
        batch_size: Samples per batch; None for the task's own.
        clip_norm: The largest norm of the gradient; None without clipping.
        steps: The run's length.
        recipe: Other fields of the recipe that are not the usual ones, as text; '' for none.
    """

    task: str
    options: str
    optimizer: str
    schedule: str
    batch_size: int | str | None
    clip_norm: float | None
    steps: int | str
    recipe: str = ""

    @classmethod
    def of(cls, one: PlannedTrial) -> RunKind:
        """Return what a planned trial is."""
        options = ", ".join(f"{k}={v}" for k, v in sorted(one.ref.options.items()))
        recipe, choice = one.recipe, one.recipe.optimizer
        own = ", ".join(f"{k} {v}" for k, v in sorted(choice.hyperparameters.items()))
        return cls(
            one.ref.reference,
            options,
            f"{choice.name} ({own})" if own else choice.name,
            repr(recipe.schedule),
            recipe.batch_size,
            recipe.clip_norm,
            recipe.steps,
            _others(recipe),
        )


_OWN = {*FIELDS.values(), "evaluations"}
_USUAL = {k: v for k, v in Recipe().plain().items() if k not in _OWN}


def _others(recipe: Recipe) -> str:
    """Return the fields of a recipe that no axis sets, where they are not the usual ones."""
    rest = {k: v for k, v in recipe.plain().items() if k not in _OWN}
    return ", ".join(f"{k}={v}" for k, v in rest.items() if v != _USUAL.get(k))


@dataclass(frozen=True)
class StudyRow:
    """One trial of a study.

    Attributes:
        number: The trial's number; `StoredStudy.record` returns its Record.
        kind: What it is, besides rate and seed.
        lr: The rate.
        seed: The seed.
        state: Waiting, running, done or failed.
        loss: The final validation loss; infinite if it diverged, None before it is done.
        metric: The final metric; None without one.
        diverged: Whether a NaN or Inf ended it.
        untrained_loss: The validation loss before training.
        half_loss: That of the last evaluation in the first half of the run.
        error: Why it failed.
        stopped_at: The updates after which successive halving stopped it, and to which its loss
            belongs; None if it was trained to the end.
    """

    number: int
    kind: RunKind
    lr: float
    seed: int
    state: TrialState
    loss: float | None
    metric: float | None
    diverged: bool | None
    untrained_loss: float | None
    half_loss: float | None
    error: str | None
    stopped_at: float | None = None

    @classmethod
    def of(cls, stored: StoredTrial) -> StudyRow:
        """Return the row of a stored trial.

        Raises:
            StorageError: If its parameters are damaged.
        """
        one = PlannedTrial.from_plain(stored.parameters, f"trial {stored.number} of the study")
        return cls(
            stored.number,
            RunKind.of(one),
            one.recipe.lr,
            one.recipe.seed,
            stored.state,
            stored.loss,
            stored.metric,
            stored.diverged,
            stored.values.get("untrained_loss"),
            stored.values.get("half_loss"),
            stored.error,
            stored.values.get(STOPPED_AT),
        )


@dataclass(frozen=True)
class RateSummary:
    """How one kind of run depends on its rate.

    Attributes:
        kind: What the runs are.
        lrs: The rates at which every seed is done, in order.
        losses: The mean final loss at each; infinite where a run diverged.
        lowest: The least final loss over the seeds at each.
        highest: The largest.
        untrained: The mean loss before training; NaN if it is not known.
        optimum: The best rate with its interval over seeds; None if none trained.
        sensitivity: See `measures.sensitivity`, of the mean losses.
        stable_decades: See `measures.stable_decades`, of the mean losses.
        diverged: The share of the runs that diverged.
        runs: How many runs are done.
        failed: How many failed with an error.
        stopped: How many were stopped by successive halving. Their rates are not among `lrs`, and
            `sensitivity` and `stable_decades`, which need all rates, are NaN.
    """

    kind: RunKind
    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    untrained: float
    optimum: Optimum | None
    sensitivity: float
    stable_decades: float
    diverged: float
    runs: int
    failed: int
    stopped: int = 0


@dataclass(frozen=True)
class StudyResult:
    """What a study has shown so far.

    Attributes:
        name: Its name.
        rows: Its trials, in order.

    `str` gives one line for each kind of run.
    """

    name: str
    rows: tuple[StudyRow, ...]

    @classmethod
    def of(cls, study: StoredStudy) -> StudyResult:
        """Read the result of a stored study."""
        return cls(study.name, tuple(StudyRow.of(one) for one in study.trials()))

    @property
    def done(self) -> int:
        """How many trials are done."""
        return sum(row.state == TrialState.DONE for row in self.rows)

    def summaries(self) -> list[RateSummary]:
        """Return one summary for each kind of run, in the order of the trials."""
        kinds: dict[RunKind, list[StudyRow]] = defaultdict(list)
        for row in self.rows:
            kinds[row.kind].append(row)
        return [_summary(kind, rows) for kind, rows in kinds.items()]

    def best(self) -> dict[str, RateSummary]:
        """Return the kind of run with the least mean loss, for each task."""
        found: dict[str, RateSummary] = {}
        for one in self.summaries():
            if one.optimum is None:
                continue
            before = found.get(one.kind.task)
            if before is None or one.optimum.loss < _loss(before):
                found[one.kind.task] = one
        return found

    def __str__(self) -> str:
        lines = [f"study {self.name}: {self.done:,} of {len(self.rows):,} trials done"]
        lines += [_line(one) for one in self.summaries()]
        return "\n".join(lines)


def _loss(one: RateSummary) -> float:
    return math.inf if one.optimum is None else one.optimum.loss


def _summary(kind: RunKind, rows: Sequence[StudyRow]) -> RateSummary:
    done = [row for row in rows if row.state == TrialState.DONE]
    seeds = {row.seed for row in rows}
    stopped = sum(row.stopped_at is not None for row in done)
    losses: dict[float, dict[int, float]] = defaultdict(dict)
    for row in done:
        if row.stopped_at is not None:
            continue
        loss = math.inf if row.diverged or row.loss is None else row.loss
        losses[row.lr][row.seed] = loss
    whole = sorted(lr for lr, found in losses.items() if set(found) == seeds)
    table = np.array([[losses[lr][seed] for seed in sorted(seeds)] for lr in whole])
    table = table.reshape(len(whole), len(seeds))
    untrained = [row.untrained_loss for row in done if row.untrained_loss is not None]
    start = float(np.mean(untrained)) if untrained else math.nan
    means = table.mean(1)
    known = len(whole) > 0 and math.isfinite(start) and not stopped
    return RateSummary(
        kind,
        tuple(whole),
        tuple(map(float, means)),
        tuple(map(float, table.min(1))),
        tuple(map(float, table.max(1))),
        start,
        optimum(whole, table) if len(whole) else None,
        sensitivity(means, start) if known else math.nan,
        stable_decades(whole, means, start) if known else math.nan,
        sum(bool(row.diverged) for row in done) / len(done) if done else math.nan,
        len(done),
        sum(row.state == TrialState.FAILED for row in rows),
        stopped,
    )


def _line(one: RateSummary) -> str:
    """Return a summary as one line."""
    named = {f.name: getattr(one.kind, f.name) for f in fields(one.kind)}
    what = " ".join(str(value) for value in named.values() if value not in (None, ""))
    best = one.optimum
    if best is None:
        return f"{what}: no rate trained at every seed; {one.runs} runs done, {one.failed} failed"
    if one.stopped:
        return (
            f"{what}: best rate {best.lr:.3g}, loss {best.loss:.4g}; {one.stopped} of {one.runs} "
            f"runs were stopped by successive halving; {one.diverged:.0%} diverged"
        )
    edge = ", at the end of the range" if best.at_edge else ""
    return (
        f"{what}: best rate {best.lr:.3g} ({best.low:.3g} to {best.high:.3g}{edge}), "
        f"loss {best.loss:.4g}; sensitivity {one.sensitivity:.3g}; "
        f"{one.stable_decades:.2g} decades train; {one.diverged:.0%} diverged"
    )


def table_of(result: StudyResult) -> Iterator[Mapping[str, Any]]:
    """Yield each row of a study as plain values, for tables."""
    for row in result.rows:
        kind = {f.name: getattr(row.kind, f.name) for f in fields(row.kind)}
        own = {f.name: getattr(row, f.name) for f in fields(row) if f.name != "kind"}
        yield {"number": own.pop("number"), **kind, **own}
