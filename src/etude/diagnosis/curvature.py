"""The critical rate at a few updates of a watched loop, where its loss can be computed again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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


class Curvature:
    """Measures the critical rate of the steps of one optimizer.

    Args:
        models: The networks, which are left as they were.
        loss: Returns the loss of the current batch.

    Attributes:
        error: Why it is no longer measured; '' if it is.
    """

    def __init__(self, models: Mapping[str, nn.Module], loss: Callable[[], Any]) -> None:
        self._model = nn.ModuleDict({f"model{n}": m for n, m in enumerate(models.values())})
        self._loss = loss
        self._guess = 1.0
        self._parameters: list[Tensor] = []
        self._before: list[Tensor] = []
        self.error = ""

    def before_step(self, parameters: Sequence[Tensor]) -> None:
        """Copy the weights."""
        if not self.error:
            self._parameters = list(parameters)
            self._before = [parameter.detach().clone() for parameter in parameters]

    def after_step(self, rate: float) -> dict[RunQuantity, float]:
        """Measure the step that was made; return nothing if it cannot be measured."""
        before, self._before = self._before, []
        if not before or self.error:
            return {}
        try:
            found = critical_rate(
                self._model, self._loss, self._parameters, before, guess=self._guess
            )
        except Exception as error:  # noqa: BLE001 - the user's function failed
            self.error = f"{type(error).__name__}: {shown(str(error))}"
            return {}
        finally:
            self._parameters = []
        if 0 < found.multiple < math.inf:
            self._guess = found.multiple
        return {
            RunQuantity.CRITICAL_SHARPNESS: found.sharpness(rate),
            RunQuantity.RATE_OVER_CRITICAL: found.over_critical,
        }
