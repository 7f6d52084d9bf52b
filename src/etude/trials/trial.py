"""One recipe under trial: a run that is paused, judged, and perhaps taken further."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from etude.errors import StorageError
from etude.recipe import Recipe
from etude.record import Evaluation, Record, Status
from etude.storage.run_folder import RunFolder
from etude.storage.state_tree import tensors_in
from etude.training.run import Run
from etude.trials.baseline import better
from etude.trials.curve import Curve
from etude.trials.score import Goal, mean
from etude.trials.weight_mean import WeightMean

WINDOW = 16
"""The share of a run, as 1/WINDOW, over which the training loss is averaged before a look."""


class Trial:
    """A paused recipe: one run, or one for each fold of the data.

    What it has cost counts only as far as it was asked to go: a trial that was read back
    from a folder, where it may have gone further already, is judged as it was the first time.

    Args:
        name: What to call its folder.
        make: Builds its runs, before their first update.
        goal: What it is judged by.
        folder: Where to keep it; None keeps it in memory alone.
    """

    def __init__(
        self, name: str, make: Callable[[], list[Run]], goal: Goal, folder: RunFolder | None
    ) -> None:
        self.name, self.goal, self.folder = name, goal, folder
        self._make = make
        self._runs = make()
        self._asleep: list[Record] = []
        self._asleep_means: list[tuple[Evaluation, ...]] = []
        self.recipe: Recipe = self._runs[0].recipe
        self.length: int = self._runs[0].length
        self.recipe_key = self.recipe.replace(lr=1.0).digest
        first = self._runs[0]
        self.weight = first.batch_size * first.recipe.accumulate
        self.averages = bool(len(first.observers))
        self.floor: Evaluation | None = None
        self.reached = 0
        self.asked: dict[float, int] = {}
        self.touched = 0
        if folder is None:
            return
        for run, place in zip(self._runs, self._places(folder), strict=True):
            _begin(run, place)

    def _places(self, folder: RunFolder) -> list[RunFolder]:
        if len(self._runs or self._asleep) == 1:
            return [folder]
        return [folder.fold(i) for i in range(len(self._runs or self._asleep))]

    # ---- memory ----------------------------------------------------------------------------

    @property
    def runs(self) -> list[Run]:
        """The runs, fetched back from where they were put if need be."""
        if not self._runs:
            assert self.folder is not None
            self._runs = self._make()
            for run, place in zip(self._runs, self._places(self.folder), strict=True):
                state = place.newest_state()
                if state is None:
                    raise StorageError(f"the paused state in {str(place.path)!r} is gone")
                run.load_state_dict(state)
            self._asleep, self._asleep_means = [], []
        return self._runs

    @property
    def awake(self) -> bool:
        """Whether its state is in memory."""
        return bool(self._runs)

    def size(self) -> int:
        """Return the bytes that its paused state takes in memory, zero when asleep."""
        return sum(_bytes(run) for run in self._runs)

    def save(self) -> None:
        """Write where its runs stand into its folder, if it has one."""
        if self.folder is None or not self.awake:
            return
        for run, place in zip(self._runs, self._places(self.folder), strict=True):
            place.save_state(run.step, run.state_dict())
            run.record().save(place.path)

    def sleep(self, spare: Path) -> None:
        """Put its state on disk and free the memory.

        Args:
            spare: Where to, if it has no folder of its own.
        """
        if not self.awake:
            return
        self.folder = self.folder or RunFolder(spare / self.name)
        self.save()
        self._asleep = [run.record().without_model() for run in self._runs]
        self._asleep_means = [_means(run) for run in self._runs]
        self._runs = []

    def missed(self, step: int) -> bool:
        """Whether a run that was read back is past an update where nobody had looked."""
        return not self.diverged and any(
            _step(seen) > step and (_at(seen, step) is None or self._lacks_mean(i, step))
            for i, seen in enumerate(self._seen())
        )

    def restart(self) -> None:
        """Begin anew: what is kept cannot answer what is asked."""
        if self.folder is not None:
            for place in self._places(self.folder):
                place.drop_states()
        self._runs, self._asleep, self._asleep_means = self._make(), [], []

    def finish(self) -> None:
        """Keep the records, and the newest state: a larger budget goes on from there."""
        if self.folder is None:
            return
        places = self._places(self.folder)
        for record, place in zip(self.records(), places, strict=True):
            record.save(place.path)
            place.keep_newest_state()
        if len(places) > 1:
            self.record().save(self.folder.path)

    # ---- what was seen -----------------------------------------------------------------------

    def records(self) -> list[Record]:
        """Return what has happened in each run, without the models."""
        return self._asleep or [run.record().without_model() for run in self._runs]

    def record(self) -> Record:
        """Return what has happened; over folds, the first one's with the mean evaluations."""
        first, *others = self.records()
        if not others:
            return first
        steps = sorted({e.step for e in first.evaluations if e.step <= self.reached})
        found = [[_at(seen, step) for seen in self._seen()] for step in steps]
        whole = [mean([e for e in row if e is not None]) for row in found if None not in row]
        return replace(first, evaluations=tuple(whole))

    def _seen(self) -> Sequence[Run | Record]:
        return self._runs or self._asleep

    @property
    def lr(self) -> float:
        """The rate."""
        return self.recipe.lr

    @property
    def steps(self) -> int:
        """Updates that its run has done, the furthest of them."""
        return max(_step(seen) for seen in self._seen())

    @property
    def ended(self) -> bool:
        """Whether every run had come to its end, or stopped early, within what was asked."""
        return all(s.status == Status.FINISHED and _step(s) <= self.reached for s in self._seen())

    @property
    def diverged(self) -> bool:
        """Whether a NaN or Inf had ended a run within the updates it was asked for."""
        return any(_broken(seen, self.reached) for seen in self._seen())

    def went(self, share: float, until: int) -> int:
        """Note that it was asked to go to a share; return the updates that took, over all runs.

        Args:
            share: Of the run, as it was asked for.
            until: The whole update that this is.
        """
        self.asked[share] = until
        before, self.reached = self.reached, max(self.reached, until)
        steps = [_step(seen) for seen in self._seen()]
        return sum(min(step, self.reached) - min(step, before) for step in steps)

    def at(self, step: int) -> Evaluation | None:
        """Return what a trial is judged by after `step` updates, the mean over folds, if known.

        On the way that is the evaluation of the mean of the weights, at the end that of the
        weights themselves (see `WeightMean`). A run that stopped early stands from then on where
        it stopped, at its best weights, which are the last that were evaluated there.
        """
        found = [self._mean_at(i, step) or _at(seen, step) for i, seen in enumerate(self._seen())]
        whole = [e for e in found if e is not None]
        if len(whole) < len(found):
            return None
        return replace(mean(whole), step=max(e.step for e in whole))

    def _mean_at(self, place: int, step: int) -> Evaluation | None:
        """Return the evaluation of the mean of a run's weights after `step` updates."""
        means = _means(self._runs[place]) if self._runs else self._asleep_means[place]
        return next((e for e in reversed(means) if e.step == step), None)

    def _lacks_mean(self, place: int, step: int) -> bool:
        """Whether a mean of the weights should have been evaluated and was not."""
        return self.averages and 0 < step < self.length and self._mean_at(place, step) is None

    def score(self, step: int) -> float:
        """Return the score after `step` updates; infinite if it did not get there."""
        return self.goal.score(self.at(step))

    def evaluated(self) -> list[Evaluation]:
        """Return its evaluations within what it was asked for, in order."""
        steps = sorted({e.step for s in self._seen() for e in s.evaluations})
        steps = [step for step in steps if step <= self.reached]
        found = (self.at(step) for step in steps)
        return [e for e in found if e is not None]

    def last(self) -> Evaluation | None:
        """Return the newest evaluation within what it was asked for."""
        return next(reversed(self.evaluated()), None)

    @property
    def share(self) -> float:
        """How far of its run it was asked to go."""
        return max(self.asked, default=0.0)

    def curve(self) -> Curve:
        """Return its looks after the start, as the search reads them.

        A share that is no whole number of updates is looked at an update early: the look stands
        at the share that was asked for, where every other trial's stands too.
        """
        steps = {e.step / self.length: e.step for e in self.evaluated() if e.step > 0}
        places = {x: step for x, step in steps.items() if step not in self.asked.values()}
        evaluated = [(x, step, self.at(step)) for x, step in sorted((places | self.asked).items())]
        seen = [(x, step, e) for x, step, e in evaluated if e is not None]
        return Curve(
            self.lr,
            tuple(x for x, _, _ in seen),
            tuple(self.goal.score(e) for _, _, e in seen),
            tuple(self._training(step) for _, step, _ in seen),
            () if self.floor is None else tuple(better(e, self.floor, self.goal) for *_, e in seen),
        )

    def _training(self, step: int) -> float:
        """Return the mean training loss over the sixteenth of the run before an update."""
        first = max(0, step - max(1, self.length // WINDOW))
        means = []
        for seen in self._seen():
            losses = seen.series["loss"][first : min(step, _step(seen))]
            means.append(math.fsum(losses) / len(losses) if len(losses) else math.nan)
        return math.fsum(means) / len(means)


def _begin(run: Run, place: RunFolder) -> None:
    """Let a run go on from where its folder has it, if that is a run of the same recipe."""
    kept = place.recipe()
    if kept is not None and kept != run.recipe:
        shutil.rmtree(place.path, ignore_errors=True)
        kept = None
    if (state := place.newest_state()) is not None:
        run.load_state_dict(state)
    elif kept is None:
        place.claim(run.recipe)


def _step(seen: Run | Record) -> int:
    return seen.step if isinstance(seen, Run) else seen.cost.steps


def _broken(seen: Run | Record, reached: int) -> bool:
    """Say whether a run had diverged within `reached` updates.

    One whose next update broke was sound until it was asked for that update.
    """
    if seen.status != Status.DIVERGED:
        return False
    look = next(reversed(seen.evaluations), None)
    judged = look is not None and look.step == _step(seen) and not math.isfinite(look.loss)
    return _step(seen) <= reached if judged else _step(seen) < reached


def _at(seen: Run | Record, step: int) -> Evaluation | None:
    if seen.status == Status.FINISHED and step > _step(seen):
        return seen.evaluations[-1]
    return next((e for e in reversed(seen.evaluations) if e.step == step), None)


def _means(run: Run) -> tuple[Evaluation, ...]:
    return tuple(e for o in run.observers if isinstance(o, WeightMean) for e in o.evaluations)


def _bytes(run: Run) -> int:
    tensors = [*run.model.parameters(), *run.model.buffers()]
    tensors += tensors_in(list(run.optimizer.state.values()))
    tensors += [t for o in run.observers for t in tensors_in(o.state())]
    return sum(t.numel() * t.element_size() for t in tensors)
