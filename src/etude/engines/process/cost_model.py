"""How fast runs go: measured on their own first updates, and watched while they go on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from etude.engines.base import Marks, OnStep, blame, pending, target
from etude.errors import EtudeError
from etude.training.run import Run

WARM, TIMED = 3, 8
"""First updates of a run: those that are slow, and those that tell."""


@dataclass(frozen=True)
class Call:
    """What `Engine.advance` was called with."""

    runs: Sequence[Run]
    until: int | None
    marks: Marks
    stop: Callable[[], bool]
    on_step: OnStep | None

    @property
    def waiting(self) -> list[Run]:
        """The runs that have something left to do."""
        return [self.runs[i] for i in pending(self.runs, self.until, self.marks)]

    def left(self, run: Run) -> tuple[int, int]:
        """Return the updates that a run has to do, and the evaluations after them."""
        end = target(run, self.until)
        return end - run.step, sum(run.step < mark <= end for mark in set(self.marks(run)))

    def tell(self, run: Run) -> None:
        """Pass on how far a run is."""
        if self.on_step is not None:
            self.on_step(run, run.step)


@dataclass
class CostModel:
    """How long things take, in seconds of the plain loop.

    Attributes:
        update: One update.
        look: One evaluation.
        efficiency: Share of what its processes could do that the pool did.
        stacked: A member's update in a stack, by the number of members.
    """

    update: float
    look: float
    efficiency: float = 0.85
    stacked: dict[int, float] = field(default_factory=dict)

    def work(self, updates: float, looks: float) -> float:
        """Return the seconds that the loop takes for so much."""
        return updates * self.update + looks * self.look


def alike(run: Run) -> Hashable:
    """Return what runs of one task have in common if they take equally long."""
    recipe = run.recipe
    return recipe.optimizer.name, run.batch_size, recipe.accumulate, run.threads, str(run.device)


def begin(call: Call, run: Run) -> CostModel | None:
    """Do a run's first updates by the loop, as it would be done anyway, and time them.

    Returns:
        The pace; None if the run did none.

    Raises:
        EtudeError: If it fails; the run is named.
    """
    marks = set(call.marks(run))
    updates: list[float] = []
    looks: list[float] = []
    end = min(run.step + WARM + TIMED, target(run, call.until))
    with _blamed(run):
        while True:
            seen, spent = len(run.evaluations), _spent(lambda: run.walk(marks, run.step))
            if len(run.evaluations) > seen:
                looks.append(spent)
            if run.step >= end or run.ended or call.stop():
                break
            first = run.step
            until = min(first + (TIMED if updates else WARM), end)
            until = min((mark for mark in marks if first < mark < until), default=until)
            spent = _spent(
                lambda until=until: run.advance(until, stop=call.stop, on_step=call.tell)  # type: ignore[misc]
            )
            if run.step > first:
                updates.append(spent / (run.step - first))
    if not updates:
        return None
    batches = math.ceil((run.task.valid.samples or run.batch_size) / run.batch_size)
    return CostModel(min(updates), min(looks, default=batches * min(updates) / 3))


def _spent(do: Callable[[], None]) -> float:
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


@contextmanager
def _blamed(run: Run) -> Iterator[None]:
    try:
        yield
    except EtudeError as error:
        raise blame(error, run) from error


class Watch:
    """Follows how much work is done in how much time, and stops what is too slow.

    Args:
        call: Whose runs are followed.
        pace: The loop's.
        begins: Seconds that it may take to begin.
        slowest: Share of the loop's speed below which to stop.
        patience: Seconds before that is judged.
    """

    def __init__(
        self, call: Call, pace: CostModel, *, begins: float, slowest: float, patience: float
    ) -> None:
        self.call, self.pace = call, pace
        self.begins, self.slowest, self.patience = begins, slowest, patience
        self.slow = False
        self._left = {id(run): call.left(run) for run in call.waiting}
        self._reached: dict[int, int] = {}
        self._first = {id(run): run.step for run in call.waiting}
        self._started = time.perf_counter()

    def on_step(self, run: Run, step: int) -> None:
        """Note how far a run has got, and pass it on."""
        self._reached[id(run)] = step
        if self.call.on_step is not None:
            self.call.on_step(run, step)

    def stop(self) -> bool:
        """Whether to stop: because the caller says so, or because it is too slow."""
        if self.call.stop():
            return True
        if self.slowest and self.seconds > self.patience and self.speed < self.slowest:
            self.slow = True
        return self.slow

    @property
    def seconds(self) -> float:
        """Seconds so far, beginning left out."""
        return max(1e-9, time.perf_counter() - self._started - self.begins)

    @property
    def done(self) -> float:
        """The work done so far, in seconds of the loop."""
        total = 0.0
        for key, step in self._reached.items():
            if key not in self._left:
                continue
            updates, looks = self._left[key]
            done = step - self._first[key]
            share = done / updates if updates else 1.0
            total += self.pace.work(done, looks * share)
        return total

    @property
    def speed(self) -> float:
        """How many times as fast as the loop it has been."""
        return self.done / self.seconds
