"""The loss of a Trainer as a step, and its `compute_metrics` as a metric."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import BadValueError, TaskError, kind_of
from etude.interop._peer import load
from etude.interop.transformers.trainer_data import CountedBatch
from etude.randomness import random_state_kept
from etude.tasks.collect import WholeMetric
from etude.tasks.direction import direction_of
from etude.tasks.sources.data import rows
from etude.training.state.snapshot import modes_kept


class TrainerStep:
    """Computes the loss of a batch as a Trainer does, together with its weight.

    The Trainer adds up the losses of an update's batches where they were divided by the number of
    items (tokens, or labels) of the whole update, and takes their mean where they were not. With k
    batches, weights of 1/k, which add up to 1, give the sum, and weights of 1 the mean. In an
    evaluation a batch weighs by its items, or by its samples if they are not counted.

    Args:
        twin: A copy of the Trainer that may be changed; each call sets its model.

    Attributes:
        predicts: Whether an evaluation keeps logits and labels for a metric.
    """

    def __init__(self, twin: Any) -> None:
        self.twin = twin
        self.predicts = False
        self._kept: tuple[CountedBatch, Any, Any] | None = None

    def __call__(self, model: nn.Module, batch: CountedBatch) -> tuple[Tensor, float]:
        """Return the loss of a batch, and its weight; of an evaluation, the sum and the weight."""
        inputs, count, twin = dict(batch.inputs), batch.items, self.twin
        twin.model = twin.model_wrapped = model
        try:
            if torch.is_grad_enabled():
                loss = twin.compute_loss(model, inputs, num_items_in_batch=count)
            else:
                loss = self._evaluated(model, batch, inputs)
        finally:  # or the memory of a paused run would be held
            twin.model = twin.model_wrapped = None
        if isinstance(loss, tuple):
            loss = loss[0]
        if not isinstance(loss, Tensor):
            raise TaskError(
                f"compute_loss of {type(twin).__name__} returned {kind_of(loss)}: it must "
                "return the loss, a scalar tensor"
            )
        if not torch.is_grad_enabled():
            weight = float(rows(batch.inputs) if count is None else count)
            return loss * weight, weight
        if not self._is_scaled(count):
            return loss, 1.0
        return loss, 0.0 if count is not None and float(count) == 0 else 1 / batch.batches

    def count(self, batches: list[Any]) -> Any:
        """Return the number of items in the batches of an update, as the Trainer counts them."""
        return self.twin._get_num_items_in_batch(batches, self.twin.args.device)

    def _is_scaled(self, count: Any) -> bool:
        """Return whether the loss was divided by the count."""
        told = getattr(self.twin, "loss_is_scaled_for_ga", None)
        if told is not None:
            return bool(told)
        accepts = self.twin.model_accepts_loss_kwargs and count is not None
        return accepts or self.twin.compute_loss_func is not None

    def _evaluated(self, model: nn.Module, batch: CountedBatch, inputs: dict[str, Any]) -> Any:
        loss, logits, labels = self.twin.prediction_step(
            model, inputs, prediction_loss_only=not self.predicts
        )
        if loss is None:
            wanted = ", ".join(map(repr, self.twin.label_names)) or "labels"
            raise TaskError(
                f"the evaluation data of the Trainer has no {wanted}, so it gives no loss: add the "
                "labels to eval_dataset, or name them in TrainingArguments(label_names=[...])"
            )
        self._kept = (batch, logits, labels)
        return loss

    def outputs(self, model: nn.Module, batch: CountedBatch) -> tuple[_Gathered, _Gathered]:
        """Return logits and labels of a batch, whose loss was just computed."""
        if self._kept is None or self._kept[0] is not batch or not self.predicts:
            self.predicts = True
            with torch.no_grad():
                self(model, batch)
        assert self._kept is not None
        _, logits, labels = self._kept
        self._kept = None
        reduce = self.twin.preprocess_logits_for_metrics
        if reduce is not None and logits is not None:
            logits = reduce(logits, labels)
        return _Gathered(_on_cpu(logits)), _Gathered(_on_cpu(labels))

    def identity_parts(self) -> tuple[Any, ...]:
        """Return what tells this step from another, for the digest of a task."""
        twin = self.twin
        given = twin.args.label_smoothing_factor
        return type(twin).compute_loss, twin.compute_loss_func, given


class _Gathered:
    """Logits or labels of a batch, which are joined with padding and not as plain tensors."""

    def __init__(self, value: Any) -> None:
        self.value = value


def metric_of(
    trainer: Any, step: TrainerStep, network: nn.Module, name: str | None, probe: CountedBatch
) -> WholeMetric | None:
    """Return `compute_metrics` of a Trainer as a metric; None if it has none.

    Args:
        trainer: The Trainer.
        step: Its step, which gathers logits and labels from now on.
        network: A copy of its model.
        name: Which of the values that it returns; None takes `metric_for_best_model`, else the
            first one.
        probe: A batch of the evaluation data, from which the names are learned.
    """
    compute = trainer.compute_metrics
    if compute is None:
        if name is None:
            return None
        raise TaskError(f"metric={name!r}, but the Trainer has no compute_metrics: give it one")
    best = trainer.args.metric_for_best_model
    asked = name or (best if best and not best.endswith("loss") else None)
    if asked is None:
        try:
            asked = _first_name(compute, step, network, probe)
        except Exception as error:  # noqa: BLE001  (the user's function may need more than a batch)
            warnings.warn(
                f"compute_metrics failed on one batch ({error}), so that the names of its values "
                "are unknown: give metric='...' to measure one; the loss is measured alone",
                stacklevel=4,
            )
            step.predicts = False
            return None
        if asked is None:  # it returns losses alone, and a loss is measured anyhow
            step.predicts = False
            return None
    step.predicts = True
    asked = asked.removeprefix("eval_")
    told = trainer.args.greater_is_better
    matches = best is not None and best.removeprefix("eval_") == asked
    better = direction_of(asked)
    if matches and told is not None:
        if better is False and told:
            raise BadValueError(
                f"greater_is_better=True for metric_for_best_model={best!r}, which is better when "
                "smaller; TrainingArguments takes True where nothing is given: give "
                "greater_is_better=False, or name a negated metric so, such as 'neg_rmse'"
            )
        better = bool(told)
    return WholeMetric(asked, _Computed(compute, asked), better, outputs=step.outputs)


def _first_name(
    compute: Callable[..., Any], step: TrainerStep, network: nn.Module, probe: CountedBatch
) -> str | None:
    with random_state_kept(0), modes_kept(network):
        network.eval()
        found = _values(compute, *step.outputs(network, probe))
    return next((key for key in found if not key.endswith("loss")), None)


class _Computed:
    """Calls `compute_metrics` on what was gathered."""

    def __init__(self, compute: Callable[..., Any], name: str) -> None:
        self.compute, self.name = compute, name

    def __call__(self, outputs: Any, targets: Any) -> float:
        found = _values(self.compute, outputs, targets)
        for key in (self.name, f"eval_{self.name}"):
            if key in found:
                return float(found[key])
        raise TaskError(
            f"compute_metrics returned no {self.name!r}, but {', '.join(map(repr, found))}: give "
            "metric= one of them"
        )


def _values(compute: Callable[..., Any], outputs: Any, targets: Any) -> Mapping[str, Any]:
    tools = load("transformers.trainer_pt_utils")
    peer = load("transformers")
    joined = []
    for gathered in (outputs, targets):
        pieces = [one.value for one in (gathered if isinstance(gathered, list) else [gathered])]
        whole = pieces[0]
        for piece in pieces[1:]:
            whole = tools.nested_concat(whole, piece, padding_index=-100)
        joined.append(None if whole is None else tools.nested_numpify(whole))
    found: Mapping[str, Any] = compute(
        peer.EvalPrediction(predictions=joined[0], label_ids=joined[1])
    )
    return found


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: _on_cpu(part) for key, part in value.items()}
    return type(value)(map(_on_cpu, value)) if isinstance(value, (tuple, list)) else value
