"""Drives `fit` of Keras at one rate: the call is held where it stands, and let go on."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from etude.errors import BadValueError
from etude.interop._peer import load
from etude.interop.keras.fit import FitCall
from etude.interop.keras.internals import final_weights, take_thread_state, thread_state
from etude.interop.keras.paused_call import PausedCall
from etude.randomness import OwnRandomness, random_state_kept
from etude.tuning.loops.function import TrialPaused
from etude.tuning.loops.reports import RunReports


class KerasDriver:
    """Drives one call of `fit`.

    It runs in a thread of its own, which is held between two batches; what it computes is what
    `fit` computes.

    Args:
        model: A copy of the model, compiled with the rate.
        call: The call.
        judge: Evaluates weights on the data held out.
        seed: Of the random numbers that `fit` draws.
        constant: Whether the rate is to stay as it is.
    """

    resumable = True

    def __init__(
        self,
        model: Any,
        call: FitCall,
        judge: Callable[[Any], Any],
        seed: int,
        *,
        constant: bool,
    ) -> None:
        self.model, self.judge = model, judge
        self._fit = call
        self._random = OwnRandomness(seed)
        self._state = thread_state()
        self._call = PausedCall(self._run)
        self._pause: Callable[[], None] | None = None
        self._reports: RunReports | None = None
        self._rate = float(model.optimizer.learning_rate) if constant else None
        self._step, self._epoch_start, self._before = 0, 0, 0.0
        self._judged: list[Any] | None = None
        self._since: list[float] = []
        self.value: Any = None

    def drive(self, reports: RunReports) -> None:
        """Let `fit` go on until it is held, or ends."""
        self._reports = reports
        with self._random:
            self._call.go()
        if self._call.ended and not reports.is_over():
            self.value = self.model
            reports.end()

    def close(self) -> None:
        """End a call that is held."""
        with self._random:
            self._call.close()

    def _run(self, pause: Callable[[], None]) -> None:
        self._pause = pause
        take_thread_state(self._state)
        arguments = self._fit.arguments()
        arguments["callbacks"] = [*arguments["callbacks"], _callback()(self)]
        self.model.fit(**arguments)

    # ---- what the callback tells ---------------------------------------------------------------

    def begun(self, model: Any) -> None:
        """Report the untrained model."""
        self._report(0, model, None)

    def epoch_begun(self) -> None:
        """Note that another epoch begins: the running mean of the loss begins anew."""
        self._epoch_start, self._before = self._step, 0.0

    def updated(self, batch: int, loss: float | None, model: Callable[[], Any]) -> None:
        """Note an update, and report where that is due.

        Args:
            batch: The number of the batch in its epoch.
            loss: The mean loss over the epoch so far; None where it is not logged.
            model: Returns the model, with its weights in place.
        """
        assert self._reports is not None
        if loss is not None:
            total = loss * (batch + 1)
            self._since.append(total - self._before)
            self._before = total
        step = self._step = self._epoch_start + batch + 1
        broken = bool(self._since) and not math.isfinite(self._since[-1])
        if not broken and not self._reports.is_due(step):
            return
        training = self._training()
        if self._rate is not None:
            self._check_rate(model())
        self._report(step, model(), training)

    def ended(self, model: Any) -> None:
        """Report the end of a fit that stopped early, or whose weights a callback put back.

        Args:
            model: The model, with the weights that the fit leaves.
        """
        reports = self._reports
        assert reports is not None
        if not self._step or reports.is_over():
            return
        if self._step > reports.step:
            self._report(self._step, model, self._training())
        elif self._judged is not None and not _equal(self._judged, final_weights(model)):
            reports.amend(lambda: self._score(model, self._step))

    def _training(self) -> float | None:
        """Return the mean training loss since the report before."""
        since, self._since = self._since, []
        return sum(since) / len(since) if since else None

    def _check_rate(self, model: Any) -> None:
        now = float(model.optimizer.learning_rate)
        if now != self._rate:
            raise BadValueError(
                f"a callback, or the model, changed the rate from {self._rate:g} to {now:g} while "
                "it was looked for: leave that out, and give the shape of the rate as schedule="
            )

    def _report(self, step: int, model: Any, training: float | None) -> None:
        assert self._reports is not None
        assert self._pause is not None

        if self._reports.take(step, lambda: self._score(model, step), training):
            return
        if not self._reports.paused:
            raise TrialPaused
        self._pause()

    def _score(self, model: Any, step: int) -> Any:
        # Averages are zeros before the first update.
        weights = final_weights(model) if step else model.get_weights()
        if self._fit.options.get("callbacks"):  # one may put other weights back at the end
            self._judged = [np.array(one) for one in weights]
        with random_state_kept():  # loaders of validation data draw from the global state
            return self.judge(weights)


def _equal(some: list[Any], others: list[Any]) -> bool:
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(some, others, strict=True))


@cache
def _callback() -> type[Any]:
    """Create the callback when Keras is loaded."""
    keras = load("keras")

    class ReportingCallback(keras.callbacks.Callback):  # type: ignore[misc, name-defined]
        """Tells a driver of every update."""

        def __init__(self, driver: KerasDriver) -> None:
            super().__init__()
            self.driver = driver

        def on_train_begin(self, logs: Any = None) -> None:
            self.driver.begun(self.model)

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.driver.epoch_begun()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            loss = None if not logs or "loss" not in logs else float(logs["loss"])
            self.driver.updated(batch, loss, lambda: self.model)

        def on_train_end(self, logs: Any = None) -> None:
            self.driver.ended(self.model)

    return ReportingCallback
