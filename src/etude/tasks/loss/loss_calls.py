"""Which of torch's losses a task calls, and on what, whatever function or module they stand in."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

KNOWN: frozenset[Callable[..., Tensor]] = frozenset((
    F.cross_entropy, F.nll_loss, F.binary_cross_entropy, F.binary_cross_entropy_with_logits,
    F.kl_div, F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.poisson_nll_loss,
))  # fmt: skip
"""Losses of an input and a target, which are their first two arguments."""

SQUARES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
"""Names of losses that compare numbers."""


class LossCall(NamedTuple):
    """One call of a loss.

    Attributes:
        name: The name of the function of `torch.nn.functional`.
        scores: Its first argument, what the model answers.
        target: Its second argument.
        options: All its arguments by name.
    """

    name: str
    scores: Tensor
    target: Tensor
    options: Mapping[str, Any]


class LossCalls(TorchFunctionMode):
    """Keeps the calls of torch's losses inside a block, those that fail too.

    >>> import torch
    >>> with LossCalls() as calls:
    ...     loss = torch.nn.CrossEntropyLoss()(torch.zeros(2, 3), torch.tensor([0, 2]))
    >>> calls.seen[0].name, tuple(calls.seen[0].scores.shape)
    ('cross_entropy', (2, 3))
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[LossCall] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the call, then make it."""
        kwargs = kwargs or {}
        if func in KNOWN:
            found = inspect.signature(func).bind(*args, **kwargs)
            found.apply_defaults()
            options = found.arguments
            scores, target = options["input"], options["target"]
            if isinstance(scores, Tensor) and isinstance(target, Tensor):
                self.seen.append(LossCall(func.__name__, scores, target, options))
        return func(*args, **kwargs)


def are_probabilities(scores: Tensor) -> bool:
    """Return whether every row is at least 0 and adds up to 1 over axis 1.

    >>> import torch
    >>> are_probabilities(torch.tensor([[0.25, 0.75]])), are_probabilities(torch.zeros(2, 3))
    (True, False)
    """
    if not scores.is_floating_point() or scores.ndim < 2 or scores.shape[1] < 2:
        return False
    sums = scores.detach().double().sum(1)
    near = bool(((sums - 1).abs() <= 1e-3).all())
    return near and bool((scores >= 0).all())
