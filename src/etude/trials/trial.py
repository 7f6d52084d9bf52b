"""A trial of one recipe: a run that is paused, evaluated and perhaps continued."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from etude.engines.process.state_transfer import pack, unpack
from etude.errors import StorageError
from etude.recipe import Recipe
from etude.record import Cost, Evaluation, Record, Status
from etude.storage.run_folder import RunFolder
from etude.storage.state_tree import tensors_in
from etude.training.run import Run
from etude.training.world import current
from etude.trials.baseline import better
from etude.trials.curve import Curve, mean_training_loss
from etude.trials.host_states import HostStates
from etude.trials.score import Goal, mean
from etude.trials.weight_mean import WeightMean, step_at_share


class Trial:
    """One recipe in training: one run, or one for each fold of the data.

    Cost and results count only up to the share that was asked for. A trial that is read from a
    folder may have been trained further before; it then gives the same results as the first time.

    Args:
        name: The name of its folder.
        make: A function that builds its runs, before their first update.
        goal: The loss or metric by which it is judged.
        folder: The folder of the trial; None keeps it only in memory.
    """

    def __init__(
        self, name: str, make: Callable[[], list[Run]], goal: Goal, folder: RunFolder | None
    ) -> None:
        self.name, self.goal, self.folder = name, goal, folder
        self._make = make
        self._runs = make()
        self._offloaded: list[Record] = []
        self._offloaded_means: list[WeightMean | None] = []
        self._host: HostStates | None = None
        self.recipe: Recipe = self._runs[0].recipe
        self.length: int = self._runs[0].length
        self.recipe_key = self.recipe.replace(lr=1.0).digest
        first = self._runs[0]
        self.weight = first.batch_size * first.recipe.accumulate
        self.floor: Evaluation | None = None
        self.guessed: float | None = None
        self.reached = 0
        self.asked: dict[float, int] = {}
        self.last_used = 0
        self._size: tuple[list[tuple[int, bool]], int] | None = None
        self._curve: tuple[tuple[object, ...], Curve] | None = None
        if folder is None:
            return
        self.move_into(folder)

    def move_into(self, folder: RunFolder) -> None:
        """Save the trial in a folder from now on, or go on with what the folder has of it."""
        self.folder = folder
        for run, place in zip(self._runs, self._places(folder), strict=True):
            _begin(run, place)

    def continue_from(self, other: Trial) -> None:
        """Go on from where another trial stands, whose recipe has the same past.

        A trial that was begun in its folder is there already.
        """
        for run, source in zip(self.runs, other.runs, strict=True):
            if not run.step:
                own = {"recipe": run.state.recipe_digest, "steps": run.recipe.steps}
                # Packed, since an optimizer would go on in the other's own tensors.
                run.load_state_dict({**unpack(pack(source.state_dict())), **own})
        self.reached, self.asked = other.reached, dict(other.asked)

    def _places(self, folder: RunFolder) -> list[RunFolder]:
        if len(self._runs or self._offloaded) == 1:
            return [folder]
        return [folder.fold(i) for i in range(len(self._runs or self._offloaded))]

    # ---- memory ----------------------------------------------------------------------------

    @property
    def runs(self) -> list[Run]:
        """The runs, loaded from where they were offloaded to."""
        if not self._runs:
            self._runs = self._make()
            for run, state in zip(self._runs, self._states(), strict=True):
                run.load_state_dict(state)
            self._offloaded, self._offloaded_means, self._host = [], [], None
        return self._runs

    def _states(self) -> Iterator[dict[str, Any]]:
        """Yield the states of its runs from the machine's memory, or from the folder."""
        if self._host is not None:
            yield from self._host.read()
            return
        assert self.folder is not None
        for place in self._places(self.folder):
            state = current().from_main(place.newest_state)
            if state is None:
                raise StorageError(f"the paused state in {str(place.path)!r} is missing")
            yield state

    @property
    def in_memory(self) -> bool:
        """Whether its state is in memory."""
        return bool(self._runs)

    def size(self) -> int:
        """Return the number of bytes of its state in memory; zero if it was offloaded."""
        held = [(run.step, w is not None and bool(w.mean)) for run, w in self._held()]
        if self._size is None or self._size[0] != held:
            self._size = held, sum(_bytes(run) for run in self._runs)
        return self._size[1]

    def _held(self) -> list[tuple[Run, WeightMean | None]]:
        return [(run, _mean_of(run)) for run in self._runs]

    def save(self) -> None:
        """Save the state of its runs in its folder, if it has one."""
        if self.folder is None or not self.in_memory:
            return
        for run, place in zip(self._runs, self._places(self.folder), strict=True):
            state, record = run.checkpoint(), run.record()
            current().from_main(partial(_write, place, run.step, state, record))

    def offload(self, temporary: Path) -> None:
        """Save its state on disk and free the memory.

        Args:
            temporary: The folder to use if the trial has none.
        """
        if not self.in_memory:
            return
        self.folder = self.folder or RunFolder(temporary / self.name)
        self.save()
        self._release()

    def offload_to_host(self, stream: torch.cuda.Stream | None = None) -> None:
        """Move its state from the device to the machine's memory.

        Args:
            stream: The CUDA stream that copies, beside what the device is doing; None copies at
                once.
        """
        if not self.in_memory:
            return
        self._host = HostStates([run.state_dict() for run in self._runs], stream)
        self._release()

    def _release(self) -> None:
        """Let go of its runs; what was measured stays."""
        self._offloaded = [run.record().without_model() for run in self._runs]
        self._offloaded_means = self._means()
        for weight_mean in self._offloaded_means:
            if weight_mean is not None:
                weight_mean.release()
        self._runs = []

    def must_restart(self, step: int) -> bool:
        """Return whether a run from a folder is past an update that was never evaluated."""
        return not self.diverged and any(
            _step(seen) > step and (_at(seen, step) is None or _lacks_mean(weight_mean, step))
            for seen, weight_mean in zip(self._seen(), self._means(), strict=True)
        )

    def restart(self) -> None:
        """Start again from the first update, because the saved state lacks an evaluation."""
        if self.folder is not None:
            for place in self._places(self.folder):
                current().from_main(place.drop_states)
        self._runs, self._offloaded, self._offloaded_means = self._make(), [], []
        self._host = None

    def finish(self) -> None:
        """Save the records, and keep the newest state, from which a larger budget can continue."""
        if self.folder is None or not current().is_main:
            return
        places = self._places(self.folder)
        for record, place in zip(self.records(), places, strict=True):
            _until(record, self.reached).save(place.path)
            place.keep_newest_state()
        if len(places) > 1:
            self.record().save(self.folder.path)

    # ---- results -----------------------------------------------------------------------------

    def records(self) -> list[Record]:
        """Return the record of each run, without the models."""
        return self._offloaded or [run.record().without_model() for run in self._runs]

    def record(self) -> Record:
        """Return the record; with folds, that of the first run with the mean evaluations.

        What was trained further than the trial was asked for is left out.
        """
        first, *others = self.records()
        if not others:
            return _until(first, self.reached)
        steps = sorted({e.step for e in first.evaluations if e.step <= self.reached})
        found = [[_at(seen, step) for seen in self._seen()] for step in steps]
        whole = [mean([e for e in row if e is not None]) for row in found if None not in row]
        return replace(first, evaluations=tuple(whole))

    def _seen(self) -> Sequence[Run | Record]:
        return self._runs or self._offloaded

    @property
    def lr(self) -> float:
        """The rate."""
        return self.recipe.lr

    @property
    def steps(self) -> int:
        """The number of updates of the furthest run."""
        return max(_step(seen) for seen in self._seen())

    @property
    def ended(self) -> bool:
        """Whether every run finished or stopped early within the updates asked for."""
        return all(s.status == Status.FINISHED and _step(s) <= self.reached for s in self._seen())

    @property
    def diverged(self) -> bool:
        """Whether a run diverged within the updates asked for."""
        return any(_broken(seen, self.reached) for seen in self._seen())

    def extend(self, share: float, until: int) -> int:
        """Record that the trial was asked for up to a share; return the updates that this took.

        Args:
            share: The share of the run.
            until: The number of updates at that share.

        Returns:
            The number of updates, over all runs.
        """
        self.asked[share] = until
        before, self.reached = self.reached, max(self.reached, until)
        steps = [_step(seen) for seen in self._seen()]
        return sum(min(step, self.reached) - min(step, before) for step in steps)

    def at(self, step: int) -> Evaluation | None:
        """Return the evaluation by which it is judged after `step` updates, if there was one.

        Where the mean of the weights was evaluated as well, the better of the two counts. With
        folds it is the mean over them. After a run stopped early, its last evaluation counts,
        which is that of its best weights.
        """
        whole = []
        for seen, weight_mean in zip(self._seen(), self._means(), strict=True):
            found = _at(seen, step)
            if found is None:
                return None
            averaged = None if weight_mean is None else weight_mean.at(step)
            better_mean = averaged is not None and self.goal.score(averaged) < self.goal.score(
                found
            )
            whole.append(averaged if averaged is not None and better_mean else found)
        return replace(mean(whole), step=max(e.step for e in whole))

    def _means(self) -> list[WeightMean | None]:
        """Return what averages the weights of each run; None where nothing does."""
        return [_mean_of(run) for run in self._runs] or self._offloaded_means

    def score(self, step: int) -> float:
        """Return the score after `step` updates; infinite without an evaluation there."""
        return self.goal.score(self.at(step))

    def evaluated(self) -> list[Evaluation]:
        """Return its evaluations within the updates asked for, in order."""
        steps = sorted({e.step for s in self._seen() for e in s.evaluations})
        steps = [step for step in steps if step <= self.reached]
        found = (self.at(step) for step in steps)
        return [e for e in found if e is not None]

    def evaluation_count(self) -> int:
        """Return how many evaluations each run had within the updates asked for.

        Those of the mean of the weights count too.
        """
        means = [m for m in self._means() if m is not None][:1]
        seen = [*self._seen()[:1], *means]
        return sum(e.step <= self.reached for one in seen for e in one.evaluations)

    def last(self) -> Evaluation | None:
        """Return the newest evaluation within the updates asked for."""
        steps = {e.step for s in self._seen() for e in s.evaluations if e.step <= self.reached}
        found = map(self.at, sorted(steps, reverse=True))
        return next((e for e in found if e is not None), None)

    def compared(self) -> float | None:
        """Return by what it was compared last, where that is not what its record holds there."""
        last = self.last()
        if last is None or self.diverged:
            return None
        raw = next((e for e in reversed(self.record().evaluations) if e.step == last.step), last)
        value = self.goal.value(last)
        return None if value == self.goal.value(raw) else value

    @property
    def share(self) -> float:
        """The largest share of its run that was asked for."""
        return max(self.asked, default=0.0)

    def curve(self) -> Curve:
        """Return its evaluations after the start, for the search.

        If a share is not a whole number of updates, the evaluation is made before it. It is listed
        at the share that was asked for, so that it can be compared with those of other trials.
        """
        known = self._known()
        if self._curve is None or self._curve[0] != known:
            self._curve = (known, self._drawn())
        return self._curve[1]

    def _known(self) -> tuple[object, ...]:
        """Return what the curve depends on: it is asked for often, and drawing it takes long."""
        seen = [(_step(s), s.status, len(s.evaluations)) for s in self._seen()]
        means = [0 if one is None else len(one.evaluations) for one in self._means()]
        return (self.reached, tuple(self.asked.items()), tuple(seen), tuple(means), id(self.floor))

    def _drawn(self) -> Curve:
        steps = {e.step / self.length: e.step for e in self.evaluated() if e.step > 0}
        others = {x: step for x, step in steps.items() if step not in self.asked.values()}
        evaluated = [(x, step, self.at(step)) for x, step in sorted((others | self.asked).items())]
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
        means = [
            mean_training_loss(seen.series["loss"][: _step(seen)], step, self.length)
            for seen in self._seen()
        ]
        return math.fsum(means) / len(means)


