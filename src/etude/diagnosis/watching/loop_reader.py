"""Reads a training loop from its forward passes, backward passes and steps.

With several optimizers, one update is one step of each of them that steps: an update ends where an
optimizer steps that has already stepped in it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from etude.diagnosis.evidence.sample_spread import SpreadReader
from etude.diagnosis.evidence.target_reader import TargetReader
from etude.diagnosis.history import History, RunQuantity
from etude.diagnosis.watching.activations import (
    ActivationMemory,
    ForwardReader,
    constant,
    first_samples,
)
from etude.diagnosis.watching.curvature import AtMarks, Curvature, CurvatureTimes
from etude.diagnosis.watching.layers import LayerTable
from etude.diagnosis.watching.losses import Loss, Losses
from etude.diagnosis.watching.modes import left_in_evaluation
from etude.diagnosis.watching.recorder import Recorder
from etude.diagnosis.watching.sample import Sample
from etude.diagnosis.watching.sampling import BOUND, Sampler
from etude.diagnosis.watching.track import OptimizerTrack, is_adaptive
from etude.layerwise.flow import tensors_in
from etude.training.observer import Value

CALL_SECONDS = 1.5e-6
"""What torch itself needs to hand one call of a function to a reader."""

FULL_FIRST, FULL_EVERY, FULL_APART = 12, 4, 16
"""The forward pass and the clipping are read in the first so many sampled updates, and then in
every fourth of them, if it is so many updates after the last one."""

READ_AFTER, READ_EVERY = 16, 8
"""On an accelerator, samples are read when the first so many wait; on the CPU, where all updates
are sampled and so many were read, when the second so many do."""


class LoopReader:
    """Collects the readings of one run.

    Args:
        models: The networks by prefix, unwrapped.
        optimizers: What updates them.
        every: The number of updates from one sample to the next; None for automatic.
        loss: Returns the loss of the current batch; None if nobody can compute it again.
        times: When the curvature is measured, by `loss`; None is as `etude.watch` says.

    Attributes:
        updates: How many updates began; the last one may go on.
        forwards: How many forward passes were read.
        backwards: How many backward passes were seen.
        is_measuring: Whether what runs now are the passes of the watch itself.
        on_cpu: Whether all parameters are on the CPU, where reading a loss waits for nothing.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        optimizers: Sequence[Optimizer],
        *,
        every: int | None,
        loss: Callable[[], Any] | None = None,
        times: CurvatureTimes | None = None,
    ) -> None:
        self.models = dict(models)
        self.table = LayerTable(models, optimizers)
        self.tracks = [OptimizerTrack(n, one, self.table) for n, one in enumerate(optimizers)]
        self.recorder, self.losses = Recorder(self.table), Losses()
        times = times or AtMarks(every)
        self.sampler = Sampler(every, bound=BOUND - times.share)
        self.curvature = None if loss is None else Curvature(models, loss, times)
        self.is_measuring, self._measuring = False, 0.0
        self.updates, self.forwards, self.backwards = 0, 0, 0
        self.one_loss = True
        self._memory = ActivationMemory()
        self._lr: list[float] = []
        self._logged: list[Loss] = []
        self._sample: Sample | None = None
        self._stepped: set[int] = set()
        self._closed = True
        self._due = self._full = self._is_due(0)
        self._samples, self._last_full = 0, 0
        self._forward: dict[tuple[int, str], Tensor] = {}
        self._forward_run: dict[RunQuantity, Value] = {}
        self._reader: ForwardReader | None = None
        self._evaluating = ""
        self._targets, self._spread = TargetReader(), SpreadReader()
        self._input_layer: int | None = None
        self.on_cpu = all(tensor.is_cpu for tensor in self.table.tensors)
        self._losses_of_update: list[Loss] | None = None
        self._losses_before = 0
        self._hears_forward = self._hears_backward = False
        self._heard = 0
        self.own, self._ended = 0.0, time.perf_counter()

    def _is_due(self, update: int) -> bool:
        return self.sampler.due(update) or self._bends(update)

    def _bends(self, update: int) -> bool:
        """Return whether the curvature is measured at an update."""
        return self.curvature is not None and self.curvature.due(update)

    def will_measure(self) -> bool:
        """Return whether the loss will be computed again after the step of this update."""
        return self._bends(self.updates - (not self._closed))

    # ---- forward passes ------------------------------------------------------------------------

    @property
    def is_reading_forward(self) -> bool:
        """Whether a forward pass is being read."""
        return self._reader is not None

    def before_forward(self, model: nn.Module) -> None:
        """Begin to read a forward pass, if the update that it belongs to is sampled."""
        if not self._full or self._reader is not None or not torch.is_grad_enabled():
            return
        started = time.perf_counter()
        self._reader = ForwardReader(self.table, self._memory)
        self._reader.__enter__()  # type: ignore[no-untyped-call]
        self.own += time.perf_counter() - started

    def after_forward(self, model: nn.Module | None, args: Any, kwargs: Any, output: Any) -> None:
        """End to read a forward pass; `output` is None where it failed."""
        reader, self._reader = self._reader, None
        if reader is None:
            return
        started = time.perf_counter()
        reader.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        if reader.error is not None:
            raise reader.error
        if output is not None:
            self.forwards += 1
            reader.finish()
            for key, value in reader.values.items():
                self._forward.setdefault(key, value)
            with torch.no_grad():
                spread = _spread(args, kwargs, output)
            if spread is not None:
                self._forward_run.setdefault(RunQuantity.OUTPUT_SPREAD, spread)
            with torch.no_grad():
                for quantity, number in reader.evidence.readings().items():
                    self._forward_run.setdefault(quantity, number)
            self._input_layer = reader.evidence.first_layer
        self.own += reader.seconds + CALL_SECONDS * reader.calls
        self.own += time.perf_counter() - started

    # ---- backward passes -----------------------------------------------------------------------

    def before_backward(self, tensors: Any) -> None:
        """Look at the gradients that are still there, and at what the loss is given."""
        self.give_up_forward()  # one that Ctrl-C has left open
        started = time.perf_counter()
        for track in self.tracks:
            track.clearing.before_backward(sampled=self._due)
        if self._full and RunQuantity.OUTPUT_SIZE not in self._forward_run:
            update = self.updates - (not self._closed)
            with torch.no_grad():
                self._forward_run.update(self._targets.read(update, tensors))
        if self.on_cpu:
            self._spread.read(self.updates - (not self._closed), tensors)
        self.own += time.perf_counter() - started

    def after_backward(self, tensors: Any) -> None:
        """Note the loss for the optimizers whose gradients changed."""
        started = time.perf_counter()
        loss: Loss | None = None
        self.backwards += 1
        for track in self.tracks:
            if track.clearing.after_backward(sampled=self._due):
                loss = self.losses.of(tensors) if loss is None else loss
                if loss is not None:
                    track.losses.append(loss)
                if self._full:
                    track.after_backward(unscaled=not self.losses.amp)
        self.own += time.perf_counter() - started

    # ---- steps ---------------------------------------------------------------------------------

    def before_step(self, number: int, *, closure: bool) -> None:
        """Read what stands before a step."""
        self.give_up_forward()
        started = time.perf_counter()
        if self._closed or number in self._stepped:
            self.close()
            self.updates += 1
            self._closed = False
            if self._due:
                self._sample = Sample(self.updates - 1)
        self._stepped.add(number)
        self._losses_before = len(self.tracks[number].losses)
        if self._sample is not None:
            with torch.no_grad():
                self.tracks[number].before_step(self._sample, closure)
        self.own += time.perf_counter() - started
        if self._sample is not None and self.curvature and self._bends(self._sample.update):
            started = time.perf_counter()
            self.curvature.before_step(self.tracks[number].trained())
            self._measuring += time.perf_counter() - started

    def after_step(self, number: int, *, closure: bool) -> None:
        """Read what stands after a step, and end the update if all optimizers have stepped."""
        started = time.perf_counter()
        track = self.tracks[number]
        self._note_loss(track, closure)
        if number == 0:
            self._lr.append(rate_of(track.optimizer))
        if self._sample is not None:
            with torch.no_grad():
                track.after_step(self._sample, closure)
            self._note_run(self._sample, track)
        track.clearing.stepped()
        self.own += time.perf_counter() - started
        if self._sample is not None and self.curvature and self.curvature.begun:
            started = time.perf_counter()
            self.is_measuring = True
            self._sample.run |= self.curvature.after_step(rate_of(track.optimizer))
            self.is_measuring = False
            self._measuring += time.perf_counter() - started
        if len(self._stepped) == len(self.tracks):
            self.close()

    def _note_loss(self, track: OptimizerTrack, closure: bool) -> None:
        """Attribute the losses since the last step of any optimizer to this step."""
        # A closure may be called several times; what was accumulated before counts too.
        losses = track.losses[: self._losses_before + 1] if closure else track.losses
        if not losses:
            losses = track.last_losses
        track.last_losses = losses
        for one in self.tracks:
            one.losses = []
        if self._losses_of_update is None:
            self._losses_of_update = losses
        elif losses is not self._losses_of_update and losses:
            self.one_loss = self.one_loss and _same(losses, self._losses_of_update)

    def _note_run(self, sample: Sample, track: OptimizerTrack) -> None:
        if len(self.tracks) == 1:
            sample.run[RunQuantity.CLEARED_EARLY] = track.clearing.cleared_early()
        uncleared = track.clearing.uncleared()
        known = sample.run.get(RunQuantity.UNCLEARED)
        if known is None or isinstance(uncleared, Tensor):
            sample.run[RunQuantity.UNCLEARED] = uncleared
        found = [
            prefix + layer
            for prefix, model in self.models.items()
            if (layer := left_in_evaluation(model))
        ]
        self._evaluating = found[0] if found else ""
        sample.run[RunQuantity.TRAINING_MODE] = float(not found)

    def log(self, loss: Loss) -> None:
        """Take a loss that the user states."""
        self._logged.append(loss)

    def close(self) -> None:
        """End the update that goes on, if there is one."""
        if self._closed:
            return
        started = time.perf_counter()
        self._closed = True
        self._stepped.clear()
        if self._full:
            self._hears_forward = bool(self._forward)
        self._hears_backward, self._heard = self.backwards > self._heard, self.backwards
        losses = self._logged or self._losses_of_update or []
        self.losses.add(self.updates - 1, losses)
        self._losses_of_update, self._logged = None, []
        sample, self._sample = self._sample, None
        if sample is not None:
            sample.layers.update(self._forward)
            sample.run.update(self._forward_run)
            self.recorder.add(sample)
            dense = self.sampler.every == 1 and len(self.recorder.rows) >= READ_AFTER
            wait = 1 if self.on_cpu and not dense else READ_EVERY if self.on_cpu else READ_AFTER
            if self.recorder.waiting >= wait:
                self.recorder.read()
        self._forward, self._forward_run = {}, {}
        now = time.perf_counter()
        self.own += now - started
        rest = now - self._ended - self.own - self._measuring
        counted = self.sampler.passed(
            max(0.0, rest), self.own, self._measuring, sampled=sample is not None
        )
        if self.curvature is not None:
            self.curvature.times.passed(counted, self._measuring)
        if sample is not None:
            self.sampler.sampled(sample.update, self.own)
            self._samples += 1
        self.own, self._measuring, self._ended = 0.0, 0.0, now
        self._plan()

    def _plan(self) -> None:
        """Decide what is read of the next update."""
        self._due = self._is_due(self.updates)
        turn = self._samples % FULL_EVERY == 0 and self.updates - self._last_full >= FULL_APART
        self._full = self._due and (self._samples < FULL_FIRST or turn)
        if self._full:
            self._last_full = self.updates

    @property
    def is_between(self) -> bool:
        """Whether no update goes on."""
        return self._closed

    @property
    def wants_forward(self) -> bool:
        """Whether the next forward pass is to be heard.

        Where no pass was read although one was to be, as in a compiled model, hooks are better left
        as they are; where no backward pass is heard, a forward pass alone tells two steps apart.
        """
        return self._full or not (self._hears_forward and self._hears_backward)

    @property
    def may_rest(self) -> bool:
        """Whether no update is known in which the curvature is to be measured."""
        return self.curvature is None or self.curvature.times.share > 0

    def skip(self, rates: Sequence[float]) -> None:
        """Count updates that were not heard, but for their rates."""
        now = time.perf_counter()
        self.updates += len(rates)
        self._lr += rates
        self.sampler.rested(len(rates), now - self._ended)
        self._ended = now
        for track in self.tracks:
            track.clearing.stepped()
        self._plan()

    def give_up_forward(self) -> None:
        """Stop reading a forward pass that is being read."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def history(self) -> History:
        """Read all that waits, and return it."""
        self.recorder.read()
        optimizers = [track.optimizer for track in self.tracks]
        done = self.updates - (not self._closed)
        loss = self.losses.read()
        history = self.recorder.history(
            done,
            loss,
            self._lr,
            one_loss=self.one_loss,
            adaptive=is_adaptive(optimizers),
            evaluating_layer=self._evaluating,
            broken_from=self.losses.broken_from,
            period=self.sampler.period,
            overhead=self.sampler.overhead,
        )
        return replace(
            history,
            optimizers=tuple(type(one).__name__ for one in optimizers),
            input_layer=self._input_layer,
            largest_samples=tuple(self._spread.found.values()),
            **self._targets.fields(history.steps.tolist()),
        )


def _same(one: Sequence[Loss], other: Sequence[Loss]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def rate_of(optimizer: Optimizer) -> float:
    """Return the rate of the first group; NaN where reading it would wait for an accelerator."""
    rate = optimizer.param_groups[0].get("lr", math.nan)
    if isinstance(rate, Tensor) and not rate.is_cpu:
        return math.nan
    return float(rate)


def _spread(args: Any, kwargs: Any, output: Any) -> Tensor | None:
    """Return how much the outputs of a batch differ where its inputs do; None if unknown."""
    given = next((t for t in tensors_in((args, kwargs)) if t.ndim), None)
    result = next((t for t in tensors_in(output) if t.ndim and t.is_floating_point()), None)
    if given is None or result is None or given.shape[0] != result.shape[0]:
        return None
    spread = constant(result)
    if spread is None:
        return None
    read = first_samples(given)
    if read.shape[0] < 2:
        return None
    differs = (read != read[:1]).any()
    return torch.where(differs, spread, torch.full_like(spread, math.nan))
