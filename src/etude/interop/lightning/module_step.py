"""`training_step` and `validation_step` of a module as the step of a task."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import TaskError, kind_of
from etude.interop.lightning.module_data import PlacedBatch
from etude.interop.lightning.stand_in import LoggedValues, StandIn, attached
from etude.randomness import random_state_kept
from etude.tasks.collect import WholeMetric
from etude.tasks.direction import direction_of
from etude.tasks.sources.data import rows

Pair = tuple[Any, Any]


class ModuleStep:
    """Calls the step of a module, and returns its loss.

    Lightning adds up the losses of an update's batches and divides by `accumulate_grad_batches`,
    also where the last update of an epoch has fewer: with k of n batches, weights of n/k give that.
    In an evaluation a batch weighs by its samples, or by the `batch_size` that was logged with it.

    Args:
        stand_in: What the module sees as its Trainer.
        updates: The number of batches of an update.
        per_epoch: The number of updates of an epoch; None if unknown.
        hooks: Has `on_before_batch_transfer` and `on_after_batch_transfer`; None is the module.
        still: The names of the parts that are in evaluation mode while the module trains, as a fit
            leaves them.

    Attributes:
        valid_loss: The name under which `validation_step` logs its loss; None if it returns it.
        metric: The name of what is logged besides it, and kept for the task's metric.
    """

    def __init__(
        self,
        stand_in: StandIn,
        updates: int,
        per_epoch: int | None,
        hooks: Any = None,
        still: Sequence[str] = (),
    ) -> None:
        self.stand_in, self.updates, self.per_epoch = stand_in, updates, per_epoch
        self.hooks, self.still = hooks, tuple(still)
        self.valid_loss: str | None = None
        self.metric: str | None = None
        self._kept: tuple[PlacedBatch, Pair] | None = None

    def __call__(self, model: nn.Module, placed: PlacedBatch) -> tuple[Any, float]:
        """Return the loss of a batch, and its weight; of an evaluation, the sum and the weight."""
        if model.training:
            for name in self.still:  # the part alone: those inside of it have modes of their own
                model.get_submodule(name).training = False
            returned, _ = self.run(model, placed)
            return _loss_in(returned, "training_step"), self._weight(placed)
        if self.metric is not None:
            _reset_metrics(model)
        returned, logged = self.run(model, placed)
        count = rows(placed.batch)
        if self.metric is not None:
            self._kept = (placed, _piece(self.metric, logged, count))
        given: int | None = None
        if self.valid_loss is None:
            loss = _loss_in(returned, "validation_step")
        else:
            loss, given = _logged(self.valid_loss, logged)
        weight = float(count if given is None else given)
        return torch.as_tensor(loss) * weight, weight

    def _weight(self, placed: PlacedBatch) -> float:
        first = placed.number - placed.number % self.updates
        count = self.updates if placed.last is None else placed.last + 1 - first
        return self.updates / max(1, min(self.updates, count))

    def run(self, model: Any, placed: PlacedBatch) -> tuple[Any, LoggedValues]:
        """Call the step that fits the model's mode; return what it returns, and what it logs."""
        name = "training_step" if model.training else "validation_step"
        step = getattr(model, name)
        seen = self.stand_in
        updates = placed.number // self.updates
        vars(seen).update(
            training=model.training,
            validating=not model.training,
            is_last_batch=placed.number == placed.last,
            current_epoch=placed.epoch if model.training else seen.current_epoch,
            global_step=placed.epoch * self.per_epoch + updates
            if model.training and self.per_epoch is not None
            else seen.global_step,
        )
        with attached(model, seen) as logged:
            hooks = self.hooks or model
            batch = hooks.on_before_batch_transfer(placed.batch, 0)
            device = next((p.device for p in model.parameters()), torch.device("cpu"))
            if device.type != "cpu":  # also what the hook has made
                batch = hooks.transfer_batch_to_device(batch, device, 0)
            batch = hooks.on_after_batch_transfer(batch, 0)
            return step(**_arguments(step, batch, placed.number)), logged

    def outputs(self, model: nn.Module, placed: PlacedBatch) -> Pair:
        """Return what was logged under the metric's name for a batch, and its weight."""
        if self._kept is None or self._kept[0] is not placed:
            self(model, placed)
        assert self._kept is not None
        piece, self._kept = self._kept[1], None
        return piece

    def identity_parts(self) -> tuple[Any, ...]:
        """Return what tells this step from another; the steps themselves are the model's."""
        own = (self.still,) if self.still else ()
        return self.valid_loss, self.metric, self.updates, *own


def _arguments(step: Callable[..., Any], batch: Any, index: int) -> dict[str, Any]:
    """Return the arguments of a step, which takes a batch and, if it likes, its place."""
    names = list(inspect.signature(step).parameters)
    if "dataloader_iter" in names:
        raise TaskError(
            "the step takes dataloader_iter, an iterator of its own: let it take (batch, batch_idx)"
        )
    found = {names[0]: batch} if names else {}
    if len(names) > 1:
        found["batch_idx" if "batch_idx" in names else names[1]] = index
    if "dataloader_idx" in names:
        found["dataloader_idx"] = 0
    return found


def _loss_in(returned: Any, step: str) -> Tensor:
    loss = returned
    if isinstance(returned, Mapping):
        if "loss" not in returned:
            raise TaskError(
                f"{step} returned a table without 'loss', but {', '.join(map(repr, returned))}: "
                "return the loss, or a table with 'loss'"
            )
        loss = returned["loss"]
    if isinstance(loss, Tensor):
        return loss
    if loss is None:
        raise TaskError(
            f"{step} returned nothing: return the loss, a scalar tensor, or a table with 'loss'"
        )
    raise TaskError(f"{step} returned {kind_of(loss)}: return the loss, a scalar tensor")


