"""`Repair`: what trying remedies has shown, each as an `Attempt`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from etude.recipe import Recipe
from etude.record import Evaluation, to_json
from etude.tasks.task import Task
from etude.trials.score import Goal


@dataclass(frozen=True)
class Attempt:
    """One remedy that was tried.

    Attributes:
        name: The remedy's name; 'control' for the unchanged recipe.
        text: What was done, as a sentence.
        patch: What changed, in words and code.
        drawn: Whether it was drawn at random from all remedies.
        share: The share of the run to which it was trained.
        evaluation: Its last evaluation; None if it diverged before the first.
        gain: By how much its score is lower than that of the control after the same share.
        beats_control: Whether that is more than noise.
        diverged: Whether it diverged.
    """

    name: str
    text: str
    patch: str
    drawn: bool
    share: float
    evaluation: Evaluation | None
    gain: float
    beats_control: bool
    diverged: bool = False


@dataclass(frozen=True, eq=False)
class Repair:
    """What trying remedies has shown.

    Attributes:
        objective: What was compared: 'loss', or the metric's name.
        control: The unchanged run.
        attempts: The remedies, the best first.
        recommended: The remedy that was trained to its end and beats the control there by more
            than noise; None if none does.
        recipe: The mended recipe; the recipe itself if nothing is recommended.
        cost: In full runs, the control's included.
        chance_is_better: Whether the remedy drawn at random was better after a quarter of its run,
            by more than noise, than every remedy of the suspected causes.
        skipped: Remedies that do not apply, or that the budget left out, with the reason.
        model: The trained network of the recommended remedy, or of the control.
        task: The task with the rewritten model; the task itself if the model stays.
    """

    objective: str
    control: Attempt
    attempts: tuple[Attempt, ...]
    recommended: Attempt | None
    recipe: Recipe
    cost: float
    chance_is_better: bool = False
    skipped: tuple[str, ...] = ()
    model: nn.Module | None = field(default=None, repr=False)
    task: Task | None = field(default=None, repr=False)

    def __str__(self) -> str:
        doubt = ""
        if self.chance_is_better:
            names = ", ".join(repr(one.name) for one in self.attempts if one.drawn)
            doubt = (
                f"\nA remedy drawn at random, {names}, was better after a quarter of the run than "
                "those of the suspected causes: the cause may be another."
            )
        if self.recommended is None:
            tried = ", ".join(one.name for one in self.attempts if not one.drawn)
            if not tried:
                return f"The suspected causes have no remedy that can be tried here.{doubt}"
            return (
                f"None of the remedies beats the unchanged run by more than noise; tried: "
                f"{tried}.{doubt}"
            )
        best = self.recommended
        after, before = (self.value(one) for one in (best, self.control))
        instead = f"instead of {before:.4g}"
        if self.control.diverged:
            instead = "and the unchanged run diverges"
        return (
            f"{best.text}: the validation {self.objective} becomes {after:.4g} {instead}."
            f"\n{best.patch}{doubt}"
        )

    def value(self, attempt: Attempt) -> float:
        """Return the loss or metric of an attempt; NaN without an evaluation."""
        found = attempt.evaluation
        return float("nan") if found is None else Goal(self.objective).value(found)

    def to_dict(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        return {
            "objective": self.objective,
            "recommended": None if self.recommended is None else self.recommended.name,
            "recipe": self.recipe.plain(),
            "cost": self.cost,
            "control": self._plain(self.control),
            "attempts": [self._plain(attempt) for attempt in self.attempts],
            "chance_is_better": self.chance_is_better,
            "skipped": list(self.skipped),
        }

    def _plain(self, attempt: Attempt) -> dict[str, Any]:
        return {
            "name": attempt.name,
            "patch": attempt.patch.splitlines(),
            "drawn": attempt.drawn,
            "share": attempt.share,
            "diverged": attempt.diverged,
            self.objective: to_json(self.value(attempt)),
            "gain": to_json(attempt.gain),
            "beats_control": attempt.beats_control,
        }
