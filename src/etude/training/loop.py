"""The plain training loop: one update after the other, without losing results after an error."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from etude.optimizers.factory import refuse_sparse_gradients
from etude.recipe_spikes import Rewind, Skip
from etude.tasks.sources.data import Batch, Cursor
from etude.training.alternate import Turns, what_broke
from etude.training.checks import divergence
from etude.training.evaluation.evaluate import move
from etude.training.gradient import param_groups
from etude.training.gradient.clipping import Clipper
from etude.training.gradient.frozen import FrozenParts
from etude.training.gradient.loss_scale import (
    BACKOFF,
    LEAST,
    OVERFLOWED,
    GradientOverflowError,
    LossScale,
)
from etude.training.machine.device import deterministic
from etude.training.machine.precision import autocast
from etude.training.machine.threads import use_threads
from etude.training.objective import Closure, Objective, take_step
from etude.training.observers import Observers, read_numbers
from etude.training.request import AdvanceRequest
from etude.training.spikes import Rewinder
from etude.training.state.reload import refuse_state
from etude.training.state.snapshot import Snapshot
from etude.training.state.state import RunState


class TrainingLoop:
    """Trains one run, update by update.

    Args:
        state: The state of the run, before its first update.
        observers: The observers of the run.

    Attributes:
        objective: The objective that an update minimises.
        frozen: The frozen parts of the model.
        is_whole: Whether no update is half done.
        read_every: The number of updates between two readings of the losses.
        rewinder: Keeps states to go back to; None if the recipe does not.
        exchange: What replaces the plain mean of the gradients of several processes; None for it.
        loss_scale: The factor of the loss in float16; None in other precisions.
    """

    def __init__(self, state: RunState, observers: Observers) -> None:
        self.state, self.observers = state, observers
        # Of the state itself it holds nothing: in a circle, memory would be freed late.
        context = partial(autocast, state.device, state.recipe.precision)
        self.objective = Objective(
            state.task, state.model, state.recipe, context, rates=state.rates, world=state.world
        )
        state.objective = self.objective
        self.frozen = FrozenParts(state)
        self._clipper = Clipper(state.parameters, state.recipe)
        self._turns = Turns(state) if state.task.alternates else None
        # Reading a loss waits for an accelerator, so its losses are stored and read in blocks; the
        # first update whose loss is not finite is found in the block. A CPU needs no waiting.
        spikes, percentile = state.recipe.spikes, state.recipe.clip_percentile
        eager = state.device.type == "cpu" or percentile is not None or spikes is not None
        self.read_every = 1 if eager else 16
        self._skip = spikes if isinstance(spikes, Skip) else None
        self.rewinder = Rewinder(spikes) if isinstance(spikes, Rewind) else None
        self.loss_scale = LossScale() if state.recipe.precision == "float16" else None
        self._unread: list[dict[str, Any]] = []
        self._cursor = replace(state.cursor)  # of the stream; the state's moves after each update
        self._stream: Iterator[Batch] | None = None
        self.is_whole = True
        self._undo = Snapshot(state.model, state.task.train.draws)
        self._sees_gradients = observers.has("on_gradient")
        self._sees_updates = observers.has("on_update")
        joint = self.objective.joint
        self.exchange = None if joint is None else joint.exchange
        if self.exchange is not None:
            self.exchange.bind(state)

    def reset(self) -> None:
        """Continue from the current state, after it was replaced."""
        self._cursor = replace(self.state.cursor)
        self._stream = None
        self._unread.clear()

    def train(self, until: int, request: AdvanceRequest) -> None:
        """Do updates until `until` are done, the run has diverged, or `stop` returns True."""
        state = self.state
        started = time.perf_counter()
        try:
            with (
                state.randomness.in_use(state.task.train),
                deterministic(state.device),
                use_threads(state.threads),
                self.observers.attached(state),
            ):
                if self._stream is None:
                    self._stream = state.world.stream(
                        state.task.train, state.batch_size, state.recipe.seed, self._cursor
                    )
                self.observers.start(state)
                while state.step < until and not state.diverged and not request.stop():
                    self._update(self._stream)
                    if self._sees_updates and not state.diverged:
                        self.observers.update(state)
                    if request.on_step is not None and not state.diverged:
                        request.on_step(state, state.step)
                self.read()
        except BaseException:
            # The batch of the failed update was not used: the next call must get it again.
            self._cursor = replace(state.cursor)
            self._stream = None
            raise
        finally:
            state.seconds += max(0.0, time.perf_counter() - started)

    def _update(self, stream: Iterator[Batch]) -> None:
        """Do one optimizer update, or end the run because it has diverged.

        If parts are updated in turn, the optimizer has already updated each of them.
        """
        state = self.state
        if self.rewinder is not None:
            self.rewinder.keep(state)
        if self.exchange is not None:
            self.exchange.before_update(state.step)
        found = self._finite_values(stream)
        if (
            found is not None
            and self.rewinder is not None
            and self._rewound(self.rewinder, found[0], stream)
        ):
            found = self._finite_values(stream)
        if found is None:
            return
        values, again = found
        self._unread.append(values)
        if len(self._unread) >= self.read_every:
            self.read()
            if state.diverged:
                return
        if self._skip is not None and self._skips(self._skip):
            self._undo.restore_buffers()
            state.series["skipped"][-1] = 1.0
        elif self._turns is None:
            self.is_whole = False
            try:
                state.extra_gradients += take_step(state.optimizer, again)
            except Exception as error:
                if state.step == state.loaded_step:
                    refuse_state(error)
                raise
            self.is_whole = True
        if self.exchange is not None:
            self.exchange.after_update(state.step, state.model)
        if self.rewinder is not None:
            self.rewinder.gone = 0
        if self.loss_scale is not None:
            before = self.loss_scale.value
            self.loss_scale.count()
            if self.exchange is not None and self.loss_scale.value != before:
                self.exchange.rescale(self.loss_scale.value / before)
        state.step += 1
        state.cursor = Cursor(self._cursor.epoch, self._cursor.batch)

    def _finite_values(
        self, stream: Iterator[Batch]
    ) -> tuple[dict[str, Any], Closure | None] | None:
        """Compute the gradient of an update, from other batches while it overflows float16.

        What an overflow leaves behind is a state between two updates, with a smaller scale.

        Returns:
            As `_values`; None if every scale was too large, which has ended the run.
        """
        state, scale = self.state, self.loss_scale
        if scale is None:
            return self._values(stream)
        while True:
            try:
                return self._values(stream)
            except GradientOverflowError as overflow:
                scale.back_off()
                if self.exchange is not None:
                    self.exchange.go_back(BACKOFF)
                state.extra_gradients += 1
                state.cursor = Cursor(self._cursor.epoch, self._cursor.batch)
                if scale.is_least:
                    what = OVERFLOWED.format(least=LEAST, loss=overflow.loss)
                    divergence.end(state, state.step, what, now=True)
                    return None

    def _values(self, stream: Iterator[Batch]) -> tuple[dict[str, Any], Closure | None]:
        """Compute the gradient of an update from the next batches, or update the parts in turn."""
        state = self.state
        self._undo.mark()
        self.frozen.update(state.step)
        count = self._batches_ahead()
        batches = (move(next(stream), state.device) for _ in range(count))
        try:
            if self._turns is None:
                return self._gradient(batches)
            return self._turns.update(batches, self._prepare, eager=self.read_every == 1), None
        except BaseException:
            self._undo.restore()
            self.is_whole = self._turns is None or not self._turns.moved
            raise

    def _batches_ahead(self) -> int:
        """Return the number of batches of the next update: fewer where it would cross epochs."""
        state = self.state
        count: int = state.recipe.accumulate
        data = state.task.train
        if count == 1 or not data.whole_epochs:
            return count
        length: int | None = data.steps_per_epoch(state.batch_size)
        if length is None:
            return count
        left = length - self._cursor.batch
        return min(count, left if left > 0 else length)

    def _skips(self, policy: Skip) -> bool:
        series = self.state.series
        return policy.spikes(self.state.step, series["loss"], series["grad_norm"])

    def _rewound(self, rewinder: Rewinder, values: dict[str, Any], stream: Iterator[Batch]) -> bool:
        """Go back to a kept state if the loss is a spike; return whether it was."""
        state = self.state
        kept = rewinder.target(state.step, state.series["loss"], float(values["loss"]))
        if kept is None:
            return False
        self.is_whole = False
        updates = rewinder.restore(state, kept)
        self.is_whole = True
        state.extra_gradients += 1
        for _ in range(updates):
            for _ in range(self._batches_ahead()):
                next(stream)
        state.cursor = Cursor(self._cursor.epoch, self._cursor.batch)
        return True

    def _gradient(self, batches: Iterator[Batch]) -> tuple[dict[str, Any], Closure | None]:
        """Compute the gradient of one update.

        Returns:
            The loss, the rate and other measured values; and the closure, if the optimizer needs
            one.
        """
        state = self.state
        param_groups.drop_gradients(state.optimizer)
        again = None
        if state.optimizer_spec.closure:
            again = Closure(
                self.objective,
                list(batches),
                state.optimizer,
                graph=state.optimizer_spec.closure == "graph",
                draws=state.task.train.draws,
            )
            values = again.first()
        else:
            values = self._backward(batches)
        state.gradient_step = state.step
        return {**values, **self._prepare(self._clipper)}, again

    def _backward(self, batches: Iterator[Batch]) -> dict[str, Any]:
        """Compute the gradient; in float16 of a loss that is scaled.

        Raises:
            GradientOverflowError: If the scale is too large.
        """
        scale = self.loss_scale
        if scale is None:
            return self.objective.backward(batches)
        self.objective.factor = scale.value
        values = self.objective.backward(batches)
        finite = scale.divide(self.state.parameters)
        if self.exchange is not None and self.exchange.apart:  # else all have the same gradient
            finite = not self.state.world.any(not finite)[0]
        if not finite:
            raise GradientOverflowError(float(values["loss"]))
        return {**values, "loss_scale": scale.value, "overflows": float(scale.overflows)}

    def _prepare(self, clipper: Clipper, part: str = "") -> dict[str, Any]:
        """Set the rates and clip the gradient; return the rate and other measured values."""
        state = self.state
        if state.step == 0:
            refuse_sparse_gradients(
                state.optimizer_spec, state.recipe.optimizer.hyperparameters, state.model
            )
        values: dict[str, Any] = {"lr": self._set_rates()}
        rest = self.frozen.drop_gradients()
        if clipper:
            name = f"grad_norm{part}"
            norm = clipper.clip(state.series.get(name, ()), rest)
            if norm is not None:
                values[name] = norm
            if clipper.clipped is not None:
                values[f"clipped{part}"] = float(clipper.clipped)
        if self._skip is not None:
            values["skipped"] = 0.0
        elif self.rewinder is not None:
            values["rewound"] = float(self.rewinder.gone)
        return values | self.observers.gradient(state) if self._sees_gradients else values

    def _set_rates(self) -> float:
        """Write the rate and every other scheduled value of this update; return the rate."""
        state, step = self.state, self.state.step
        lr = state.lr
        others = {name: s(step) for name, s in state.hyperparameter_schedules.items()}
        param_groups.write(state.optimizer, lr, others)
        if state.rates is not None:
            state.rates.set(lr, step)
            if "weight_decay" in others:
                state.rates.decay(others["weight_decay"])
        return lr

    def read(self) -> None:
        """Read the values that are still on the device; the first NaN or Inf ends the run."""
        if self._unread:
            self._read()
        if self.observers.waits:
            series = self.state.series
            self.observers.write(series, len(series["loss"]))

    def _read(self) -> None:
        series = self.state.series
        first = len(series["loss"])
        numbers = iter(read_numbers([v for values in self._unread for v in values.values()]))
        for index, waiting in enumerate(self._unread, first):
            values = {name: next(numbers) for name in waiting}
            loss = values["loss"]
            tolerated = self._skip is not None and self._skip.tolerates(index, series["loss"])
            if not math.isfinite(loss) and not tolerated:
                last = waiting is self._unread[-1]  # no update was done after this loss
                self.observers.forget(index)
                divergence.end(self.state, index, what_broke(values, loss), now=last)
                break
            for name, number in values.items():
                if name not in series:
                    series[name] = [math.nan] * index
                series[name].append(number)
            if len(values) < len(series):  # a part may have no turn in an update
                for measured in series.values():
                    if len(measured) == index:
                        measured.append(math.nan)
        self._unread.clear()
