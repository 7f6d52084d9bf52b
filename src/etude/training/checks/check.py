"""Tests a run with one batch before training, and reports faults in model, data or loss."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import TaskError
from etude.model_copy import copy_model
from etude.randomness import random_state_kept
from etude.record import Evaluation
from etude.tasks.sources.data import Batch, Cursor, TensorData
from etude.tasks.sources.shards import Shard
from etude.tasks.task import Task
from etude.tasks.turns import parameters_of
from etude.training.checks.convolutions import watched_convolutions
from etude.training.checks.device_asserts import bounds_checked, refuse_labels
from etude.training.checks.unequal_parts import warn_of_unequal_parts
from etude.training.evaluation.evaluate import move
from etude.training.gradient.loss_scale import refuse_half
from etude.training.machine.eager import eagerly
from etude.training.machine.precision import only_lower, refuse_recurrent
from etude.training.machine.threads import counted_work, suitable_threads
from etude.training.objective import has_no_answered_target
from etude.training.state.snapshot import Buffers
from etude.training.state.state import RunState

Place = tuple[dict[str, Any], str, str]
"""The place of a value in a module: the mapping, the key, and its name in messages."""


def check(state: RunState) -> int:
    """Test one batch on a copy of a run's model, without changing the run.

    Returns:
        The number of threads to use for an update.

    Raises:
        TaskError: If model, data and loss do not fit together, the recipe's precision cannot be
            computed on this machine, or the loss of the untrained model is not finite. If the cause
            is in the data, the message gives the row.
    """
    model = copy_model(state.model)
    task, data, recipe = state.task, state.task.train, state.recipe
    refuse_recurrent(model, recipe.precision, state.device)
    if recipe.precision == "float16":
        refuse_half(model, in_turns=task.alternates)
    joint = None if state.objective is None else state.objective.joint
    alone = nullcontext() if joint is None else joint.alone()
    with eagerly(), random_state_kept(0), data.untouched(), state.autocast(), alone:
        stream = state.world.stream(data, state.batch_size, recipe.seed, Cursor())

        def following() -> Batch:
            found = move(next(stream), state.device)
            return found.batch if isinstance(found, Shard) else found

        batch = following()
        carried = list(_unsaved_places(model))
        before = [holder.get(key) for holder, key, _ in carried]
        buffers = Buffers(model)
        with (
            bounds_checked(state.device) as bounds,
            counted_work(model) as work,
            watched_convolutions(model),
        ):
            tried, parts = _checked(state, model, batch)
        if bounds is not None:
            refuse_labels(task, batch, bounds)
        loss = float(tried.detach())
        cause = faults(batch, task)
        if not math.isfinite(loss) and (cause or not has_no_answered_target(task, model, batch)):
            if cause and isinstance(data, TensorData):
                cause = faults(data.tensors, task, data.origin)
            raise TaskError(_not_finite(loss, "the first batch", cause))
        _warn_of_lost_state(task, model, batch, list(zip(carried, before, strict=True)))
        buffers.restore()
        if parts:
            _warn_of_idle_parts(model, parts)
        elif math.isfinite(loss):
            accumulates = state.recipe.accumulate > 1
            warn_of_unequal_parts(task, model, batch, following, accumulates=accumulates)
        _check_all_rows(task, model, batch)
    return suitable_threads(work)


def _checked(state: RunState, model: nn.Module, batch: Batch) -> tuple[Tensor, list[str]]:
    """Return the result of `task.check`; if only the precision makes it fail, say so."""
    try:
        return state.task.check(model, batch)
    except TaskError as error:
        if state.recipe.precision == "float32":
            raise
        try:
            with torch.autocast(state.device.type, enabled=False):
                state.task.check(model, batch)
        except TaskError:
            raise error from None
        raise only_lower(state.recipe.precision, state.device, error) from error


def refuse_untrained(state: RunState, found: Evaluation) -> None:
    """Raise an error if the validation loss is not finite before training.

    Raises:
        TaskError: If it is not finite; the message gives the cause if it is in the data.
    """
    if state.step > 0 or math.isfinite(found.loss):
        return
    if found.weight == 0:
        raise TaskError(
            "the validation data has no answered target, so its mean loss is undefined: give "
            "valid= with targets that the loss does not ignore"
        )
    cause, task, data = "", state.task, state.task.valid
    if isinstance(data, TensorData):
        cause = faults(data.tensors, task, data.origin)
    else:
        with random_state_kept(0), data.untouched():
            for batch, _ in data.sweep(128):
                if cause := faults(batch, task):
                    break
    raise TaskError(_not_finite(found.loss, "the validation data", cause and f"valid: {cause}"))


def _check_all_rows(task: Task, model: nn.Module, batch: Batch) -> None:
    """Test the first row with a NaN or Inf in all training data: a loss may ignore such rows."""
    data = task.train
    if not isinstance(data, TensorData):
        return
    row = min((bad for t in leaves(data.tensors) if (bad := _first(t)) is not None), default=None)
    if row is None:
        return
    one = data.take(torch.tensor([row]))
    joined = mixed(batch, one)
    with torch.no_grad():
        loss = float(task.forward(model, joined)[0])
    if not math.isfinite(loss):
        place = f"training row {row if data.origin is None else int(data.origin[row])}"
        raise TaskError(_not_finite(loss, place, faults(data.tensors, task, data.origin)))


def mixed(batch: Batch, one: Batch) -> Batch:
    """Return a batch whose first sample is another one."""
    if isinstance(batch, dict):
        return {name: torch.cat([one[name], rest[1:]]) for name, rest in batch.items()}
    return tuple(torch.cat([a, b[1:]]) for a, b in zip(one, batch, strict=True))


def faults(batch: Any, task: Task, origin: Tensor | None = None) -> str:
    """Return which tensors of a batch contain a NaN or Inf, how many, and the first row.

    Args:
        batch: A batch, or all the data.
        task: The task of the data.
        origin: For each row, its row in the user's data; None if they are the same.

    Returns:
        A message; empty if all values are finite.

    >>> from etude.tasks.metrics import METRICS
    >>> from torch.nn.functional import mse_loss
    >>> x = torch.tensor([[1.0], [math.nan], [math.inf]])
    >>> faults((x, torch.zeros(3)), Task(nn.Linear(1, 1), (x, x), loss=mse_loss))
    'inputs[0] holds 2 values that are NaN or Inf, the first in row 1'
    """
    found = []
    for name, tensor in named_tensors(batch, task):
        row = _first(tensor)
        if row is not None:
            count = int((~torch.isfinite(tensor)).sum())
            row = row if origin is None else int(origin[row])
            values = "value that is" if count == 1 else "values that are"
            found.append(f"{name} holds {count} {values} NaN or Inf, the first in row {row}")
    return "; ".join(found)


def _not_finite(loss: float, place: str, cause: str) -> str:
    cause = cause or "the data is finite, so look in the model and the loss"
    return f"the loss of the untrained model is {loss} on {place}: {cause}"


def named_tensors(batch: Any, task: Task) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of a batch with what its user calls it."""
    if isinstance(batch, Tensor):
        yield "the batch", batch
    elif isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from ((repr(key), t) for t in leaves(value))
    elif isinstance(batch, (tuple, list)):
        last = len(batch) - 1
        for i, value in enumerate(batch):
            name = (
                f"batch[{i}]" if task.loss is None else "targets" if i == last else f"inputs[{i}]"
            )
            yield from ((name, t) for t in leaves(value))


