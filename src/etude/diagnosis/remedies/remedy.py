"""`Remedy`: an edit of a recipe, or a rewrite of a model, that can mend a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import nn

from etude.diagnosis.rewrites import Rewrite
from etude.randomness import random_state_kept
from etude.recipe import Recipe
from etude.tasks.task import Task

Edit = Callable[[Task, Recipe], Recipe | None]
"""Returns the edited recipe; None where the edit does not apply."""

Rewriting = Callable[[Task, nn.Module], Rewrite]
"""Returns a rewrite of a model of a task."""


@dataclass(frozen=True)
class Applied:
    """A remedy on one task and recipe.

    Attributes:
        remedy: The remedy.
        task: The task, with the rewritten model.
        recipe: The edited recipe.
        rewrites: The rewrites of the model, in the order in which they are made.
    """

    remedy: Remedy
    task: Task
    recipe: Recipe
    rewrites: tuple[Rewrite, ...] = ()

    def patch(self, before: Recipe) -> str:
        """Return what changes, in words and code, one change a line.

        Args:
            before: The recipe before the edit.
        """
        old, new = before.plain(), self.recipe.plain()
        changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        lines = [f"recipe.{name}: {old.get(name)!r} -> {new.get(name)!r}" for name in changed]
        return "\n".join(lines + [str(rewrite) for rewrite in self.rewrites])


@dataclass(frozen=True)
class Remedy:
    """An edit of a recipe, a rewrite of a model, or both.

    Attributes:
        name: A short name, unique among the remedies.
        text: What to do, as one sentence without its full stop.
        edit: Edits the recipe; None if it stays.
        rewrites: Rewrites the model, one after the other.
    """

    name: str
    text: str
    edit: Edit | None = None
    rewrites: Sequence[Rewriting] = field(default=())

    def apply(self, task: Task, recipe: Recipe) -> Applied | None:
        """Return the remedy applied to a task and a recipe, which do not change.

        Returns:
            The result; None if the remedy does not apply: it would change nothing.
        """
        edited = recipe if self.edit is None else self.edit(task, recipe)
        if edited is None or (self.edit is not None and edited == recipe):
            return None
        made: list[Rewrite] = []
        for rewriting in self.rewrites:
            with random_state_kept(0):
                model = task.build()
            rewrite = rewriting(task, model)
            if not rewrite:
                return None
            task = rewrite.task(task)
            made.append(rewrite)
        return Applied(self, task, edited, tuple(made))