def _write(place: RunFolder, step: int, state: dict[str, Any], record: Record) -> None:
    place.save_state(step, state)
    record.save(place.path)


def _begin(run: Run, place: RunFolder) -> None:
    """Load a run's state from its folder, if the folder has a run of the same recipe."""
    state = current().from_main(partial(_kept, run.recipe, place))
    if state is not None:
        run.load_state_dict(state)


def _kept(recipe: Recipe, place: RunFolder) -> dict[str, Any] | None:
    """Return the newest state of a recipe in a folder; claim the folder if it has no run."""
    kept = place.recipe()
    if kept is not None and kept != recipe:
        shutil.rmtree(place.path, ignore_errors=True)
        kept = None
    state = place.newest_state()
    if state is None and kept is None:
        place.claim(recipe)
    return state


def _until(record: Record, step: int) -> Record:
    """Return the record of a run as it was after some of its updates, if it has done more."""
    cost = record.cost
    if cost.steps <= step:
        return record
    share = step / cost.steps
    return replace(
        record,
        status=Status.STOPPED,
        reason="",
        series={name: values[:step] for name, values in record.series.items()},
        evaluations=tuple(e for e in record.evaluations if e.step <= step),
        cost=Cost(
            step,
            cost.gradients * step // cost.steps,
            cost.seconds * share,
            None if cost.evaluation_seconds is None else cost.evaluation_seconds * share,
        ),
    )


