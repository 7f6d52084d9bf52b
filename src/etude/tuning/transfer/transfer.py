"""`transfer`: a tuned rate carried to another batch, width, depth or length, and tried there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from etude.errors import BadTypeError, BadValueError, check_real, check_whole, kind_of
from etude.layerwise.policies.mup import Mup, mup_from
from etude.layerwise.spec import LrMult
from etude.optimizers.prior import nice
from etude.progress import Bar, bar
from etude.randomness import random_state_kept
from etude.recipe import Recipe
from etude.record import Evaluation, to_json
from etude.tasks.task import Task
from etude.training.clock import clock_of
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.training.state.state import RunState
from etude.tuning.result import TuneResult, tie
from etude.tuning.transfer.rules import (
    TransferRule,
    batch_rule,
    depth_rule,
    family,
    length_rule,
    pair,
    width_rule,
)
from etude.tuning.transfer.scaling import carried, linear, square_root
from etude.warning_filters import filters_kept

SHORTEST = 2
"""Updates of the check below which nothing can be compared."""


@dataclass(frozen=True)
class Transfer:
    """A rate carried over by rule, and what a short run said of it.

    Attributes:
        task: The task's name.
        recipe: The recipe at its new size, with the rule's rate.
        rules: What was changed, and by which rule.
        rates: Those tried, ascending; the rule's is `recipe.lr`.
        losses: Their validation losses after `updates`; infinite where training diverged.
        untrained: The validation loss before training.
        confirmed: Whether none of the other rates does clearly better than the rule's, and it
            trains: paired, slice by slice, beyond two standard errors and 1% of the drop.
        best: The recipe to use: the rule's where it is confirmed, else that of the best rate.
        at_edge: Whether the best rate is the lowest or highest tried.
        updates: Of each short run.
        length: Of the full run.
        cost: In full runs of the new recipe.
        gradients: The same, in gradients of single samples.
    """

    task: str
    recipe: Recipe
    rules: tuple[TransferRule, ...]
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    untrained: float
    confirmed: bool
    best: Recipe
    at_edge: bool
    updates: int
    length: int
    cost: float
    gradients: int

    @property
    def lr(self) -> float:
        """The rate to use."""
        return self.best.lr

    @property
    def rule(self) -> str:
        """The rules in words: formula, source, where each holds."""
        return "\n".join(rule.text() for rule in self.rules)

    @property
    def trained(self) -> bool:
        """Whether any rate tried did better than the untrained model."""
        return min(self.losses) < self.untrained

    def advice(self) -> str:
        """Say what the short runs showed, and what to do."""
        share = f"after {self.updates} of {self.length} updates"
        if not self.trained:
            return (
                f"No rate from {self.rates[0]:g} to {self.rates[-1]:g} trains {share}: look for "
                "the fault in the model or the data, or tune the rate anew."
            )
        if self.confirmed:
            return f"Confirmed: {share} no rate tried is clearly better than {self.recipe.lr:g}."
        own = self.losses[self.rates.index(self.recipe.lr)]
        best = self.losses[self.rates.index(self.best.lr)]
        beyond = (
            " It is the last one tried: the best may lie beyond: tune there."
            if self.at_edge
            else ""
        )
        return (
            f"Not confirmed: {share} {self.best.lr:g} is clearly better than the rule's "
            f"{self.recipe.lr:g} (validation loss {best:.4g}, {own:.4g}).{beyond}"
        )

    def plain(self) -> dict[str, Any]:
        """Return the findings as plain values that JSON can hold."""
        return {
            "task": self.task,
            "lr": self.lr,
            "rule_lr": self.recipe.lr,
            "confirmed": self.confirmed,
            "at_edge": self.at_edge,
            "advice": self.advice(),
            "rules": [rule.plain() for rule in self.rules],
            "rates": list(self.rates),
            "losses": [to_json(loss) for loss in self.losses],
            "untrained_loss": to_json(self.untrained),
            "updates": self.updates,
            "length": self.length,
            "cost": self.cost,
            "gradients": self.gradients,
            "recipe": self.best.plain(),
        }


@filters_kept()
def transfer(
    found: Recipe | TuneResult,
    task: Task,
    *,
    batch_size: int | None = None,
    width: tuple[int, int] | None = None,
    base_model: nn.Module | None = None,
    mup: bool | None = None,
    depth: tuple[int, int] | None = None,
    steps: int | str | None = None,
    share: float = 1 / 8,
    factor: float = 2.5,
    further: int = 2,
    device: str | torch.device | None = None,
    progress: bool | None = None,
) -> Transfer:
    """Carry a tuned rate to another size by rule, and try it in short paired runs.

    The rule's rate and its neighbours, a factor below and above, start from the same weights with
    the same batches on the new recipe's full-length schedule and are judged after a share of it.
    While the best stands at the end of those tried, a further one is. A short run judges early
    progress, which often prefers a higher rate than the end does: give a larger share to be sure.

    Args:
        found: The tuned recipe, or the tuning that found it.
        task: What to learn now, at its new width and depth.
        batch_size: The new one; the number of samples stays, so that the updates change.
        width: (before, after).
        base_model: The model that was tuned, at its own width: muP by comparing the two.
        mup: Whether the rate goes over by muP's multipliers, which are then in the new recipe;
            None does so where the recipe has them or `base_model` is given.
        depth: (before, after).
        steps: The new length in updates, or with a unit.
        share: Of the new run that is trained to judge.
        factor: Between neighbouring rates.
        further: Rates beyond the first three at most.
        device: Where to train; None takes the model's own device, else an accelerator.
        progress: Whether to draw a bar; None draws it where somebody sits at a terminal.

    Raises:
        BadValueError: If nothing is to change, no rule is known, or a number is out of bounds.
        TaskError: If model, data and loss do not fit together.

    >>> from torch.nn.functional import mse_loss
    >>> x = torch.linspace(-1, 1, 128)[:, None]
    >>> task = Task(lambda: nn.Linear(1, 1), (x, 3 * x), loss=mse_loss)
    >>> tuned = Recipe(optimizer="sgd", lr=0.1, steps=200, batch_size=16)
    >>> found = transfer(tuned, task, batch_size=32)
    >>> found.recipe.lr, found.recipe.steps, found.rates[:3]
    (0.2, 100, (0.08, 0.2, 0.5))
    """
    for name, value, low, high in (("share", share, 0, 1), ("factor", factor, 1, 100)):
        if not low < check_real(name, value, f"one above {low}, at most {high}") <= high:
            raise BadValueError(
                f"{name}={value!r} is out of bounds: give a number in ({low}, {high}]"
            )
    further = check_whole("further", further, 0)
    recipe, rules = carry(
        found, task, batch_size=batch_size, width=width, base_model=base_model, mup=mup,
        depth=depth, steps=steps,
    )  # fmt: skip
    with bar(progress, task.name) as show:
        trial = _ShortRun(task, recipe, share, device, show)
        for rate in (recipe.lr, nice(recipe.lr / factor), nice(recipe.lr * factor)):
            trial.run(rate)
        for _ in range(further):
            best, rates = trial.best(), sorted(trial.found)
            if best == rates[0]:
                trial.run(nice(best / factor))
            elif best == rates[-1]:
                trial.run(nice(best * factor))
            else:
                break
    return trial.result(rules)


def carry(
    found: Recipe | TuneResult,
    task: Task,
    *,
    batch_size: int | None = None,
    width: tuple[int, int] | None = None,
    base_model: nn.Module | None = None,
    mup: bool | None = None,
    depth: tuple[int, int] | None = None,
    steps: int | str | None = None,
) -> tuple[Recipe, tuple[TransferRule, ...]]:
    """Return the recipe at its new size by rule alone, without any training, and the rules.

    Arguments and errors are those of `transfer`.
    """
    recipe = found.recipe if isinstance(found, TuneResult) else found
    if not isinstance(recipe, Recipe):
        raise BadTypeError(f"found is {kind_of(found)}: give a Recipe or a TuneResult")
    if mup and width is None and base_model is None:
        raise BadValueError("mup=True: give width=(before, after), or base_model=")
    rules: list[TransferRule] = []
    if batch_size is not None:
        kind = family(recipe, "batch size")
        if isinstance(batch_size, int) and batch_size >= 1:
            task.train.check(batch_size)  # what the data cannot give is the first thing to say
        before = recipe
        recipe = (linear if kind == "sgd" else square_root)(recipe, batch_size)
        assert isinstance(before.batch_size, int)
        rules.append(batch_rule(recipe, before.batch_size, batch_size))
    if width is not None or base_model is not None:
        recipe, rule = _wider(recipe, task, width, base_model, mup)
        rules.append(rule)
    if depth is not None:
        rules.append(depth_rule(recipe, *pair("depth", depth)))
        recipe = recipe.replace(lr=recipe.lr * rules[-1].factor)
    if steps is not None:
        recipe, rule = _longer(recipe, task, steps)
        rules.append(rule)
    if not rules:
        raise BadValueError(
            "nothing is to change: give batch_size=, width=(before, after), base_model=, "
            "depth=(before, after) or steps="
        )
    return recipe, tuple(rules)


def _wider(
    recipe: Recipe,
    task: Task,
    width: tuple[int, int] | None,
    base_model: nn.Module | None,
    mup: bool | None,
) -> tuple[Recipe, TransferRule]:
    policies = () if recipe.lr_mult is None else recipe.lr_mult.policies
    own = next((policy for policy in policies if isinstance(policy, Mup)), None)
    if mup is None:
        mup = own is not None or base_model is not None
    if not mup and base_model is not None:
        raise BadValueError("base_model= is compared for muP's multipliers: leave out mup=False")
    if not mup and own is not None:
        raise BadValueError("mup=False, but the recipe has muP's multipliers: leave one out")
    if base_model is not None:
        if own is not None or width is not None:
            what = "the recipe has muP's multipliers already" if own else "width= says the same"
            raise BadValueError(f"base_model= is given, and {what}: leave one out")
        family(recipe, "width")
        with random_state_kept():
            policy = mup_from(task.build(), base_model)
        return _with(recipe, policy), _from_shapes(recipe, task, policy)
    before, after = pair("width", width)
    rule = width_rule(recipe, task, before, after, mup=mup)
    if not mup:
        return recipe.replace(lr=recipe.lr * rule.factor), rule
    if own is None:
        return _with(recipe, Mup(base_width=before)), rule
    return recipe, rule


def _with(recipe: Recipe, policy: Mup) -> Recipe:
    old = recipe.lr_mult or LrMult()
    return recipe.replace(lr_mult=replace(old, policies=(*old.policies, policy)))


def _from_shapes(recipe: Recipe, task: Task, policy: Mup) -> TransferRule:
    """Return the rule of a width read off two models: the largest growth of a side."""
    growth = max((max(pair) for pair in dict(policy.ratios).values()), default=1.0)
    return replace(width_rule(recipe, task, 1, 1, mup=True), before=1.0, after=growth)


def _longer(recipe: Recipe, task: Task, steps: int | str) -> tuple[Recipe, TransferRule]:
    before, after = (
        clock_of(task, one).horizon
        for one in (recipe, Recipe(**{**_sized(recipe), "steps": steps}))
    )
    schedules = {"schedule": recipe.schedule, **recipe.schedules}
    if isinstance(recipe.steps, int) and isinstance(steps, int):
        schedules = {n: carried(n, s, before, after) for n, s in schedules.items()}
    samples = clock_of(task, recipe).samples_per_step or 1
    rule = length_rule(recipe, before * samples, after * samples)
    shape = schedules.pop("schedule")
    return (
        recipe.replace(
            lr=recipe.lr * rule.factor, steps=steps, schedule=shape, schedules=schedules
        ),
        rule,
    )


def _sized(recipe: Recipe) -> dict[str, Any]:
    return {"batch_size": recipe.batch_size, "accumulate": recipe.accumulate}


class _ShortRun:
    """The short runs of one transfer, paired, and what they cost."""

    def __init__(
        self, task: Task, recipe: Recipe, share: float, device: str | torch.device | None, show: Bar
    ) -> None:
        self.first: Run | None = Run(task, recipe, device=device)
        self.first.check()
        self.threads, self.length = self.first.threads, self.first.length
        self.whole = self.length * self.first.batch_size * recipe.accumulate
        self.updates = math.floor(self.length * share)
        if self.updates < SHORTEST:
            raise BadValueError(
                f"share={share:g} of {self.length} updates is too short to judge: give a share "
                f"of at least {min(1.0, SHORTEST / self.length):.2g}, or a longer run"
            )
        self.task, self.recipe, self.device, self.show = task, recipe, device, show
        self.untrained = self.first.evaluate()
        self.found: dict[float, Evaluation] = {}
        self.gradients = 0

    def run(self, rate: float) -> None:
        """Train at a rate to the share, and evaluate there."""
        run, self.first = self.first, None
        if run is None:
            run = Run(self.task, self.recipe.replace(lr=rate), device=self.device)
            run.limit_threads(self.threads)
            run.adopt_evaluation(self.untrained)  # the same weights: no need to ask again

        def show(state: RunState, step: int) -> None:
            self.show(step, self.updates, f"rate {rate:g}, {len(self.found)} tried")

        steps = run.state.evaluation_steps | {self.updates}
        run.advance(AdvanceRequest(self.updates, steps, on_step=show))
        self.gradients += run.record().cost.gradients
        last = run.evaluations[-1]
        broken = run.diverged or not math.isfinite(last.loss)
        self.found[rate] = replace(last, loss=math.inf) if broken else last

    def best(self) -> float:
        """Return the rate with the lowest loss; the rule's own where they are equal."""
        own = self.recipe.lr
        return min(self.found, key=lambda rate: (self.found[rate].loss, rate != own, rate))

    def result(self, rules: Sequence[TransferRule]) -> Transfer:
        own, best = self.recipe.lr, self.best()
        top = self.found[best]
        drop = self.untrained.loss - top.loss
        rates = sorted(self.found)
        confirmed = self.found[own].loss < self.untrained.loss and (
            best == own or tie(self.found[own], top, drop)
        )
        chosen = own if confirmed or not top.loss < self.untrained.loss else best
        return Transfer(
            task=self.task.name,
            recipe=self.recipe,
            rules=tuple(rules),
            rates=tuple(rates),
            losses=tuple(self.found[rate].loss for rate in rates),
            untrained=self.untrained.loss,
            confirmed=confirmed,
            best=self.recipe.replace(lr=chosen),
            at_edge=chosen in (rates[0], rates[-1]),
            updates=self.updates,
            length=self.length,
            cost=self.gradients / self.whole,
            gradients=self.gradients,
        )
