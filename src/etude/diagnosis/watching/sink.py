"""`Sink`: where the readings and findings of a watch are shown, such as TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from etude.diagnosis.finding import Finding
from etude.diagnosis.history import Floats, History
from etude.errors import BadTypeError, shown

TRIALS = "trials"
"""The first part of what a log calls the series of a tuning's trials."""


@runtime_checkable
class Sink(Protocol):
    """Takes the readings and findings of a watch. A call may fail: it is then not used again.

    `etude.interop.tensorboard`, `.mlflow`, `.wandb` and `.aim` have one each. Given as `log=`, a
    sink may have three more methods: see `SettingsSink`, `ManySink` and `PartsSink`.
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


@runtime_checkable
class SettingsSink(Protocol):
    """A sink that shows the values of a recipe."""

    def settings(self, config: Mapping[str, Any]) -> None:
        """Show the values, by name."""


@runtime_checkable
class ManySink(Protocol):
    """A sink that takes the readings of many updates in one call."""

    def many(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Take updates, each with its finite numbers by name."""


@runtime_checkable
class PartsSink(Protocol):
    """A sink that has a run of its own for each part, such as a trial of a tuning."""

    def part(self, title: str, name: str) -> Sink | None:
        """Return a new sink, which is closed before this one; None if there is none.

        Args:
            title: What the run is called: 'digits-cnn lr-0.01'.
            name: What the part is called: 'lr-0.01'.
        """


class PrefixedSink:
    """Shows a part as series of another sink, with its name before theirs.

    Args:
        sink: The other sink, which stays open.
        name: The name of the part.
    """

    def __init__(self, sink: Sink, name: str) -> None:
        self._sink, self._name = sink, name

    def readings(self, update: int, values: Mapping[str, float]) -> None:
        """Give the values on as 'trials/NAME/...'."""
        self._sink.readings(update, self._named(values))

    def many(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Give the values on as 'trials/NAME/...'."""
        give_many(self._sink, [(update, self._named(values)) for update, values in rows])

    def finding(self, finding: Finding) -> None:
        """Give the finding on."""
        self._sink.finding(finding)

    def close(self) -> None:
        """Do nothing: the other sink goes on."""

    def _named(self, values: Mapping[str, float]) -> dict[str, float]:
        return {f"{TRIALS}/{self._name}/{name}": value for name, value in values.items()}


def give_many(sink: Sink, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
    """Give a sink the values of many updates, in one call if it takes them so."""
    if isinstance(sink, ManySink):
        sink.many(rows)
        return
    for update, values in rows:
        sink.readings(update, values)


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

    def many(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Give the values of many updates."""
        self._try(give_many, self._sink, rows)

    def settings(self, config: Mapping[str, Any]) -> None:
        """Give the values of a recipe, if the sink shows them."""
        if isinstance(self._sink, SettingsSink):
            self._try(self._sink.settings, config)

    def part(self, title: str, name: str, config: Mapping[str, Any]) -> GuardedSink | None:
        """Return a sink for a part: a run of its own, or series of this one; None if it failed.

        Args:
            title: What a run of its own is called.
            name: What the part is called.
            config: The values of its recipe.
        """
        made: list[Sink] = []

        def make() -> None:
            own = self._sink.part(title, name) if isinstance(self._sink, PartsSink) else None
            made.append(PrefixedSink(self._sink, name) if own is None else own)

        if not self._try(make):
            return None
        found = GuardedSink(made[0], self._warn)
        found.settings(config)
        return found

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
