"""Reduction of the rate when a metric stops improving."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from etude.errors import BadValueError
from etude.schedules._base import Schedule
from etude.schedules._numbers import choice, count, number
from etude.schedules.arguments import EVENTS, PART, SHARE, OneOf, WholeIn
from etude.schedules.feedback.log import Event, EventLog
from etude.schedules.feedback.replay import Feedback, Replay
from etude.schedules.registry import composition


class _State(NamedTuple):
    value: float
    best: float
    bad: int
    cooling: int


@dataclass(frozen=True, slots=True, repr=False)
class Plateau(Feedback):
    """The schedule that `plateau` returns; `rest` is the argument `cooldown`, `source` is `on`."""

    factor: float = 0.1
    patience: int = 10
    mode: str = "min"
    threshold: float = 1e-4
    threshold_mode: str = "rel"
    rest: int = 0
    floor: float = 0.0
    eps: float = 1e-8
    source: str | None = None
    log: EventLog = field(default_factory=EventLog)
    replay: Replay = field(init=False, compare=False)

    name: ClassVar[str] = "plateau"
    spelling: ClassVar[dict[str, str]] = {"rest": "cooldown", "source": "on"}

    def __post_init__(self) -> None:
        self.put(
            factor=number("factor", self.factor, above=0.0, at_most=1.0),
            patience=count("patience", self.patience, at_least=0),
            mode=choice("mode", self.mode, ("min", "max")),
            threshold=number("threshold", self.threshold, at_least=0.0),
            threshold_mode=choice("threshold_mode", self.threshold_mode, ("rel", "abs")),
            rest=count("cooldown", self.rest, at_least=0),
            floor=number("floor", self.floor, at_least=0.0, at_most=1.0),
            eps=number("eps", self.eps, at_least=0.0),
            source=None if self.source is None else choice("on", self.source, ("loss", "metric")),
        )
        if self.source == "loss" and self.mode == "max":
            raise BadValueError(
                "on is 'loss' and mode is 'max', but a loss is better when it is smaller: leave "
                "mode out, or use the task's metric with on='metric'"
            )
        self.begin_replay()

    @property
    def signal(self) -> str:
        """'metric' if `on` names it, or if a larger value is better; else 'loss'."""
        return self.source or ("metric" if self.mode == "max" else "loss")

    def begin(self) -> _State:
        """Return the state before any event."""
        return _State(1.0, math.inf if self.mode == "min" else -math.inf, 0, 0)

    def react(self, state: Any, metric: float | None) -> _State:
        """Return the state after an event."""
        value, best, bad, cooling = state
        if metric is not None and self._improves(metric, best):
            best, bad = metric, 0
        else:
            bad += 1
        if cooling > 0:
            cooling, bad = cooling - 1, 0
        if bad > self.patience:
            lower = max(value * self.factor, self.floor)
            value = lower if value - lower > self.eps else value
            bad, cooling = 0, self.rest
        return _State(value, best, bad, cooling)

    def _improves(self, metric: float, best: float) -> bool:
        if math.isinf(best):
            return True
        # best · (1 ± threshold), and not best ± threshold · |best|: torch's bits where best > 0
        share = math.copysign(self.threshold, best)
        relative = self.threshold_mode == "rel"
        if self.mode == "min":
            return metric < (best * (1.0 - share) if relative else best - self.threshold)
        return metric > (best * (1.0 + share) if relative else best + self.threshold)


@composition(
    "plateau",
    "plateau()",
    "plateau(factor=0.5, patience=1, log=((10, 1.0), (20, 1.0), (30, None), (40, 1.5)))",
    "plateau(mode='max', threshold=0.01, threshold_mode='abs', cooldown=2, floor=0.1, eps=0.0)",
    "plateau(on='metric', threshold=0.1, log=((10, -1.0), (20, -1.05), (30, -1.2)))",
    within=(0.0, 1.0),
    arguments={
        "factor": PART,
        "patience": WholeIn(0, 3),
        "mode": OneOf(("min", "max")),
        "on": OneOf((None, "metric")),
        "threshold": SHARE,
        "threshold_mode": OneOf(("rel", "abs")),
        "cooldown": WholeIn(0, 3),
        "floor": SHARE,
        "log": EVENTS,
    },
)
def plateau(
    factor: float = 0.1,
    patience: int = 10,
    mode: str = "min",
    threshold: float = 1e-4,
    threshold_mode: str = "rel",
    cooldown: int = 0,
    floor: float = 0.0,
    eps: float = 1e-8,
    log: EventLog | Iterable[Event] = (),
    *,
    on: str | None = None,
) -> Schedule:
    """Return a schedule that is multiplied by `factor` whenever a metric stops improving.

    An event is an improvement if it beats the best so far by a margin: threshold·|best|, or the
    threshold itself with threshold_mode='abs'. In mode 'min' that means metric < best − margin, in
    mode 'max' metric > best + margin. After more than `patience` events without an improvement the
    value becomes max(value·factor, floor), from that event's step on. The next `cooldown` events
    are not counted.

    Args:
        factor: The factor of each reduction, in (0, 1).
        patience: Number of events without improvement before a reduction.
        mode: 'min' if a smaller metric is better, 'max' if a larger one is.
        threshold: The margin by which an improvement must beat the best value.
        threshold_mode: 'rel' for a share of the best value's magnitude, 'abs' for a difference.
        cooldown: Number of events after a reduction that are not counted.
        floor: The lowest value, relative to the first value of 1, in [0, 1].
        eps: A reduction smaller than this is skipped.
        log: Pairs (step, metric) of past events, usually set by `given` or `record`.
        on: The signal that training reports: 'loss', the validation loss, or 'metric', the task's
            metric. None is the metric in mode 'max', else the loss. In your own loop, the signal
            is whatever you pass to `record`.

    Returns:
        The schedule; it is endless.

    Raises:
        BadValueError: A number is out of bounds, the log is out of order, or a loss is to be
            maximised.

    Examples:
        >>> s = plateau(factor=0.1, patience=1).given([(1, 0.9), (2, 0.9), (3, 0.9)])
        >>> [s(t) for t in range(5)]
        [1.0, 1.0, 1.0, 0.1, 0.1]

    Source: torch `ReduceLROnPlateau`, option by option, with two differences. torch's relative
    margin is threshold·best, which has the wrong sign below zero: there a constant metric counts
    as an improvement. And an infinite metric is never an improvement here, so that one overflow
    cannot become a best value that no metric beats. optax's `contrib.reduce_on_plateau` has
    torch's margin; Keras's `ReduceLROnPlateau` has only an absolute margin.
    """
    return Plateau(
        factor,
        patience,
        mode,
        threshold,
        threshold_mode,
        cooldown,
        floor,
        eps,
        on,
        EventLog.of(log),
    )
