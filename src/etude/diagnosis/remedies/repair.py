"""`repair`: tries remedies against an unchanged control, and recommends what beats it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from etude.diagnosis.finding import Cause
from etude.diagnosis.remedies.beats import beats
from etude.diagnosis.remedies.candidates import Candidate, Candidates
from etude.diagnosis.remedies.remedy import Remedy
from etude.diagnosis.remedies.result import Attempt, Repair
from etude.diagnosis.remedies.table import ALL, remedies_for
from etude.engines import AutoEngine, Engine, engine_for
from etude.errors import BadValueError, check_real, member
from etude.progress import bar
from etude.randomness import derive_seed
from etude.recipe import Recipe
from etude.tasks.task import Task
from etude.trials.phase import Phase
from etude.trials.pool import TrialContext
from etude.trials.score import goal_for, judged_by, usual_objective
from etude.trials.trial import Trial, step_at
from etude.warning_filters import filters_kept

BUDGET = 4.0
"""The budget in full runs, the control's included."""

LEAST = 2.5
"""The smallest budget: the control, a remedy to its end, and one drawn at random to a quarter."""

RUNGS = ((1 / 4, 2), (1 / 2, 1))
"""The shares of a run at which remedies are compared, and how many go on from there."""


@filters_kept()
def repair(
    task: Task,
    recipe: Recipe,
    causes: Sequence[Cause | str],
    *,
    possible: Sequence[Cause | str] = (),
    budget: float = BUDGET,
    objective: str | None = None,
    engine: str | Engine | None = None,
    device: str | torch.device | None = None,
    progress: bool | None = None,
) -> Repair:
    """Try the remedies of some causes, and recommend what beats an unchanged control.

    All runs use the recipe's seed, and are evaluated on the same validation data. Each remedy, and
    one drawn at random from all of them, is trained for a quarter of its run. The two best are
    trained to a half, and the better of these to its end, as is the control. It is recommended if
    its final score is lower than that of the control by more than three standard errors of the
    paired differences of the validation slices, or their ranks are as unlikely by chance, and by
    more than 0.5% of it; see `beats`.

    The task and its model are not changed.

    Args:
        task: What is learned.
        recipe: The recipe that does not train well.
        causes: The suspected causes, the most likely first.
        possible: Causes that are only possible: their remedies are tried after all of those.
        budget: In full runs of the recipe, the control's included; at least 2.5.
        objective: 'loss', 'metric', or the metric's name; None for the loss, or the metric where
            parts of the model take turns.
        engine: As in `tune`.
        device: As in `train`.
        progress: Whether to show progress; None does so on a terminal.

    Raises:
        BadValueError: If the budget is too small.
        UnknownNameError: If a cause has no such name.

    Source: remedies in the order of the tuning playbook (Godbole et al. 2023); a repair must be
    held against random search: arXiv:2301.11568.

    >>> import torch
    >>> from torch import nn
    >>> x = torch.linspace(-1, 1, 128)[:, None]
    >>> task = Task(lambda: nn.Linear(1, 1), (x, 3 * x), loss=nn.functional.mse_loss)
    >>> slow = Recipe(optimizer="sgd", lr=0.001, steps=64, batch_size=16)
    >>> repair(task, slow, ["lr_too_low"], progress=False).recommended.name
    'rate x 100'
    """
    budget = check_budget(budget)
    suspected, others = ([member(Cause, c, "cause") for c in some] for some in (causes, possible))
    goal = goal_for(task, objective or usual_objective(task))
    task = judged_by(task, goal)
    chosen = AutoEngine(exact=True) if engine is None else engine_for(engine)
    with bar(progress, f"{task.name}: remedies") as show:
        setting = TrialContext(engine=chosen, device=device, bar=show)
        entered = Candidates(task, recipe, goal, budget, setting)
        try:
            return _Trials(entered).run(remedies_for(suspected, others))
        finally:
            entered.close()
            if chosen is not engine:
                chosen.close()


def check_budget(budget: float) -> float:
    """Return a budget as a plain float; raise if it is too small to try a remedy.

    Raises:
        BadTypeError: If it is not a number.
        BadValueError: With the smallest budget.
    """
    runs = check_real("budget", budget, f"full runs, at least {LEAST}")
    if not runs >= LEAST:
        raise BadValueError(f"budget={runs:g} is too small to try a remedy: give at least {LEAST}")
    return runs


