"""`log=` of `train` and `tune`: what a run does, shown in W&B, MLflow, TensorBoard or Aim."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from etude.diagnosis.watching.sink import GuardedSink, Sink
from etude.errors import BadTypeError, shown, unknown_name
from etude.record import Evaluation
from etude.training.observer import Observer
from etude.training.state.state import RunState

Log: TypeAlias = str | Sink | None
"""The name of a logger, a sink, or None to log nothing."""

LOGGERS = {
    "wandb": "etude.interop.wandb",
    "mlflow": "etude.interop.mlflow",
    "tensorboard": "etude.interop.tensorboard",
    "aim": "etude.interop.aim",
}
"""The module of each logger. It has `available()`, which raises if its library is missing, and
`open_log(title, folder)`, which returns a sink."""

Rows = Iterable[tuple[int, dict[str, float]]]
"""Updates, and their values by name."""


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
        self.title = title
        self._open = _opener(log, title, None if folder is None else Path(folder))
        self._sink: GuardedSink | None = None
        self._failed = self._told = False

    def give(self, rows: Rows, config: Mapping[str, Any]) -> None:
        """Give values of updates, without those that are not finite.

        Args:
            rows: Updates, and their values by name.
            config: The values of the recipe, shown at the first call.
        """
        sink = self._opened()
        if sink is None:
            return
        if not self._told:
            self._told = True
            sink.settings(config)
        sink.many(finite(rows))

    def part(self, name: str, config: Mapping[str, Any]) -> GuardedSink | None:
        """Return a sink for a part, such as one trial of a tuning; None if nothing is logged.

        Args:
            name: What the part is called: 'lr-0.01'.
            config: The values of its recipe.
        """
        sink = self._opened()
        return None if sink is None else sink.part(f"{self.title} {name}", name, config)

    def _opened(self) -> GuardedSink | None:
        if self._sink is None and not self._failed:
            try:
                self._sink = GuardedSink(self._open(), _warn)
            except Exception as error:  # noqa: BLE001 - the user's training goes on
                self._failed = True
                _warn(f"the log cannot be opened, and is not used: {type(error).__name__}: {error}")
        return self._sink

    def close(self) -> None:
        """Close the logger; may be called twice."""
        if self._sink is not None:
            self._sink.close()


def finite(rows: Rows) -> list[tuple[int, dict[str, float]]]:
    """Return updates with those of their values that are finite, without empty ones.

    >>> finite([(0, {"train/loss": math.nan}), (1, {"train/loss": 0.5, "train/lr": math.inf})])
    [(1, {'train/loss': 0.5})]
    """
    kept = (
        (update, {k: v for k, v in values.items() if math.isfinite(v)}) for update, values in rows
    )
    return [(update, values) for update, values in kept if values]


def _warn(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=3)


def _opener(log: str | Sink, title: str, folder: Path | None) -> Callable[[], Sink]:
    """Return a function that opens a logger."""
    if not isinstance(log, str):
        if not isinstance(log, Sink) or isinstance(log, type):
            raise BadTypeError(
                f"log is {shown(log)}: give {', '.join(map(repr, LOGGERS))}, or an object with the "
                "methods readings, finding and close, such as "
                "etude.interop.tensorboard.TensorBoardSink('logs')"
            )
        sink = log
        return lambda: sink
    if log not in LOGGERS:
        raise unknown_name("logger of log=", log, LOGGERS)
    module = import_module(LOGGERS[log])
    module.available()

    def opened() -> Sink:
        found: Sink = module.open_log(title, folder)
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
    series: Mapping[str, Any], first: int, evaluations: Sequence[Evaluation], metric: str
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


def _measured(evaluation: Evaluation, metric: str) -> dict[str, float]:
    found = {"valid/loss": evaluation.loss}
    return found if evaluation.metric is None else {**found, f"valid/{metric}": evaluation.metric}
