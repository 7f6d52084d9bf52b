"""One rate under trial: a run that is paused, judged, and perhaps taken further."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from etude.training import checkpoint
from etude.training.folder import CHECKPOINTS, claim
from etude.training.interrupt import broken_by
from etude.training.keeper import Keeper
from etude.training.record import Evaluation
from etude.training.run import Run


class Candidate:
    """A paused run at one rate.

    What it has cost counts only as far as it was asked to go: a candidate that was read back
    from a folder, where it may have gone further already, is judged as it was the first time.

    Args:
        run: The run at this rate.
        folder: Where to keep it; None keeps it in memory alone.
    """

    def __init__(self, run: Run, folder: Path | None) -> None:
        self.run = run
        self.lr = run.recipe.lr
        self.reached = 0
        self.keeper: Keeper | None = None
        if folder is not None:
            if (state := checkpoint.load_newest(folder / CHECKPOINTS)) is not None:
                run.load(state)
            elif not (folder / "recipe.toml").exists():
                claim(folder, run.recipe)
            self.keeper = Keeper(run, folder, max(1, run.length // 20))

    def go(
        self, until: int, *, stop: Callable[[], bool], on_step: Callable[[Run], None], again: str
    ) -> int:
        """Train to `until` and evaluate there; return how many updates that took.

        Args:
            until: Updates to stand at.
            stop: Asked before each update.
            on_step: Called after each update.
            again: The command that goes on, for the note of an error.
        """
        run, keeper = self.run, self.keeper
        # A run that was killed between its last update and the evaluation there still owes it.
        marks = {mark for mark in run.heard if mark >= run.step} | {until}
        if keeper is None:
            run.walk(marks, until, stop=stop, on_step=on_step)
        elif run.step < until or (run.step == until and self.at(until) is None):
            keeper.on_step = on_step
            with keeper.rescue(again):
                with broken_by(stop):
                    run.walk(marks, until, stop=stop, on_step=keeper.after_step)
                keeper.save()
        before, self.reached = self.reached, until if self._done else min(run.step, until)
        return min(run.step, self.reached) - min(run.step, before)

    @property
    def _done(self) -> bool:
        """Whether the run has come to its end, or stopped early as its recipe says."""
        return self.run.status == "finished"

    @property
    def diverged(self) -> bool:
        """Whether a NaN or Inf had ended it within the updates it was asked for."""
        return self.run.diverged and self.run.step <= self.reached

    def at(self, step: int) -> Evaluation | None:
        """Return the evaluation after `step` updates, if there was one.

        A run that stopped early stands from then on where it stopped, at its best weights, which
        are the last that were evaluated there.
        """
        evaluations = self.run.evaluations
        if self._done and step > self.run.step:
            return evaluations[-1]
        return next((e for e in reversed(evaluations) if e.step == step), None)

    def loss(self, step: int) -> float:
        """Return the validation loss after `step` updates; infinite if it did not get there."""
        found = self.at(step)
        return found.loss if found is not None and math.isfinite(found.loss) else math.inf

    def last(self) -> Evaluation | None:
        """Return the newest evaluation within what it was asked for."""
        reached = [e for e in self.run.evaluations if e.step <= self.reached]
        return reached[-1] if reached else None
