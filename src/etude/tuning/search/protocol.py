"""What the search asks of a pool of trials; tables of past runs can stand in for one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from etude.trials.curve import Curve, Exposure
from etude.trials.guess import Guess
from etude.trials.phase import Phase


class RateTrial(Protocol):
    """One rate in the pool."""

    @property
    def lr(self) -> float:
        """Its rate."""

    @property
    def share(self) -> float:
        """How far of its run it was asked to go."""

    @property
    def diverged(self) -> bool:
        """Whether a NaN or Inf had ended it by then."""

    def curve(self) -> Curve:
        """Return what was seen of it."""


E = TypeVar("E", bound=RateTrial)


class RateTrials(Protocol[E]):
    """What the search asks of the pool: enter rates, take them further, say what is left."""

    @property
    def untrained_score(self) -> float:
        """The score before training."""

    @property
    def untrained_loss(self) -> float:
        """The magnitude of the loss before training."""

    @property
    def exposure(self) -> Exposure:
        """How much of the schedule's area lies behind at each share of the run."""

    @property
    def lowest(self) -> float:
        """The rate below which none is tried: the weights' precision sees no difference."""

    @property
    def hopeless(self) -> bool:
        """Whether all that came to some update broke there, for another cause than the rate."""

    @property
    def left(self) -> float:
        """What may still be spent, in full runs."""

    def enter(self, lr: float) -> E:
        """Enter a rate, or return the one that is there."""

    def trials(self) -> Sequence[E]:
        """Return all that are in the pool."""

    def go(
        self,
        trials: Sequence[E],
        share: float,
        phase: Phase,
        ahead: Sequence[E] = (),
        guess: Guess[E, float] | None = None,
    ) -> None:
        """Take some to a share of their runs, and pay for it.

        Those in `ahead` will be asked to go as far next, unless what comes says otherwise: they
        may be trained at the same time where that costs no time. The same goes for `guess`, of
        which less is sure. It shows in no result.
        """

    def price(self, trial: E, share: float) -> float:
        """Return the cost of taking one to a share of its run."""

    def fresh(self, share: float) -> float:
        """Return the cost of taking a new one to a share of its run."""
