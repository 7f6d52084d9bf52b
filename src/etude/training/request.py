"""A request to a run or an engine: how far to train, where to evaluate, when to stop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from etude.training.state.state import RunState

EvaluationSteps = Callable[[RunState], Iterable[int]]
"""The updates after which to evaluate a run."""

OnStep = Callable[[RunState, int], None]
"""Called as a run makes progress, with its state and the number of updates done. The state may be
older: it is the state after `state.step` updates."""


def no_evaluation_steps(state: RunState) -> Iterable[int]:
    """Return no evaluation steps."""
    return ()


@dataclass(frozen=True)
class AdvanceRequest:
    """How far to train, where to evaluate, and which functions to call.

    Attributes:
        until: The number of updates to train to, the same for every run, or a function that returns
            that of a run from its state; None for the end of each run.
        evaluation_steps: The updates after which to evaluate: the same ones for every run, or a
            function that returns those of a run from its state.
        stop: Called before every update; if it returns True, training stops and keeps its progress.
        on_step: Called as a run makes progress, with its state and the number of updates done.

    >>> AdvanceRequest.of(20) == AdvanceRequest(until=20)
    True
    """

    until: int | Callable[[RunState], int] | None = None
    evaluation_steps: EvaluationSteps | Collection[int] = no_evaluation_steps
    stop: Callable[[], bool] = bool
    on_step: OnStep | None = None

    @classmethod
    def of(cls, request: AdvanceRequest | int | None) -> AdvanceRequest:
        """Return a request; a number of updates, or None, becomes one without evaluations."""
        return request if isinstance(request, AdvanceRequest) else cls(until=request)

    def target(self, state: RunState) -> int:
        """Return the number of updates to train a run to."""
        if self.until is None:
            return state.length
        return min(self.until(state) if callable(self.until) else self.until, state.length)

    def steps_of(self, state: RunState) -> set[int]:
        """Return the updates after which a run is to be evaluated."""
        steps = self.evaluation_steps
        return set(steps(state) if callable(steps) else steps)

    def is_open(self, state: RunState) -> bool:
        """Whether a run has an update or an evaluation left to do."""
        if state.ended:
            return False
        if state.step < self.target(state):
            return True
        return not state.is_evaluated and state.step in self.steps_of(state)

    def tell(self, state: RunState) -> None:
        """Call `on_step` with a run's progress."""
        if self.on_step is not None:
            self.on_step(state, state.step)
