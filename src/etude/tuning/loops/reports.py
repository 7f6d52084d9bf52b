"""What one run of a loop reported: its losses, its evaluations, how far it came, what it cost."""

from __future__ import annotations

import bisect
import math
import operator
import time
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from etude.errors import BadTypeError, BadValueError, TaskError, shown
from etude.record import Evaluation, Status
from etude.training.evaluation.evaluation_steps import evenly_spaced
from etude.trials.score import Goal

Reported: TypeAlias = Any
"""A number; several, one for each part of the validation data; or a function that returns them."""

SLICES = 16
"""The largest number of parts of the validation data that an evaluation keeps."""

OVERFLOW = "Floating-point under-/overflow"
"""How the message begins that scikit-learn's linear models raise where they diverge."""


class RunReports:
    """What one run of a loop reported, and how far it may go on.

    Args:
        length: Updates of the whole run, in whatever unit the loop counts.
        evaluations: How often the run is evaluated, besides before it and where it is paused.
        goal: What is compared.

    Attributes:
        step: The updates that were reported, of those that count.
        paid: The updates that were made, those that were repeated included.
        evaluations: On the validation data, in order.
        losses: The training loss of each update, NaN where it was not reported.
        status: How the run stands.
        seconds: The time that the loop took, evaluations included.
        evaluation_seconds: The time of evaluations that were asked for as a function.
    """

    def __init__(self, length: int, evaluations: int, goal: Goal) -> None:
        self.length, self.goal = length, goal
        self.paid = 0
        self.seconds = self.evaluation_seconds = 0.0
        self._due = sorted(evenly_spaced(length, evaluations))
        self.restart()

    def restart(self) -> None:
        """Forget what was reported, but not what it cost: the loop starts over."""
        self.step = 0
        self.evaluations: list[Evaluation] = []
        self.losses = np.full(self.length, np.nan)
        self.status = Status.STOPPED
        self.reason = ""
        self.until = 0
        self.paused = False
        self._resumed: int | None = None
        self._last: tuple[int, Reported] | None = None

    def begin(self, until: int) -> None:
        """Let the run go on until `until` updates are done, where it is paused."""
        self.until, self.paused = until, False
        self._resumed = self.step if self._last is not None else None

    def is_over(self) -> bool:
        """Whether the run goes no further: it finished, or diverged."""
        return self.status != Status.STOPPED

    def take(self, step: Any, loss: Reported, training: Any = None) -> bool:
        """Note a report, and return whether the loop goes on; False pauses or ends it.

        Args:
            step: The updates that are done.
            loss: What is compared there.
            training: The mean training loss since the report before.

        Raises:
            BadTypeError: If a value is no number.
            BadValueError: If the step does not follow on the last.
        """
        if self.paused or self.is_over():
            return False
        done, again = self._checked(step)
        if again:
            return True
        if training is not None:
            mean = number("training", training)
            self.losses[self.step : done] = mean
            if not math.isfinite(mean):
                return self._diverged(done, f"the training loss is {mean}")
        self.paid += done - self.step
        self.step, self._last = done, (done, loss)
        if self.is_due(done):
            self._evaluate(done, loss)
        elif not callable(loss) and not math.isfinite(_together(loss, self.goal.name)[0]):
            return self._diverged(done, f"the {self.goal.name} is not finite")
        if self.is_over():
            return False
        # At the end of its run the loop returns by itself, perhaps with a value.
        self.paused = self.until <= done < self.length
        return not self.paused

    def amend(self, loss: Reported) -> None:
        """Note what the last update reported leaves, where the loop has changed it since.

        Args:
            loss: What is compared there, in place of what was reported.
        """
        if self.is_over():
            return
        self.evaluations = [e for e in self.evaluations if e.step < self.step]
        self._last = (self.step, loss)
        self._evaluate(self.step, loss)

    def end(self) -> None:
        """Note that the loop came to its end.

        Raises:
            TaskError: If it never reported.
        """
        if self.paused or self.is_over():
            return
        if self._last is None or (self._resumed is None and self.step == 0):
            raise TaskError(
                "the loop ended without a report of an update: call report(step, loss) with the "
                "number of updates done, at the end of the run and wherever it may be paused"
            )
        if not self.evaluations or self.evaluations[-1].step < self.step:
            self._evaluate(*self._last)
        if not self.is_over():
            self.status = Status.FINISHED

    def broke(self, error: Exception) -> bool:
        """Note an error of the loop; return whether it is how the rate diverged.

        An overflow, or a division by zero, ends the run at the update after its last report.
        scikit-learn raises its overflow as a ValueError.
        """
        overflow = isinstance(error, ArithmeticError) or (
            isinstance(error, ValueError) and str(error).startswith(OVERFLOW)
        )
        if not overflow or self.paused or self.is_over() or self.step >= self.length:
            return False
        step = self.step + 1
        metric = None if self.goal.of_loss else math.nan
        self.evaluations.append(Evaluation(step, math.nan, metric))
        self._diverged(step, f"{type(error).__name__}: {error}")
        return True

    def at(self, step: int) -> Evaluation | None:
        """Return the evaluation after some updates; of a finished run, the last one beyond it."""
        if self.status == Status.FINISHED and step > self.step:
            return self.evaluations[-1]
        return next((e for e in reversed(self.evaluations) if e.step == step), None)

    def _checked(self, step: Any) -> tuple[int, bool]:
        """Return a step, and whether it is that of the pause, reported again."""
        try:
            done = operator.index(step)
        except TypeError:
            raise BadTypeError(
                f"report({shown(step)}, ...): the step is not a whole number: give the number of "
                "updates done"
            ) from None
        resumed, self._resumed = self._resumed, None
        if resumed is not None and done <= resumed:
            if done == resumed:
                return done, True
            raise BadValueError(
                f"report({done}, ...) after a pause at step {resumed}: begin where `resume`, which "
                "holds the state that was saved there, left off; a loop that cannot do so takes "
                "no resume, and starts over"
            )
        if self._last is not None and done <= self._last[0] and resumed is None:
            raise BadValueError(
                f"report({done}, ...) after report({self._last[0]}, ...): steps must rise: give "
                "the number of updates done since the start of the run"
            )
        if not 0 <= done <= self.length:
            raise BadValueError(
                f"report({done}, ...) is out of bounds: the run has steps={self.length}"
            )
        return done, False

    def is_due(self, step: int) -> bool:
        """Return whether an evaluation is due: a due step was passed since the last one."""
        last = self.evaluations[-1].step if self.evaluations else -1
        place = bisect.bisect_right(self._due, last)
        return step >= self.until or (place < len(self._due) and self._due[place] <= step)

    def _evaluate(self, step: int, loss: Reported) -> None:
        started = time.perf_counter()
        given = loss() if callable(loss) else loss
        if callable(loss):
            self.evaluation_seconds += time.perf_counter() - started
        value, parts = _together(given, self.goal.name)
        sign = -1.0 if self.goal.maximize else 1.0
        metric = None if self.goal.of_loss else value
        signed = tuple(sign * part for part in parts)
        self.evaluations.append(
            Evaluation(step, sign * value, metric, signed, () if metric is None else parts)
        )
        if not math.isfinite(value):
            self._diverged(step, f"the {self.goal.name} is {value}")

    def _diverged(self, step: int, what: str) -> bool:
        self.paid += step - self.step
        self.step, self.status = step, Status.DIVERGED
        self.reason = f"{what} after update {step}"
        return False


