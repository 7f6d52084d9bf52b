"""`log=` of `train` and `tune`: what a run does, shown in W&B, MLflow, TensorBoard or Aim."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from etude.diagnosis.watching.sink import GuardedSink, Sink
from etude.errors import BadTypeError, shown, unknown_name
from etude.record import Evaluation
from etude.training.observer import Observer
from etude.training.state.state import RunState
from etude.trials.score import Goal
from etude.tuning.result import TuneResult
from etude.tuning.trial_summary import TrialSummary

Log: TypeAlias = str | Sink | None
"""The name of a logger, a sink, or None to log nothing."""

LOGGERS = {
    "wandb": "etude.interop.wandb",
    "mlflow": "etude.interop.mlflow",
    "tensorboard": "etude.interop.tensorboard",
    "aim": "etude.interop.aim",
}
"""The module of each logger. It has `available()`, which raises if its library is missing, and
`open_log(title, config, folder)`, which returns a sink."""


class RunLog:
    """Opens a logger when there is something to log, and gives it values by update.

    Args:
        log: The name of a logger, or a sink.
        title: What the run is called there.
        folder: The run folder, if there is one.

    Raises:
        UnknownNameError: If there is no such logger.
        MissingExtraError: If its library is not installed.
        BadTypeError: If something else is given.
    """

    def __init__(self, log: str | Sink, title: str, folder: str | Path | None) -> None:
        self._open = _opener(log, title, None if folder is None else Path(folder))
        self._sink: GuardedSink | None = None
        self._failed = False

    def give(self, rows: Iterator[tuple[int, dict[str, float]]], config: Mapping[str, Any]) -> None:
        """Give values of updates, without those that are not finite.

        Args:
            rows: Updates, and their values by name.
            config: The values of the recipe, shown where the logger is opened.
        """
        if self._sink is None and not self._failed:
            try:
                self._sink = GuardedSink(self._open(config), _warn)
            except Exception as error:  # noqa: BLE001 - the user's training goes on
                self._failed = True
                _warn(f"the log cannot be opened, and is not used: {type(error).__name__}: {error}")
        if self._sink is None:
            return
        for update, values in rows:
            finite = {name: value for name, value in values.items() if math.isfinite(value)}
            if finite:
                self._sink.readings(update, finite)

    def close(self) -> None:
        """Close the logger; may be called twice."""
        if self._sink is not None:
            self._sink.close()


def _warn(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=3)


def _opener(
    log: str | Sink, title: str, folder: Path | None
) -> Callable[[Mapping[str, Any]], Sink]:
    """Return a function that opens a logger, given the values of a recipe."""
    if not isinstance(log, str):
        if not isinstance(log, Sink) or isinstance(log, type):
            raise BadTypeError(
                f"log is {shown(log)}: give {', '.join(map(repr, LOGGERS))}, or an object with the "
                "methods readings, finding and close, such as "
                "etude.interop.tensorboard.TensorBoardSink('logs')"
            )
        sink = log
        return lambda config: sink
    if log not in LOGGERS:
        raise unknown_name("logger of log=", log, LOGGERS)
    module = import_module(LOGGERS[log])
    module.available()

    def opened(config: Mapping[str, Any]) -> Sink:
        found: Sink = module.open_log(title, config, folder)
        return found

    return opened


class LogObserver(Observer):
    """Gives a logger the series and evaluations of a run, at each evaluation and at the end.

    It reads what the run has written down already, and so neither waits for the device nor changes
    a bit. In a data-parallel run the main process logs.

    Args:
        log: Where to.
    """

    name = "log"
    reads = ()
    own_randomness = False

    def __init__(self, log: RunLog) -> None:
        super().__init__()
        self._log = log
        self._updates = self._evaluations = 0

    def on_evaluation(self, state: RunState, evaluation: Evaluation) -> None:
        """Log the evaluation, and the updates before it."""
        self._give(state)

    def on_end(self, state: RunState) -> None:
        """Log what is left."""
        self._give(state)

    def _give(self, state: RunState) -> None:
        if state.world.is_main:
            fresh = state.evaluations[self._evaluations :]
            metric = state.task.metric_name or "metric"
            rows = rows_of(state.series, self._updates, fresh, metric)
            self._log.give(rows, state.recipe.plain())
        self._updates = len(state.series["loss"])
        self._evaluations = len(state.evaluations)

    def state(self) -> dict[str, int]:
        """Return how much is logged, so that a resumed run logs the rest."""
        return {"updates": self._updates, "evaluations": self._evaluations}

    def load(self, state: Any) -> None:
        """Go on from there."""
        self._updates, self._evaluations = int(state["updates"]), int(state["evaluations"])


def rows_of(
    series: Mapping[str, Any], first: int, evaluations: list[Evaluation], metric: str
) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the updates from `first` on with their values by name, and the evaluations.

    The loss of update t is at t; an evaluation after t updates is at t. Both may be there.

    >>> found = rows_of({"loss": [0.5, 0.25], "lr": [0.1, 0.1]}, 1, [], "accuracy")
    >>> list(found)
    [(1, {'train/loss': 0.25, 'train/lr': 0.1})]
    """
    measured = {one.step: _measured(one, metric) for one in evaluations}
    length = len(series.get("loss", ()))
    for update in sorted({*range(first, length), *measured}):
        values = {
            f"train/{name}": float(listed[update])
            for name, listed in series.items()
            if first <= update < len(listed)
        }
        yield update, {**values, **measured.get(update, {})}


def _score(trial: TrialSummary, objective: str) -> float:
    """Return the loss or metric by which a trial was compared last; NaN where it has none."""
    last = trial.record.evaluations[-1] if trial.record.evaluations else None
    if trial.compared is not None:
        return trial.compared
    return math.nan if last is None else Goal(objective).value(last)


def _measured(evaluation: Evaluation, metric: str) -> dict[str, float]:
    found = {"valid/loss": evaluation.loss}
    return found if evaluation.metric is None else {**found, f"valid/{metric}": evaluation.metric}


def log_tuning(log: RunLog, result: TuneResult) -> None:
    """Log a finished tuning: its trials by ascending rate, the answer, and the finished run."""
    log.give(_tuning_rows(result), result.recipe.plain())
    log.close()


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
    runs = dict(rows_of(record.series, 0, list(record.evaluations), record.metric or "metric"))
    for update in sorted({0, *trials, *runs}):
        found = answer if update == 0 else {}
        yield update, {**found, **trials.get(update, {}), **runs.get(update, {})}
