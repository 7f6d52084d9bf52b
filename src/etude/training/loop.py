"""The one plain loop: what one update is, and what is kept so that nothing computed is lost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from etude.optimizers.factory import refuse_sparse_gradients
from etude.tasks.data import Batch
from etude.training import divergence, param_groups
from etude.training.alternate import Turns, what_broke
from etude.training.clipping import Clipper
from etude.training.device import deterministic
from etude.training.evaluate import move
from etude.training.frozen import FrozenParts
from etude.training.objective import Closure, Objective, go
from etude.training.reload import refused_state
from etude.training.request import AdvanceRequest
from etude.training.snapshot import Snapshot
from etude.training.state import RunState
from etude.training.threads import use_threads

Probe = Callable[[RunState], float]
"""Measures one number of a run after the backward pass, before the update."""


class TrainingLoop:
    """Moves the state of one run on, update by update.

    Args:
        state: Of the run, before its first update.
        probes: Named functions of the state, measured at every update.

    Attributes:
        objective: What an update minimises.
        frozen: What stands still.
        is_whole: Whether no update is half done.
        read_every: Updates between two readings of the losses.
    """

    def __init__(self, state: RunState, probes: Mapping[str, Probe]) -> None:
        self.state, self.probes = state, probes
        self.objective = Objective(
            state.task, state.model, state.recipe, state.autocast, rates=state.rates
        )
        self.frozen = FrozenParts(state)
        self._clipper = Clipper(state.parameters, state.recipe)
        self._turns = Turns(state) if state.task.alternates else None
        # Reading a loss waits for the device: a CPU has nothing to wait for; an accelerator is
        # asked only now and then, and the update at fault is found in what was kept.
        eager = state.device.type == "cpu" or state.recipe.clip_percentile is not None
        self.read_every = 1 if eager else 16
        self._unread: list[dict[str, Any]] = []
        self._cursor = replace(state.cursor)  # of the stream; the state has that of whole updates
        self._stream: Iterator[Batch] | None = None
        self.is_whole = True
        self._undo = Snapshot(state.model, state.task.train.draws)

    def reset(self) -> None:
        """Go on from where the state stands now, whatever was done before."""
        self._cursor = replace(self.state.cursor)
        self._stream = None
        self._unread.clear()

    def train(self, until: int, request: AdvanceRequest) -> None:
        """Do updates until `until` are done, the run has diverged, or it is asked to stop."""
        state = self.state
        started = time.perf_counter()
        try:
            with (
                state.randomness.held(state.task.train),
                deterministic(state.device),
                use_threads(state.threads),
            ):
                if self._stream is None:
                    self._stream = state.task.train.stream(
                        state.batch_size, state.recipe.seed, self._cursor
                    )
                while state.step < until and not state.diverged and not request.stop():
                    self._update(self._stream)
                    if request.on_step is not None and not state.diverged:
                        request.on_step(state, state.step)
                self.read()
        except BaseException:
            # The batch at fault was not used: whoever goes on from here meets it again.
            self._cursor = replace(state.cursor)
            self._stream = None
            raise
        finally:
            state.seconds += max(0.0, time.perf_counter() - started)

    def _update(self, stream: Iterator[Batch]) -> None:
        """Do one optimizer update, or find that the run has diverged.

        Where parts take turns, the optimizer has gone with each of them already.
        """
        state = self.state
        self._undo.mark()
        self.frozen.look(state.step)
        batches = (move(next(stream), state.device) for _ in range(state.recipe.accumulate))
        again = None
        try:
            if self._turns is None:
                values, again = self._gradient(batches)
            else:
                values = self._turns.update(batches, self._prepare, eager=self.read_every == 1)
        except BaseException:
            self._undo.restore()
            self.is_whole = self._turns is None or not self._turns.moved
            raise
        self._unread.append(values)
        if len(self._unread) >= self.read_every:
            self.read()
            if state.diverged:
                return
        if self._turns is None:
            self.is_whole = False
            with refused_state(state.step == state.loaded_step):
                state.extra_gradients += go(state.optimizer, again)
            self.is_whole = True
        state.step += 1
        state.cursor = replace(self._cursor)

    def _gradient(self, batches: Iterator[Batch]) -> tuple[dict[str, Any], Closure | None]:
        """Compute the gradient of one update.

        Returns:
            The loss, the rate and what is measured; and the closure, if the optimizer needs one.
        """
        state = self.state
        state.optimizer.zero_grad(set_to_none=True)
        values: dict[str, Any]
        again = None
        if state.optimizer_spec.closure:
            again = Closure(
                self.objective,
                list(batches),
                state.optimizer,
                graph=state.optimizer_spec.closure == "graph",
                draws=state.task.train.draws,
            )
            values = {**again.first()}
        else:
            values = {**self.objective.backward(batches)}
        state.gradient_step = state.step
        return values | self._prepare(self._clipper), again

    def _prepare(self, clipper: Clipper, part: str = "") -> dict[str, Any]:
        """Do what lies between gradient and update; return the rate and what is measured."""
        state = self.state
        if state.step == 0:
            refuse_sparse_gradients(
                state.optimizer_spec, state.recipe.optimizer.hyperparameters, state.model
            )
        values: dict[str, Any] = {"lr": self._set_rates()}
        rest = self.frozen.silence()
        if clipper:
            name = f"grad_norm{part}"
            norm = clipper.clip(state.series.get(name, ()), rest)
            if norm is not None:
                values[name] = norm
        for name, probe in self.probes.items():
            values[name] = float(probe(state))
        return values

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
        """Read the values that wait on the device; the first NaN or Inf ends the run."""
        if not self._unread:
            return
        series = self.state.series
        first = len(series["loss"])
        waiting = [values["loss"] for values in self._unread]
        losses = [waiting[0].item()] if len(waiting) == 1 else torch.stack(waiting).tolist()
        for index, (loss, values) in enumerate(zip(losses, self._unread, strict=True)):
            if not math.isfinite(loss):
                last = index == len(losses) - 1  # the optimizer has not moved on from it
                divergence.end(self.state, first + index, what_broke(values, loss), now=last)
                break
            for name in {**series, **values}:  # a part may have no turn in an update
                number = loss if name == "loss" else float(values.get(name, math.nan))
                series.setdefault(name, [math.nan] * (first + index)).append(number)
        self._unread.clear()
