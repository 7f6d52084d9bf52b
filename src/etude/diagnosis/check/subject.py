"""What the checks look at: a run before its first update, its first batch, rows of its data."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from etude.diagnosis.check.short_run import FirstUpdates, ShortRun, beginning, first_updates
from etude.diagnosis.finding import Finding
from etude.errors import EtudeError, TaskError
from etude.model_copy import copy_model
from etude.randomness import random_state_kept
from etude.recipe import Recipe
from etude.tasks.loss.loss_calls import LossCall, LossCalls
from etude.tasks.sources.data import Batch, Cursor, Data, TensorData, rows
from etude.tasks.task import Task
from etude.training.checks.check import named_tensors
from etude.training.checks.device_asserts import bounds_checked
from etude.training.evaluation.evaluate import move
from etude.training.run import Run

ROWS, NUMBERS, SECONDS = 10_000, 20_000_000, 1.0
"""The largest number of rows that are looked at, of scalars in one of their tensors, and of
seconds in which they are read from data that is not in memory."""


class Look(NamedTuple):
    """What one check found.

    Attributes:
        findings: What is wrong.
        seen: What was looked at, as a sentence; empty if nothing was.
        unseen: What could not be looked at, and why; empty if there is no such thing.
    """

    findings: tuple[Finding, ...] = ()
    seen: str = ""
    unseen: str = ""


@dataclass(frozen=True)
class Rows:
    """Rows of the training or validation data.

    Attributes:
        columns: Their tensors, by the name that its user knows.
        targets: The targets; None if the task has a step, or they are no tensor.
        count: The number of rows.
        whole: Whether these are all rows of the data.
        numbers: The number of each row in the user's data; None if rows have no number.
    """

    columns: Mapping[str, Tensor]
    targets: Tensor | None
    count: int
    whole: bool
    numbers: Tensor | None = None

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """The tensors that are no targets."""
        return {name: t for name, t in self.columns.items() if t is not self.targets}

    def number(self, row: int) -> int:
        """Return the number of a row in the user's data."""
        return row if self.numbers is None else int(self.numbers[row])


