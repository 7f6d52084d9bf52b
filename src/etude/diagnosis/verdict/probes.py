"""Paired short probes: what would happen if one suspected cause were removed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from etude.diagnosis.finding import Cause
from etude.diagnosis.remedies.candidates import Candidate, Candidates
from etude.diagnosis.remedies.edits import rate_times
from etude.diagnosis.remedies.remedy import Remedy
from etude.diagnosis.remedies.table import REMEDIES
from etude.diagnosis.verdict.measures import Measures
from etude.engines import AutoEngine, Engine, engine_for
from etude.errors import BadValueError, check_real
from etude.progress import bar
from etude.recipe import Recipe
from etude.record import Evaluation, to_json
from etude.tasks.task import Task
from etude.training.clock import batch_size_of
from etude.trials.baseline import better
from etude.trials.phase import Phase
from etude.trials.pool import TrialContext
from etude.trials.score import Goal, goal_for, judged_by
from etude.trials.trial import step_at
from etude.warning_filters import filters_kept

BUDGET = 6.0
"""The largest cost of the probes, in full runs."""

SHORT, KEPT, WORTH = 1 / 4, 2, 0.02
"""The share of a run to which every probe is trained, how many go on to the end, and the gain
that a probe must have shown for that, in units of what a constant output leaves to learn."""


def _same_updates(factor: float) -> Callable[[Task, Recipe], Recipe | None]:
    """Return an edit of the batch size that keeps the number of updates."""

    def edit(task: Task, recipe: Recipe) -> Recipe | None:
        size, samples = batch_size_of(task, recipe), task.train.samples
        wanted = max(1, round(size * factor))
        wanted = wanted if samples is None else min(wanted, samples)
        return None if wanted == size else recipe.replace(batch_size=wanted)

    return edit


LARGER = Remedy("batch x 4, as many updates", "Use batches four times as large", _same_updates(4.0))

MUCH_LOWER = Remedy("rate / 1000", "Divide the learning rate by 1,000", rate_times(1 / 1000))


@dataclass(frozen=True)
class Question:
    """A probe: what is changed, which cause it would remove, and where it is worth asking.

    Attributes:
        remedy: The change.
        causes: The causes that it removes.
        asked: Whether the measures leave room for these causes.
    """

    remedy: Remedy
    causes: tuple[Cause, ...]
    asked: Callable[[Measures], bool] = lambda known: True


USUAL = ("adam", "adamw", "nadam", "radam")
"""Optimizers of which AdamW differs in little but the rate."""


def _far(value: float, bound: float) -> bool:
    """Return whether a measure is known and far from 0."""
    return abs(value) > bound


QUESTIONS: tuple[Question, ...] = (
    Question(REMEDIES["rate / 10"], (Cause.LR_TOO_HIGH,)),
    Question(REMEDIES["rate x 10"], (Cause.LR_TOO_LOW,)),
    Question(REMEDIES["rate / 100"], (Cause.LR_TOO_HIGH,), lambda m: m.rate > 1.5),
    Question(MUCH_LOWER, (Cause.LR_TOO_HIGH,), lambda m: m.rate > 2.5),
    Question(REMEDIES["no output function"], (Cause.WRONG_LOSS_OR_OUTPUT, Cause.WRONG_LAST_LAYER)),
    Question(REMEDIES["less regularisation"], (Cause.TOO_MUCH_REGULARISATION,)),
    Question(
        REMEDIES["inputs standardised"],
        (Cause.UNSCALED_INPUTS,),
        lambda m: _far(m.spread, 0.5) or _far(m.shift, 0.5) or _far(m.unequal, 1.0),
    ),
    Question(
        REMEDIES["targets standardised"], (Cause.UNSCALED_TARGETS,), lambda m: _far(m.targets, 0.5)
    ),
    Question(
        REMEDIES["fresh weights"], (Cause.BAD_INITIALISATION,), lambda m: _far(m.weights, 0.45)
    ),
    Question(REMEDIES["warmup"], (Cause.WARMUP_MISSING,)),
    Question(REMEDIES["clip 90%"], (Cause.MISSING_CLIPPING,), lambda m: not m.clipped),
    Question(REMEDIES["adamw"], (Cause.OPTIMIZER_MISMATCH,), lambda m: m.optimizer not in USUAL),
    Question(REMEDIES["relu"], (Cause.SATURATING_ACTIVATION,)),
    Question(REMEDIES["normalisation"], (Cause.MISSING_NORMALISATION,)),
    Question(REMEDIES["residual"], (Cause.MISSING_RESIDUAL,)),
    Question(REMEDIES["batch / 4"], (Cause.BATCH_TOO_LARGE,), lambda m: m.share > 1 / 16),
    Question(LARGER, (Cause.BATCH_TOO_SMALL,), lambda m: m.batch <= 8),
)
"""Every probe, in the order in which a small budget is spent."""

FURTHER = {
    "rate / 10": Question(REMEDIES["rate / 100"], (Cause.LR_TOO_HIGH,)),
    "rate x 10": Question(REMEDIES["rate x 100"], (Cause.LR_TOO_LOW,)),
}
"""What is asked too where a probe gains."""

WORSE = {"clip 90%": Question(REMEDIES["clip 1"], (Cause.MISSING_CLIPPING,))}
"""What is asked too, beside a probe, where the run has learned next to nothing at its end."""

NOTHING = 0.8
"""The error at the end, in units of a constant's, from which a run has learned next to nothing."""

