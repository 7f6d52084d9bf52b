"""One training run that can pause at any update and go on: the one plain loop."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from etude.errors import BadValueError, StorageError, TaskError
from etude.optimizers.factory import build
from etude.randomness import RandomState, derive_seed, random_state_kept
from etude.recipe import Recipe
from etude.schedules import Clock
from etude.tasks.data import Batch, Cursor
from etude.tasks.task import Task
from etude.training.evaluate import evaluate, move
from etude.training.record import Cost, Evaluation, Record, Status, environment
from etude.training.undo import Undo

OWN_SERIES = {"loss", "lr", "grad_norm", "valid_parts"}

Probe = Callable[["Run"], float]
"""Measures one number of a run after the backward pass, before the update."""


class Run:
    """The state of one run: model, optimizer, place in the data, randomness, what happened.

    Args:
        task: What to learn.
        recipe: How to learn it.
        device: Where; None takes the model's own device, else an accelerator, else the CPU.
        probes: Named functions of the run, called at every update between backward pass and
            optimizer step; their values become series of the record.

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
        if taken := sorted(OWN_SERIES & self.probes.keys()):
            raise BadValueError(f"probe {taken[0]!r}: the record has a series of that name already")
        self.batch_size = task.train.check(recipe.batch_size)
        self.clock = clock_of(task, recipe)
        self.length = self.clock.horizon
        self.shape = recipe.schedule.over(self.clock)
        self.others = recipe.bound_schedules(self.clock)
        with random_state_kept(derive_seed(recipe.seed, "init")):
            model = task.build()
            self.device = _device(device, model)
            self.model: nn.Module = model.to(self.device).train()
        self.task = task.on(self.device)
        self.optimizer = build(
            recipe.optimizer.name, self.model, lr=recipe.lr, **recipe.optimizer.hyperparameters
        )
        self.parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        self.step = 0
        self.status: Status = "stopped"
        self.reason = ""
        self.seconds = 0.0
        self.series: dict[str, list[float]] = {"loss": [], "lr": []}
        self.evaluations: list[Evaluation] = []
        # Reading a loss waits for the device: a CPU has nothing to wait for; an accelerator is
        # asked only now and then, and the update at fault is found in what was kept.
        self.check_every = 1 if self.device.type == "cpu" else 16
        self._pending: list[dict[str, Any]] = []
        self._cursor = Cursor()
        self._place = replace(self._cursor)
        self._stream: Iterator[Batch] | None = None
        self._whole = True
        with random_state_kept(derive_seed(recipe.seed, "noise")):
            self._random: RandomState | None = RandomState.capture()
        self._orders: list[Tensor] = []

    @property
    def diverged(self) -> bool:
        """Whether a NaN or Inf has ended the run."""
        return self.status == "diverged"

    def check(self) -> None:
        """Try one batch on a copy of the model, and leave no trace of it.

        Raises:
            TaskError: If model, data and loss do not fit together.
        """
        model = copy.deepcopy(self.model)
        data = self.task.train
        with random_state_kept(0), data.untouched(), self.autocast():
            batch = next(data.stream(self.batch_size, self.recipe.seed, Cursor()))
            self.task.check(model, move(batch, self.device))

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
        if self.step >= until:
            return
        started = time.perf_counter()
        try:
            with self._own_randomness(), deterministic(self.device):
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
            self.seconds += time.perf_counter() - started
        if self.step >= self.length and not self.diverged:
            self.status = "finished"

    def marks(self, count: int) -> set[int]:
        """Return the updates that cut the run into `count` parts, both ends included."""
        return {self.length * i // count for i in range(count + 1)}

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
            if self.diverged or self.step >= until or stop():
                return
            mark = min((m for m in marks if self.step < m < until), default=until)
            self.advance(mark, stop=stop, on_step=on_step)

    def _update(self, stream: Iterator[Batch]) -> None:
        """Do one optimizer update, or find that the run has diverged."""
        self._place = replace(self._cursor)
        undo = Undo(self.model, self.task.train.draws)
        try:
            values = self._gradient(stream)
        except BaseException:
            undo.restore()
            raise
        self._pending.append(values)
        if len(self._pending) >= self.check_every:
            self._settle()
            if self.diverged:
                return
        self._whole = False
        self.optimizer.step()
        self._whole = True
        self.step += 1
        self._place = self._cursor

    def _gradient(self, stream: Iterator[Batch]) -> dict[str, Any]:
        """Compute the gradient of one update; return the loss, the rate and what is measured."""
        recipe, share = self.recipe, 1 / self.recipe.accumulate
        self.optimizer.zero_grad(set_to_none=True)
        total: Tensor | None = None
        for _ in range(recipe.accumulate):
            batch = move(next(stream), self.device)
            with self.autocast():
                loss, _, _ = self.task.forward(self.model, batch)
            loss = loss if recipe.accumulate == 1 else loss * share
            try:
                loss.backward()  # type: ignore[no-untyped-call]
            except RuntimeError as error:
                raise TaskError(f"the backward pass failed: {error}") from error
            total = loss.detach() if total is None else total + loss.detach()
        values: dict[str, Any] = {"loss": total, "lr": self._set_rates()}
        if recipe.clip_norm is not None:
            values["grad_norm"] = nn.utils.clip_grad_norm_(self.parameters, recipe.clip_norm)
        if recipe.clip_value is not None:
            nn.utils.clip_grad_value_(self.parameters, recipe.clip_value)
        for name, probe in self.probes.items():
            values[name] = float(probe(self))
        return values

    def _set_rates(self) -> float:
        """Write the rate and every other scheduled value of this update; return the rate."""
        lr = self.recipe.lr * self.shape(self.step)
        others = {name: shape(self.step) for name, shape in self.others.items()}
        for group in self.optimizer.param_groups:
            group["lr"] = lr
            for name, value in others.items():
                if name == "momentum" and "betas" in group:
                    group["betas"] = (value, group["betas"][1])
                else:
                    group[name] = value
        return lr

    def _settle(self) -> None:
        """Read the values that wait on the device; the first NaN or Inf ends the run."""
        if not self._pending:
            return
        first = len(self.series["loss"])
        losses = torch.stack([values["loss"] for values in self._pending]).tolist()
        for index, (loss, values) in enumerate(zip(losses, self._pending, strict=True)):
            if not math.isfinite(loss):
                self._diverge(first + index, f"the training loss became {loss}")
                break
            for name, value in values.items():
                number = loss if name == "loss" else float(value)
                self.series.setdefault(name, []).append(number)
        self._pending.clear()

    def _diverge(self, step: int, what: str) -> None:
        self.step = step
        self.status = "diverged"
        self.reason = f"{what} at update {step} (lr {self.recipe.lr * self.shape(step):.3g})"

    def evaluate(self) -> Evaluation:
        """Evaluate on the validation data where the run stands; remembered, never done twice."""
        if self.evaluations and self.evaluations[-1].step == self.step:
            return self.evaluations[-1]
        started = time.perf_counter()
        result = evaluate(
            self.task,
            self.model,
            step=self.step,
            batch_size=max(128, 2 * self.batch_size),
            device=self.device,
            autocast=self.autocast,
        )
        self.seconds += time.perf_counter() - started
        self.evaluations.append(result)
        if not math.isfinite(result.loss) and not self.diverged:
            self.status = "diverged"
            self.reason = f"the validation loss became {result.loss} after update {self.step}"
        return result

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of the forward pass for the recipe's precision."""
        if self.recipe.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Swap the run's random state in, and the caller's back when the block ends."""
        caller = RandomState.capture()
        data = self.task.train
        generators = data.generators()
        with data.untouched():
            if self._orders:
                for generator, state in zip(generators, self._orders, strict=True):
                    generator.set_state(state)
            assert self._random is not None
            self._random.restore()
            self._random = None  # it is the global state now
            try:
                yield
            finally:
                self._random = RandomState.capture()
                self._orders = [generator.get_state() for generator in generators]
                caller.restore()

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
            "step": self.step,
            "status": self.status,
            "reason": self.reason,
            "seconds": self.seconds,
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "random": (self._random or RandomState.capture()).tree(),
            "place": asdict(self._place),
            "series": {n: torch.tensor(v, dtype=torch.float64) for n, v in self.series.items()},
            "evaluations": [asdict(e) for e in self.evaluations],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state of the same recipe.

        Raises:
            StorageError: If the state is of another recipe or model.
        """
        if state["recipe"] != self.recipe.digest:
            raise StorageError(
                f"the checkpoint is of recipe {state['recipe']}, not {self.recipe.digest}: "
                "resume with the recipe.toml beside it"
            )
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise StorageError(f"the checkpoint is of another model: {error}") from error
        self.step, self.status, self.reason = state["step"], state["status"], state["reason"]
        if self.status == "stopped":
            self.reason = ""  # whatever stopped it is over
        self.seconds = state["seconds"]
        self.series = {name: values.tolist() for name, values in state["series"].items()}
        self.evaluations = [
            Evaluation(e["step"], e["loss"], e["metric"], tuple(e["parts"]))
            for e in state["evaluations"]
        ]
        self._random = RandomState.from_tree(state["random"])
        self._cursor = Cursor(**state["place"])
        self._place = self._cursor
        self._stream, self._orders = None, []
        self._pending.clear()

    def record(self) -> Record:
        """Return what has happened so far."""
        return Record(
            task=self.task.name,
            recipe=self.recipe,
            status=self.status,
            reason=self.reason,
            length=self.length,
            metric=self.task.metric_name,
            series={name: np.array(values) for name, values in self.series.items()},
            evaluations=tuple(self.evaluations),
            cost=Cost(
                self.step, self.step * self.recipe.accumulate * self.batch_size, self.seconds
            ),
            environment=environment(str(self.device)),
            model=self.model,
        )


def clock_of(task: Task, recipe: Recipe) -> Clock:
    """Return the clock of a recipe on a task: how many updates, and how many an epoch.

    Raises:
        BadValueError: If the length has a unit that the data cannot answer for.
    """
    batch_size = task.train.check(recipe.batch_size)
    batches = task.train.steps_per_epoch(batch_size)
    return Clock(
        horizon=recipe.steps,
        steps_per_epoch=None if batches is None else batches / recipe.accumulate,
        samples_per_step=batch_size * recipe.accumulate,
    )


def _device(wanted: str | torch.device | None, model: nn.Module) -> torch.device:
    if wanted is not None:
        try:
            device = torch.device(wanted)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).partition("\n")[0]
            raise BadValueError(f"device={str(wanted)!r} cannot be used: {reason}") from error
        return device
    own = next((p.device for p in model.parameters()), torch.device("cpu"))
    if own.type != "cpu" or not torch.accelerator.is_available():
        return own
    current = torch.accelerator.current_accelerator()
    return current if current is not None else own


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Ask an accelerator for the same bits every time, for the length of a block."""
    if device.type == "cpu":
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = before[2]
