"""The critical rate at a few updates of a watched loop, where its loss can be computed again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from etude.diagnosis.history import RunQuantity
from etude.errors import shown
from etude.measure.critical_rate import critical_rate

APART = 256
"""The curvature is measured at update 0, at the powers of 2, and so many updates apart."""


def is_due(update: int, every: int | None = None) -> bool:
    """Return whether the curvature is measured at an update.

    The updates depend on nothing but their number, so that all processes of a distributed run
    measure in the same ones. With `every`, it is the first sampled update at or after each.

    >>> [t for t in range(1_000) if is_due(t)]
    [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768]
    >>> [t for t in range(100) if is_due(t, every=10)]
    [0, 10, 20, 40, 70]
    """
    period = every or 1
    return update % period == 0 and _marks(update) > _marks(update - period)


def _marks(update: int) -> int:
    """Return how many of the updates up to this one are due."""
    powers = min(update, APART).bit_length()
    return max(0, powers + 1 + max(0, update // APART - 1)) if update >= 0 else 0


class CurvatureTimes(Protocol):
    """Decides at which updates the curvature is measured.

    Attributes:
        share: The share of the run's own time that it may take; 0 where no bound was asked for.
    """

    share: float

    def due(self, update: int) -> bool:
        """Return whether it is measured at an update."""

    def passed(self, seconds: float, cost: float) -> None:
        """Note the time of an update without the watch, and what measuring has cost in it."""


class AtMarks:
    """Measures at the updates of `is_due`, whatever that costs: someone has asked for it.

    Args:
        every: The period of the sampled updates; None for an automatic one.
    """

    share = 0.0

    def __init__(self, every: int | None = None) -> None:
        self._every = every

    def due(self, update: int) -> bool:
        """Return whether it is measured at an update."""
        return is_due(update, self._every)

    def passed(self, seconds: float, cost: float) -> None:
        """Note nothing."""


class WithinShare:
    """Measures as often as a share of the run's own time pays for, but once in any case.

    Each measurement after the first waits until

        share · (the run's own time since the last one) >= (what the last one has cost).

    Args:
        first: The update of the first measurement, such as the one where the rate is highest.
        share: The share of the run's own time.

    >>> times = WithinShare(first=2, share=0.125)
    >>> found = []
    >>> for update in range(50):
    ...     measured = times.due(update)
    ...     found += [update] if measured else []
    ...     times.passed(seconds=1.0, cost=2.0 if measured else 0.0)
    >>> found
    [2, 19, 36]
    """

    def __init__(self, first: int = 0, share: float = 0.005) -> None:
        self.first, self.share = first, share
        self._owed = 0.0

    def due(self, update: int) -> bool:
        """Return whether it is measured at an update."""
        return update >= self.first and self._owed <= 0

    def passed(self, seconds: float, cost: float) -> None:
        """Note the time of an update without the watch, and what measuring has cost in it."""
        self._owed = max(0.0, self._owed - self.share * seconds) + cost


class Curvature:
    """Measures the critical rate of the steps of one optimizer.

    Args:
        models: The networks, which are left as they were.
        loss: Returns the loss of the current batch.
        times: When it is measured.

    Attributes:
        times: When it is measured.
        error: Why it is no longer measured; '' if it is.
    """

    def __init__(
        self, models: Mapping[str, nn.Module], loss: Callable[[], Any], times: CurvatureTimes
    ) -> None:
        self.times = times
        self._model = nn.ModuleDict({f"model{n}": m for n, m in enumerate(models.values())})
        self._loss = loss
        self._guess = 1.0
        self._parameters: list[Tensor] = []
        self._before: list[Tensor] = []
        self.error = ""

    def due(self, update: int) -> bool:
        """Return whether it is measured at an update."""
        return not self.error and self.times.due(update)

    @property
    def begun(self) -> bool:
        """Whether the weights before a step are known, and the step is to be measured."""
        return bool(self._before)

    def before_step(self, parameters: Sequence[Tensor]) -> None:
        """Copy the weights; without memory for that it is no longer measured."""
        try:
            self._before = [parameter.detach().clone() for parameter in parameters]
        except RuntimeError as error:
            self._failed(error)
        else:
            self._parameters = list(parameters)

    def after_step(self, rate: float) -> dict[RunQuantity, float]:
        """Measure the step that was made; return nothing if it cannot be measured."""
        before, self._before = self._before, []
        try:
            found = critical_rate(
                self._model, self._loss, self._parameters, before, guess=self._guess
            )
        except Exception as error:  # noqa: BLE001 - the user's function failed
            self._failed(error)
            return {}
        finally:
            self._parameters = []
        if 0 < found.multiple < math.inf:
            self._guess = found.multiple
        return {
            RunQuantity.CRITICAL_SHARPNESS: found.sharpness(rate),
            RunQuantity.RATE_OVER_CRITICAL: found.over_critical,
        }

    def _failed(self, error: Exception) -> None:
        self.error = f"{type(error).__name__}: {shown(str(error))}"
