"""`Sink`: where the readings and findings of a watch are shown, such as TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from etude.diagnosis.finding import Finding
from etude.diagnosis.history import Floats, History
from etude.errors import BadTypeError, shown


@runtime_checkable
class Sink(Protocol):
    """Takes the readings and findings of a watch. A call may fail: it is then not used again.

    `etude.interop.tensorboard`, `.mlflow`, `.wandb` and `.aim` have one each.
    """

    def readings(self, update: int, values: Mapping[str, float]) -> None:
        """Take what was read in an update: finite numbers by name.

        The names are 'watch/loss', 'watch/lr', those of the whole run, such as
        'watch/run/gradient_norm', and those of layers, such as 'watch/update_ratio/layers.0'.
        """

    def finding(self, finding: Finding) -> None:
        """Take what was found."""

    def close(self) -> None:
        """Write what waits; the watch is closed."""


def listed_sinks(sink: Any) -> tuple[Sink, ...]:
    """Return one or several sinks as a tuple.

    Raises:
        BadTypeError: If something else is given.
    """
    listed = tuple(sink) if isinstance(sink, (list, tuple)) else (sink,)
    for one in listed:
        if not isinstance(one, Sink) or isinstance(one, type):
            raise BadTypeError(
                f"sink is {shown(one)}: give an object with the methods readings, finding and "
                "close, such as etude.interop.tensorboard.TensorBoardSink('logs')"
            )
    return listed


class GuardedSink:
    """A sink that may fail: its failure is warned of once, and it is left alone from then on.

    Args:
        sink: The sink.
        warn: Called with a sentence.
    """

    def __init__(self, sink: Sink, warn: Callable[[str], None]) -> None:
        self._sink, self._warn = sink, warn
        self.is_open = True

    def readings(self, update: int, values: Mapping[str, float]) -> bool:
        """Give the values of an update; return whether the sink took them."""
        return self._try(self._sink.readings, update, values)

    def finding(self, finding: Finding) -> None:
        """Give a finding."""
        self._try(self._sink.finding, finding)

    def close(self) -> None:
        """Close the sink; may be called twice."""
        self._try(self._sink.close)
        self.is_open = False

    def _try(self, call: Callable[..., object], *args: Any) -> bool:
        if not self.is_open:
            return False
        try:
            call(*args)
        except Exception as error:  # noqa: BLE001 - the user's training goes on
            self.is_open = False
            self._warn(
                f"the sink {type(self._sink).__name__} failed and is not used again: "
                f"{type(error).__name__}: {error}"
            )
        return self.is_open


class SinkFeed(GuardedSink):
    """Gives a sink the readings of a history that it has not had."""

    _last = -1

    def new_readings(self, history: History) -> None:
        """Give the readings of updates that it has not had."""
        for update, values in readings_of(history, self._last):
            if self.readings(update, values):
                self._last = update


def readings_of(history: History, after: int = -1) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the sampled updates after one, each with its finite readings by name.

    >>> import numpy as np
    >>> one = History(2, np.array([0.5, 0.25]), np.array([0.1, 0.1]), np.array([1]))
    >>> list(readings_of(one))
    [(1, {'watch/loss': 0.25, 'watch/lr': 0.1})]
    """
    names = [layer.name for layer in history.layers]
    for row, update in enumerate(history.steps.tolist()):
        if update <= after:
            continue
        found = {"watch/loss": _at(history.loss, update), "watch/lr": _at(history.lr, update)}
        found |= {f"watch/run/{q}": float(v[row]) for q, v in history.run_readings.items()}
        for quantity, values in history.readings.items():
            pairs = zip(names, values[row].tolist(), strict=True)
            found |= {f"watch/{quantity}/{name}": value for name, value in pairs}
        yield update, {name: value for name, value in found.items() if math.isfinite(value)}


def _at(values: Floats, update: int) -> float:
    return float(values[update]) if update < len(values) else math.nan
