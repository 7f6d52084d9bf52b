"""The loss before training, against what chance gives."""

from __future__ import annotations

import math

from torch import Tensor

from etude.diagnosis.check.labels import CLASSES, LOGISTIC
from etude.diagnosis.check.outputs import made_by
from etude.diagnosis.check.scale import Spread, first_input
from etude.diagnosis.check.subject import Look, Subject
from etude.diagnosis.finding import Cause, Finding
from etude.tasks.loss.loss_calls import SQUARES
from etude.tasks.metrics import IGNORED

TIMES, MORE = 3.0, 1.5
"""A loss of classes is far above chance if it is above this many times chance, and above chance
plus this many nats: then the logits differ by several units before anything was learned."""

LAST = 6
"""The number of losses that tell whether the first updates lower it."""

FAR = 10.0
"""Outputs are far too large if they are this many times the larger of 1 and the targets."""


def initial_loss(subject: Subject) -> Look:
    """Compare the loss of the untrained network with that of answers by chance.

        chance = log C for C classes, log 2 for logistic losses, and the variance of the targets
        for squares

    A loss far above chance comes from weights that are too large, where the inputs are scaled. It
    is no finding if the first updates take it down, or if it is below chance, as that of a network
    trained before.

    Cost: one forward pass; the 24 updates that `inputs_used` needs too.
    """
    call, loss = subject.call, subject.loss
    if loss is None or call is None:
        why = "none of torch's losses is called" if subject.error is None else "it has none"
        return Look(unseen=f"the loss before training against chance: {why}")
    if not math.isfinite(loss):
        return Look(unseen=f"the loss before training against chance: it is {loss}")
    if call.name in (*CLASSES, *LOGISTIC):
        chance = chance_of_classes(call.name, call.scores)
        seen = f"the loss before training, {loss:.4g}, against chance, {chance:.4g}"
        if (
            made_by(call.scores) not in ("", "log_softmax")
            or call.options.get("weight") is not None
        ):
            return Look(seen=seen)
        own = _own_loss(call.name, call.scores, call.target)
        if own is None or own <= max(TIMES * chance, chance + MORE):
            return Look(seen=seen)
        if falls(subject, TIMES * chance) or is_unscaled(subject):
            return Look(seen=seen)
        spread = float(call.scores.detach().double().std())
        return Look((_too_large(own, chance, spread),), seen)
    if call.name in SQUARES:
        scores, y = (t.detach().double() for t in (call.scores, call.target))
        variance = float(y.var(correction=0)) if y.numel() > 1 else 0.0
        seen = f"the loss before training, {loss:.4g}, beside the targets' variance {variance:.4g}"
        size, wanted = (float(t.square().mean().sqrt()) for t in (scores, y))
        if size <= FAR * max(1.0, wanted) or falls(subject, FAR * variance):
            return Look(seen=seen)
        if is_unscaled(subject):
            return Look(seen=seen)
        return Look(
            (
                Finding(
                    Cause.BAD_INITIALISATION,
                    evidence={"outputs": size, "targets": wanted, "loss": loss},
                    text=f"Before training the outputs are of size {size:.3g}, and the targets of "
                    f"size {wanted:.3g}: the loss is {loss:.4g}, and the targets' variance "
                    f"{variance:.4g}.",
                    fix="Draw smaller weights; initialisation = 'he_normal' or 'xavier_normal' "
                    "keeps the scale of the inputs.",
                ),
            ),
            seen,
        )
    return Look(unseen=f"the loss before training against chance: unknown for {call.name}")


def chance_of_classes(name: str, scores: Tensor) -> float:
    """Return log C, the loss of equal probabilities: C = 2 for logistic losses.

    >>> import torch
    >>> round(chance_of_classes("cross_entropy", torch.zeros(4, 10)), 4)
    2.3026
    """
    return math.log(2 if name in LOGISTIC else max(2, scores.shape[1 if scores.ndim > 1 else 0]))


def _own_loss(name: str, scores: Tensor, target: Tensor) -> float | None:
    """Return the mean of a loss of classes, without what else a task's loss may add to it."""
    from torch.nn import functional

    if name in CLASSES:
        if target.is_floating_point() or not bool((target != IGNORED).any()):
            return None
        scores = scores.detach().double()
        given = scores if name == "cross_entropy" else scores.log_softmax(1)
        try:
            return float(functional.cross_entropy(given, target))
        except (IndexError, RuntimeError):
            return None
    if name == "binary_cross_entropy" or scores.shape != target.shape:
        return None
    return float(
        functional.binary_cross_entropy_with_logits(scores.detach().double(), target.double())
    )


def falls(subject: Subject, bound: float) -> bool:
    """Return whether the first updates take the loss below a bound, or cannot tell."""
    losses = () if subject.beginning is None else subject.beginning.losses
    if len(losses) < 2 * LAST:
        return True
    return math.fsum(losses[-LAST:]) / LAST <= bound


def _too_large(loss: float, chance: float, spread: float) -> Finding:
    return Finding(
        Cause.BAD_INITIALISATION,
        evidence={"loss": loss, "chance": chance, "deviation of the outputs": spread},
        text=f"Before training the loss is {loss:.4g}, and answers by chance have {chance:.4g}: "
        f"the outputs have a standard deviation of {spread:.3g}, so that the network is sure of "
        "wrong answers, and the first updates do not change that.",
        fix="Draw smaller weights, above all in the last layer.",
    )


def is_unscaled(subject: Subject) -> bool:
    """Return whether the inputs are far from a scale of 1, so that they are to blame."""
    found = first_input(subject)
    if found is None or found.values is None:
        return False
    scale = Spread.of(found.values, found.axis)
    return scale is not None and bool(scale.fault)
