"""Reads a torch optimizer that was built over a model: its row, its rate, its groups by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

from etude.errors import BadValueError, EtudeError, TaskError
from etude.layerwise.capabilities import row_of
from etude.optimizers.choice import OptimizerChoice
from etude.optimizers.factory import factory
from etude.optimizers.hyperparameters import Selectors
from etude.optimizers.row import OptimizerRow
from etude.tasks.groups import COUNTED

RATES = ("lr", "initial_lr")
"""Keys of a group that hold its rate: as it is now, and as a scheduler found it."""

Named = tuple[tuple[str, ...], Mapping[str, Any]]
"""The names of a group's parameters, and the values that it sets."""


@dataclass(frozen=True)
class NamedGroups:
    """Parameter groups that are told by the names of their parameters.

    Attributes:
        groups: For each group, the names, and the values that it sets.

    >>> halves = NamedGroups(((("weight",), {"lr_mult": 1.0}), (("bias",), {"lr_mult": 0.5})))
    >>> [group["lr_mult"] for group in halves(nn.Linear(2, 1))]
    [1.0, 0.5]
    """

    groups: tuple[Named, ...]

    def __call__(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return the groups of a model."""
        named = dict(model.named_parameters(remove_duplicate=False))
        return [
            {**values, "params": [named[name] for name in names]} for names, values in self.groups
        ]


class OwnOptimizer(NamedTuple):
    """What an optimizer is, apart from the tensors that it updates.

    Attributes:
        choice: Its name in the table, and its hyperparameters.
        lr: The largest rate of a group.
        groups: Its groups by name.
    """

    choice: OptimizerChoice
    lr: float
    groups: NamedGroups


def read_optimizer(optimizer: Any, model: nn.Module, owner: str) -> OwnOptimizer:
    """Read an optimizer; neither it nor the model changes.

    Args:
        optimizer: The optimizer, perhaps wrapped by a trainer.
        model: The model whose parameters it updates.
        owner: What has it, such as 'the Trainer', for error messages.

    Raises:
        TaskError: If it holds parameters of another model.
        BadValueError: If it is not in the table of optimizers, or a value is out of bounds.
    """
    optimizer = unwrapped(optimizer)
    row = _row(optimizer, owner)
    named = _names(optimizer, model, owner)
    rates = [rate_of(group) for group in optimizer.param_groups]
    lr = max(rates)
    if not lr > 0:
        raise BadValueError(
            f"the optimizer of {owner} has the rate {lr:g}: give it a rate above 0, from which the "
            "proportions of its groups are read"
        )
    groups = [group for group in optimizer.param_groups if group["params"]]
    main = max(groups, key=lambda group: sum(p.numel() for p in group["params"]))
    shared = _hyperparameters(row, main)
    # What a class sets itself, such as AdamW's decoupled decay, is no argument of it.
    usual = {**optimizer.defaults, **_usual(type(optimizer))}
    found = []
    for group, rate, names in zip(optimizer.param_groups, rates, named, strict=True):
        if names:
            values = {"lr_mult": rate / lr, **_own_values(row, group, main, usual)}
            if not rate:  # a trainer clips by the norm of all gradients, whatever their rate
                values[COUNTED] = True
            found.append((names, values))
    try:
        choice = OptimizerChoice(row.name, shared)
    except EtudeError as error:
        raise BadValueError(f"the optimizer of {owner}: {error}") from error
    return OwnOptimizer(choice, lr, NamedGroups(tuple(found)))


def unwrapped(optimizer: Any) -> Any:
    """Return the torch optimizer inside of a trainer's wrapper."""
    seen: set[int] = set()
    while (
        isinstance(getattr(optimizer, "optimizer", None), Optimizer) and id(optimizer) not in seen
    ):
        seen.add(id(optimizer))
        optimizer = optimizer.optimizer
    return optimizer


def rate_of(group: Mapping[str, Any]) -> float:
    """Return the rate of a group, as it was before a scheduler changed it."""
    return float(group.get("initial_lr", group["lr"]))


def _row(optimizer: Any, owner: str) -> OptimizerRow:
    kind = type(optimizer)
    name = f"{kind.__module__}.{kind.__qualname__}"
    row = row_of(kind)
    if row is None or factory(row) is not kind:
        raise BadValueError(
            f"the optimizer of {owner} is {name}, which is not in Etude's table: register it "
            "with etude.optimizers.register(OptimizerRow(name=..., "
            f"factory='{kind.__module__}:{kind.__qualname__}', ...)), or use one of the table, "
            "such as torch.optim.AdamW"
        )
    return row


def _names(optimizer: Any, model: nn.Module, owner: str) -> list[tuple[str, ...]]:
    """Return the names of each group's parameters."""
    known: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        known.setdefault(id(parameter), name)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    foreign = sum(id(p) not in known for p in parameters)
    if foreign:
        raise TaskError(
            f"{foreign} of the {len(parameters)} parameters of the optimizer of {owner} are not "
            "those of its model: it was built over another model, or before this one was copied. "
            "Build the optimizer from the parameters of the same model"
        )
    return [
        tuple(known[id(p)] for p in group["params"] if p.requires_grad)
        for group in optimizer.param_groups
    ]


def _hyperparameters(row: OptimizerRow, group: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a recipe says of a group: the values that differ from the row's defaults."""
    found = {}
    for name, kind in row.hyperparameters.items():
        value = _plain(group.get(name))
        if value is None or isinstance(kind, Selectors) or _same(value, kind.default):
            continue
        found[name] = value
    return found


def _own_values(
    row: OptimizerRow, group: Mapping[str, Any], main: Mapping[str, Any], usual: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a group sets itself: what differs from the main group."""
    found = {}
    for name, value in group.items():
        if name == "params" or name in RATES or name in _OF_SCHEDULERS:
            continue
        expected = main.get(name) if name in row.hyperparameters else usual.get(name)
        if not (_same(_plain(value), _plain(expected)) or (value is False and expected is None)):
            found[name] = value
    return found


_OF_SCHEDULERS = ("max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr", "name")
"""Keys that a scheduler of torch or a trainer writes into groups."""


def _usual(kind: type) -> dict[str, Any]:
    parameters: Iterable[inspect.Parameter] = inspect.signature(kind).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _plain(value: Any) -> Any:
    """Return a value as a recipe holds it: no tensor, no list."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def _same(one: Any, other: Any) -> bool:
    return (type(one) is type(other) and bool(one == other)) or (
        isinstance(one, (int, float)) and isinstance(other, (int, float)) and one == other
    )
