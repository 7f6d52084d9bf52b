"""Estimates how long runs take, from their first updates, and measures them during training."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from etude.engines.base import pending, with_run
from etude.errors import EtudeError
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.training.state.state import RunState

WARM, TIMED = 3, 8
"""The number of slow first updates of a run, and the number of updates that are timed."""


@dataclass(frozen=True)
class Call:
    """The arguments of one call of `Engine.advance`."""

    runs: Sequence[Run]
    request: AdvanceRequest

    @property
    def waiting(self) -> list[Run]:
        """The runs that have an update or an evaluation left to do."""
        return [self.runs[i] for i in pending(self.runs, self.request)]

    def left(self, run: Run) -> tuple[int, int]:
        """Return the number of remaining updates of a run, and of evaluations among them."""
        end = self.request.target(run.state)
        steps = self.request.steps_of(run.state)
        return end - run.step, sum(run.step < step <= end for step in steps)


@dataclass
class CostModel:
    """The time of updates and evaluations, in seconds of the plain loop.

    Attributes:
        update: The time of one update.
        evaluation: The time of one evaluation.
        efficiency: The measured speed of the pool relative to the ideal speed of its processes.
        stacked: The time of one member's update in a stack, by the number of members.
    """

    update: float
    evaluation: float
    efficiency: float = 0.85
    stacked: dict[int, float] = field(default_factory=dict)

    def work(self, updates: float, evaluations: float) -> float:
        """Return the seconds that the loop takes for these updates and evaluations."""
        return updates * self.update + evaluations * self.evaluation


def cost_key(run: Run) -> Hashable:
    """Return a key that is equal for runs of one task that take equally long."""
    recipe = run.recipe
    return recipe.optimizer.name, run.batch_size, recipe.accumulate, run.threads, str(run.device)


def time_first_updates(call: Call, run: Run) -> CostModel | None:
    """Do a run's first updates in the loop, as part of its training, and time them.

    Returns:
        The cost model; None if the run did no update.

    Raises:
        EtudeError: If the run fails; the message names it.
    """
    request, state = call.request, run.state
    steps = request.steps_of(state)
    updates: list[float] = []
    evaluations: list[float] = []
    end = min(state.step + WARM + TIMED, request.target(state))
    with _run_named(run):
        while True:
            seen = len(state.evaluations)
            spent = _spent(run, AdvanceRequest(state.step, steps))
            if len(state.evaluations) > seen:
                evaluations.append(spent)
            if state.step >= end or state.ended or request.stop():
                break
            first = state.step
            until = min(first + (TIMED if updates else WARM), end)
            until = min((step for step in steps if first < step < until), default=until)
            spent = _spent(run, AdvanceRequest(until, stop=request.stop, on_step=request.on_step))
            if state.step > first:
                updates.append(spent / (state.step - first))
    if not updates:
        return None
    # The median of each: the least would promise more than the loop keeps, and a pool that is as
    # fast as promised would seem slow beside it. The first are slow. If no evaluation was timed, a
    # forward pass is assumed to take a third of an update.
    update = statistics.median(updates[1:] or updates)
    batches = math.ceil((run.task.valid.samples or run.batch_size) / run.batch_size)
    evaluation = (
        statistics.median(evaluations[1:] or evaluations) if evaluations else batches * update / 3
    )
    return CostModel(update, evaluation)


def _spent(run: Run, request: AdvanceRequest) -> float:
    started = time.perf_counter()
    run.advance(request)
    return time.perf_counter() - started


@contextmanager
def _run_named(run: Run) -> Iterator[None]:
    try:
        yield
    except EtudeError as error:
        raise with_run(error, run) from error


class SpeedMonitor:
    """Measures the speed of a call, and stops it if it is too slow.

    Args:
        call: The call with the runs.
        pace: The cost model of the loop.
        begins: Seconds allowed for starting processes, which are not counted.
        slowest: The speed, relative to the loop, below which to stop; 0 never stops.
        patience: Seconds before the speed is compared with `slowest`.
    """

    def __init__(
        self, call: Call, pace: CostModel, *, begins: float, slowest: float, patience: float
    ) -> None:
        self.call, self.pace = call, pace
        self.begins, self.slowest, self.patience = begins, slowest, patience
        self.slow = False
        self._left = {id(run.state): call.left(run) for run in call.waiting}
        self._reached: dict[int, int] = {}
        self._first = {id(run.state): run.step for run in call.waiting}
        self._started = time.perf_counter()

    def on_step(self, state: RunState, step: int) -> None:
        """Store the progress of a run, and call the caller's `on_step`."""
        self._reached[id(state)] = step
        if self.call.request.on_step is not None:
            self.call.request.on_step(state, step)

    def stop(self) -> bool:
        """Return whether to stop, because the caller requests it or because it is too slow."""
        if self.call.request.stop():
            return True
        if self.slowest and self.seconds > self.patience and self.speed < self.slowest:
            self.slow = True
        return self.slow

    @property
    def seconds(self) -> float:
        """The seconds so far, without those for starting."""
        return max(1e-9, time.perf_counter() - self._started - self.begins)

    @property
    def done(self) -> float:
        """The work done so far, in seconds of the loop."""
        total = 0.0
        for key, step in self._reached.items():
            if key not in self._left:
                continue
            updates, evaluations = self._left[key]
            done = step - self._first[key]
            share = done / updates if updates else 1.0
            total += self.pace.work(done, evaluations * share)
        return total

    @property
    def speed(self) -> float:
        """The speed so far, relative to the loop."""
        return self.done / self.seconds