def leaves(value: Any) -> Iterator[Tensor]:
    """Yield every tensor in nested mappings, tuples and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from leaves(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from leaves(part)


def _first(tensor: Tensor) -> int | None:
    """Return the first row that contains a NaN or Inf; None if there is none."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or bool(
        torch.isfinite(tensor).all()
    ):
        return None
    bad = ~torch.isfinite(tensor)
    rows = bad.reshape(len(bad), -1).any(1) if bad.ndim else bad.reshape(1)
    return int(rows.nonzero()[0])


def _unsaved_places(model: nn.Module) -> Iterator[Place]:
    """Yield the places of a model at which a tensor would not be saved in a checkpoint."""
    own = vars(nn.Module())  # the attributes of every module
    for path, module in model.named_modules():
        for key, value in vars(module).items():
            if key not in own and (value is None or _is_state(value)):
                yield vars(module), key, f"{path}.{key}".lstrip(".")


def _is_state(value: Any) -> bool:
    tensors = value if isinstance(value, (tuple, list)) else (value,)
    return bool(tensors) and all(isinstance(t, Tensor) for t in tensors)


def _warn_of_lost_state(
    task: Task, model: nn.Module, batch: Batch, before: list[tuple[Place, Any]]
) -> None:
    """Warn of tensors that are carried from one batch to the next outside of any buffer.

    A tensor that does not change the loss is ignored.
    """
    known = {(id(holder), key) for (holder, key, _), _ in before}
    new = [((h, k, n), None) for h, k, n in _unsaved_places(model) if (id(h), k) not in known]
    moved = [
        (place, value)
        for place, value in (*before, *new)
        if place[0].get(place[1]) is not value and _is_state(place[0].get(place[1]))
    ]
    if not moved:
        return
    try:
        after = _loss(task, model, batch)
        for (holder, key, _), value in moved:
            holder[key] = value
        fresh = _loss(task, model, batch)
    except TaskError:
        return
    if not math.isclose(after, fresh, rel_tol=1e-6):
        names = ", ".join(name for (_, _, name), _ in moved)
        warnings.warn(
            f"the model carries {names} from batch to batch, and the loss depends on it: a resumed "
            "run would have lost it, and an evaluation overwrites it; make it a buffer, "
            f"self.register_buffer({moved[0][0][1]!r}, ...)",
            stacklevel=5,
        )


def _loss(task: Task, model: nn.Module, batch: Batch) -> float:
    buffers = Buffers(model)
    try:
        with random_state_kept(0), torch.no_grad():
            return float(task.forward(model, batch)[0])
    finally:
        buffers.restore()


def _warn_of_idle_parts(model: nn.Module, parts: list[str]) -> None:
    """Warn of parameters that belong to none of the parts that the first batch yields."""
    trained = {id(p) for part in parts for p in parameters_of(model, part)}
    idle = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in trained]
    if idle:
        more = f" and {len(idle) - 1} more" if len(idle) > 1 else ""
        named = ", ".join(map(repr, dict.fromkeys(parts)))
        warnings.warn(
            f"{idle[0]}{more} belongs to none of the parts that the step yields for the first "
            f"batch ({named}): if that is so for every batch, it is not "
            "trained; yield a part that holds it, or set its requires_grad to False",
            stacklevel=5,
        )