def _step(seen: Run | Record) -> int:
    return seen.step if isinstance(seen, Run) else seen.cost.steps


def _broken(seen: Run | Record, reached: int) -> bool:
    """Return whether a run diverged within `reached` updates.

    If the update after the last one diverged, it counts only once that update is asked for.
    """
    if seen.status != Status.DIVERGED:
        return False
    last = next(reversed(seen.evaluations), None)
    at_evaluation = last is not None and last.step == _step(seen) and not math.isfinite(last.loss)
    return _step(seen) <= reached if at_evaluation else _step(seen) < reached


def _at(seen: Run | Record, step: int) -> Evaluation | None:
    if seen.status == Status.FINISHED and step > _step(seen):
        return seen.evaluations[-1]
    return next((e for e in reversed(seen.evaluations) if e.step == step), None)


def _mean_of(run: Run) -> WeightMean | None:
    return next((o for o in run.observers if isinstance(o, WeightMean)), None)


def _lacks_mean(weight_mean: WeightMean | None, step: int) -> bool:
    """Return whether the mean of the weights should have been evaluated and was not."""
    return weight_mean is not None and step in weight_mean.steps and weight_mean.at(step) is None


def _bytes(run: Run) -> int:
    tensors = [*run.model.parameters(), *run.model.buffers()]
    tensors += tensors_in(list(run.optimizer.state.values()))
    weight_mean = _mean_of(run)
    tensors += [] if weight_mean is None else weight_mean.mean
    return sum(t.numel() * t.element_size() for t in tensors)


def step_at(trial: Trial, share: float) -> int:
    """Return the update at a share of a trial's run, rounded down so as not to exceed the cost."""
    return step_at_share(trial.length, share)