def _logged(name: str, logged: LoggedValues) -> tuple[Any, int | None]:
    if name not in logged.values:
        raise TaskError(
            f"validation_step logged no {name!r}, by which rates are compared, but "
            f"{', '.join(map(repr, logged.values)) or 'nothing'}"
        )
    return logged.values[name]


def _reset_metrics(model: nn.Module) -> None:
    for module in model.modules():
        if _is_metric(module):
            module.reset()  # type: ignore[operator]


def _is_metric(value: Any) -> bool:
    return all(callable(getattr(value, part, None)) for part in ("update", "compute", "reset"))


class _MetricState:
    """The state of a metric of torchmetrics after one batch."""

    def __init__(self, metric: Any) -> None:
        self.metric = copy.deepcopy(metric).cpu()


def _piece(name: str, logged: LoggedValues, count: int) -> Pair:
    value, weight = _logged(name, logged)
    weighed = torch.tensor([float(count if weight is None else weight)])
    if _is_metric(value):
        return _MetricState(value), weighed
    return torch.as_tensor(value, dtype=torch.float32).detach().reshape(1).cpu(), weighed


def _whole(values: Any, weights: Any) -> float:
    """Return the value over all batches: of numbers the mean, of metrics that of their states."""
    if isinstance(values, Tensor):
        return float((values.double() * weights.double()).sum() / weights.double().sum())
    states = values if isinstance(values, list) else [values]
    whole = copy.deepcopy(states[0].metric)
    for state in states[1:]:
        whole.merge_state(copy.deepcopy(state.metric))
    return float(whole.compute())


def _values(values: Any) -> Tensor:
    return torch.as_tensor(values).double()


def _sum(values: Any, weights: Any) -> float:
    """Return the sum of the values of all batches."""
    return float(_values(values).sum())


def _max(values: Any, weights: Any) -> float:
    """Return the largest value of a batch."""
    return float(_values(values).max())


def _min(values: Any, weights: Any) -> float:
    """Return the smallest value of a batch."""
    return float(_values(values).min())


_REDUCED: Mapping[str, Callable[[Any, Any], float]] = {
    "mean": _whole,
    "sum": _sum,
    "max": _max,
    "min": _min,
}
"""How the values of batches become one, by the name of `reduce_fx`."""


def _reduction(name: str, logged: LoggedValues) -> Callable[[Any, Any], float]:
    """Return how the values of batches that are logged under a name become one.

    Raises:
        TaskError: If the function is unknown.
    """
    if _is_metric(logged.values[name][0]):
        return _whole
    told = logged.reductions[name]
    if told not in _REDUCED:
        raise TaskError(
            f"validation_step logs {name!r} with reduce_fx={told or 'a function'}: give one of "
            f"{', '.join(map(repr, _REDUCED))}, or metric= another name"
        )
    return _REDUCED[told]


def learn_names(
    step: ModuleStep,
    network: nn.Module,
    batch: PlacedBatch,
    metric: str | None,
    monitors: list[str],
) -> WholeMetric | None:
    """Run `validation_step` on one batch, and set which of what it gives is the loss and metric.

    The loss is what the step returns, else what it logs: under a monitor's name with 'loss' in it,
    'val_loss', or the first name with 'loss'.

    Args:
        step: The step.
        network: A copy of the module, which may change.
        batch: A batch of the validation data.
        metric: The name of the metric; None takes the first monitor that is not the loss, else the
            first other name.
        monitors: What the callbacks of the Trainer monitor.

    Raises:
        TaskError: If the step gives no loss, or logs no such metric.
    """
    network.eval()
    with random_state_kept(0), torch.no_grad():
        returned, logged = step.run(network, batch)
    names = list(logged.values)
    if not isinstance(returned, Tensor) and not (
        isinstance(returned, Mapping) and "loss" in returned
    ):
        wanted = [*(m for m in monitors if "loss" in m), "val_loss", "valid_loss"]
        found = [name for name in (*wanted, *names) if name in logged.values and "loss" in name]
        if not found:
            raise TaskError(
                "validation_step returned no loss and logged "
                f"{', '.join(map(repr, names)) or 'nothing'}, so that rates cannot be compared: "
                "return the loss, or log it with self.log('val_loss', loss)"
            )
        step.valid_loss = found[0]
        if _reduction(found[0], logged) is not _whole:
            raise TaskError(
                f"validation_step logs {found[0]!r}, by which rates are compared, with "
                f"reduce_fx={logged.reductions[found[0]]!r}: give 'mean', or return the loss"
            )
    if metric is not None and metric not in names:
        raise TaskError(
            f"metric={metric!r}: validation_step logs {', '.join(map(repr, names)) or 'nothing'}"
        )
    others = [name for name in names if name != step.valid_loss and "loss" not in name]
    chosen = metric or next((m for m in monitors if m in others), next(iter(others), None))
    if chosen is None:
        return None
    step.metric = chosen
    value = logged.values[chosen][0]
    told = getattr(value, "higher_is_better", None) if _is_metric(value) else None
    better = direction_of(chosen) if told is None else bool(told)
    return WholeMetric(chosen, _reduction(chosen, logged), better, outputs=step.outputs)
