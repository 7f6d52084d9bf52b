"""Hypergradient control: the rate follows the agreement of successive gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from etude.errors import BadValueError
from etude.schedules._numbers import choice, number
from etude.schedules.arguments import EVENTS, SHARE, OneOf, RealIn
from etude.schedules.feedback.log import EventLog
from etude.schedules.feedback.replay import Feedback, Replay
from etude.schedules.registry import kind


@kind(
    "hypergradient",
    "hypergradient()",
    "hypergradient(beta=0.1, log=((1, 0.5), (2, -1.0), (3, None)))",
    "hypergradient(beta=0.01, rule='additive', low=0.1, high=2.0, log=((1, 5.0), (2, -3.0)))",
    arguments={
        "beta": RealIn(0.005, 0.5),
        "rule": OneOf(("multiplicative", "additive")),
        "low": SHARE,
        "log": EVENTS,
    },
)
@dataclass(frozen=True, slots=True, repr=False)
class Hypergradient(Feedback):
    """A rate adapted by gradient descent: s·(1 + β·h) or s + β·h, clipped to [low, high].

    The metric h of an event at step t measures how much the gradient g_t agrees with the previous
    update, u_{t−1} = −Δθ/lr: their cosine for the multiplicative rule, their inner product for
    the additive rule. The rate grows while they agree and shrinks when they do not.

    Args:
        beta: β > 0, the learning rate of the rate; below 1 for the multiplicative rule.
        rule: 'multiplicative' or 'additive'.
        low: Lowest value, at least 0.
        high: Highest value, at least 1.
        log: Pairs (step, h) of past events, usually set by `given` or `record`. None stands for
            an h that was not finite, and changes nothing.

    Raises:
        BadValueError: A number is out of bounds, or the log is out of order.

    Examples:
        >>> s = hypergradient(beta=0.5, high=4.0).given([(1, 1.0), (2, -1.0)])
        >>> s(0), s(1), s(2)
        (1.0, 1.5, 0.75)

    Source: Baydin et al. 2018, "Online Learning Rate Adaptation with Hypergradient Descent",
    equations 7 and 8.
    """

    beta: float = 0.02
    rule: str = "multiplicative"
    low: float = 0.0
    high: float = 10.0
    log: EventLog = field(default_factory=EventLog)
    replay: Replay = field(init=False, compare=False)

    def __post_init__(self) -> None:
        self.put(
            beta=number("beta", self.beta, above=0.0),
            rule=choice("rule", self.rule, ("multiplicative", "additive")),
            low=number("low", self.low, at_least=0.0, at_most=1.0),
            high=number("high", self.high, at_least=1.0),
        )
        if self.rule == "multiplicative" and self.beta >= 1.0:
            raise BadValueError(
                f"beta is {self.beta}; it must be below 1, or one event could make the value "
                "negative"
            )
        self.begin_replay()

    @property
    def signal(self) -> str:
        """The agreement of successive gradients."""
        return "gradient"

    def begin(self) -> tuple[float]:
        """Return the state before any event."""
        return (1.0,)

    def react(self, state: Any, metric: float | None) -> tuple[float]:
        """Return the state after an event."""
        (value,) = state
        if metric is None:
            return (value,)
        if self.rule == "multiplicative":
            value *= 1.0 + self.beta * min(max(metric, -1.0), 1.0)
        else:
            value += self.beta * metric
        return (min(max(value, self.low), self.high),) if math.isfinite(value) else state


hypergradient = Hypergradient
