"""What a run, or an engine, is asked to do: how far to train, where to evaluate, when to stop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from etude.training.state import RunState

EvaluationSteps = Callable[[RunState], Iterable[int]]
"""The updates after which to evaluate a run."""

OnStep = Callable[[RunState, int], None]
"""Called as a run makes progress, with its state and the updates it has done. The state may lag
behind: `state.step`, which is no larger, is what it is of."""


def no_evaluation_steps(state: RunState) -> Iterable[int]:
    """Evaluate nowhere."""
    return ()


@dataclass(frozen=True)
class AdvanceRequest:
    """How far to train, where to evaluate on the way, and who is asked and told.

    Attributes:
        until: The number of updates to stand at; None goes to the end of each run.
        evaluation_steps: The updates after which to evaluate: the same ones for every run, or a
            function from a run's state to its own.
        stop: Asked before every update; what was computed until then is kept.
        on_step: Called as a run makes progress, with its state and the updates it has done.

    >>> AdvanceRequest.of(20) == AdvanceRequest(until=20)
    True
    """

    until: int | None = None
    evaluation_steps: EvaluationSteps | Collection[int] = no_evaluation_steps
    stop: Callable[[], bool] = bool
    on_step: OnStep | None = None

    @classmethod
    def of(cls, request: AdvanceRequest | int | None) -> AdvanceRequest:
        """Return the request; a number of updates, or None, stands for one without more to it."""
        return request if isinstance(request, AdvanceRequest) else cls(until=request)

    def target(self, state: RunState) -> int:
        """Return the number of updates at which a run is to stand."""
        return state.length if self.until is None else min(self.until, state.length)

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
        """Pass on how far a run is."""
        if self.on_step is not None:
            self.on_step(state, state.step)
