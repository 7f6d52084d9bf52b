"""Drives `fit` of Keras at one rate: the call is held where it stands, and let go on."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

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
        per_epoch: Batches of an epoch.
        seed: Of the random numbers that `fit` draws.
        constant: Whether the rate is to stay as it is.
    """

    resumable = True

    def __init__(
        self,
        model: Any,
        call: FitCall,
        judge: Callable[[Any], Any],
        per_epoch: int,
        seed: int,
        *,
        constant: bool,
    ) -> None:
        self.model, self.judge = model, judge
        self._fit, self._per_epoch = call, per_epoch
        self._random = OwnRandomness(seed)
        self._state = thread_state()
        self._call = PausedCall(self._run)
        self._pause: Callable[[], None] | None = None
        self._reports: RunReports | None = None
        self._rate = float(model.optimizer.learning_rate) if constant else None
        self._epoch, self._before = 0, 0.0
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

    def epoch_begun(self, epoch: int) -> None:
        """Note that another epoch begins: the running mean of the loss begins anew."""
        self._epoch, self._before = epoch, 0.0

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
        step = self._epoch * self._per_epoch + batch + 1
        broken = bool(self._since) and not math.isfinite(self._since[-1])
        if not broken and not self._reports.is_due(step):
            return
        training = sum(self._since) / len(self._since) if self._since else None
        self._since = []
        if self._rate is not None:
            self._check_rate(model())
        self._report(step, model(), training)

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

        def score() -> Any:
            with random_state_kept():  # loaders of validation data draw from the global state
                # Averages are zeros before the first update.
                return self.judge(final_weights(model) if step else model.get_weights())

        if self._reports.take(step, score, training):
            return
        if not self._reports.paused:
            raise TrialPaused
        self._pause()


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
            self.driver.epoch_begun(epoch)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            loss = None if not logs or "loss" not in logs else float(logs["loss"])
            self.driver.updated(batch, loss, lambda: self.model)

    return ReportingCallback
