"""Numbers of a task and a recipe before training, without units, on which a verdict stands."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from etude import optimizers
from etude.diagnosis.check.checks import apart
from etude.diagnosis.check.scale import Spread, first_input
from etude.diagnosis.check.subject import Rows, Subject, prepare
from etude.diagnosis.remedies.edits import usual_rate
from etude.diagnosis.verdict.neighbours import Neighbours, neighbours
from etude.diagnosis.watching.track import is_adaptive
from etude.errors import EtudeError
from etude.randomness import random_state_kept
from etude.recipe import CLIPPING, Recipe
from etude.tasks.loss.loss_calls import SQUARES
from etude.tasks.task import Task
from etude.training.clock import batch_size_of, clock_of
from etude.training.regularisation import largest_dropout

NAN = math.nan

COUPLED = ("adam", "nadam", "radam", "adagrad", "rmsprop", "adadelta", "adamax")
"""Optimizers that scale the gradient with the weight decay in it, so that little of it is much."""

FLOOR = 1e-4
"""The smallest ratio of two sizes of weights that is told apart from 0."""


@dataclass(frozen=True)
class Measures:
    """What a task and a recipe show before training; NaN where it is not known.

    Attributes:
        samples: The number of training samples.
        share: The samples of an update over those of the training data.
        batch: The samples of an update.
        epochs: How often the run sees the training data.
        updates: The number of updates.
        spread: log10 of the standard deviation of what the first layer reads.
        shift: log10 of its mean beside the deviation, where it is larger.
        unequal: log10 of the ratio of the standard deviations of its features.
        targets: log10 of the standard deviation of numbers that a square or absolute error
            compares, over the size of the untrained outputs or 1.
        weights: log10 of the size of a layer's weights over that of weights that the layer draws
            itself, where it is furthest from 0.
        layer: The layer of `weights`.
        rate: log10 of the rate over the one at which a search for this optimizer begins.
        decay: The rate times the weight decay, summed over the run.
        penalty: The weight decay, where an adaptive optimizer adds it to the gradient.
        drop: The largest probability of a dropout.
        within: How well validation samples are told from the other validation samples that are
            nearest to them: 0 is chance, 1 is perfect.
        across: How well from the nearest training samples.
        adaptive: Whether the optimizer scales its updates by the gradient's own size.
        clipped: Whether gradients are clipped.
        optimizer: The optimizer's name.
    """

    samples: float = NAN
    share: float = NAN
    batch: float = NAN
    epochs: float = NAN
    updates: float = NAN
    spread: float = NAN
    shift: float = NAN
    unequal: float = NAN
    targets: float = NAN
    weights: float = NAN
    layer: str = ""
    rate: float = NAN
    decay: float = NAN
    penalty: float = NAN
    drop: float = NAN
    within: float = NAN
    across: float = NAN
    adaptive: bool = False
    clipped: bool = False
    optimizer: str = ""


def measures(task: Task, recipe: Recipe, device: str | torch.device | None = None) -> Measures:
    """Measure a task and a recipe; what cannot be measured is NaN.

    Cost: one forward pass, the network built once more, and the distances of at most 1,000
    training and 500 validation samples.

    Args:
        task: The task, which is not changed.
        recipe: The recipe.
        device: Where to compute.
    """
    with random_state_kept():
        try:
            subject = prepare(apart(task), recipe, device)
        except EtudeError:
            return Measures()
        return _measured(subject)


def _measured(subject: Subject) -> Measures:
    recipe, task = subject.recipe, subject.task
    batch = batch_size_of(task, recipe) * recipe.accumulate
    samples = float(task.train.samples or NAN)
    updates = clock_of(task, recipe).horizon
    spread, shift, unequal = _inputs(subject)
    weights, layer = _weights(subject)
    known: Neighbours = neighbours(*_pairs(subject.train), *_pairs(subject.valid))
    spec = optimizers.get(recipe.optimizer.name)
    decays = "weight_decay" in spec.hyperparameters
    decay = float(recipe.optimizer.value("weight_decay") or 0.0) if decays else 0.0
    return Measures(
        samples=samples,
        share=batch / samples,
        batch=float(batch),
        epochs=batch * updates / samples,
        updates=float(updates),
        spread=spread,
        shift=shift,
        unequal=unequal,
        targets=_targets(subject),
        weights=weights,
        layer=layer,
        rate=math.log10(recipe.lr / usual_rate(task, recipe).lr),
        decay=(decay + float(recipe.l2 or 0.0)) * recipe.lr * updates,
        penalty=decay if recipe.optimizer.name in COUPLED else 0.0,
        drop=largest_dropout(subject.run.model),
        within=known.within,
        across=known.across,
        adaptive=is_adaptive([subject.run.optimizer]),
        clipped=any(getattr(recipe, name) is not None for name in CLIPPING),
        optimizer=recipe.optimizer.name,
    )


def _inputs(subject: Subject) -> tuple[float, float, float]:
    """Return the scale of what the first layer reads, as three logarithms."""
    if subject.error is not None:
        return NAN, NAN, NAN
    found = first_input(subject)
    if found is None or found.values is None or found.normalises or found.frozen:
        return NAN, NAN, NAN
    scale = Spread.of(found.values, found.axis)
    if scale is None:
        return NAN, NAN, NAN
    flat = found.values.ndim == 2
    return (
        math.log10(max(scale.spread, FLOOR)),
        math.log10(max(scale.mean, 1.0)) - max(0.0, math.log10(max(scale.spread, FLOOR))),
        math.log10(scale.high / scale.low) if flat else 0.0,
    )


def _targets(subject: Subject) -> float:
    """Return log10 of the size of targets over that of the untrained outputs, or 1."""
    call = subject.call
    if call is None or call.name not in SQUARES:
        return NAN
    y, scores = (t.detach().double() for t in (call.target, call.scores))
    size = float(y.square().mean().sqrt())
    own = max(1.0, float(scores.square().mean().sqrt()))
    return math.log10(max(size, FLOOR) / own) if math.isfinite(size + own) else NAN


def _weights(subject: Subject) -> tuple[float, str]:
    """Return how far a layer's weights are from the size that the layer draws, and which layer."""
    fresh, worst, layer = subject.network(), 0.0, ""
    for name, module in fresh.named_modules():
        reset = getattr(module, "reset_parameters", None)
        own = [p for p in module.parameters(recurse=False) if p.ndim > 1 and p.requires_grad]
        if not callable(reset) or not own or isinstance(module, nn.MultiheadAttention):
            continue
        before = [_size(p) for p in own]
        with torch.no_grad():
            reset()
        for size, p in zip(before, own, strict=True):
            usual = _size(p)
            if usual > 0 and math.isfinite(size):
                off = math.log10(max(size / usual, FLOOR))
                if abs(off) > abs(worst):
                    worst, layer = off, name
    return worst, layer


def _size(parameter: Tensor) -> float:
    return float(parameter.detach().double().square().mean().sqrt())


def _pairs(rows: Rows) -> tuple[Tensor | None, Tensor | None]:
    """Return the inputs of rows as one matrix, and the targets; None where they are not known."""
    if rows.targets is None:
        return None, None
    given = list(rows.inputs.values()) or [rows.targets]  # an autoencoder's target is its input
    parts = [t.reshape(len(t), -1) for t in given if t.ndim]
    if not parts or len({len(p) for p in parts}) > 1:
        return None, None
    if not all(p.is_floating_point() for p in parts):
        return None, None
    return torch.cat(parts, 1).float(), rows.targets
