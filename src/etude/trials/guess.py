"""Trials that are trained before they are asked for, where a worker would be idle otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from etude.recipe import Recipe
from etude.storage.tuning_folder import TuningFolder
from etude.trials.trial import Trial

T = TypeVar("T")
N = TypeVar("N")

MANY = 4
"""Workers from which new trials are guessed. With fewer, a wrong guess costs time: processes share
the memory, and the engine's own choice between processes and none would be another."""


@dataclass(frozen=True)
class Guess(Generic[T, N]):
    """What will probably be asked for next; it shows in no result.

    Attributes:
        further: Trials, and the share of the run to which each will be asked to go.
        new: Those that will be added and asked to go as far as the trials of the call: a rate
            each, or a recipe with its name.
    """

    further: tuple[tuple[T, float], ...] = ()
    new: tuple[N, ...] = ()


@dataclass(frozen=True)
class Aim:
    """How far a trial is trained.

    Attributes:
        until: The number of updates.
        pause: Whether it is evaluated there; not where a guess is cut short, or that would show.
    """

    until: int
    pause: bool = True

    def left(self, trial: Trial) -> int:
        """Return how many updates are left; none for a trial that has broken."""
        return 0 if trial.diverged else max(0, self.until - trial.steps)

    def is_open(self, trial: Trial) -> bool:
        """Return whether a trial lacks updates, or the evaluation after them."""
        if trial.diverged:
            return False
        return trial.at(self.until) is None if self.pause else self.left(trial) > 0

    def within(self, trial: Trial, most: int) -> Aim:
        """Return an aim that takes no more than so many updates."""
        return self if self.left(trial) <= most else Aim(trial.steps + most, pause=False)


NewTrial = tuple[Recipe, str]
"""The recipe of a trial, and the name of its folder."""


class GuessedTrials:
    """Trials that were guessed and not yet asked for: nobody sees them.

    They are in no folder. Each was trained to the share of one call; asked for another, it begins
    anew, or the evaluation at that share would show.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Trial, float]] = {}

    def __iter__(self) -> Iterator[Trial]:
        return iter(trial for trial, _ in self._kept.values())

    def keep_only(self, share: float) -> None:
        """Forget those that were trained to another share."""
        self._kept = {name: pair for name, pair in self._kept.items() if pair[1] == share}

    def put(self, trial: Trial, share: float) -> None:
        """Keep a trial that is trained to a share."""
        self._kept[trial.name] = trial, share

    def known(self, new: NewTrial) -> Trial | None:
        """Return the trial of a recipe, if it was guessed."""
        recipe, name = new
        trial = self._kept[name][0] if name in self._kept else None
        return trial if trial is not None and trial.recipe == recipe else None

    def take(self, new: NewTrial, folder: TuningFolder | None) -> Trial | None:
        """Return the trial of a recipe, if it was guessed, and no longer keep it.

        Args:
            new: What is asked for.
            folder: The folder of the trials, where it is saved from now on.
        """
        trial = self.known(new)
        if trial is None:
            return None
        trial.guessed = self._kept.pop(trial.name)[1]
        if folder is not None:
            trial.move_into(folder.trial(trial.name))
            trial.save()
        return trial
