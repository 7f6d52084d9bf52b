"""`log=` of `tune`: each trial as it is trained, and at the end the answer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from etude.diagnosis.health.run_log import RunLog, finite, rows_of
from etude.diagnosis.watching.sink import GuardedSink
from etude.trials.score import Goal
from etude.trials.trial import Trial
from etude.tuning.result import TuneResult
from etude.tuning.trial_summary import TrialSummary


class TrialLog:
    """Logs a trial of a tuning at each of its pauses: the updates and evaluations since the last.

    Args:
        sink: Where to; None if the log cannot be opened.
    """

    def __init__(self, sink: GuardedSink | None) -> None:
        self._sink = sink
        self._updates = self._evaluations = 0

    def give(self, trial: Trial) -> None:
        """Log what is new, up to the update to which the trial was asked to go."""
        if self._sink is None:
            return
        record, last = trial.record(), trial.last()
        fresh = record.evaluations[self._evaluations :]
        rows = dict(rows_of(record.series, self._updates, fresh, record.metric or "metric"))
        if last is not None and fresh:
            rows.setdefault(last.step, {})["trial/score"] = trial.goal.value(last)
        self._sink.many(finite(sorted(rows.items())))
        self._updates = len(record.series["loss"])
        self._evaluations = len(record.evaluations)

    def close(self) -> None:
        """Close the log of the trial."""
        if self._sink is not None:
            self._sink.close()


class TuningLog:
    """Logs a tuning: its trials at each pause, the answer and the finished run at the end.

    It reads what the trials have written down already, and changes no bit of them.

    Args:
        log: Where to.
    """

    def __init__(self, log: RunLog) -> None:
        self._log = log
        self._trials: dict[int, tuple[Trial, TrialLog]] = {}

    def paused(self, trials: Sequence[Trial]) -> None:
        """Log trials that were trained up to a pause."""
        for trial in trials:
            if id(trial) not in self._trials:
                sink = self._log.part(trial.name, trial.recipe.plain())
                self._trials[id(trial)] = trial, TrialLog(sink)
            self._trials[id(trial)][1].give(trial)

    def finish(self, result: TuneResult) -> None:
        """Log a finished tuning: its trials by ascending rate, the answer, the finished run."""
        self._log.give(_tuning_rows(result), result.recipe.plain())

    def close(self) -> None:
        """Close the logs of the trials, then the log."""
        for _, one in self._trials.values():
            one.close()
        self._log.close()


def _score(trial: TrialSummary, objective: str) -> float:
    """Return the loss or metric by which a trial was compared last; NaN where it has none."""
    last = trial.record.evaluations[-1] if trial.record.evaluations else None
    if trial.compared is not None:
        return trial.compared
    return math.nan if last is None else Goal(objective).value(last)


def _tuning_rows(result: TuneResult) -> Iterator[tuple[int, dict[str, float]]]:
    record = result.record
    low, high = result.tied
    answer = {
        "answer/lr": result.lr,
        "answer/tied_low": low,
        "answer/tied_high": high,
        "answer/cost": result.cost,
        "answer/confidence": math.nan if result.confidence is None else result.confidence,
    }
    if result.stable_below is not None:
        answer["answer/stable_below"] = result.stable_below
    trials = {
        place: {
            "trial/lr": trial.lr,
            "trial/score": _score(trial, result.objective),
            "trial/updates": float(trial.record.cost.steps),
        }
        for place, trial in enumerate(result.trials)
    }
    runs = dict(rows_of(record.series, 0, record.evaluations, record.metric or "metric"))
    for update in sorted({0, *trials, *runs}):
        found = answer if update == 0 else {}
        yield update, {**found, **trials.get(update, {}), **runs.get(update, {})}
