"""What a tuning found: the rate, what ties with it, where training breaks, what it cost."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from etude.errors import BadValueError, StorageError, member
from etude.recipe import Recipe
from etude.record import Evaluation, Record, Status, from_json, share_of_time, to_json
from etude.record_shape import refuse_other
from etude.shows_itself import ShowsItself
from etude.storage.tuning_folder import TuningFolder
from etude.trials.baseline import noise
from etude.trials.phase import Phase
from etude.trials.score import Goal
from etude.tuning import advice, overfits
from etude.tuning.larger_budget import LargerBudget, larger_budget
from etude.tuning.left_better import LeftBetter, left_better, left_better_in_folds
from etude.tuning.outcome import Outcome
from etude.tuning.recipes.selection import Selection, from_plain
from etude.tuning.result_shape import ResultShape
from etude.tuning.search.allowed_rates import EVERY_RATE, AllowedRates
from etude.tuning.trial_summary import SeedRun, TrialSummary


@dataclass(frozen=True)
class RungCost:
    """What one part of a tuning cost, in full runs.

    Attributes:
        name: What `Phase.at` calls the part, such as 'to 25%' or 'finish'.
        runs: The cost.
    """

    name: str
    runs: float

    @property
    def phase(self) -> Phase:
        """What the part was for.

        Raises:
            UnknownNameError: If no part of a tuning has that name.
        """
        return Phase.of(self.name)


@dataclass(frozen=True, eq=False)
class TuneResult(ShowsItself):
    """What a tuning found.

    Attributes:
        recipe: The recipe with the rate that was chosen.
        lr: The chosen rate.
        tied: The lowest and highest rate that may be as good as `lr`, as far as the evidence
            reaches: from half way to the nearest tried rate below that is behind, to half way to
            the one above. A tried rate counts as behind if its paired difference in the validation
            score, where both were last evaluated, exceeds 1% of the drop from the untrained score
            and two standard errors, of the slices of the validation data and of a pause as a
            forecast of the end (`etude.tuning.pause_error`). Where no tried rate is behind, the
            range ends .2 to .8 decades beyond the last one tried, the further the earlier the
            trials were left (`etude.tuning.untried.reach`); `open_ends` names such sides.
        stable_below: The lowest tried rate above `lr` at which training diverged, or came to its
            end far behind `lr` with what it had learned lost; None where no tried rate did, or
            where every rate broke at the same update. A rate that was dropped early is neither.
        sensitivity: The share of the drop that is lost at twice or half the rate, the worse of
            the two, between the rates that were followed to three quarters of the run; None where
            there was no other.
        confidence: How sure it is that no rate ends better than `lr` by more than 2% of the drop,
            with this seed, or in the mean over `seeds`: among the rates that were finished by
            drawing the slices of the validation data anew; among those that were left, or not
            tried, by how often such a rate was better on other tasks (`etude.tuning.confidence`).
            None where nothing could be compared.
        cost: In full runs of the recipe, everything included.
        costs: The same, part by part.
        outcome: How it ended, an `Outcome` or its word: 'found', 'at an edge', 'too small to
            tell', 'unfinished', 'no better than a constant', or 'nothing trains'.
        untrained: The evaluation before training.
        record: The finished run at `lr`, with its series.
        trials: Every rate tried, ascending.
        budget: What was allowed, in full runs.
        seconds: Wall-clock time.
        compute_seconds: Time of the updates and evaluations of all trials, added up; with trials
            trained in parallel it is longer than `seconds`. None in older tunings.
        evaluation_seconds: Of these, the time of evaluations on the validation data, those of the
            mean of the weights included. They compute no gradient, and `cost` does not count them.
        valid_samples: On how many of the validation samples, or of each fold's, rates were
            compared; None for all.
        judged_on: On how many of them the last evaluation of `record` is; None for all. The others
            are on those of `valid_samples`.
        objective: What was compared: 'loss', or the metric's name.
        folds: Into how many parts the training data was cut; 1 for none.
        seeds: Over how many seeds the best rates were compared; 1 for the recipe's own alone.
            `tied`, `stable_below` and `confidence` are then over these seeds, and count the noise
            of a seed for rates that were trained with one alone.
        allowed: The rates that could be tried, by `lr_range` or `lrs`. `tied` ends at its bounds,
            and `confidence` asks about no rate beyond them.
        selection: What the recipe was selected from, where more than the rate was asked for; the
            trials are then those of the chosen recipe.
        constant: What the best constant output scores on the validation data; None where the
            loss does not allow one.
        cause: Why no rate can train, where that was found.
        doubts: What the trials cannot tell of other rates, as sentences.
        notes: What else stands out in data and outputs, as sentences.
        model: The trained network. In memory only; a run folder keeps it beside the record.
    """

    recipe: Recipe
    lr: float
    tied: tuple[float, float]
    stable_below: float | None
    cost: float
    costs: tuple[RungCost, ...]
    outcome: Outcome
    untrained: Evaluation
    record: Record
    trials: tuple[TrialSummary, ...]
    budget: float
    seconds: float
    sensitivity: float | None = None
    confidence: float | None = None
    objective: str = "loss"
    folds: int = 1
    seeds: int = 1
    selection: Selection | None = None
    constant: Evaluation | None = None
    cause: str = ""
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    compute_seconds: float | None = None
    evaluation_seconds: float | None = None
    valid_samples: int | None = None
    judged_on: int | None = None
    allowed: AllowedRates = EVERY_RATE
    model: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse what no tuning finds.

        Raises:
            UnknownNameError: If there is no such outcome, or no such part of a tuning.
            BadValueError: If the chosen rate was not tried, or what the outcome rests on lacks.
        """
        object.__setattr__(self, "outcome", member(Outcome, self.outcome, "outcome"))
        for part in self.costs:
            Phase.of(part.name)
        if self.lr not in {trial.lr for trial in self.trials}:
            raise BadValueError(f"lr={self.lr!r} is none of the rates tried")
        if self.outcome == Outcome.NO_BETTER_THAN_A_CONSTANT and self.constant is None:
            raise BadValueError(f"outcome={str(self.outcome)!r} needs constant=, what one scores")

    def __repr__(self) -> str:
        """Say in a line what was found; `plain()` has the rest."""
        low, high = self.tied
        return (
            f"TuneResult({self.record.task!r}: lr={self.lr:g}, tied={low:g} to {high:g}, "
            f"{self.outcome}, {self.cost:.2f} runs)"
        )

    @property
    def chosen(self) -> TrialSummary:
        """The trial of the chosen rate."""
        return next(trial for trial in self.trials if trial.lr == self.lr)

    @property
    def metric(self) -> float | None:
        """The final validation metric, None where the task has none."""
        return self.record.valid_metric

    @property
    def loss(self) -> float:
        """The final validation loss."""
        return self.record.valid_loss

    @property
    def evaluation_share(self) -> float | None:
        """The share of the time of all trials that went into evaluations; None if unknown."""
        return share_of_time(self.evaluation_seconds, self.compute_seconds)

    @property
    def open_ends(self) -> tuple[bool, bool]:
        """Whether the tied range goes on below the lowest, or above the highest rate tried."""
        low, high = self.tied
        return low < self.trials[0].lr, high > self.trials[-1].lr

    @property
    def at_bound(self) -> float | None:
        """The bound of `lr_range`, or of `lrs`, at which the rate lies; None for none.

        None too if another rate that was tried lies between the two, or at the bound.
        """
        bound = self.allowed.bound_at(self.lr)
        if bound is None or bound == self.lr:
            return bound
        low, high = sorted((bound, self.lr))
        return None if any(low <= t.lr <= high and t.lr != self.lr for t in self.trials) else bound

    @property
    def paired_record(self) -> Record:
        """The record at `lr` whose evaluations are all on the data on which rates were compared."""
        return self.record if self.judged_on == self.valid_samples else self.chosen.record

    @property
    def common_break(self) -> int | None:
        """The update at which the higher rates that diverged all did, where no edge is claimed."""
        broke = {
            t.record.cost.steps
            for t in self.trials
            if t.record.status == Status.DIVERGED and t.lr > self.lr
        }
        return broke.pop() if self.stable_below is None and len(broke) == 1 else None

    @property
    def left_better(self) -> LeftBetter | None:
        """The rate that was better when it was left than `lr` at its end; None without one.

        With folds, than `lr` when they were left. Metrics, and losses over seeds, are not compared.
        """
        if self.folds > 1:
            return left_better_in_folds(self.chosen, self.trials, self.objective)
        same = self.objective == "loss" and self.seeds == 1 and self.judged_on == self.valid_samples
        return left_better(self.record, self.trials, self.untrained.loss, comparable=same)

    @property
    def larger_budget(self) -> LargerBudget | None:
        """The budget to give where this one left something open; None where it did not."""
        wanting = (Outcome.UNFINISHED, Outcome.TOO_SMALL_TO_TELL, Outcome.AT_AN_EDGE)
        edge = self.outcome == Outcome.AT_AN_EDGE
        open_ = self.outcome in wanting and not (edge and self.at_bound is not None)
        astray = self.selection is not None and bool(self.selection.advice())
        if not (open_ or self.doubts or self.left_better or astray):
            return None
        climbs = self.selection is None and self.outcome == Outcome.TOO_SMALL_TO_TELL
        given = (self.budget, self.cost, self.record.length)
        return larger_budget(*given, folds=self.folds, seeds=self.seeds, climbs=climbs)

    def advice(self) -> str:
        """Say in sentences what the outcome means for the reader; empty where all is well."""
        overfit = overfits.said(self.paired_record, self.trials, self.objective)
        left, larger = self.left_better, self.larger_budget
        said = ["" if left is None else left.remedy()]
        said += [self._meaning(explained=bool(overfit)), self._bound_said(), overfit]
        said += [*self.doubts, *self.notes]
        if self.selection is not None and self.outcome != Outcome.NOTHING_TRAINS:
            said.append(self.selection.advice())
        return " ".join(filter(None, [*said, "" if larger is None else larger.said()]))

    def _bound_said(self) -> str:
        """Say that the rate lies at a bound; empty where it does not, or where none trains."""
        if self.at_bound is not None and self.outcome != Outcome.NOTHING_TRAINS:
            return advice.at_a_bound(self.lr, self.at_bound, self.allowed)
        return ""

    def _meaning(self, *, explained: bool) -> str:
        match self.outcome:
            case Outcome.NOTHING_TRAINS:
                return advice.nothing_trains(
                    self.trials, self.loss, self.untrained.loss, self.cause
                )
            case Outcome.NO_BETTER_THAN_A_CONSTANT:
                assert self.constant is not None
                own = self.chosen.record.evaluations[-1]
                return advice.like_a_constant(
                    own, self.constant, self.objective, self.folds, explained=explained
                )
            case Outcome.UNFINISHED:
                return advice.unfinished(self.lr, self.record, self.budget)
            case Outcome.TOO_SMALL_TO_TELL:
                return advice.too_small_to_tell(self.trials, self.lr, self.budget)
            case Outcome.AT_AN_EDGE:
                if self.at_bound is not None:
                    return ""  # what the bound means is said beside it
                return advice.at_an_edge(self.lr, self.trials, self.budget)
            case Outcome.FOUND:
                return ""

    def plain(self) -> dict[str, Any]:
        """Return the findings as plain values that JSON can hold."""
        return {
            "task": self.record.task,
            "lr": self.lr,
            "tied": list(self.tied),
            "stable_below": self.stable_below,
            "cost": self.cost,
            "costs": {part.name: part.runs for part in self.costs},
            "outcome": self.outcome,
            "advice": self.advice(),
            "cause": self.cause,
            "doubts": list(self.doubts),
            "notes": list(self.notes),
            "larger_budget": None if self.larger_budget is None else self.larger_budget.runs,
            "constant_loss": None if self.constant is None else to_json(self.constant.loss),
            "constant_metric": None if self.constant is None else to_json(self.constant.metric),
            "loss": to_json(self.loss),
            "metric": to_json(self.metric),
            "metric_name": self.record.metric,
            "untrained_loss": to_json(self.untrained.loss),
            "untrained_metric": to_json(self.untrained.metric),
            "budget": self.budget,
            "seconds": self.seconds,
            "compute_seconds": self.compute_seconds,
            "evaluation_seconds": self.evaluation_seconds,
            "valid_samples": self.valid_samples,
            "judged_on": self.judged_on,
            "sensitivity": self.sensitivity,
            "confidence": self.confidence,
            "objective": self.objective,
            "folds": self.folds,
            "seeds": self.seeds,
            **self.allowed.plain(),
            "at_bound": self.at_bound,
            "selection": None if self.selection is None else self.selection.plain(),
            "recipe": self.recipe.plain(),
            "trials": [
                {
                    "lr": trial.lr,
                    "folder": trial.folder,
                    "unstable": trial.unstable,
                    "tied": trial.tied,
                    "compared": to_json(trial.compared),
                    "seeds": [{**asdict(one), "value": to_json(one.value)} for one in trial.seeds],
                    "updates": trial.record.cost.steps,
                    "status": trial.record.status,
                    "evaluations": [
                        {"step": e.step, "loss": to_json(e.loss), "metric": to_json(e.metric)}
                        for e in trial.record.evaluations
                    ],
                }
                for trial in self.trials
            ],
        }

    def save(self, folder: Path) -> None:
        """Write recipe, record, series, findings and the trained model into a run folder."""
        home = TuningFolder(folder)
        home.run.write_recipe(self.recipe)
        self.record.save(folder)
        if self.model is not None and self.record.status == Status.FINISHED:
            home.run.save_model(self.model)
        home.write_result(self.plain())

    @classmethod
    def load(cls, folder: str | Path) -> TuneResult:
        """Read a finished tuning from its folder; the model's weights lie beside it.

        Raises:
            StorageError: If the folder holds no finished tuning.
        """
        home = TuningFolder(Path(folder))
        content = home.table()
        if "result" not in content:
            raise StorageError(f"{str(home.path)!r} holds a tuning that is not finished: resume it")
        try:
            refuse_other(content["result"], ResultShape)
            return cls._from_plain(content["result"], home)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, StorageError) as error:
            raise StorageError(
                f"the tuning {str(home.file)!r} is damaged: {type(error).__name__}: {error}"
            ) from error

    @classmethod
    def _from_plain(cls, plain: dict[str, Any], home: TuningFolder) -> TuneResult:
        trials = []
        for row in plain["trials"]:
            record = Record.load(home.within(row["folder"]))
            compared = _number(row.get("compared"))
            given = (row["unstable"], row["tied"], row["folder"], compared)
            seeds = tuple(
                SeedRun(**{**one, "value": _number(one["value"])}) for one in row.get("seeds", ())
            )
            trials.append(TrialSummary(row["lr"], record, *given, seeds))
        untrained = Evaluation(
            0,
            from_json(plain["untrained_loss"]),
            None if plain["untrained_metric"] is None else from_json(plain["untrained_metric"]),
        )
        constant = None
        if plain.get("constant_loss") is not None:
            metric = plain["constant_metric"]
            constant = Evaluation(
                0, from_json(plain["constant_loss"]), None if metric is None else from_json(metric)
            )
        return cls(
            recipe=Recipe(**plain["recipe"]),
            lr=plain["lr"],
            tied=(plain["tied"][0], plain["tied"][1]),
            stable_below=plain["stable_below"],
            cost=plain["cost"],
            costs=tuple(RungCost(name, runs) for name, runs in plain["costs"].items()),
            outcome=plain["outcome"],
            untrained=untrained,
            record=Record.load(home.path),
            trials=tuple(trials),
            budget=plain["budget"],
            seconds=plain["seconds"],
            sensitivity=plain["sensitivity"],
            confidence=plain["confidence"],
            objective=plain["objective"],
            folds=plain["folds"],
            seeds=plain.get("seeds", 1),
            selection=None if plain["selection"] is None else from_plain(plain["selection"]),
            constant=constant,
            cause=plain.get("cause", ""),
            doubts=tuple(plain.get("doubts", ())),
            notes=tuple(plain.get("notes", ())),
            compute_seconds=plain.get("compute_seconds"),
            evaluation_seconds=plain.get("evaluation_seconds"),
            valid_samples=plain.get("valid_samples"),
            judged_on=plain.get("judged_on"),
            allowed=AllowedRates.of(plain.get("lr_range"), plain.get("lrs")),
        )


