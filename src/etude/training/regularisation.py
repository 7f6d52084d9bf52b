"""Regularisation: penalties, dropout and label smoothing, which reduce overfitting."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import activation
from torch.nn.utils.rnn import PackedSequence

from etude.errors import TaskError
from etude.layerwise.rates import Rates
from etude.recipe import Recipe
from etude.tasks.loss.losses import symbol_cross_entropy
from etude.tasks.task import Task
from etude.torch_internals import DROPOUTS, foreach

NOT_UNITS = {"MultiheadAttention", "Softmax", "Softmax2d", "LogSoftmax", "Softmin"}
UNITS: tuple[type[nn.Module], ...] = (
    *(getattr(activation, name) for name in activation.__all__ if name not in NOT_UNITS),
    nn.RNNBase,
)
"""Modules whose outputs are activations: every activation function, and recurrent layers."""


class Penalty:
    """The penalty that is added to the loss, on the size of the weights and the activations.

        l1 Σ|w| + (l2 / 2) Σ w² + activity Σ_layers mean(a²)

    w runs over weight matrices, kernels and embedding tables, but not over biases, normalisations
    or tables with sparse gradients (where every row would get a gradient), nor over weights that
    are frozen in the update (their multiplier of the rate is 0). a runs over the outputs of
    activation functions and recurrent layers.

    Args:
        model: The network.
        recipe: The recipe with l1, l2 and activity.
        rates: The multipliers of the rate, which determine what is frozen.

    Raises:
        TaskError: If activity is penalised and the model has no activation module.

    Source: Goodfellow, Bengio & Courville 2016, sections 7.1 and 7.10.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, rates: Rates | None = None) -> None:
        self.l1, self.l2 = recipe.l1 or 0.0, recipe.l2 or 0.0
        self.activity = recipe.activity or 0.0
        lazy = {id(m.weight) for m in model.modules() if getattr(m, "sparse", False)}
        self.weights: list[Tensor] = [
            p for p in model.parameters() if p.requires_grad and p.ndim > 1 and id(p) not in lazy
        ]
        self.units = [m for m in model.modules() if isinstance(m, UNITS)] if self.activity else []
        if self.activity and not self.units:
            raise TaskError(
                f"activity={self.activity:g}: the model has no activation module; use modules "
                "such as nn.ReLU() in place of functions, or leave activity out"
            )
        self._seen: list[Tensor] = []
        self.rates = rates

    def __bool__(self) -> bool:
        return bool(self.l1 or self.l2 or self.activity)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record the mean square of every activation of the forward pass in the block."""
        self._seen.clear()
        with ExitStack() as stack:
            for unit in self.units:
                stack.callback(unit.register_forward_hook(self._record_activation).remove)
            yield

    def _record_activation(self, module: nn.Module, inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        values = first.data if isinstance(first, PackedSequence) else first
        self._seen.append(values.float().square().mean())

    def value(self) -> Tensor:
        """Return the penalty, after a forward pass whose activations were recorded."""
        terms: list[Tensor] = []
        weights = self.weights
        if self.rates is not None and self.rates.frozen_now:
            weights = self.rates.frozen_now.trained(weights)
        if self.weights and not weights and (self.l1 or self.l2):
            terms.append(torch.zeros((), device=next(iter(self.weights)).device))
        if self.l1 and weights:
            terms.append(self.l1 * torch.stack(foreach.norm(weights, 1)).sum())
        if self.l2 and weights:
            squares = [weight.square().sum() for weight in weights]
            terms.append(self.l2 / 2 * torch.stack(squares).sum())
        if self._seen:
            terms.append(self.activity * torch.stack(self._seen).sum())
            self._seen.clear()
        return torch.stack(terms).sum()


def set_dropout(model: nn.Module, share: float) -> None:
    """Set the probability of every dropout of a model.

    Raises:
        TaskError: If the model has no dropout.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))
    >>> set_dropout(net, 0.5)
    >>> net[1].p
    0.5
    """
    found = list(_dropouts(model))
    for module, attribute in found:
        setattr(module, attribute, share)
    if not found:
        raise TaskError(
            f"dropout={share:g}: the model has no dropout to set; build it with one (every "
            "bundled task takes the option dropout), or leave dropout out of the recipe"
        )


def largest_dropout(model: nn.Module) -> float:
    """Return the largest probability of the dropouts of a model; 0 without any.

    >>> largest_dropout(nn.Sequential(nn.Dropout(0.1), nn.Linear(2, 2), nn.Dropout(0.5)))
    0.5
    """
    return max((float(getattr(*one)) for one in _dropouts(model)), default=0.0)


def _dropouts(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yield the modules of a model that drop units, and the name of their probability."""
    for module in model.modules():
        if isinstance(module, DROPOUTS):
            yield module, "p"
        elif isinstance(module, nn.MultiheadAttention) or (
            isinstance(module, nn.RNNBase) and module.num_layers > 1
        ):
            yield module, "dropout"


def smoothed(task: Task, share: float) -> Task:
    """Return the task with label smoothing in its loss.

        (1 - ε) · CE(z, y) + ε · mean over classes k of CE(z, k)

    Args:
        task: A task whose loss is a cross-entropy.
        share: ε, in (0, 1).

    Raises:
        TaskError: If the task has another loss.

    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7; as torch's `label_smoothing`.
    """
    return replace(task, loss=_smoothed(task.loss, share))


def _smoothed(loss: Callable[..., Tensor] | None, share: float) -> Callable[..., Tensor]:
    if isinstance(loss, nn.CrossEntropyLoss):
        copied = copy.copy(loss)
        copied.label_smoothing = share
        return copied
    inner = loss.func if isinstance(loss, functools.partial) else loss
    if inner is F.cross_entropy or inner is symbol_cross_entropy:
        assert loss is not None
        return functools.partial(loss, label_smoothing=share)
    name = getattr(loss, "__name__", type(loss).__name__) if loss is not None else "step="
    raise TaskError(
        f"label_smoothing={share:g} needs a cross-entropy, and the task's loss is {name}: use "
        "torch.nn.functional.cross_entropy, or leave label_smoothing out"
    )