@dataclass(frozen=True, eq=False)
class Subject:
    """A task and a recipe, prepared for the checks; nothing of the user's is in it.

    Attributes:
        task: The task.
        recipe: The recipe.
        run: A run of the two before its first update. No check trains it.
        batch: Its first batch.
        train: Rows of the training data.
        valid: Rows of the validation data.
        call: The first call of one of torch's losses on the batch; None if there is none.
        output: The model's output on the batch; None for a task with a step.
        loss: The loss of the batch before training; None if it cannot be computed.
        error: Why it cannot be computed.
    """

    task: Task
    recipe: Recipe
    run: Run
    batch: Batch
    train: Rows
    valid: Rows
    call: LossCall | None = None
    output: Any = None
    loss: float | None = None
    error: TaskError | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the loss is that of `loss(model(*inputs), target)`."""
        return self.task.step is None

    @cached_property
    def compares_targets(self) -> bool:
        """Whether the loss compares the targets of the data as they are, in whatever shape."""
        if self.call is None or not self.is_plain or not isinstance(self.batch, (tuple, list)):
            return False
        y, seen = self.batch[-1], self.call.target
        if not isinstance(y, Tensor) or y.numel() != seen.numel():
            return False
        return torch.equal(y.detach().double().flatten(), seen.detach().double().flatten())

    @cached_property
    def updates(self) -> FirstUpdates:
        """What the first updates show."""
        return first_updates(self.task, self.recipe, self.run.device)

    @cached_property
    def beginning(self) -> ShortRun | None:
        """The losses of the first updates; None if the recipe cannot be trained."""
        try:
            return beginning(self.task, self.recipe, self.run.device)
        except EtudeError:
            return None

    def network(self) -> nn.Module:
        """Return a copy of the untrained network, in training mode."""
        return copy_model(self.run.model)

    def forward(self, network: nn.Module, batch: Batch) -> tuple[Tensor, Any, Any]:
        """Return (loss, output, target) of a batch; the random numbers are always the same."""
        with random_state_kept(0), self.run.autocast():
            return self.task.forward(network, batch)


def prepare(task: Task, recipe: Recipe, device: str | torch.device | None = None) -> Subject:
    """Return what the checks look at.

    Args:
        task: The task, which is not changed.
        recipe: The recipe.
        device: Where the network computes.

    Raises:
        EtudeError: If the model or the data cannot be built.
    """
    run = Run(task, recipe, device=device)
    data = run.task.train
    with random_state_kept(0), data.untouched():
        batch = move(next(data.stream(run.batch_size, recipe.seed, Cursor())), run.device)
    subject = Subject(
        run.task, recipe, run, batch, rows_of(data, run.task), rows_of(run.task.valid, run.task)
    )
    calls, loss, error = LossCalls(), None, None
    outputs: list[Any] = []
    network = subject.network()
    if subject.is_plain:
        network.register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        with bounds_checked(run.device), calls:
            loss = float(subject.forward(network, batch)[0].detach())
    except TaskError as told:
        error = told
    return replace(
        subject,
        call=calls.seen[0] if calls.seen else None,
        output=outputs[0] if outputs else None,
        loss=loss,
        error=error,
    )


def rows_of(data: Data, task: Task) -> Rows:
    """Return rows of some data: all of them where that is cheap, else evenly spaced or the first.

    Args:
        data: The training or validation data.
        task: Whose data it is.
    """
    if isinstance(data, TensorData):
        size = max(t[0].numel() for t in _all(data.tensors))
        count = max(1, min(data.samples, ROWS, NUMBERS // max(1, size)))
        index = torch.arange(count) * data.samples // count
        numbers = index if data.origin is None else data.origin[index]
        return _rows(data.take(index), task, count == data.samples, numbers)
    found: list[Batch] = []
    count, whole, end = 0, True, time.monotonic() + SECONDS
    with random_state_kept(0), data.untouched():
        for batch, size in data.sweep(128):
            found.append(batch)
            count += size
            if count >= ROWS or time.monotonic() > end:
                whole = count == data.samples
                break
    return _joined([_rows(batch, task, whole) for batch in found])


def _all(tensors: Any) -> list[Tensor]:
    return list(tensors.values() if isinstance(tensors, dict) else tensors)


def _rows(batch: Batch, task: Task, whole: bool, numbers: Tensor | None = None) -> Rows:
    columns: dict[str, Tensor] = {}
    count = rows(batch)
    for name, tensor in named_tensors(batch, task):
        if tensor.ndim and len(tensor) != count:
            continue  # of packed sequences, whose tensors have no row for each sample
        known = sum(other.partition(" #")[0] == name for other in columns)
        columns[f"{name} #{known + 1}" if known else name] = tensor.detach()
    return Rows(columns, columns.get("targets"), count, whole, numbers)


def _joined(parts: list[Rows]) -> Rows:
    """Return the rows of several batches together; what differs in shape is left out."""
    if not parts:
        return Rows({}, None, 0, whole=True)
    names = [
        name
        for name, first in parts[0].columns.items()
        if first.ndim
        and all(p.columns.get(name, first[:0]).shape[1:] == first.shape[1:] for p in parts)
        and all(name in p.columns for p in parts)
    ]
    columns = {name: torch.cat([p.columns[name] for p in parts]) for name in names}
    return Rows(columns, columns.get("targets"), sum(p.count for p in parts), parts[0].whole)


def attempt(subject: Subject, network: nn.Module, batch: Batch) -> float | None:
    """Return the loss of a batch; NaN if its gradient is not finite, None if it has none."""
    network.zero_grad()
    try:
        loss = subject.forward(network, batch)[0]
        loss.backward()  # type: ignore[no-untyped-call]
    except (EtudeError, RuntimeError):
        return None
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    whole = all(bool(torch.isfinite(g.coalesce().values() if g.is_sparse else g).all())
                for g in gradients)  # fmt: skip
    return float(loss.detach()) if whole else math.nan