def _number(plain: Any) -> float | None:
    return None if plain is None else from_json(plain)


def tie(
    one: Evaluation,
    best: Evaluation,
    drop: float,
    goal: Goal | None = None,
    error: float = 0.0,
) -> bool:
    """Return whether two evaluations after the same number of updates cannot be told apart.

    With d the differences of the slices' finite scores, n of them, and s their sample standard
    deviation: mean(d) <= max(2 sqrt(s(d)² / n + error²), 0.01 drop).

    Args:
        one: Of the rate that may tie.
        best: Of the best rate.
        drop: Untrained score minus the best's.
        goal: What is compared; None compares the losses.
        error: The standard error of the difference as a forecast of that at the end, beside that
            of the slices.

    >>> tie(Evaluation(9, 1.1, None, (1.0, 1.2)), Evaluation(9, 1.0, None, (1.1, 0.9)), 2.0)
    True
    >>> tie(Evaluation(9, 1.3, None, (1.2, 1.4)), Evaluation(9, 1.0, None, (0.9, 1.1)), 2.0)
    False
    """
    goal = goal or Goal()
    mean = goal.score(one) - goal.score(best)
    if not math.isfinite(mean):
        return False
    return mean <= max(2 * math.hypot(noise(one, best, goal), error), 0.01 * drop)
