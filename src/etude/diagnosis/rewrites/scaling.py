"""Standardises what goes into a model, and scales what comes out, by the training data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from etude.diagnosis.rewrites.rewrite import ROOT, Change, Rewrite
from etude.layerwise.parts import kind_of
from etude.tasks.sources.data import Cursor
from etude.tasks.task import Task

SAMPLES = 4096
"""Training samples from which means and deviations are estimated, at most."""


class _Scaling(nn.Module):
    """A model with a fixed mean and deviation, which its checkpoints hold."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)


class StandardisedInput(_Scaling):
    """Standardises the first input of a model: model((x - mean) / std, ...).

    Args:
        model: The model.
        mean: The mean of each feature, shaped like one sample.
        std: Their standard deviations.
    """

    def forward(self, x: Tensor, *others: Any) -> Any:
        """Return the output of the model for the standardised input."""
        return self.model((x - self.mean) / self.std, *others)


class ScaledOutput(_Scaling):
    """Scales the output of a model: mean + std · model(...).

    Args:
        model: The model.
        mean: The mean of each target, shaped like one sample's output.
        std: Their standard deviations.
    """

    def forward(self, *inputs: Any) -> Tensor:
        """Return the scaled output."""
        scaled: Tensor = self.mean + self.std * self.model(*inputs)
        return scaled


def standardise_inputs(task: Task, model: nn.Module | None = None) -> Rewrite:
    """Return a rewrite that standardises the inputs of a task's model.

    Vectors are standardised feature by feature, images channel by channel, which is axis 1. The
    features of a series are its last axis, or axis 1 if the model's first layer convolves. A
    feature that never changes keeps its scale.

    Args:
        task: The task; its training data gives the means and deviations.
        model: The network, which does not change; None builds one.

    >>> x = torch.rand(64, 2) * 1000
    >>> task = Task(nn.Linear(2, 1), (x, x[:, :1]), loss=nn.functional.mse_loss)
    >>> model = standardise_inputs(task).apply(task.build())
    >>> bool((model.std > 100).all())
    True
    """
    name = "inputs standardised"
    inputs, _ = _sample(task)
    if not (isinstance(inputs, Tensor) and inputs.is_floating_point() and inputs.ndim > 1):
        return Rewrite(name, reason="the first input is not a tensor of real numbers")
    mean, std = _moments(inputs, _features_axis(inputs, task.build() if model is None else model))
    change = Change(
        ROOT, lambda old: StandardisedInput(old, mean, std), "model(x)", "model((x - mean) / std)"
    )
    return Rewrite(name, (change,))


def scale_outputs(task: Task) -> Rewrite:
    """Return a rewrite that lets a model predict standardised targets.

    The loss still compares its output with the targets as they are.

    Args:
        task: The task; its training data gives the means and deviations.

    >>> x = torch.rand(64, 1)
    >>> task = Task(nn.Linear(1, 1), (x, 1000 + 500 * x), loss=nn.functional.mse_loss)
    >>> model = scale_outputs(task).apply(task.build())
    >>> bool(model.mean > 1000)
    True
    """
    name = "targets standardised"
    _, target = _sample(task)
    if not (isinstance(target, Tensor) and target.is_floating_point() and target.ndim > 1):
        return Rewrite(name, reason="the targets are no table of real numbers")
    mean, std = _moments(target, 1)
    change = Change(
        ROOT, lambda old: ScaledOutput(old, mean, std), "model(x)", "mean + std * model(x)"
    )
    return Rewrite(name, (change,))


def _sample(task: Task) -> tuple[Any, Any]:
    """Return the first inputs and the targets of some training samples; None if there are none."""
    if task.step is not None:
        return None, None
    size = task.train.check(None)
    pairs = []
    with task.train.untouched():
        stream = task.train.stream(size, 0, Cursor())
        for _ in range(max(1, min(task.train.steps_per_epoch(size) or 1, SAMPLES // size))):
            batch = next(stream)
            if not isinstance(batch, (tuple, list)) or len(batch) < 2:
                return None, None
            pairs.append((batch[0], batch[-1]))
    firsts, lasts = zip(*pairs, strict=True)
    return _joined(firsts), _joined(lasts)


def _joined(parts: tuple[Any, ...]) -> Any:
    tensors = all(isinstance(p, Tensor) and p.shape[1:] == parts[0].shape[1:] for p in parts)
    return torch.cat(parts) if tensors else None


SERIES = 3
"""The number of axes of a batch of series."""


def _features_axis(inputs: Tensor, model: nn.Module) -> int:
    """Return the axis of the features, or of the channels."""
    if inputs.ndim != SERIES:
        return 1
    kinds = (kind_of(module) for module in model.modules())
    first = next((kind for kind in kinds if kind != "other"), "other")
    return 1 if first == "convolution" else inputs.ndim - 1


def _moments(values: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return mean and deviation along an axis, over all the others."""
    over = [one for one in range(values.ndim) if one != axis]
    wide = values.double()
    mean, std = wide.mean(over, keepdim=True)[0], wide.std(over, keepdim=True)[0]
    std = torch.where(std > 0, std, torch.ones_like(std))
    return mean.to(values.dtype).cpu(), std.to(values.dtype).cpu()