def number(name: str, value: Any) -> float:
    """Return a number, of whatever library.

    Raises:
        BadTypeError: If it is none.

    >>> number("loss", np.float32(0.5))
    0.5
    """
    try:
        if isinstance(value, (str, bytes, bool)):
            raise TypeError
        detach = getattr(value, "detach", None)  # torch warns of a tensor with a gradient
        return float(value if detach is None else detach())
    except (TypeError, ValueError, RuntimeError):
        raise BadTypeError(f"{name}={shown(value)} is not a number") from None


def _together(given: Any, name: str) -> tuple[float, tuple[float, ...]]:
    """Return the mean of what was reported, and its parts where there are several."""
    many = isinstance(given, Sequence) and not isinstance(given, (str, bytes))
    if not many and not getattr(given, "ndim", 0):
        return number(name, given), ()
    try:
        values = np.array([float(one) for one in given], dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):
        raise BadTypeError(
            f"{name}={shown(given)}: give a number, or a list of numbers, one for each part of the "
            "validation data"
        ) from None
    if not len(values):
        raise BadValueError(f"{name} is empty: give at least one number")
    mean = math.fsum(values) / len(values) if np.isfinite(values).all() else math.nan
    if len(values) == 1:
        return mean, ()
    chunks = np.array_split(values, min(SLICES, len(values)))
    # Weighed so that the mean of the parts is the mean of all.
    weight = len(chunks) / len(values)
    return mean, tuple(float(chunk.sum()) * weight for chunk in chunks)
