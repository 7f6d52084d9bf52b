"""What a population showed: its members, the rates of the best, and its trained model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from etude.methods.rate_history import RateHistory
from etude.recipe import Recipe
from etude.record import Evaluation, Record, Status, to_json
from etude.schedules import Schedule
from etude.shows_itself import ShowsItself
from etude.storage.tuning_folder import TuningFolder
from etude.trials.score import Goal


@dataclass(frozen=True)
class PopulationMember:
    """One place in a population, over all generations.

    Attributes:
        number: Its number, from 0.
        rates: The peak of the rate in each generation: what the recipe's schedule multiplies.
        scores: Its score at the end of each generation, lower is better; infinite after it
            diverged.
        donors: The member that it copied before each generation; None where it went on by itself.
    """

    number: int
    rates: tuple[float, ...]
    scores: tuple[float, ...]
    donors: tuple[int | None, ...]

    def plain(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return {
            "number": self.number,
            "rates": list(self.rates),
            "scores": [to_json(score) for score in self.scores],
            "donors": list(self.donors),
        }


@dataclass(frozen=True, eq=False)
class PopulationResult(ShowsItself):
    """What a population showed.

    Attributes:
        recipe: The recipe that replays the best member: `etude.train(task, recipe)` gives its
            weights, to the bit on one machine.
        history: The rates of the best member's line.
        best: The number of the best member; None if all diverged.
        members: Every member.
        ends: The updates at which the generations ended.
        goal: What is compared.
        untrained: The evaluation before training.
        cost: In full runs of the recipe.
        seconds: Wall-clock time.
        record: What happened to the best member; its series of rates is that of its whole line.
        notes: Explanations, such as how often a member was copied.
        cause: Why all diverged, where the rates are not to blame; else empty.
        model: The best member's network. In memory only; a folder keeps its weights.
    """

    recipe: Recipe
    history: RateHistory
    best: int | None
    members: tuple[PopulationMember, ...]
    ends: tuple[int, ...]
    goal: Goal
    untrained: Evaluation
    cost: float
    seconds: float
    record: Record
    notes: tuple[str, ...] = ()
    cause: str = ""
    model: Any = field(default=None, repr=False)

    @property
    def task(self) -> str:
        """The name of the task."""
        return self.record.task

    @property
    def lr(self) -> float:
        """The rate that the schedule multiplies."""
        return self.history.lr

    @property
    def schedule(self) -> Schedule:
        """The schedule that was learned, with the recipe's own."""
        found: Schedule = self.recipe.schedule
        return found

    @property
    def copied(self) -> int:
        """How often a member copied another."""
        return sum(donor is not None for one in self.members for donor in one.donors)

    def advice(self) -> str:
        """Return what to do about the result, in sentences; empty if all is well."""
        if self.cause:
            return self.cause
        first = [one.rates[0] for one in self.members]
        if self.best is None:
            return (
                f"Every member diverged, from {min(first):.3g} to {max(first):.3g}: give lower "
                "rates with lrs=, or let `etude.diagnose` look for another cause."
            )
        said = []
        ends = self.record.evaluations
        if not ends or self.goal.score(ends[-1]) >= self.goal.score(self.untrained):
            said.append(
                f"No member ended better than the untrained network, from {min(first):.3g} to "
                f"{max(first):.3g}: give other rates with lrs=, or let `etude.diagnose` look for "
                "another cause."
            )
        if self.lr in (min(first), max(first)):
            side = "lowest" if self.lr == min(first) else "highest"
            said.append(
                f"The best member's line began at the {side} rate: rates beyond it may be better; "
                "give others with lrs=."
            )
        return " ".join(said)

    def plain(self) -> dict[str, Any]:
        """Return the result as plain values for JSON."""
        last = self.record.evaluations[-1] if self.record.evaluations else None
        return {
            "task": self.task,
            "lr": self.lr,
            "schedule": repr(self.schedule),
            "boundaries": list(self.history.boundaries),
            "factors": list(self.history.factors),
            "best": self.best,
            "objective": self.goal.name,
            "loss": None if last is None else to_json(last.loss),
            "metric": None if last is None or last.metric is None else to_json(last.metric),
            "untrained_loss": to_json(self.untrained.loss),
            "copied": self.copied,
            "cost": self.cost,
            "seconds": self.seconds,
            "advice": self.advice(),
            "notes": list(self.notes),
            "ends": list(self.ends),
            "recipe": self.recipe.plain(),
            "members": [one.plain() for one in self.members],
        }

    def save(self, home: TuningFolder) -> None:
        """Write the result, and the best member with its model, into the population's folder."""
        home.run.write_recipe(self.recipe)
        self.record.save(home.path)
        if self.model is not None and self.record.status == Status.FINISHED:
            home.run.save_model(self.model)
        home.write_result(self.plain())


def best_of(scores: list[float]) -> int | None:
    """Return the index of the lowest score, the first of equal ones; None if none is finite.

    >>> best_of([2.0, 1.0, 1.0]), best_of([math.inf, math.inf])
    (1, None)
    """
    best = min(range(len(scores)), key=lambda i: (scores[i], i))
    return best if math.isfinite(scores[best]) else None
