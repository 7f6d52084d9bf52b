"""A run's rate and hyperparameters over its next updates, as the loop would set them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from etude.training.run import Run

Numbers = NDArray[np.float64]


class Values:
    """The values that `Run` writes into its optimizer's groups, for `count` updates from `step` on.

    Args:
        run: The run.
        step: The first update.
        count: The number of updates.
    """

    def __init__(self, run: Run, step: int, count: int) -> None:
        self.run = run
        self.steps = np.arange(step, step + count, dtype=np.int64)
        self.lr: Numbers = run.recipe.lr * self._along(run.state.lr_schedule)

    @property
    def number(self) -> Numbers:
        """The number of updates done after each update, as in Adam's bias corrections."""
        return self.steps.astype(np.float64) + 1

    def _along(self, schedule: Any) -> Numbers:
        return np.asarray(schedule(self.steps.astype(np.float64)), dtype=np.float64)

    def __call__(self, name: str) -> Numbers:
        """Return the values of a hyperparameter: scheduled, or constant."""
        if name in self.run.state.hyperparameter_schedules:
            return self._along(self.run.state.hyperparameter_schedules[name])
        return np.full(len(self.steps), float(self.run.recipe.optimizer.value(name)))

    def betas(self) -> tuple[Numbers, Numbers]:
        """Return the values of both betas; 'momentum' and 'beta1' name the first."""
        pair = self.run.recipe.optimizer.value("betas")
        found = []
        for names, value in ((("momentum", "beta1"), pair[0]), (("beta2",), pair[1])):
            scheduled = next(
                (n for n in names if n in self.run.state.hyperparameter_schedules), None
            )
            found.append(
                np.full(len(self.steps), value)
                if scheduled is None
                else self._along(self.run.state.hyperparameter_schedules[scheduled])
            )
        return found[0], found[1]
