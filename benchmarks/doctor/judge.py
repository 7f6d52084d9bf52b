"""How well a trained network does on the validation data, in units of a constant output's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.doctor.setup import Setup

WORST = 10.0
"""What a network that gives no finite output is counted as."""


@dataclass(frozen=True)
class Score:
    """Error and loss on the validation data: 0 is perfect, 1 is what the best constant gets.

    Attributes:
        error: Share of wrong answers, squared error, or energy distance.
        loss: Cross-entropy for classes, else the same as `error`.
    """

    error: float
    loss: float

    def by(self, what: str) -> float:
        """Return the error or the loss by name."""
        return self.loss if what == "loss" else self.error


@torch.no_grad()
def judged(model: nn.Module, setup: Setup, healthy: Setup) -> Score:
    """Return a network's score on the validation data of a setup.

    Args:
        model: The trained network; it is put into evaluation mode.
        setup: What it was trained by.
        healthy: The program as it is, whose targets say what a constant gets.
    """
    model.eval()
    *inputs, target = setup.valid
    if setup.kind == "points":
        noise = torch.randn(400, model.noise)  # type: ignore[call-overload]
        found = model(noise)
        middle = setup.train[0].mean(0).expand(400, -1)
        ratio = distance(found, inputs[0]) / distance(middle, inputs[0])
        return Score(bounded(ratio), bounded(ratio))
    output = model(*inputs)
    if setup.kind == "values":
        error = float(((output - target) ** 2).mean() / target.var())
        return Score(bounded(error), bounded(error))
    known = healthy.train[-1]
    if setup.kind == "binary":
        return Score(*binary(output, setup.decide(output), target, known))
    if output.ndim == 3:
        output, target, known = output.flatten(0, 1), target.flatten(), known.flatten()
    return Score(*of_classes(output, setup.decide(output), target, known))


def bounded(value: float) -> float:
    """Return a value up to the worst; the worst where it is no number."""
    return min(value, WORST) if math.isfinite(value) else WORST


def of_classes(
    output: Tensor, logits: Tensor, target: Tensor, known: Tensor
) -> tuple[float, float]:
    """Return error and loss of logits against a constant fitted to the training labels."""
    shares = torch.bincount(known, minlength=output.shape[1]).float() / len(known)
    wrong = float((logits.argmax(1) != target).float().mean())
    constant = float((shares.argmax() != target).float().mean())
    level = float(F.nll_loss(shares.clamp_min(1e-3).log().expand(len(target), -1), target))
    finite = bool(output.isfinite().all())
    error = wrong / constant if finite else WORST
    return bounded(error), bounded(float(F.cross_entropy(output, target)) / level)


def binary(output: Tensor, logits: Tensor, target: Tensor, known: Tensor) -> tuple[float, float]:
    """Return error and loss of one logit against a constant fitted to the training labels."""
    share = float(known.mean())
    wrong = float(((logits > 0).float() != target).float().mean())
    constant = float((target != float(share > 0.5)).float().mean())
    level = float(
        F.binary_cross_entropy_with_logits(
            torch.full_like(target, math.log(share / (1 - share))), target
        )
    )
    error = wrong / constant if bool(output.isfinite().all()) else WORST
    loss = float(F.binary_cross_entropy_with_logits(output, target)) / level
    return bounded(error), bounded(loss)


def distance(one: Tensor, other: Tensor) -> float:
    """Return the energy distance of two samples of points, 2 E|x−y| − E|x−x'| − E|y−y'|.

    Source: Székely and Rizzo 2013.
    """
    across = torch.cdist(one, other).mean()
    return float(2 * across - torch.cdist(one, one).mean() - torch.cdist(other, other).mean())
