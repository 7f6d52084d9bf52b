"""Which of torch's losses a backward pass starts from, and on what: read from the graph.

The graph keeps the outputs and targets of a loss until the backward pass has used them, so that
they are read without a change of the loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor

from etude.diagnosis.check.outputs import ACTIVATIONS, operation
from etude.tasks.loss.loss_calls import LossCall
from etude.torch_internals import kept_for_backward, shape_made_by

LOSSES = {
    "NllLoss": "nll_loss",
    "NllLoss2D": "nll_loss",
    "MseLoss": "mse_loss",
    "SmoothL1Loss": "smooth_l1_loss",
    "HuberLoss": "huber_loss",
    "BinaryCrossEntropy": "binary_cross_entropy",
    "BinaryCrossEntropyWithLogits": "binary_cross_entropy_with_logits",
}
"""Names of nodes, and of the losses that they belong to."""

MOST_NODES = 64
"""How many nodes are looked at."""

OPTIONS = ("weight", "pos_weight", "ignore_index", "reduction")

MEAN = 1
"""torch's number for the reduction 'mean'."""


class GraphLoss(NamedTuple):
    """A loss in the graph.

    Attributes:
        call: Its name, outputs and targets. Of `cross_entropy` the outputs are the logs of the
            probabilities, which differ from the logits by one number per sample.
        made: The activation that made the network's output; empty for none.
        plain: Whether it is a mean without weights.
    """

    call: LossCall
    made: str
    plain: bool


class Differences(NamedTuple):
    """Outputs and targets whose difference has more entries than either.

    Attributes:
        output: The shape of the output.
        made: The shape of the difference.
    """

    output: tuple[int, ...]
    made: tuple[int, ...]


def losses_of(loss: Any) -> list[GraphLoss]:
    """Return the losses of torch that a tensor was computed from.

    >>> import torch
    >>> scores = torch.zeros(4, 3, requires_grad=True)
    >>> loss = torch.nn.functional.cross_entropy(scores.softmax(1), torch.tensor([0, 1, 2, 0]))
    >>> (found,) = losses_of(loss / 2)
    >>> found.call.name, found.made, found.plain
    ('cross_entropy', 'softmax', True)
    """
    found = []
    for node in _scalars(loss):
        name = LOSSES.get(_name(node))
        if name is None:
            continue
        scores, target = kept_for_backward(node, "self"), kept_for_backward(node, "target")
        if not isinstance(scores, Tensor) or not isinstance(target, Tensor):
            continue
        given = scores.grad_fn
        if name == "nll_loss" and _name(given) == "LogSoftmax":
            name, given = "cross_entropy", given.next_functions[0][0]  # type: ignore[union-attr]
        options = {option: kept_for_backward(node, option) for option in OPTIONS}
        if options["ignore_index"] is not None:  # torch hands -100 out as 2**64 - 100
            options["ignore_index"] = (options["ignore_index"] + 2**63) % 2**64 - 2**63
        weights = options["weight"] is not None or options["pos_weight"] is not None
        call = LossCall(name, scores, target, options)
        plain = options["reduction"] == MEAN and not weights
        found.append(GraphLoss(call, ACTIVATIONS.get(operation(given), ""), plain))
    return found


def differences_of(loss: Any) -> Differences | None:
    """Return a difference of a column and a row in a mean of squares or sizes; None without one.

    >>> import torch
    >>> output, target = torch.zeros(4, 1, requires_grad=True), torch.zeros(4)
    >>> differences_of(((output - target) ** 2).mean())
    Differences(output=(4, 1), made=(4, 4))
    >>> differences_of(((output[:, 0] - target) ** 2).mean())
    """
    for node in _scalars(loss):
        if _name(node) not in ("Mean", "Sum"):
            continue
        node = node.next_functions[0][0]
        if _name(node) not in ("Pow", "Abs", "Mul"):
            continue
        node = node.next_functions[0][0]
        if _name(node) not in ("Sub", "Rsub"):
            continue
        made = shape_made_by(node)
        answers = [one for one, _ in node.next_functions if one is not None]
        output = shape_made_by(answers[0]) if len(answers) == 1 else None
        if made is None or output is None or len(made) != 2 or made[0] != made[1] or made[0] < 2:
            continue
        if output in ((made[0], 1), (made[0],)):
            return Differences(output, made)
    return None


def _scalars(loss: Any) -> Iterator[Any]:
    """Yield the nodes of a loss from its end: single numbers, and what they are made of."""
    waiting = [loss.grad_fn] if isinstance(loss, Tensor) and loss.grad_fn is not None else []
    seen: set[Any] = set()
    while waiting and len(seen) < MOST_NODES:
        node = waiting.pop(0)
        if node in seen:
            continue
        seen.add(node)
        yield node
        if shape_made_by(node) in ((), (1,)):
            waiting += [one for one, _ in node.next_functions if one is not None]


def _name(node: Any) -> str:
    return "" if node is None else str(node.name()).partition("Backward")[0].lstrip("_")
