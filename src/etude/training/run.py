"""One training run that can pause at any update and go on: the one plain loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from etude import optimizers
from etude.errors import StorageError
from etude.layerwise.preparation import prepare
from etude.layerwise.rates import rates_of
from etude.optimizers.factory import build, refuse_sparse_gradients
from etude.randomness import derive_seed, random_state_kept
from etude.recipe import Recipe
from etude.record import Cost, Evaluation, Record, Status, environment
from etude.tasks.data import Batch, Cursor
from etude.tasks.task import Task
from etude.training import divergence as broken
from etude.training import feedback
from etude.training import param_groups as groups
from etude.training.alternate import Turns, what_broke
from etude.training.check import check, refuse_taken, refuse_untrained
from etude.training.clipping import Clipper
from etude.training.clock import batch_size_of, clock_of
from etude.training.device import deterministic, device_for
from etude.training.early_stopping import EarlyStopping
from etude.training.evaluate import evaluate, move
from etude.training.evaluation_weights import EvaluationWeights
from etude.training.flow import flow_of
from etude.training.frozen import FrozenParts
from etude.training.initialisation import prepare_model
from etude.training.objective import Closure, Objective, go
from etude.training.precision import autocast
from etude.training.reload import marks_of, refused_state, reload
from etude.training.rng import RunRandomness
from etude.training.snapshot import Snapshot
from etude.training.threads import use_threads

Probe = Callable[["Run"], float]
"""Measures one number of a run after the backward pass, before the update."""


class Run:
    """The state of one run: model, optimizer, place in the data, randomness, what happened.

    Args:
        task: What to learn.
        recipe: How to learn it.
        device: Where; None takes the model's own device, else an accelerator, else the CPU.
        probes: Named functions of the run, called at every update between backward pass and
            optimizer step; their values become series of the record. Where parts take turns,
            each turn calls them, and the last value of an update is kept.

    Raises:
        BadValueError: If recipe and data do not fit.
        TaskError: If model, data and loss do not fit together.
    """

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        *,
        device: str | torch.device | None = None,
        probes: Mapping[str, Probe] | None = None,
    ) -> None:
        self.recipe = recipe
        self.probes = dict(probes or {})
        refuse_taken(self.probes)
        self.batch_size = batch_size_of(task, recipe)
        self.clock = clock_of(task, recipe)
        self.length = self.clock.horizon
        self.heard = self.marks(recipe.evaluations)
        self.shape = recipe.bound_schedule(self.clock)
        self.others = recipe.bound_schedules(self.clock)
        feedback.check({"schedule": self.shape, **self.others}, task)
        with random_state_kept(derive_seed(recipe.seed, "init")):
            model = task.build()
            self.device = device_for(device, model)
            self.model: nn.Module = model.to(self.device).train()
            self.task = task.on(self.device)
            prepare_model(self.model, recipe, self.task, self.batch_size)
            flow = flow_of(self.task, recipe, self.model, self.batch_size, self.autocast())
            lr_mult = prepare(recipe.lr_mult, self.model, task.model, flow)
        told: dict[str, Any] = {"lr": recipe.lr, "lr_mult": lr_mult, "flow": flow}
        chosen = recipe.optimizer
        self.optimizer = build(chosen.name, self.model, **told, **chosen.hyperparameters)
        self.rates = rates_of(self.optimizer)
        if self.rates is not None:
            self.rates.bind(self.clock)
        self.row = optimizers.get(recipe.optimizer.name)
        self.parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        self.objective = Objective(self.task, self.model, recipe, self.autocast)
        self.still = FrozenParts(self)
        self.clipper = Clipper(self.parameters, recipe)
        self.turns = Turns(self) if self.task.alternates else None
        self.weights: EvaluationWeights | None = None
        if self.row.eval_mode:
            self.weights = EvaluationWeights(
                self.task, self.model, self.optimizer, self.batch_size, self.autocast
            )
        self.stopping = EarlyStopping(recipe.early_stopping) if recipe.early_stopping else None
        self.threads = torch.get_num_threads()
        self.step = self.extra = 0
        self.graded = -1  # the update whose gradient the parameters still hold
        self.status = Status.STOPPED
        self.reason, self.seconds = "", 0.0
        self.series: dict[str, list[float]] = {"loss": [], "lr": []}
        self.evaluations: list[Evaluation] = []
        self.extended: list[tuple[int, int]] = []
        self.loaded: int | None = None  # the update at which a saved state was put back
        # Reading a loss waits for the device: a CPU has nothing to wait for; an accelerator is
        # asked only now and then, and the update at fault is found in what was kept.
        eager = self.device.type == "cpu" or recipe.clip_percentile is not None
        self.check_every = 1 if eager else 16
        self._pending: list[dict[str, Any]] = []
        self._cursor = Cursor()
        self._place = replace(self._cursor)
        self._stream: Iterator[Batch] | None = None
        self._whole = True
        self._undo = Snapshot(self.model, self.task.train.draws)
        self._randomness = RunRandomness(recipe.seed)

    @property
    def diverged(self) -> bool:
        """Whether a NaN or Inf has ended the run."""
        return self.status == Status.DIVERGED

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do: the run has diverged, finished, or stopped early."""
        return self.status in (Status.DIVERGED, Status.FINISHED)

    def check(self) -> None:
        """Try one batch on a copy of the model, and leave no trace of it.

        Raises:
            TaskError: If model, data and loss do not fit together, or the loss is not finite.
        """
        self.threads = check(self)

    def advance(
        self,
        until: int | None = None,
        *,
        stop: Callable[[], bool] = bool,
        on_step: Callable[[Run], None] | None = None,
    ) -> None:
        """Train until `until` updates are done, the run has diverged, or `stop()` is true.

        Args:
            until: The number of updates to stand at; None goes to the end.
            stop: Asked before every update.
            on_step: Called after every update.
        """
        until = self.length if until is None else min(until, self.length)
        if self.step >= until or self.ended:
            return
        started = time.perf_counter()
        try:
            with (
                self._randomness.held(self.task.train),
                deterministic(self.device),
                use_threads(self.threads),
            ):
                if self._stream is None:
                    self._stream = self.task.train.stream(
                        self.batch_size, self.recipe.seed, self._cursor
                    )
                while self.step < until and not self.diverged and not stop():
                    self._update(self._stream)
                    if on_step is not None and not self.diverged:
                        on_step(self)
                self._settle()
        except BaseException:
            # The batch at fault was not used: whoever goes on from here meets it again.
            self._cursor = self._place = replace(self._place)
            self._stream = None
            raise
        finally:
            self.seconds += max(0.0, time.perf_counter() - started)
        if self.step >= self.length and not self.diverged:
            self._finish()

    def _finish(self) -> None:
        self.status = Status.FINISHED
        if self.weights is not None:
            self.weights.settle()

    def marks(self, count: int) -> set[int]:
        """Return the updates that cut the run into `count` parts, both ends included."""
        return marks_of(self.length, count)

    def walk(
        self,
        marks: set[int],
        until: int | None = None,
        *,
        stop: Callable[[], bool] = bool,
        on_step: Callable[[Run], None] | None = None,
    ) -> None:
        """Train as `advance` does, and evaluate at every mark on the way."""
        until = self.length if until is None else min(until, self.length)
        while True:
            if self.step in marks and self.step <= until:
                self.evaluate()
            if self.ended or self.step >= until or stop():
                return
            mark = min((m for m in marks if self.step < m < until), default=until)
            self.advance(mark, stop=stop, on_step=on_step)

    def _update(self, stream: Iterator[Batch]) -> None:
        """Do one optimizer update, or find that the run has diverged.

        Where parts take turns, the optimizer has gone with each of them already.
        """
        self._place = replace(self._cursor)
        self._undo.mark()
        self.still.look(self.step)
        batches = (move(next(stream), self.device) for _ in range(self.recipe.accumulate))
        again = None
        try:
            if self.turns is None:
                values, again = self._gradient(batches)
            else:
                values = self.turns.update(batches, self._prepare, eager=self.check_every == 1)
        except BaseException:
            self._undo.restore()
            self._whole = self.turns is None or not self.turns.moved
            raise
        self._pending.append(values)
        if len(self._pending) >= self.check_every:
            self._settle()
            if self.diverged:
                return
        if self.turns is None:
            self._whole = False
            with refused_state(self.step == self.loaded):
                self.extra += go(self.optimizer, again)
            self._whole = True
        self.step += 1
        self._place = self._cursor

    def _gradient(self, batches: Iterator[Batch]) -> tuple[dict[str, Any], Closure | None]:
        """Compute the gradient of one update.

        Returns:
            The loss, the rate and what is measured; and the closure, if the optimizer needs one.
        """
        self.optimizer.zero_grad(set_to_none=True)
        values: dict[str, Any]
        again = None
        if self.row.closure:
            again = Closure(
                self.objective,
                list(batches),
                self.optimizer,
                graph=self.row.closure == "graph",
                draws=self.task.train.draws,
            )
            values = {**again.first()}
        else:
            values = {**self.objective.backward(batches)}
        self.graded = self.step
        return values | self._prepare(self.clipper), again

    def _prepare(self, clipper: Clipper, part: str = "") -> dict[str, Any]:
        """Do what lies between gradient and update; return the rate and what is measured."""
        if self.step == 0:
            refuse_sparse_gradients(self.row, self.recipe.optimizer.hyperparameters, self.model)
        values: dict[str, Any] = {"lr": self._set_rates()}
        rest = self.still.silence()
        if clipper:
            name = f"grad_norm{part}"
            norm = clipper.clip(self.series.get(name, ()), rest)
            if norm is not None:
                values[name] = norm
        for name, probe in self.probes.items():
            values[name] = float(probe(self))
        return values

    def _set_rates(self) -> float:
        """Write the rate and every other scheduled value of this update; return the rate."""
        lr = self.recipe.lr * self.shape(self.step)
        others = {name: shape(self.step) for name, shape in self.others.items()}
        groups.write(self.optimizer, lr, others)
        if self.rates is not None:
            self.rates.set(lr, self.step)
            if "weight_decay" in others:
                self.rates.decay(others["weight_decay"])
        return lr

    def _settle(self) -> None:
        """Read the values that wait on the device; the first NaN or Inf ends the run."""
        if not self._pending:
            return
        first = len(self.series["loss"])
        waiting = [values["loss"] for values in self._pending]
        losses = [waiting[0].item()] if len(waiting) == 1 else torch.stack(waiting).tolist()
        for index, (loss, values) in enumerate(zip(losses, self._pending, strict=True)):
            if not math.isfinite(loss):
                last = index == len(losses) - 1  # the optimizer has not moved on from it
                self.diverge(first + index, what_broke(values, loss), last)
                break
            for name in {**self.series, **values}:  # a part may have no turn in an update
                number = loss if name == "loss" else float(values.get(name, math.nan))
                self.series.setdefault(name, [math.nan] * (first + index)).append(number)
        self._pending.clear()

    def diverge(self, step: int, what: str, now: bool) -> None:
        """End the run at an update; `now`: its weights are those at which a loss became `what`."""
        self.step, self.status = step, Status.DIVERGED
        self.reason = broken.at_update(self, what, now=now)

    def evaluate(self) -> Evaluation:
        """Evaluate on the validation data where the run stands; remembered, never done twice."""
        if self.evaluations and self.evaluations[-1].step == self.step:
            return self.evaluations[-1]
        started = time.perf_counter()
        judged = nullcontext() if self.weights is None else self.weights.judged()
        with use_threads(self.threads), judged:
            result = evaluate(
                self.task,
                self.model,
                step=self.step,
                batch_size=max(128, 2 * self.batch_size),
                device=self.device,
                autocast=self.autocast,
            )
            enough = False
            if self.stopping is not None and self.step in self.heard:
                enough = self.stopping.see(result, self.model)
        self.seconds += max(0.0, time.perf_counter() - started)
        refuse_untrained(self, result)
        self.evaluations.append(result)
        if not math.isfinite(result.loss) and not self.diverged:
            self.status = Status.DIVERGED
            self.reason = broken.at_evaluation(self, result.loss)
        elif enough or self.step >= self.length:
            self._keep_best()
        else:
            self._react([result])
        return self.evaluations[-1]

    def _react(self, evaluations: Sequence[Evaluation]) -> None:
        """Let the schedules hear those evaluations that the recipe asks for."""
        heard = [e for e in evaluations if e.step in self.heard]
        self.shape = feedback.after(self.shape, heard)
        self.others = {name: feedback.after(s, heard) for name, s in self.others.items()}

    def _keep_best(self) -> None:
        """End a run that stops early, or put its best weights back at its end."""
        stopping = self.stopping
        if stopping is None or stopping.best is None or self.diverged:
            return
        if not self.ended:
            self._finish()
        if stopping.best.step == self.step:
            return
        stopping.restore(self.model)
        self.reason = stopping.reason(self.step, self.length)
        self.evaluations.append(replace(stopping.best, step=self.step))

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of the forward pass for the recipe's precision."""
        return autocast(self.device, self.recipe.precision)

    def state(self) -> dict[str, Any]:
        """Return all that is needed to go on from here, to the bit.

        Raises:
            StorageError: If an update is half done (an error inside the optimizer).
        """
        if not self._whole:
            raise StorageError("an update is half done: the state before it is the one to keep")
        self._settle()
        return {
            "recipe": self.recipe.digest,
            "steps": self.recipe.steps,
            "length": self.length,
            "extended": [list(pair) for pair in self.extended],
            "step": self.step,
            "status": self.status,
            "reason": self.reason,
            "seconds": self.seconds,
            "extra": self.extra,
            "stopping": None if self.stopping is None else self.stopping.state(),
            "threads": self.threads,
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "random": self._randomness.tree(),
            "place": asdict(self._place),
            "series": {n: torch.tensor(v, dtype=torch.float64) for n, v in self.series.items()},
            "evaluations": [asdict(e) for e in self.evaluations],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state of the same recipe, or of one that differs in its length alone.

        Where the length is another one, the schedule is that of the new length from here on, the
        looks that were taken stay, and a run that had finished goes on.

        Raises:
            StorageError: If the state is of another recipe or model, or damaged.
        """
        reload(self, state)

    def record(self) -> Record:
        """Return what has happened so far."""
        if self.ended:
            self.still.release()
        return Record(
            task=self.task.name,
            recipe=self.recipe,
            status=self.status,
            reason=self.reason,
            length=self.length,
            metric=self.task.metric_name,
            series={name: np.array(values) for name, values in self.series.items()},
            evaluations=tuple(self.evaluations),
            extended=tuple(step for step, _ in self.extended),
            cost=Cost(
                self.step,
                (self.step + self.extra) * self.recipe.accumulate * self.batch_size,
                self.seconds,
            ),
            environment=environment(str(self.device), self.threads),
            model=self.model,
        )
