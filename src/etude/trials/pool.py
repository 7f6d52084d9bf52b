"""The pool of trials: trains the trials of a tuning together and counts their cost."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from etude.engines.base import Engine
from etude.engines.process.engine import cores
from etude.errors import Interrupted, StorageError
from etude.free_memory import free_memory
from etude.next_step import NextStepNote, SavedState
from etude.progress import Bar, silent
from etude.recipe import Recipe
from etude.record import Evaluation, Status
from etude.storage.tuning_folder import TuningFolder
from etude.tasks.task import Task
from etude.torch_internals import compiles
from etude.training.clock import batch_size_of
from etude.training.interrupt import broken_by
from etude.training.observer import Observer
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.training.state import RunState
from etude.trials.bad_batch import End, bad_batch, common_update, far_apart
from etude.trials.baseline import constant_score
from etude.trials.phase import Phase
from etude.trials.score import Goal, mean, refuse_undefined
from etude.trials.trial import Trial
from etude.trials.weight_mean import step_at_share, weight_mean

SHOWN = 0.1
"""Seconds between two updates of the progress bar."""

SAVED = 20.0
"""Seconds between two saves of a running trial, besides the save at every pause."""


@dataclass(frozen=True)
class TrialContext:
    """How trials are trained; nothing in it changes the result.

    Attributes:
        engine: The engine that trains the runs.
        folder: The folder of the trials; None keeps them in memory.
        device: As in `train`.
        memory: The number of bytes that paused trials may take; the others are stored on disk. None
            allows half of the free memory.
        observers: Called while the runs train; each run has copies.
        bar: The progress bar.
        stop: Called before every update; the trials stop if it returns True.
        saved: Returns what is saved in the folder, for the message after an interruption.
    """

    engine: Engine
    folder: TuningFolder | None = None
    device: str | torch.device | None = None
    memory: int | None = None
    observers: tuple[Observer, ...] = ()
    bar: Bar = silent
    stop: Callable[[], bool] = bool
    saved: Callable[[], SavedState] | None = None


class TrialPool:
    """The trials of a tuning, and their cost in full runs.

    One full run is the number of gradient evaluations of the recipe that is tuned.

    Args:
        tasks: The tasks; with several, such as folds, a trial has a run for each.
        recipe: The recipe whose full run is the unit of cost.
        budget: The budget in full runs.
        goal: The loss or metric by which trials are compared.
        setting: How the trials are trained.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        recipe: Recipe,
        budget: float,
        goal: Goal,
        setting: TrialContext,
    ) -> None:
        self.recipe, self.goal, self.setting = recipe, goal, setting
        self.budget = budget
        self.folder, self.stop, self.bar = setting.folder, setting.stop, setting.bar
        device, memory = setting.device, setting.memory
        first = Run(tasks[0], recipe, device=device)
        first.check()
        self.first, self.device = first, first.device
        self.tasks = [first.task, *(task.on(first.device) for task in tasks[1:])]
        self.work, self._compiled = first.threads, compiles(first.model)
        self.length = first.length
        self.unit = first.length * self.weight(recipe)
        self.memory = free_memory(first.device) // 2 if memory is None else memory
        self.trials: list[Trial] = []
        self.spent = 0.0
        self.costs: dict[str, float] = {}
        self.untrained: Evaluation
        self.constant: Evaluation | None = None
        self._asked = 0
        self._batches: dict[int, str] = {}
        self._unjudged: dict[tuple[object, ...], Evaluation] = {}
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    # ---- adding trials -----------------------------------------------------------------------

    def weight(self, recipe: Recipe) -> int:
        """Return the number of samples in one update of a recipe."""
        return batch_size_of(self.tasks[0], recipe) * recipe.accumulate

    def add(self, recipe: Recipe, name: str) -> Trial:
        """Add a trial of a recipe; return the existing one if there is one."""
        known = next((c for c in self.trials if c.recipe == recipe), None)
        if known is not None:
            return known
        folder = None if self.folder is None else self.folder.trial(name)
        trial = Trial(name, lambda: self._runs(recipe), self.goal, folder)
        with self._saved_at_end([]):
            self._judge(trial)
            self.trials.append(trial)
            if len(self.trials) == 1:
                found = trial.at(0)
                assert found is not None
                self.untrained = found
                self.constant = self._constant(recipe)
        trial.floor = self.constant or self.untrained
        self._make_room()
        return trial

    def _constant(self, recipe: Recipe) -> Evaluation | None:
        """Return the score of the best constant output, the mean over folds; None without one.

        It uses new runs, so that a resumed tuning gets the same bits.
        """
        found = [constant_score(run) for run in self._runs(recipe)]
        whole = [score for score in found if score is not None]
        return mean(whole) if len(whole) == len(found) else None

    def _runs(self, recipe: Recipe) -> list[Run]:
        return [
            Run(
                task,
                recipe,
                device=self.device,
                observers=[*weight_mean(task, recipe), *copy.deepcopy(self.setting.observers)],
            )
            for task in self.tasks
        ]

    def _judge(self, trial: Trial) -> None:
        """Evaluate the runs before training; equal weights are evaluated only once."""
        for fold, run in enumerate(trial.runs):
            key = (fold, run.recipe.replace(lr=1.0).digest)
            if run.evaluations:
                continue
            if not run.state.optimizer_spec.eval_mode and key in self._unjudged:
                run.adopt_evaluation(self._unjudged[key])
            else:
                self._unjudged[key] = run.evaluate()

    # ---- training ------------------------------------------------------------------------------

    @property
    def left(self) -> float:
        """The rest of the budget, in full runs."""
        return self.budget - self.spent

    def price(self, trial: Trial, share: float) -> float:
        """Return the cost, in full runs, of training a trial up to a share of its run."""
        if trial.ended or trial.diverged:
            return 0.0
        updates = max(0, step_at(trial, share) - trial.reached)
        cost: float = updates * len(self.tasks) * trial.weight / self.unit
        return cost

    def go(
        self,
        trials: Sequence[Trial],
        share: float,
        phase: Phase,
        ahead: Sequence[Trial] = (),
    ) -> None:
        """Train trials up to a share of their runs, evaluate them there, and add the cost.

        Args:
            trials: The trials.
            share: The share of the run.
            phase: The phase to which the cost is added.
            ahead: Trials that will probably be asked to go as far next. They are trained at the
                same time where a core would be idle; neither their cost nor what they reach counts
                before they are asked for.

        Raises:
            Interrupted: If `stop` returned True; every trial is saved.
            TaskError: If the metric is NaN for all of them.
        """
        self._asked += 1
        part = phase.at(share)
        threads = self._threads(trials)
        for trial in trials:
            if trial.must_restart(step_at(trial, share)):
                trial.restart()
                self._judge(trial)
        together = [*trials, *self._in_parallel(trials, ahead, share, threads)]
        unfinished = [trial for trial in together if self._is_unfinished(trial, share)]
        for batch in self._batches_of(unfinished):
            self._advance(batch, share, part, threads)
        for trial in trials:
            updates = trial.extend(share, step_at(trial, share))
            cost = updates * trial.weight / self.unit
            if cost:
                self.spent += cost
                self.costs[part] = self.costs.get(part, 0.0) + cost
        refuse_undefined(self.goal, [trial.last() for trial in trials])

    def _threads(self, trials: Sequence[Trial]) -> int:
        """Return the number of threads of each run, where all are trained at the same time.

        A compiled model keeps its number: for another one it would be compiled again.
        """
        if self._compiled:
            return self.work
        return max(1, min(self.work, cores() // max(1, len(trials) * len(self.tasks))))

    def _in_parallel(
        self, trials: Sequence[Trial], ahead: Sequence[Trial], share: float, threads: int
    ) -> list[Trial]:
        """Return the first of the trials ahead for which there are processes left.

        The number of threads must not change with it, or the bits might.
        """
        chosen: list[Trial] = []
        for trial in ahead:
            if not trial.in_memory or trial.must_restart(step_at(trial, share)):
                continue
            together = [*trials, *chosen, trial]
            runs = [run for one in together for run in one.runs]
            if self._threads(together) < threads or self.setting.engine.parallel(runs) < len(runs):
                break
            chosen.append(trial)
        return chosen

    def _is_unfinished(self, trial: Trial, share: float) -> bool:
        """Return whether a trial lacks updates up to a share, or the evaluation there."""
        until = step_at(trial, share)
        return trial.at(until) is None and not trial.diverged

    def _batches_of(self, trials: list[Trial]) -> Iterator[list[Trial]]:
        """Yield the trials in batches that fit into memory."""
        batch: list[Trial] = []
        for trial in trials:
            batch.append(trial)
            if sum(c.size() or self._usual_size() for c in batch) > self.memory:
                yield batch
                batch = []
        if batch:
            yield batch

    def _usual_size(self) -> int:
        """Return the size of the largest trial in memory, as an estimate for those on disk."""
        return max((c.size() for c in self.trials), default=0)

    def _advance(self, batch: list[Trial], share: float, part: str, threads: int) -> None:
        runs: list[Run] = []
        owner: dict[int, Trial] = {}
        until: dict[int, int] = {}
        for trial in batch:
            trial.last_used = self._asked
            for run in trial.runs:
                run.limit_threads(threads)
                owner[id(run.state)] = trial
                until[id(run.state)] = step_at(trial, share)
                runs.append(run)
        steps = {
            id(state): {s for s in state.evaluation_steps if s >= state.step} | {until[id(state)]}
            for state in (run.state for run in runs)
        }
        begun = {id(run.state): run.step for run in runs}
        at = dict(begun)
        leader = self.leader()
        saved, shown = time.monotonic(), 0.0

        def on_step(state: RunState, step: int) -> None:
            nonlocal saved, shown
            at[id(state)] = step
            now = time.monotonic()
            if now - shown > SHOWN:
                used = sum(at[i] - begun[i] for i in at) * owner[id(state)].weight / self.unit
                self.bar(self.spent + used, self.budget, f"phase: {part}{leader}")
                shown = now
            if self.folder is not None and now - saved > SAVED and state.step == step:
                owner[id(state)].save()
                saved = now

        with self._saved_at_end(batch):
            for run in runs:
                # A run that was killed after its last update lacks the last evaluation.
                if run.status == Status.FINISHED and run.evaluations[-1].step < run.step:
                    run.evaluate()
            for length in sorted(set(until.values())):
                chosen = [run for run in runs if until[id(run.state)] == length]
                with broken_by(self.stop):
                    self.setting.engine.advance(
                        chosen,
                        AdvanceRequest(length, lambda s: steps[id(s)], self.stop, on_step),
                    )
            if self.stop():
                raise self._interrupted()
        self._make_room()

    @contextmanager
    def _saved_at_end(self, batch: list[Trial]) -> Iterator[None]:
        """Save the trials when the block ends, also if it raises."""
        try:
            yield
        except BaseException as error:
            try:
                for trial in batch:
                    trial.save()
            except (StorageError, OSError) as second:
                error.add_note(f"the updates since the last pause are lost: {second}")
            else:
                saved = self.setting.saved
                if saved is not None and not isinstance(error, Interrupted):
                    error.add_note(NextStepNote("The trials are saved", saved()))
            raise
        for trial in batch:
            trial.save()

    def _interrupted(self) -> Interrupted:
        saved = None if self.setting.saved is None else self.setting.saved()
        if saved is None:
            return Interrupted("stopped")
        by = "" if saved.signal is None else f" by {saved.signal}"
        return Interrupted(f"stopped{by}; the trials are saved", saved)

    def _make_room(self) -> None:
        """Move the least recently used trials to disk while memory is short."""
        sizes = {c.name: c.size() for c in self.trials if c.in_memory}
        for trial in sorted(self.trials, key=lambda c: c.last_used):
            if sum(sizes.values()) <= self.memory or len(sizes) == 1:
                return
            if trial.in_memory:
                if self._temporary is None:
                    self._temporary = tempfile.TemporaryDirectory(prefix="etude-")
                trial.offload(Path(self._temporary.name))
                sizes.pop(trial.name)

    # ---- results -------------------------------------------------------------------------------

    @property
    def untrained_score(self) -> float:
        """The score before training."""
        return self.goal.score(self.untrained)

    @property
    def untrained_loss(self) -> float:
        """The absolute value of the validation loss before training."""
        return abs(self.untrained.loss)

    def verdict_of_break(self, trials: Sequence[Trial]) -> tuple[int | None, str]:
        """Return the update at which every rate diverges, and the cause if it is not the rate.

        Args:
            trials: Trials of recipes that differ only in the rate.

        Returns:
            The update, None if there is none; and the cause in words, empty if it may be the rate.
        """
        ends = [End(c.lr, min(c.steps, c.reached), c.diverged) for c in trials]
        update = common_update(ends)
        if update is None or len(self.tasks) > 1:
            return None, ""
        if update not in self._batches:
            fresh = Run(self.tasks[0], self.recipe, device=self.device)
            self._batches[update] = bad_batch(fresh, update)
        alike = "rates six decades apart break there" if far_apart(ends) else ""
        return update, self._batches[update] or alike

    def leader(self) -> str:
        """Return in words which rate leads: the best among those that are furthest."""
        furthest = max((c.share for c in self.trials), default=0.0)
        candidates = [c for c in self.trials if c.share == furthest and c.last() is not None]
        best = min(candidates, key=lambda c: self.goal.score(c.last()), default=None)
        evaluation = None if best is None else best.last()
        if not furthest or best is None or evaluation is None:
            return ""
        return f", best so far {best.lr:g} ({self.goal.name} {self.goal.value(evaluation):.4g})"

    def close(self) -> None:
        """Delete the trials that were moved to disk because memory was short."""
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None


def step_at(trial: Trial, share: float) -> int:
    """Return the update at a share of a trial's run, rounded down so as not to exceed the cost."""
    return step_at_share(trial.length, share)