EVERY = (*QUESTIONS, *FURTHER.values(), *WORSE.values())

CAUSES: Mapping[str, tuple[Cause, ...]] = MappingProxyType(
    {question.remedy.name: question.causes for question in EVERY}
)
"""The causes that each probe would remove, by the probe's name."""

CHANGES: Mapping[str, Remedy] = MappingProxyType(
    {question.remedy.name: question.remedy for question in EVERY}
)
"""What each probe changes, by its name."""


@dataclass(frozen=True)
class ShortProbe:
    """What one change has shown, beside the unchanged run after the same share.

    Attributes:
        name: The change.
        share: The share of its run to which it was trained.
        loss: Its validation loss; infinite if it is not finite.
        metric: Its validation metric; NaN without one.
        gain: By how much its error is lower than that of the unchanged run, in units of the error
            of the best constant output; by the metric, or the loss without one.
        loss_gain: The same of the loss.
        better: Whether it is better by more than noise.
        diverged: Whether it diverged.
        before: The validation loss of the unchanged run after the same share; infinite if it is
            not finite, NaN if it is not known.
    """

    name: str
    share: float
    loss: float
    metric: float
    gain: float
    loss_gain: float
    better: bool
    diverged: bool
    before: float = math.nan


@dataclass(frozen=True)
class Probes:
    """What the probes of a task and a recipe have shown.

    Attributes:
        probes: Each probe at each share to which it was trained.
        learned: What the unchanged run has learned at its end, in the same units: 1 is everything,
            0 as much as the best constant output.
        learned_loss: The same of the loss.
        cost: In full runs.
        skipped: Probes that do not apply, or that the budget left out, with the reason.
    """

    probes: tuple[ShortProbe, ...] = ()
    learned: float = math.nan
    learned_loss: float = math.nan
    cost: float = 0.0
    skipped: tuple[str, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        return {
            "cost": self.cost,
            "learned": to_json(self.learned),
            "skipped": list(self.skipped),
            "probes": [
                {n: to_json(v) if isinstance(v, float) else v for n, v in asdict(one).items()}
                for one in self.probes
            ],
        }


@dataclass(frozen=True)
class ErrorScale:
    """Errors in units of what the best constant output leaves wrong.

    Attributes:
        goal: The loss or metric.
        constant: The constant's evaluation, or that before training.
    """

    goal: Goal
    constant: Evaluation

    def error(self, found: Evaluation | None) -> float:
        """Return an error: 0 is perfect, 1 a constant's, e of it 2, at most 10."""
        score, floor = self.goal.score(found), self.goal.score(self.constant)
        if not math.isfinite(score):
            return 10.0
        unit = max(abs(floor), 1e-12)
        if self.goal.maximize and -1 < floor <= 0 and score >= -1:
            unit = 1.0 + floor  # a share, which is 1 at most
        error = 1.0 + (score - floor) / unit
        return error if error <= 1.0 else min(1.0 + math.log(error), 10.0)


@filters_kept()
def probe(
    task: Task,
    recipe: Recipe,
    known: Measures,
    final: Evaluation | None,
    *,
    budget: float = BUDGET,
    engine: str | Engine | None = None,
    device: str | torch.device | None = None,
    progress: bool | None = None,
) -> Probes:
    """Train paired probes from the start of a run, and say by how much each changes it.

    Each changes one thing: the rate, the scale of the inputs, the initialisation and so on. All
    use the recipe's seed and are trained to a quarter of their run, as is the unchanged recipe. The
    two that gain most go on to the end, where they are compared with the run that was watched.

    Args:
        task: What is learned; it does not change.
        recipe: How.
        known: What was measured before training, which rules some probes out.
        final: The evaluation of the unchanged run at its end; None if it diverged.
        budget: The largest cost, in full runs; 0 trains nothing.
        engine: As in `tune`.
        device: As in `train`.
        progress: Whether to show progress.

    Raises:
        BadValueError: If the budget is negative or no number.
    """
    check_probes(budget)
    if budget < 2 * SHORT:
        return Probes()
    metric = task.metric is not None and task.metric.maximize is not None
    goal = goal_for(task, "metric") if metric else Goal()
    task = judged_by(task, goal)
    chosen = AutoEngine(exact=True) if engine is None else engine_for(engine)
    with bar(progress, f"{task.name}: probes") as show:
        setting = TrialContext(engine=chosen, device=device, bar=show)
        entered = Candidates(task, recipe, goal, budget, setting)
        try:
            return _Probing(entered, final).ask(
                [question.remedy for question in QUESTIONS if question.asked(known)]
            )
        finally:
            entered.close()
            if chosen is not engine:
                chosen.close()


def check_probes(budget: float) -> float:
    """Return a budget of probes as a plain float; raise if it is no number of runs.

    Raises:
        BadTypeError: If it is not a number.
        BadValueError: If it is negative, NaN or infinite.
    """
    runs = check_real("probes", budget, "full runs, 0 for none")
    if not (runs >= 0 and math.isfinite(runs)):
        raise BadValueError(f"probes={runs:g}: give a number of full runs, 0 for none")
    return runs


class _Probing:
    """The probes of one recipe in training."""

    def __init__(self, entered: Candidates, final: Evaluation | None) -> None:
        self.entered, self.final, self.skipped = entered, final, list[str]()
        self.left = entered.budget - SHORT
        pool = entered.pool(entered.task)
        floor = pool.constant or pool.untrained
        self.by_goal, self.by_loss = ErrorScale(entered.goal, floor), ErrorScale(Goal(), floor)

    def ask(self, remedies: Sequence[Remedy]) -> Probes:
        """Train the probes and return what they have shown."""
        entered = self.entered
        control = entered.control
        entered.pool(entered.task).go([control], SHORT, Phase.RUNG)
        mark = control.at(step_at(control, SHORT))
        made = self.enter(remedies)
        entered.advance(made, SHORT)
        short = [self.probe(one, SHORT, mark) for one in made]
        asked = [FURTHER[p.name] for p in short if p.name in FURTHER and p.gain > WORTH]
        asked = [question for question in asked if question.remedy not in remedies]
        if self.by_goal.error(self.final) >= NOTHING:
            asked += [WORSE[p.name] for p in short if p.name in WORSE]
        more = self.enter([question.remedy for question in asked])
        entered.advance(more, SHORT)
        short += [self.probe(one, SHORT, mark) for one in more]
        going = self.kept(list(zip(short, (*made, *more), strict=True)))
        entered.advance(going, 1.0)
        final = [self.probe(one, 1.0, self.final) for one in going]
        return Probes(
            (*short, *final),
            1.0 - self.by_goal.error(self.final),
            1.0 - self.by_loss.error(self.final),
            entered.spent,
            tuple(self.skipped),
        )

    def enter(self, remedies: Sequence[Remedy]) -> list[Candidate]:
        """Return the remedies that apply and that the budget allows."""
        made = []
        for remedy in remedies:
            found = self.entered.enter(remedy)
            if isinstance(found, str):
                self.skipped.append(f"{remedy.name}: {found}")
            elif (price := found.pool.price(found.trial, SHORT)) > self.left:
                self.skipped.append(f"{remedy.name}: the budget does not allow it")
            else:
                self.left -= price
                made.append(found)
        return made

    def kept(self, shown: list[tuple[ShortProbe, Candidate]]) -> list[Candidate]:
        """Return those that go on to the end: the best of a cause, if in doubt."""
        stuck, going = self.by_goal.error(self.final) > 0.9, list[Candidate]()
        causes = set[Cause]()
        for seen, one in sorted(shown, key=lambda pair: -pair[0].gain):
            price = one.pool.price(one.trial, 1.0)
            worth = max(seen.gain, seen.loss_gain) > WORTH or stuck
            if (
                len(going) < KEPT
                and worth
                and price <= self.left
                and causes.isdisjoint(CAUSES[seen.name])
            ):
                causes.update(CAUSES[seen.name])
                self.left -= price
                going.append(one)
        return going

    def probe(self, one: Candidate, share: float, mark: Evaluation | None) -> ShortProbe:
        """Compare a candidate with the unchanged run after the same share."""
        trial = one.trial
        found = None if trial.diverged else trial.at(step_at(trial, share))
        gain, loss_gain = (s.error(mark) - s.error(found) for s in (self.by_goal, self.by_loss))
        metric = found.metric if found is not None else None
        return ShortProbe(
            one.applied.remedy.name,
            share,
            math.inf if found is None else found.loss,
            math.nan if metric is None else metric,
            gain,
            loss_gain,
            found is not None and (mark is None or better(found, mark, self.entered.goal)),
            trial.diverged,
            math.inf if mark is None else mark.loss,
        )
