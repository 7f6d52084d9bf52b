"""What the last layer does to the outputs before the loss: an activation too many, or missing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from etude.diagnosis.check.labels import CLASSES
from etude.diagnosis.check.subject import Look, Subject
from etude.diagnosis.finding import Cause, Finding
from etude.tasks.loss.loss_calls import SQUARES, LossCall, are_probabilities

SHAPES = (
    "View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Transpose", "T", "Permute",
    "Select", "Slice", "Index", "Clone", "ToCopy", "Alias", "Expand", "AsStrided", "Split",
    "Unbind", "Cat",
)  # fmt: skip
"""Names of operations that change an output's shape or type and not its values."""

ACTIVATIONS = {
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Relu": "relu",
    "LogSigmoid": "logsigmoid",
    "Softplus": "softplus",
    "Hardtanh": "hardtanh",
    "Hardsigmoid": "hardsigmoid",
}
"""Names of torch's nodes, and of the functions they belong to."""

LINEAR = ("Addmm", "Mm", "Bmm", "Convolution", "MkldnnLinear")
"""Names of the nodes of layers whose outputs have no bounds."""

RANGES = {
    "softmax": (0.0, 1.0),
    "sigmoid": (0.0, 1.0),
    "hardsigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "relu": (0.0, None),
    "softplus": (0.0, None),
    "log_softmax": (None, 0.0),
    "logsigmoid": (None, 0.0),
}
"""The values that an activation can take."""

OUTSIDE = 0.01
"""The share of the targets that must be out of reach."""


def outputs(subject: Subject) -> Look:
    """Look at the operation that made what the loss is given.

    Two facts show it: torch's record of the operation, and values that are probabilities.

    Cost: no more than the forward pass that the first batch took.
    """
    call = subject.call
    if call is None:
        return Look()
    made = made_by(call.scores)
    finding = output_fault(call, made)
    seen = f"what the last layer gives {call.name}" + (f" ({made})" if made else "")
    return Look(() if finding is None else (finding,), seen)


def output_fault(call: LossCall, made: str) -> Finding | None:
    """Return what is wrong with what a loss is given; None if nothing is.

    Args:
        call: The call of the loss.
        made: The activation that made its first argument; empty for none.
    """
    return _of_classes(call, made) or _of_logistic(call, made) or _of_numbers(call, made)


def made_by(scores: Tensor) -> str:
    """Return the activation whose result a tensor is; empty if it is of none.

    >>> scores = torch.ones(2, 3, requires_grad=True)
    >>> made_by(scores.softmax(1).unsqueeze(0)), made_by(scores)
    ('softmax', '')
    """
    return ACTIVATIONS.get(operation(scores.grad_fn), "")


def operation(node: Any) -> str:
    """Return the name of the operation that made some values, past those that only shape them.

    Args:
        node: The values' `grad_fn`; None if they have none.
    """
    while node is not None:
        name: str = node.name().removesuffix("Backward0").removesuffix("Backward1").lstrip("_")
        if name not in SHAPES:
            return name
        node = next((before for before, _ in node.next_functions if before is not None), None)
    return ""


def _of_classes(call: LossCall, made: str) -> Finding | None:
    """Return a finding where a loss of classes is not given what it takes."""
    scores = call.scores
    if call.name not in CLASSES or scores.ndim < 2 or scores.shape[1] < 2:
        return None
    probabilities = made == "softmax" or are_probabilities(scores)
    if call.name == "nll_loss":
        return _of_log_probabilities(scores, made, probabilities)
    if probabilities or made in ("sigmoid", "hardsigmoid", "logsigmoid"):
        what = "softmax" if probabilities else made
        return Finding(
            Cause.WRONG_LOSS_OR_OUTPUT,
            evidence={"activation": what, "loss": call.name},
            text=f"The network ends in a {what}, but cross_entropy takes logits and applies the "
            "softmax itself: the second one leaves small gradients and a loss that cannot reach 0.",
            fix=f"Leave the {what} out of the network.",
        )
    if made in ("relu", "tanh", "softplus", "hardtanh"):
        bound = "below 0" if made in ("relu", "softplus") else "beyond -1 and 1"
        return Finding(
            Cause.WRONG_LAST_LAYER,
            evidence={"activation": made, "loss": call.name},
            text=f"The network ends in a {made}, so that no logit is {bound}: cross_entropy takes "
            "logits of any size.",
            fix=f"Leave the {made} after the last layer out.",
        )
    return None


