"""One training run, which can pause at any update and continue."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from etude.errors import MovedError, StorageError
from etude.recipe import Recipe
from etude.record import Cost, Evaluation, Record, Status, environment
from etude.schedules import Schedule
from etude.tasks.task import Task
from etude.training.checks import divergence
from etude.training.checks.check import check, refuse_untrained
from etude.training.evaluation.evaluate import evaluate
from etude.training.evaluation.evaluation_weights import EvaluationWeights
from etude.training.evaluation.joined_slices import Answers
from etude.training.loop import TrainingLoop
from etude.training.machine.device import deterministic
from etude.training.machine.threads import use_threads
from etude.training.objective import Objective
from etude.training.observer import Observer
from etude.training.observers import Observers
from etude.training.request import AdvanceRequest
from etude.training.state import exchange_state, reload
from etude.training.state.planned import planned_notes
from etude.training.state.state import initial_state
from etude.training.world import World

MOVED = {
    "extra": "Run.state.extra_gradients",
    "heard": "Run.state.evaluation_steps",
    "load": "Run.load_state_dict",
    "marks": "Run.state.evenly_spaced",
    "others": "Run.state.hyperparameter_schedules",
    "probes": "etude.Observer, given as Run(observers=)",
    "row": "Run.state.optimizer_spec",
    "shape": "Run.state.lr_schedule",
    "walk": "Run.advance",
}
"""The old name of an attribute of a run, and the new one."""


class Run:
    """One run: its state, and the loop that trains it.

    Args:
        task: What to learn.
        recipe: How to learn it.
        device: Where to train; None takes the model's own, else an accelerator, else the CPU.
        observers: Called during training; what they return becomes series of the record.
        world: The processes that train it together; None takes the current world.

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
        observers: Sequence[Observer] = (),
        world: World | None = None,
    ) -> None:
        self.observers = Observers(observers)
        self.state = state = initial_state(task, recipe, device, world)
        self._loop = TrainingLoop(state, self.observers)
        self._evaluation_weights: EvaluationWeights | None = None
        if state.optimizer_spec.eval_mode:
            self._evaluation_weights = EvaluationWeights(
                state.task, state.model, state.optimizer, state.batch_size, state.autocast
            )

    def __getattr__(self, name: str) -> NoReturn:
        """Raise an error that gives the new name of a renamed attribute.

        Raises:
            MovedError: If the attribute was renamed.
            AttributeError: If there never was such an attribute.
        """
        if name in MOVED:
            raise MovedError(f"Run.{name} is now {MOVED[name]}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # ---- attributes ----------------------------------------------------------------------------

    @property
    def task(self) -> Task:
        """The task; its data is on the device."""
        return self.state.task

    @property
    def recipe(self) -> Recipe:
        """The recipe."""
        return self.state.recipe

    @property
    def device(self) -> torch.device:
        """The device."""
        return self.state.device

    @property
    def batch_size(self) -> int:
        """The number of samples in one batch."""
        return self.state.batch_size

    @property
    def length(self) -> int:
        """The number of updates in the whole run."""
        return self.state.length

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self.state.model

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer."""
        return self.state.optimizer

    @property
    def objective(self) -> Objective:
        """The objective that its updates minimise."""
        return self._loop.objective

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters that the optimizer updates."""
        return self.state.parameters

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of the forward pass for the recipe's precision."""
        return self.state.autocast()

    @property
    def threads(self) -> int:
        """The number of threads with which torch computes an update."""
        return self.state.threads

    @property
    def step(self) -> int:
        """The number of updates done."""
        return self.state.step

    @property
    def status(self) -> Status:
        """Whether it has finished, diverged, or can continue."""
        return self.state.status

    @property
    def reason(self) -> str:
        """Why it ended, or what interrupted it."""
        return self.state.reason

    @property
    def seconds(self) -> float:
        """Time spent on updates and evaluations."""
        return self.state.seconds

    @property
    def series(self) -> dict[str, list[float]]:
        """The values measured in each update, by name."""
        return self.state.series

    @property
    def evaluations(self) -> list[Evaluation]:
        """The evaluations, in order."""
        return self.state.evaluations

    @property
    def diverged(self) -> bool:
        """Whether a NaN or Inf has ended the run."""
        return self.state.diverged

    @property
    def ended(self) -> bool:
        """Whether the run has finished, stopped early or diverged."""
        return self.state.ended

    # ---- actions -------------------------------------------------------------------------------

    def check(self) -> None:
        """Test one batch on a copy of the model, without changing the run.

        Raises:
            TaskError: If model, data and loss do not fit together, or the loss is not finite.
        """
        self.state.threads = check(self.state)

    def limit_threads(self, threads: int) -> None:
        """Compute the next updates with this number of threads."""
        self.state.threads = threads

    def follow(self, lr_schedule: Schedule) -> None:
        """Use another schedule, bound to the run, for the next updates."""
        self.state.lr_schedule = lr_schedule

    def read_losses_every(self, updates: int) -> None:
        """Read the losses only every `updates` updates; a reading waits for the device."""
        self._loop.read_every = updates

    def adopt_evaluation(self, evaluation: Evaluation) -> None:
        """Add an evaluation that was already computed for the same weights."""
        self.state.evaluations.append(evaluation)

    def adopt_weights(self, values: Mapping[str, Tensor], step: int) -> None:
        """Load parameters and buffers by name, as they are after `step` updates.

        The rest of the state does not change; `load_state_dict` loads all of it.
        """
        model = self.state.model
        with torch.no_grad():
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                tensor.copy_(values[name])
        self.state.step = step

    def adopt_step(self, step: int) -> None:
        """Set the number of updates done, if the weights after them are stored elsewhere."""
        self.state.step = step

    def note_failure(self, error: BaseException) -> None:
        """Store the error that interrupted the run as its reason, unless it already has one."""
        self.state.reason = self.state.reason or f"stopped by {type(error).__name__}: {error}"

    def release(self) -> None:
        """Restore the `requires_grad` of every parameter, and remove what was attached to them."""
        self._loop.frozen.release()
        if self.objective.joint is not None:
            self.objective.joint.close()

    # ---- the loop ------------------------------------------------------------------------------

    def advance(self, request: AdvanceRequest | int | None = None) -> None:
        """Train as far as requested, or until the run has ended, with evaluations.

        Args:
            request: How far to train, and where to evaluate. A number trains to that number of
                updates and None to the end of the run, both without evaluations.
        """
        request = AdvanceRequest.of(request)
        until, steps = request.target(self.state), request.steps_of(self.state)
        while True:
            if self.step in steps and self.step <= until:
                self.evaluate()
            if self.ended:
                self.observers.end(self.state)
            if self.ended or self.step >= until or request.stop():
                return
            self._loop.train(
                min((s for s in steps if self.step < s < until), default=until), request
            )
            if self.step >= self.length and not self.ended:
                self._finish()

    def _finish(self) -> None:
        self.state.status = Status.FINISHED
        if self._evaluation_weights is not None:
            self._evaluation_weights.settle()

    def diverge(self, step: int, what: str, now: bool) -> None:
        """End the run as diverged; see `etude.training.checks.divergence.end`."""
        divergence.end(self.state, step, what, now=now)

    # ---- evaluation ----------------------------------------------------------------------------

    def evaluate(self, answers: Answers | None = None) -> Evaluation:
        """Evaluate the current weights on the validation data, unless that was already done.

        Args:
            answers: What computes losses and outputs in place of the model, for instance for
                several runs at once.
        """
        state = self.state
        if state.is_evaluated:
            return state.evaluations[-1]
        with self._evaluating():
            with self._judged():
                result = self._evaluation_on(state.task, answers)
                enough = False
                if state.early_stopping is not None and state.step in state.evaluation_steps:
                    enough = state.early_stopping.update(result, state.model)
            refuse_untrained(state, result)
            state.evaluations.append(result)
            try:
                self.observers.evaluation(state, result)
            finally:  # an observer that fails changes nothing in what follows from the evaluation
                self._follow_from(result, enough)
        return state.evaluations[-1]

    def evaluate_on(self, task: Task) -> Evaluation:
        """Evaluate where the run stands on the validation data of another task; not remembered."""
        with self._evaluating(), self._judged():
            return self._evaluation_on(task)

    def _evaluation_on(self, task: Task, answers: Answers | None = None) -> Evaluation:
        state = self.state
        return evaluate(
            task,
            state.model,
            step=state.step,
            batch_size=max(128, 2 * state.batch_size),
            device=state.device,
            autocast=state.autocast,
            world=state.world,
            answers=answers,
        )

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Count the time of a block as that of an evaluation."""
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = max(0.0, time.perf_counter() - started)
            self.state.seconds += seconds
            self.state.evaluation_seconds += seconds

    @contextmanager
    def _judged(self) -> Iterator[None]:
        """Set the weights to be evaluated, and the threads, inside a block."""
        weights = self._evaluation_weights
        with (
            deterministic(self.device),
            use_threads(self.threads),
            nullcontext() if weights is None else weights.judged(),
            exchange_state.judged_weights(self.state),
        ):
            yield

    def _follow_from(self, result: Evaluation, enough: bool) -> None:
        """Act on an evaluation: end the run, restore the best weights, or update the schedules."""
        state = self.state
        if not math.isfinite(result.loss) and not state.diverged:
            state.status = Status.DIVERGED
            state.reason = divergence.at_evaluation(state, result.loss)
        elif enough or state.step >= state.length:
            self._keep_best()
        else:
            state.react([result])

    def _keep_best(self) -> None:
        """End the run if it stops early, and restore its best weights."""
        state, stopping = self.state, self.state.early_stopping
        if stopping is None or stopping.best is None or state.diverged:
            return
        if not state.ended:
            self._finish()
        if stopping.best.step == state.step:
            return
        stopping.restore(state.model)
        state.reason = stopping.reason(state.step, state.length)
        state.evaluations.append(replace(stopping.best, step=state.step))

    # ---- state and record ----------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the complete state of this process, from which it can continue to the bit.

        Raises:
            StorageError: If an update is half done (an error inside the optimizer).
        """
        if not self._loop.is_whole:
            raise StorageError("an update is half done: the state before it is the one to keep")
        self._loop.read()
        state = self.state
        return {
            **reload.saved_state(state),
            "observers": self.observers.state_dict(),
            **({} if self._loop.rewinder is None else {"rewinder": self._loop.rewinder.tree()}),
            **({} if state.world.size == 1 else {"world": {"size": state.world.size}}),
            **({} if self._loop.loss_scale is None else {"scale": self._loop.loss_scale.tree()}),
        }

    def checkpoint(self) -> dict[str, Any]:
        """Return the complete state of all processes; each of them must call it."""
        return exchange_state.whole_state(self.state, self.state_dict())

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Restore a saved state of the same recipe, or of one that differs only in its length.

        If the length differs, the run continues on the schedule of the new length and keeps its
        evaluations, even if it had finished.

        Raises:
            StorageError: If the state is of another recipe or model, or damaged.
        """
        reload.reload(self.state, saved, self._evaluation_weights)
        self._loop.reset()
        if self._loop.rewinder is not None:
            self._loop.rewinder.load(saved.get("rewinder"))
        exchange_state.load_exchange(self.state, saved)
        if self._loop.loss_scale is not None:
            self._loop.loss_scale.load(saved.get("scale"))
        self.observers.load_state_dict(saved.get("observers"), self.ended)
        if self.step >= self.length and not self.ended:
            self._finish()  # it was killed after its last update, before its status was set

    def record(self) -> Record:
        """Return the record of the run so far."""
        state = self.state
        if state.ended:
            self.release()
        updates = state.step + state.extra_gradients
        notes = self.observers.notes(state) | exchange_state.world_notes(state)
        return Record(
            task=state.task.name,
            recipe=state.recipe,
            status=state.status,
            reason=state.reason,
            length=state.length,
            metric=state.task.metric_name,
            series={name: np.array(values) for name, values in state.series.items()},
            evaluations=tuple(state.evaluations),
            extended=tuple(step for step, _ in state.extended),
            cost=Cost(
                state.step,
                updates * state.recipe.accumulate * state.batch_size,
                state.seconds,
                state.evaluation_seconds,
            ),
            environment=environment(str(state.device), state.threads),
            ref=state.task.ref,
            notes=notes | planned_notes(state),
            model=state.model,
        )
