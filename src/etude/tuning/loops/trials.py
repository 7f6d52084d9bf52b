"""The trials of a loop's tuning: rates that are taken further, judged, and paid for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from etude.optimizers.prior import LOWEST
from etude.progress import Bar, silent
from etude.recipe import Recipe
from etude.record import Cost, Evaluation, Record, Status, environment
from etude.trials.bad_batch import End, common_update, far_apart
from etude.trials.baseline import better
from etude.trials.curve import Curve, Exposure, mean_training_loss
from etude.trials.guess import Guess
from etude.trials.phase import Phase
from etude.trials.score import Goal, mean
from etude.trials.weight_mean import step_at_share
from etude.tuning.loops.driver import LoopDriver
from etude.tuning.loops.reports import RunReports


class LoopTrial:
    """One rate in training: a run of the loop, or one for each fold.

    Args:
        lr: The rate.
        drivers: What drives its runs.
        reports: What each reports, in the same order.
    """

    def __init__(
        self, lr: float, drivers: Sequence[LoopDriver], reports: Sequence[RunReports]
    ) -> None:
        self.lr, self.drivers, self.reports = lr, drivers, reports
        self.length, self.goal = reports[0].length, reports[0].goal
        self.asked: dict[float, int] = {}

    def advance(self, share: float, until: int) -> tuple[int, int]:
        """Take every run to a number of updates, and return how many that took, and repeated.

        Args:
            share: The share of the run that was asked for.
            until: The updates at that share.
        """
        new = repeated = 0
        for driver, reports in zip(self.drivers, self.reports, strict=True):
            if reports.is_over() or (
                reports.step >= until and reports.at(reports.step) is not None
            ):
                continue
            paid, before = reports.paid, reports.step
            begun = time.perf_counter()
            reports.begin(until)
            try:
                driver.drive(reports)
            except Exception as error:
                # An error at the first report of the first rate need not be the rate's.
                if not (share or before) or not reports.broke(error):
                    error.add_note(
                        f"the loop was training at lr={self.lr:g}: train there alone to find the "
                        "error; if the rate is at fault, give a lower around=, or let the loop "
                        "report a loss of infinity"
                    )
                    raise
            finally:
                reports.seconds += time.perf_counter() - begun
            gained = max(0, reports.step - before)
            new, repeated = new + gained, repeated + reports.paid - paid - gained
        self.asked[share] = self.steps
        return new, repeated

    def repeats(self) -> bool:
        """Return whether going on from here repeats what was done."""
        return any(
            r.step > 0 and not r.is_over() and not d.resumable
            for d, r in zip(self.drivers, self.reports, strict=True)
        )

    def close(self) -> None:
        """Free what its paused runs hold."""
        for driver in self.drivers:
            driver.close()

    # ---- results -----------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """The number of updates of the furthest run."""
        return max(r.step for r in self.reports)

    @property
    def reached(self) -> int:
        """The same: no run goes further than it was asked to."""
        return self.steps

    @property
    def share(self) -> float:
        """The largest share of its run that was asked for."""
        return max(self.asked, default=0.0)

    @property
    def floor(self) -> Evaluation | None:
        """What it must beat: the untrained model, where the loop reported it."""
        return self.at(0)

    @property
    def ended(self) -> bool:
        """Whether every run came to its end."""
        return all(r.status == Status.FINISHED for r in self.reports)

    @property
    def diverged(self) -> bool:
        """Whether a run diverged."""
        return any(r.status == Status.DIVERGED for r in self.reports)

    def at(self, step: int) -> Evaluation | None:
        """Return the evaluation after some updates, the mean over folds; None without one."""
        found = [one for r in self.reports if (one := r.at(step)) is not None]
        if len(found) < len(self.reports):
            return None
        return replace(mean(found), step=max(e.step for e in found))

    def evaluated(self) -> list[Evaluation]:
        """Return its evaluations, in order."""
        steps = sorted({e.step for r in self.reports for e in r.evaluations})
        return [one for step in steps if (one := self.at(step)) is not None]

    def last(self) -> Evaluation | None:
        """Return the newest evaluation."""
        return next(reversed(self.evaluated()), None)

    def curve(self) -> Curve:
        """Return its evaluations after the start, each at the share that was asked for."""
        steps = {e.step / self.length: e.step for e in self.evaluated() if e.step > 0}
        others = {x: step for x, step in steps.items() if step not in self.asked.values()}
        evaluated = [(x, step, self.at(step)) for x, step in sorted((others | self.asked).items())]
        seen = [(x, step, e) for x, step, e in evaluated if e is not None]
        training = tuple(self._training(step) for _, step, _ in seen)
        # Where no score is better yet than untrained, the training loss ranks: it must be known.
        floor = self.floor if all(map(math.isfinite, training)) else None
        return Curve(
            self.lr,
            tuple(x for x, _, _ in seen),
            tuple(self.goal.score(e) for _, _, e in seen),
            training,
            () if floor is None else tuple(better(e, floor, self.goal) for *_, e in seen),
        )

    def _training(self, step: int) -> float:
        means = [mean_training_loss(r.losses[: r.step], step, self.length) for r in self.reports]
        return math.fsum(means) / len(means)

    def record(self, name: str, recipe: Recipe, rates: NDArray[np.float64] | None) -> Record:
        """Return its record; with folds, that of the first run with the mean evaluations.

        Args:
            name: What the loop is called.
            recipe: What is known of how it trains.
            rates: The schedule's value at each update; None where it is not known.
        """
        first = self.reports[0]
        series = {"loss": first.losses[: first.step]}
        if rates is not None:
            series["lr"] = self.lr * rates[: first.step]
        return Record(
            task=name,
            recipe=recipe.replace(lr=self.lr),
            status=Status.DIVERGED if self.diverged else first.status,
            reason=next((r.reason for r in self.reports if r.reason), ""),
            length=self.length,
            metric=None if self.goal.of_loss else self.goal.name,
            series=series,
            evaluations=tuple(self.evaluated() if len(self.reports) > 1 else first.evaluations),
            cost=Cost(
                self.steps,
                sum(r.paid for r in self.reports),
                math.fsum(r.seconds for r in self.reports),
                math.fsum(r.evaluation_seconds for r in self.reports),
            ),
            environment=environment("the loop's own", torch.get_num_threads()),
        )


class LoopTrials:
    """The trials of a loop, for the search: enters rates, takes them further, counts the cost.

    Args:
        start: Starts the runs of a rate, one for each fold, each with what it reports to.
        length: Updates of a full run, which is the unit of cost.
        budget: In full runs.
        goal: What is compared.
        exposure: Of the schedule.
        folds: Runs of one trial.
        show: The progress bar.
    """

    constant: Evaluation | None = None
    lowest = LOWEST

    def __init__(
        self,
        start: Callable[[float], tuple[Sequence[LoopDriver], Sequence[RunReports]]],
        length: int,
        budget: float,
        goal: Goal,
        exposure: Exposure,
        *,
        folds: int = 1,
        show: Bar = silent,
    ) -> None:
        self.start, self.length, self.budget, self.goal = start, length, budget, goal
        self.exposure, self.show = exposure, show
        self.tasks: Sequence[Any] = (None,) * folds
        self.entered: list[LoopTrial] = []
        self.costs: dict[str, float] = {}
        self._updates = 0

    # ---- what the search asks ----------------------------------------------------------------

    @property
    def untrained(self) -> Evaluation | None:
        """The evaluation before training; None if the loop reported none."""
        return next((e for c in self.entered if (e := c.at(0)) is not None), None)

    @property
    def untrained_score(self) -> float:
        """The score before training; infinite if the loop reported none."""
        return self.goal.score(self.untrained)

    @property
    def untrained_loss(self) -> float:
        """The magnitude of the loss before training, or of the first that was reported."""
        firsts = (e for c in self.entered for e in c.evaluated() if math.isfinite(e.loss))
        found = self.untrained or next(firsts, None)
        return math.inf if found is None else abs(found.loss)

    @property
    def hopeless(self) -> bool:
        """Whether rates six decades apart all broke at one update: the rate is not the cause."""
        return self.common_break is not None and far_apart(self._ends())

    @property
    def common_break(self) -> int | None:
        """The update at which every rate that came to it diverged; None if there is none."""
        return None if len(self.tasks) > 1 else common_update(self._ends())

    def _ends(self) -> list[End]:
        return [End(c.lr, c.steps, c.diverged) for c in self.entered]

    @property
    def spent(self) -> float:
        """What was spent, in full runs, to the update."""
        return self._updates / self.length

    @property
    def left(self) -> float:
        """What may still be spent, in full runs."""
        return self.budget - self.spent

    def enter(self, lr: float) -> LoopTrial:
        """Enter a rate, or return the trial that is there."""
        known = next((c for c in self.entered if c.lr == lr), None)
        if known is None:
            known = LoopTrial(lr, *self.start(lr))
            self.entered.append(known)
        return known

    def trials(self) -> list[LoopTrial]:
        """Return all trials, as they entered."""
        return list(self.entered)

    def go(
        self,
        trials: Sequence[LoopTrial],
        share: float,
        phase: Phase,
        ahead: Sequence[LoopTrial] = (),
        guess: Guess[LoopTrial, float] | None = None,
    ) -> None:
        """Take some to a share of their runs, one after another, and count what that took."""
        part = phase.at(share)
        for trial in trials:
            self.show(self.spent, self.budget, f"phase: {part}, lr {trial.lr:g}")
            self.pay(trial.advance(share, self.step_at(share)), part)

    def pay(self, updates: tuple[int, int], part: str) -> None:
        """Count updates, and those that were repeated, as the cost of a part."""
        for name, count in ((part, updates[0]), (str(Phase.REPEATED), updates[1])):
            if count:
                self._updates += count
                self.costs[name] = self.costs.get(name, 0.0) + count / self.length

    def probe(self, lr: float, part: str) -> bool:
        """Take a rate to its first report, and return whether it goes on from there.

        Args:
            lr: The rate.
            part: The part of the search that it belongs to, which pays.
        """
        trial = self.enter(lr)
        self.pay(trial.advance(0.0, 1), part)
        trial.asked.clear()
        return not trial.repeats()

    def step_at(self, share: float) -> int:
        """Return the updates at a share: where other trials were paused for it, or rounded down."""
        least = max(1, step_at_share(self.length, share))
        known = (c.asked.get(share, 0) for c in self.entered)
        return self.length if share >= 1 else next((step for step in known if step >= least), least)

    def price(self, trial: LoopTrial, share: float) -> float:
        """Return the cost of taking one to a share of its run."""
        if trial.ended or trial.diverged:
            return 0.0
        until = self.step_at(share)
        if until <= trial.reached:
            return 0.0
        begun = 0 if trial.repeats() else trial.reached
        return (until - begun) * len(self.tasks) / self.length

    def fresh(self, share: float) -> float:
        """Return the cost of taking a new one to a share of its run."""
        return self.step_at(share) * len(self.tasks) / self.length

    def close(self) -> None:
        """Free what paused runs hold."""
        for trial in self.entered:
            trial.close()


class JudgedLoops:
    """The trials as an assessment reads them: `trials` is a value there, not a call."""

    def __init__(self, pool: LoopTrials) -> None:
        self.goal, self.constant, self.budget = pool.goal, pool.constant, pool.budget
        self.tasks, self.trials = pool.tasks, pool.trials()
        self.untrained_score = pool.untrained_score