def _of_log_probabilities(scores: Tensor, made: str, probabilities: bool) -> Finding | None:
    if made == "log_softmax":
        return None
    sums = scores.detach().double().logsumexp(1)
    if not bool(torch.isfinite(sums).all()) or float(sums.abs().max()) < 0.01:
        return None
    what = "probabilities" if probabilities else "outputs that are no log-probabilities"
    return Finding(
        Cause.WRONG_LOSS_OR_OUTPUT,
        evidence={"log of the sum": float(sums.abs().max()), "loss": "nll_loss"},
        text=f"The network gives {what}, but nll_loss takes log-probabilities: the exponentials "
        "of a sample's outputs must add up to 1.",
        fix="End the network in log_softmax, or give the outputs of its last layer to "
        "cross_entropy.",
    )


def _of_logistic(call: LossCall, made: str) -> Finding | None:
    """Return a finding where the sigmoid of a logistic loss is missing or doubled."""
    if call.name == "binary_cross_entropy_with_logits" and made in (
        "sigmoid", "softmax", "hardsigmoid", "relu", "softplus", "tanh", "hardtanh",
        "logsigmoid", "log_softmax",
    ):  # fmt: skip
        again = made in ("sigmoid", "softmax", "hardsigmoid")
        why = "applies the sigmoid itself" if again else "takes logits of any size and sign"
        return Finding(
            Cause.WRONG_LOSS_OR_OUTPUT if again else Cause.WRONG_LAST_LAYER,
            evidence={"activation": made, "loss": call.name},
            text=f"The network ends in a {made}, but binary_cross_entropy_with_logits {why}.",
            fix=f"Leave the {made} out of the network.",
        )
    if call.name == "binary_cross_entropy":
        low, high = float(call.scores.min()), float(call.scores.max())
        beyond = low < 0 or high > 1
        if beyond or operation(call.scores.grad_fn) in LINEAR:
            said = f"The network's outputs go from {low:.3g} to {high:.3g}"
            if not beyond:
                said = "The network ends in a linear layer, whose outputs have no bounds"
            return Finding(
                Cause.WRONG_LOSS_OR_OUTPUT,
                evidence={"lowest": low, "highest": high},
                text=f"{said}, but binary_cross_entropy takes probabilities: a sigmoid is missing.",
                fix="Use binary_cross_entropy_with_logits.",
            )
    return None


def _of_numbers(call: LossCall, made: str) -> Finding | None:
    """Return a finding where targets are out of the reach of the last activation."""
    if call.name not in SQUARES or made not in RANGES or not call.target.numel():
        return None
    low, high = RANGES[made]
    y = call.target.detach().double()
    out = torch.zeros_like(y, dtype=torch.bool)
    slack = 1e-6
    if low is not None:
        out |= y < low - slack
    if high is not None:
        out |= y > high + slack
    share = float(out.double().mean())
    if share < OUTSIDE:
        return None
    reach = f"{'any' if low is None else f'{low:g}'} to {'any' if high is None else f'{high:g}'}"
    return Finding(
        Cause.WRONG_LAST_LAYER,
        evidence={"activation": made, "share": share, "lowest": float(y.min()),
                  "highest": float(y.max())},
        text=f"{share:.0%} of the targets (from {float(y.min()):.3g} to {float(y.max()):.3g}) are "
        f"out of reach of the {made} in which the network ends: its outputs go from {reach}.",
        fix=f"Leave the {made} after the last layer out, or scale the targets to its range.",
    )  # fmt: skip
