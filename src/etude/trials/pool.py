"""The pool of trials: trains the trials of a tuning together and counts their cost."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from etude.engines.process.engine import cores
from etude.errors import Interrupted, StorageError
from etude.free_memory import free_memory
from etude.next_step import NextStepNote
from etude.recipe import Recipe
from etude.record import Evaluation, Status
from etude.tasks.task import Task
from etude.torch_internals import compiles
from etude.training.clock import batch_size_of
from etude.training.interrupt import broken_by
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.training.state.state import RunState
from etude.trials.bad_batch import End, bad_batch, verdict
from etude.trials.baseline import constant_score
from etude.trials.context import TrialContext as TrialContext
from etude.trials.guess import MANY, Aim, Guess, GuessedTrials, NewTrial
from etude.trials.memory import TrialMemory
from etude.trials.phase import Phase
from etude.trials.score import Goal, mean, refuse_undefined
from etude.trials.trial import Trial, step_at
from etude.trials.weight_mean import weight_mean

SHOWN = 0.1
"""Seconds between two updates of the progress bar."""

SAVED = 20.0
"""Seconds between two saves of a running trial, besides the save at every pause."""


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
        self.budget, self.pauses_only = budget, False
        self.folder, self.stop, self.bar = setting.folder, setting.stop, setting.bar
        first = Run(tasks[0], recipe, device=setting.device)
        first.check()
        self.first, self.device = first, first.device
        self.tasks = [first.task, *(task.on(first.device) for task in tasks[1:])]
        self.work, self._compiled = first.threads, compiles(first.model)
        self.length = first.length
        self.unit = first.length * self.weight(recipe)
        self.world = first.state.world
        limit: int = self.world.from_main(
            lambda: free_memory(first.device) // 2 if setting.memory is None else setting.memory
        )
        self.memory = TrialMemory(limit, first.device, alone=self.world.size == 1)
        self.trials: list[Trial] = []
        self.spent = 0.0
        self.costs: dict[str, float] = {}
        self.untrained: Evaluation
        self.constant: Evaluation | None = None
        self._asked = 0
        self._guesses = GuessedTrials()
        self._batches: dict[int, str] = {}
        self._unjudged: dict[tuple[object, ...], Evaluation] = {}

    # ---- adding trials -----------------------------------------------------------------------

    def weight(self, recipe: Recipe) -> int:
        """Return the number of samples in one update of a recipe."""
        return batch_size_of(self.tasks[0], recipe) * recipe.accumulate

    def add(self, recipe: Recipe, name: str) -> Trial:
        """Add a trial of a recipe; return the existing one if there is one."""
        known = next((c for c in self.trials if c.recipe == recipe), None)
        if known is not None:
            return known
        trial = self._guesses.take((recipe, name), self.folder) or self._new(recipe, name)
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

    def branch(self, donor: Trial, recipe: Recipe, name: str) -> Trial:
        """Add a trial that goes on from where another one stands; its past costs nothing."""
        trial = self._new(recipe, name)
        with self._saved_at_end([trial]):
            trial.continue_from(donor)
        trial.floor = donor.floor
        self.trials.append(trial)
        self._make_room()
        return trial

    def _new(self, recipe: Recipe, name: str, *, guessed: bool = False) -> Trial:
        folder = None if self.folder is None or guessed else self.folder.trial(name)
        return Trial(name, lambda: self._runs(recipe), self.goal, folder)

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
        guess: Guess[Trial, NewTrial] | None = None,
    ) -> None:
        """Train trials up to a share of their runs, evaluate them there, and add the cost.

        Args:
            trials: The trials.
            share: The share of the run.
            phase: The phase to which the cost is added.
            ahead: Trials that will probably be asked to go as far next. They are trained at the
                same time where a core would be idle; neither their cost nor what they reach counts
                before they are asked for.
            guess: What else will probably be asked for, where even more workers would be idle.

        Raises:
            Interrupted: If `stop` returned True; every trial is saved.
            TaskError: If the metric is NaN for all of them.
        """
        self._asked += 1
        part = phase.at(share)
        threads = self._threads(trials)
        for trial in trials:
            other = trial.guessed not in (None, share)
            if other or trial.must_restart(step_at(trial, share)):
                trial.restart()
                self._judge(trial)
            trial.guessed = None
        self._guesses.keep_only(share)
        aims = {trial: Aim(step_at(trial, share)) for trial in trials}
        self._add_idle(aims, ahead, guess or Guess(), share, threads)
        for batch in self._batches_of([one for one, aim in aims.items() if aim.is_open(one)]):
            self._advance({trial: aims[trial] for trial in batch}, part, threads)
        for trial in trials:
            updates = trial.extend(share, step_at(trial, share))
            cost = updates * trial.weight / self.unit
            if cost:
                self.spent += cost
                self.costs[part] = self.costs.get(part, 0.0) + cost
        self.setting.paused(trials)
        refuse_undefined(self.goal, [trial.last() for trial in trials])

    def _threads(self, trials: Sequence[Trial]) -> int:
        """Return the number of threads of each run, where all are trained at the same time.

        A compiled model keeps its number: for another one it would be compiled again.
        """
        if self._compiled:
            return self.work
        return max(1, min(self.work, cores() // max(1, len(trials) * len(self.tasks))))

    def _add_idle(
        self,
        aims: dict[Trial, Aim],
        ahead: Sequence[Trial],
        guess: Guess[Trial, NewTrial],
        share: float,
        threads: int,
    ) -> None:
        """Add trials to be trained ahead, with how far, for which there are processes left.

        The number of threads must not change with it, or the bits might. What is guessed goes no
        longer way than the longest that is asked for, so that it never delays.
        """
        if not aims:
            return
        first = next(iter(aims))
        longest = max(aim.left(trial) for trial, aim in aims.items())

        def fits(trial: Trial) -> bool:
            together = [*aims, trial]
            runs = [run for one in together for run in one.runs]
            if self._threads(together) < threads:
                return False
            return self.setting.engine.parallel(runs) >= len(runs)

        sure = [(trial, Aim(step_at(trial, share))) for trial in ahead]
        maybe = [
            (trial, Aim(step_at(trial, far)).within(trial, longest)) for trial, far in guess.further
        ]
        for trial, aim in [*sure, *maybe]:
            if not trial.in_memory or trial.must_restart(aim.until):
                continue
            if trial in aims or not aim.is_open(trial):
                continue
            if not fits(trial):
                return
            aims[trial] = aim
        if step_at(first, share) > longest or not guess.new:
            return
        if self.setting.engine.parallel(first.runs * MANY) < MANY:
            return
        for new in guess.new:
            if not fits(first) or not self._has_room():
                return
            found = self._guessed(new, share)
            if found is not None:
                aims[found] = Aim(step_at(found, share))

    def _guessed(self, new: NewTrial, share: float) -> Trial | None:
        """Return a trial that may be added later; None if it is there, or begun in the folder."""
        known = self._guesses.known(new)
        if known is not None:
            return known
        recipe, name = new
        begun = self.folder is not None and self.folder.trial(name).path.exists()
        if begun or any(trial.recipe == recipe for trial in self.trials):
            return None
        trial = self._new(recipe, name, guessed=True)
        self._judge(trial)
        self._guesses.put(trial, share)
        return trial

    def _has_room(self) -> bool:
        """Return whether one more trial fits into memory."""
        return self.memory.has_room((*self.trials, *self._guesses), self._usual_size())

    def _batches_of(self, trials: list[Trial]) -> Iterator[list[Trial]]:
        """Yield the trials in batches that fit into memory."""
        batch: list[Trial] = []
        for trial in trials:
            batch.append(trial)
            if sum(c.size() or self._usual_size() for c in batch) > self.memory.limit:
                yield batch
                batch = []
        if batch:
            yield batch

    def _usual_size(self) -> int:
        """Return the size of the largest trial in memory, as an estimate for those on disk."""
        return max((c.size() for c in self.trials), default=0)

    def _advance(self, batch: dict[Trial, Aim], part: str, threads: int) -> None:
        runs: list[Run] = []
        owner: dict[int, Trial] = {}
        until: dict[int, int] = {}
        pauses: dict[int, set[int]] = {}
        for trial, aim in batch.items():
            trial.last_used = self._asked
            for run in trial.runs:
                run.limit_threads(threads)
                owner[id(run.state)] = trial
                until[id(run.state)] = aim.until
                pauses[id(run.state)] = {aim.until} if aim.pause else set()
                runs.append(run)
        steps = {
            id(state): pauses[id(state)]
            | {s for s in state.evaluation_steps if s >= state.step and not self.pauses_only}
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
            late = now - saved > SAVED and self.world.size == 1
            if self.folder is not None and late and state.step == step:
                owner[id(state)].save()
                saved = now

        with self._saved_at_end(list(batch)):
            for run in runs:
                # A run that was killed after its last update lacks the last evaluation.
                if run.status == Status.FINISHED and run.evaluations[-1].step < run.step:
                    run.evaluate()
            lengths = sorted(set(until.values()))
            if self.setting.engine.parallel(runs) == 1:  # a stack takes runs of one length
                groups = [[run for run in runs if until[id(run.state)] == n] for n in lengths]
            else:
                groups = [runs]
            for group in groups:
                request = AdvanceRequest(
                    lambda s: until[id(s)], lambda s: steps[id(s)], self.stop, on_step
                )
                with broken_by(self.stop if self.world.size == 1 else bool):
                    self.setting.engine.advance(group, request)
            if self.stop():
                raise self._interrupted()
        self._make_room()

    @contextmanager
    def _saved_at_end(self, batch: list[Trial]) -> Iterator[None]:
        """Save the trials when the block ends, also if it raises."""
        try:
            yield
        except BaseException as error:
            if self.world.size > 1 and not isinstance(error, Interrupted):
                raise  # another process may not be there to save its part
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
        self.memory.make_room(self.trials)

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
            trials: Trials of recipes that differ only in the rate; see `bad_batch.verdict`.
        """
        if len(self.tasks) > 1:
            return None, ""
        ends = [End(c.lr, min(c.steps, c.reached), c.diverged) for c in trials]
        return verdict(ends, self._said_of_batch)

    def _said_of_batch(self, update: int) -> str:
        if update not in self._batches:
            run = Run(self.tasks[0], self.recipe, device=self.device)
            self._batches[update] = bad_batch(run, update)
        return self._batches[update]

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
        self.memory.close()
