"""`Setup`: everything that one run of a program depends on, so that a fault is a changed field."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Tensors = tuple[Tensor, ...]

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adadelta": torch.optim.Adadelta,
    "adagrad": torch.optim.Adagrad,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "lbfgs": torch.optim.LBFGS,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rmsprop": torch.optim.RMSprop,
    "rprop": torch.optim.Rprop,
    "sgd": torch.optim.SGD,
    "sparse_adam": torch.optim.SparseAdam,
}


def everything(name: str) -> bool:
    """Say yes to every parameter."""
    return True


def unchanged(output: Tensor) -> Tensor:
    """Return the output as it is."""
    return output


@dataclass(frozen=True)
class Setup:
    """One training program's parts.

    Attributes:
        train: Inputs and, last, targets, one row a sample.
        valid: The same of the validation data.
        model: Builds the network from the global random state.
        loss: (output, target) -> mean loss.
        kind: How the output is judged: 'classes' (logits), 'binary' (one logit), 'values' or
            'points' (a generator's samples).
        optimizer: A name in `OPTIMIZERS`.
        lr: The learning rate.
        options: Further arguments of the optimizer.
        schedule: The text of an Etude schedule of multiples of `lr`.
        steps: Updates.
        batch: Samples in a batch.
        clip: The largest norm of the gradient; None does not clip.
        accumulate: Batches in one update.
        bf16: Whether the forward pass runs under bfloat16 autocast.
        shuffle: Whether an epoch's order is drawn anew.
        zero_grad: Whether gradients are cleared before each update.
        train_mode: Whether the network is put into training mode after an evaluation.
        given: Which parameters, by name, the optimizer is given.
        decide: What the program does to an output before it decides (logits by default).
    """

    train: Tensors
    valid: Tensors
    model: Callable[[], nn.Module]
    loss: Callable[..., Tensor]
    kind: str
    optimizer: str
    lr: float
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "constant()"
    steps: int = 300
    batch: int = 32
    clip: float | None = None
    accumulate: int = 1
    bf16: bool = False
    shuffle: bool = True
    zero_grad: bool = True
    train_mode: bool = True
    given: Callable[[str], bool] = everything
    decide: Callable[[Tensor], Tensor] = unchanged

    def optimizer_of(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of the parameters that it is given."""
        parameters = [p for name, p in model.named_parameters() if self.given(name)]
        return OPTIMIZERS[self.optimizer](parameters, lr=self.lr, **self.options)  # type: ignore[call-arg]
