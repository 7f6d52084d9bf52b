"""`WatchObserver`: the watch as an observer of Etude's own runs."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from etude.diagnosis.finding import Diagnosis, Finding
from etude.diagnosis.health.finding_plain import diagnosis_of, finding_of
from etude.diagnosis.health.history_tree import from_tree, to_plain, to_tree
from etude.diagnosis.health.joined import joined
from etude.diagnosis.health.of_run import found_in, learned_nothing
from etude.diagnosis.health.rate_said import Tied, checked_tied
from etude.diagnosis.health.read import NAME, UNWATCHED
from etude.diagnosis.history import Floats, History, Steps
from etude.diagnosis.watch import checked_period
from etude.diagnosis.watching.curvature import WithinShare
from etude.diagnosis.watching.sink import Sink, listed_sinks
from etude.diagnosis.watching.training_watch import TrainingWatch
from etude.training.observer import Observer
from etude.training.state.state import RunState

Stretch = tuple[int, int]
"""The first update of a stretch that was watched, and the one after its last."""


class WatchObserver(Observer):
    """Watches a run of Etude as `etude.watch` does a loop of your own, and notes the diagnosis.

    Training has the same bits with and without it. What it has read is part of a checkpoint, so a
    resumed run, and one in another process, is diagnosed as a whole. `record.notes["watch"]` holds
    the diagnosis and, per layer, the readings; `etude.diagnosis.health.read.health_of(record)`
    reads them back, and the report on the run shows them.

    η/η_c, the rate over the smallest one at which a step raises the loss of its own batch, is
    measured where the rate is highest, and then as often as that takes 0.5% of the run's own time;
    with `every`, at the updates that `etude.watch` states for `loss`. It takes up to 6 forward
    passes, in which hooks of other observers are not called. What a task's own `step` keeps outside
    the model cannot be put back after them, so there nothing is measured unless you ask for it.

    Which updates are sampled depends on the time that they take, so two runs of one recipe can have
    readings of other updates. In a stack of runs (`engine='vmap'`) nothing can be read, and the
    diagnosis says so.

    Args:
        every: Sample updates 0, every, 2·every ...; None samples as many as cost 2% of the time.
        on_finding: Called once with each finding, as it arises; in a worker process there.
        logger: Each finding is logged there as a warning, once.
        sink: Gets the readings and findings; or several.
        curvature: Whether to measure η/η_c; None does where the task has a `loss`.
        tied: The tied range of the tuning that the recipe comes from, such as `best.tied`; the
            report says where the rate lies in it.

    >>> import etude, torch
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> loss = torch.nn.functional.mse_loss
    >>> task = etude.Task(lambda: torch.nn.Linear(1, 1), (x, 3 * x), loss=loss)
    >>> watching = WatchObserver()
    >>> recipe = etude.Recipe(lr=0.1, steps=60, batch_size=16)
    >>> record = etude.train(task, recipe, observers=[watching])
    >>> print(watching.report())
    healthy
    """

    name = NAME
    reads = ("weights",)
    engines = ("loop", "pool", "vmap")
    own_randomness = False

    def __init__(
        self,
        *,
        every: int | None = None,
        on_finding: Callable[[Finding], object] | None = None,
        logger: logging.Logger | None = None,
        sink: Sink | Sequence[Sink] = (),
        curvature: bool | None = None,
        tied: Tied | None = None,
    ) -> None:
        super().__init__()
        self.curvature = curvature
        self.tied = checked_tied(tied)
        self.period = checked_period(every)
        self.sinks = listed_sinks(sink)
        self.logger = logger
        self.on_finding = on_finding
        self._begin(None)

    def _begin(self, state: RunState | None) -> None:
        """Forget all that was read."""
        self._run = None if state is None else weakref.ref(state)
        self._watch: TrainingWatch | None = None
        self._stretches: list[Stretch] = []
        self._places: list[tuple[int, int, int]] = []
        self._earlier: History | None = None
        self._last = Diagnosis(unseen=("No update was read.",))
        self._key: tuple[Any, ...] | None = None
        self._noted: tuple[Diagnosis, dict[str, Any]] | None = None
        self._stuck: tuple[Finding, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: what was set, not what is attached to a run."""
        return {
            "name": self.name,
            "every": self.every,
            "period": self.period,
            "sinks": self.sinks,
            "logger": self.logger,
            "on_finding": self.on_finding,
            "curvature": self.curvature,
            "tied": self.tied,
        }

    def __setstate__(self, given: dict[str, Any]) -> None:
        self.__dict__.update(given)
        self._begin(None)

    def __deepcopy__(self, memo: Any) -> WatchObserver:
        """Return one for another run; what is told and where is shared."""
        twin = type(self).__new__(type(self))
        twin.__setstate__(self.__getstate__())
        return twin

    def arguments(self) -> Mapping[str, Any] | None:
        """Return the arguments that build another; None where it tells somebody."""
        if self.sinks or self.logger is not None or self.on_finding is not None:
            return None
        return {"every": self.period, "curvature": self.curvature, "tied": self.tied}

    # ---- hooks ---------------------------------------------------------------------------------

    def attached(self, state: RunState) -> AbstractContextManager[None]:
        """Return a context in which the run's model and optimizer are watched."""
        return self._attached(state)

    @contextmanager
    def _attached(self, state: RunState) -> Iterator[None]:
        self._belong_to(state)
        if self._watch is None:
            self._watch = self._new_watch(state)
        watch, first, seen = self._watch, state.step, self._watch.updates
        self._places.append((seen, first, 1))
        watch.attach()
        if state.objective is not None and self._measures(state):
            state.objective.keeps = watch.will_measure
        try:
            yield
        finally:
            watch.detach()
            if state.objective is not None:
                state.objective.forget()
            steps = max(1, watch.updates - seen)  # a step for each part that is updated in turn
            done = max(1, state.step - first)
            self._places[-1] = (seen, first, max(1, round(steps / done)))
            if not watch.closed:
                self._stretches = _merged([*self._stretches, (first, state.step)])
            self._key = None

    def _belong_to(self, state: RunState) -> None:
        """Begin anew if this is another run."""
        if self._run is None:
            self._run = weakref.ref(state)
        elif self._run() is not state:
            self._begin(state)

    def _measures(self, state: RunState) -> bool:
        """Return whether the curvature is measured."""
        wanted = state.task.loss is not None if self.curvature is None else self.curvature
        return wanted and state.objective is not None and not state.task.alternates

    def _new_watch(self, state: RunState) -> TrainingWatch:
        quiet = self.on_finding is None and self.logger is None
        loss = state.objective.again if state.objective and self._measures(state) else None
        watch = TrainingWatch(
            {"": state.model},
            [state.optimizer],
            every=self.period,
            loss=loss,
            times=WithinShare(_highest(state)) if self.period is None and loss else None,
            on_finding=_ignore if quiet else self.on_finding,
            logger=self.logger,
            sinks=self.sinks,
            known=self._last.findings,
            arrange=self._whole,
            one_loss=not state.task.alternates,
        )
        watch.detach()
        return watch

    def on_end(self, state: RunState) -> None:
        """Compare what was learned with a constant output, and say what was found."""
        self._belong_to(state)
        self._stuck = learned_nothing(state)
        self._key = None
        if self._watch is not None:
            self._watch.close()
        self._diagnosed(state)

    def note(self, state: RunState) -> Mapping[str, Any]:
        """Return the diagnosis until now, and the readings per layer."""
        found = self._diagnosed(state)
        if self._noted is None or self._noted[0] is not found:  # a record is made often
            history = None if found.history is None else to_plain(found.history)
            self._noted = found, {"diagnosis": found.to_dict(), "history": history}
            if self.tied is not None:
                self._noted[1]["tied"] = list(self.tied)
        return self._noted[1]

    def report(self) -> Diagnosis:
        """Return what was found until now."""
        state = None if self._run is None else self._run()
        return self._last if state is None else self._diagnosed(state)

    def state(self) -> dict[str, Any]:
        """Return all that was read."""
        run = None if self._run is None else self._run()
        found = self._last if run is None else self._diagnosed(run)
        return {
            "stretches": [list(one) for one in self._stretches],
            "diagnosis": found.to_dict(),
            "stuck": [one.to_dict() for one in self._stuck],
            "tied": None if self.tied is None else list(self.tied),
            "history": None if found.history is None else to_tree(found.history),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take it back; what follows is added to it."""
        self._begin(None)
        self._stretches = [(first, end) for first, end in state["stretches"]]
        history = state["history"]
        self._earlier = None if history is None else from_tree(history)
        self._last = diagnosis_of(state["diagnosis"], self._earlier)
        self._stuck = tuple(finding_of(one) for one in state["stuck"])
        self.tied = self.tied or checked_tied(state.get("tied"))

    # ---- what was read -------------------------------------------------------------------------

    def _diagnosed(self, state: RunState) -> Diagnosis:
        """Return the diagnosis of the run as it stands."""
        key = state.step, state.status, len(state.evaluations), len(self._stuck)
        if key != self._key:
            found = self._last if self._watch is None else self._watch.report()
            self._last = self._with_gaps(_with(found, found_in(state), self._stuck), state.step)
            self._key = key
        return self._last

    def _with_gaps(self, found: Diagnosis, end: int) -> Diagnosis:
        """Say which updates were not watched."""
        kept = tuple(text for text in found.unseen if not text.endswith(UNWATCHED))
        gaps, begin = [], 0
        for first, last in [*self._stretches, (end, end)]:
            if first > begin:
                gaps.append(_between(begin, first))
            begin = max(begin, last)
        if not gaps:
            return replace(found, unseen=kept)
        said = " and ".join(gaps) + UNWATCHED
        return replace(found, unseen=(f"{said[:1].upper()}{said[1:]}", *kept))

    def _whole(self, history: History) -> History:
        """Count the updates of the run, and add what was read before."""
        state = None if self._run is None else self._run()
        steps = self._numbered(history.steps)
        updates = max(int(steps[-1]) + 1 if len(steps) else 0, 0 if state is None else state.step)
        series: Mapping[str, Sequence[float]] = {} if state is None else state.series
        later = replace(
            history,
            updates=updates,
            steps=steps,
            loss=_padded(series.get("loss", ()), updates),
            lr=_padded(series.get("lr", ()), updates),
            largest_samples=tuple(
                one._replace(update=int(self._numbered(np.array([one.update]))[0]))
                for one in history.largest_samples
            ),
            broken_from=None,  # a loss that is not finite ends the run
        )
        return later if self._earlier is None else joined(self._earlier, later)

    def _numbered(self, steps: Steps) -> Steps:
        """Return the updates of the run from the optimizer's steps as the watch counts them."""
        if not self._places:
            return steps
        seen, first, turns = (np.array(column) for column in zip(*self._places, strict=True))
        place = np.searchsorted(seen, steps, side="right") - 1
        found: Steps = first[place] + (steps - seen[place]) // turns[place]
        return found


def _highest(state: RunState) -> int:
    """Return how many updates later the rate is at its highest, of 128 evenly spaced ones."""
    last = max(state.step, state.length - 1)
    ahead: list[int] = np.linspace(state.step, last, 128).astype(int).tolist()
    return max(ahead, key=state.lr_schedule) - state.step


def _between(first: int, end: int) -> str:
    """Return some updates in words.

    >>> _between(0, 50), _between(3, 4)
    ('updates 0 to 49 were', 'update 3 was')
    """
    return f"update {first} was" if end - first == 1 else f"updates {first} to {end - 1} were"


def _merged(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Return stretches in order, those that touch as one.

    >>> _merged([(0, 5), (9, 12), (5, 9)])
    [(0, 12)]
    """
    found: list[Stretch] = []
    for first, end in sorted(stretches):
        if first >= end:
            continue
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((first, end))
    return found


def _with(found: Diagnosis, *more: Sequence[Finding]) -> Diagnosis:
    """Return a diagnosis with more findings, each once."""
    known = {(one.what, one.layer) for one in found.findings}
    added = [one for group in more for one in group if (one.what, one.layer) not in known]
    return replace(found, findings=(*found.findings, *added))


def _padded(values: Sequence[float], length: int) -> Floats:
    found = np.full(length, np.nan)
    found[: min(length, len(values))] = values[:length]
    return found


def _ignore(finding: Finding) -> None:
    """Tell nobody: the record and the report have it."""