class _Trials:
    """The trials of one repair.

    Args:
        entered: The control, and what trains remedies beside it.
    """

    def __init__(self, entered: Candidates) -> None:
        self.task, self.recipe, self.goal = entered.task, entered.recipe, entered.goal
        self.entered, self.budget, self.control = entered, entered.budget, entered.control
        self.skipped: list[str] = []

    def run(self, remedies: Sequence[Remedy]) -> Repair:
        """Try remedies and return what they have shown."""
        first = RUNGS[0][0]
        followed = sum(
            count * (end - begin)
            for (begin, count), end in zip(RUNGS, [RUNGS[1][0], 1.0], strict=True)
        )
        room = int((self.budget - 1.0 - followed) / first + 1e-9)
        candidates = self.candidates(remedies, room)
        self.entered.pool(self.task).go([self.control], 1.0, Phase.FINISH)
        going = candidates
        for (share, keep), after in zip(RUNGS, [*(s for s, _ in RUNGS[1:]), 1.0], strict=True):
            if share == first:
                self.entered.advance(going, share)
            going = self.ranked([c for c in going if not c.drawn], share)[:keep]
            self.entered.advance(going, after)
        return self.result(candidates)

    def candidates(self, remedies: Sequence[Remedy], room: int) -> list[Candidate]:
        """Return the remedies that apply, as many as there is room for, and one drawn at random."""
        made: list[Candidate] = []
        for remedy in remedies:
            if len(made) >= room - 1:
                self.skipped.append(f"{remedy.name}: the budget does not allow it")
            else:
                self.enter(remedy, made, drawn=False)
        others = [remedy for remedy in ALL if remedy not in remedies]
        random.Random(derive_seed(self.recipe.seed, "remedy")).shuffle(others)
        for remedy in others:
            before = len(self.skipped)
            if self.enter(remedy, made, drawn=True):
                break
            del self.skipped[before:]  # of those drawn at random, only the one that is tried counts
        return made

    def enter(self, remedy: Remedy, made: list[Candidate], *, drawn: bool) -> bool:
        """Add a remedy to those that are tried; return whether it applies."""
        found = self.entered.enter(remedy, drawn=drawn)
        if isinstance(found, str):
            self.skipped.append(f"{remedy.name}: {found}")
            return False
        made.append(found)
        return True

    def ranked(self, candidates: Sequence[Candidate], share: float) -> list[Candidate]:
        """Return candidates in the order of their scores at a share, the best first."""
        return sorted(candidates, key=lambda c: c.trial.score(step_at(c.trial, share)))

    def result(self, candidates: Sequence[Candidate]) -> Repair:
        """Compare the candidates with the control."""
        rows = [(self.attempt(c), c) for c in candidates]
        rows.sort(key=lambda row: (-row[0].share, -row[0].gain))
        winner = next((row for row in rows if row[0].share == 1.0 and row[0].beats_control), None)
        last = self.control if winner is None else winner[1].trial
        share = RUNGS[0][0]
        best = self.ranked([c for c in candidates if not c.drawn], share)[:1]
        mark = best[0].trial if best else self.control
        drawn = [c.trial for c in candidates if c.drawn]
        return Repair(
            objective=self.goal.name,
            control=self.attempt(None),
            attempts=tuple(attempt for attempt, _ in rows),
            recommended=None if winner is None else winner[0],
            chance_is_better=any(self.is_better(trial, mark, share) for trial in drawn),
            recipe=self.recipe if winner is None else winner[1].applied.recipe,
            cost=self.entered.spent,
            skipped=tuple(self.skipped),
            model=last.runs[0].model,
            task=self.task if winner is None else winner[1].applied.task,
        )

    def is_better(self, trial: Trial, mark: Trial, share: float) -> bool:
        """Return whether a trial is better than another after a share by more than noise."""
        found, other = (one.at(step_at(one, share)) for one in (trial, mark))
        return found is not None and (other is None or beats(found, other, self.goal))

    def attempt(self, candidate: Candidate | None) -> Attempt:
        """Return what one candidate has shown; None stands for the control."""
        trial = self.control if candidate is None else candidate.trial
        found = trial.last()
        mark = self.control.at(step_at(self.control, trial.share))
        gain = self.goal.score(mark) - self.goal.score(found)
        return Attempt(
            diverged=trial.diverged,
            name="control" if candidate is None else candidate.applied.remedy.name,
            text="Change nothing" if candidate is None else candidate.applied.remedy.text,
            patch="" if candidate is None else candidate.applied.patch(self.recipe),
            drawn=candidate is not None and candidate.drawn,
            share=trial.share,
            evaluation=found,
            gain=0.0 if candidate is None else gain,
            beats_control=candidate is not None
            and not trial.diverged
            and found is not None
            and (mark is None or beats(found, mark, self.goal)),
        )
