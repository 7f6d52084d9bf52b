"""Parameter groups of a task: which parameters share a rate, a weight decay, other values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from etude.errors import BadTypeError, BadValueError, TaskError, kind_of, where

LR_MULT = "lr_mult"
"""The key of a parameter group that holds its multiple of the rate."""

OWN = "own_values"
"""The key of a parameter group that names the values it sets itself, which no schedule changes."""

COUNTED = "counted"
"""The key of a parameter group of a trainer: with a rate of 0, its gradient still counts in the
norm by which the trainer clips."""


def groups_of(task_groups: Any, model: nn.Module) -> list[dict[str, Any]]:
    """Return the parameter groups that a task gives a model, checked.

    The rates of the groups stand in a fixed proportion. Either every group gives its own rate, and
    the largest counts as the recipe's; or a group gives `lr_mult`, its multiple of that rate.

    Args:
        task_groups: A function of the model that returns torch parameter groups: tables with
            'params' and any values that differ from the optimizer's.
        model: The network.

    Returns:
        Groups without 'lr', each with `lr_mult`, and with the names of the values that it sets.

    Raises:
        TaskError: If the function fails, a parameter is not the model's or is listed twice, or
            there is none.
        BadTypeError: If it does not return groups.
        BadValueError: If a rate or a multiple is negative or not finite, or only some groups have
            a rate.

    >>> net = nn.Linear(2, 1)
    >>> found = groups_of(lambda m: [{"params": [m.weight], "lr": 0.4},
    ...                              {"params": [m.bias], "lr": 0.1, "weight_decay": 0.0}], net)
    >>> [group["lr_mult"] for group in found], found[1]["own_values"]
    ([1.0, 0.25], ['weight_decay'])
    """
    try:
        listed = task_groups(model)
    except Exception as error:
        raise TaskError(f"param_groups failed: {error}{where(error)}") from error
    groups = _as_groups(listed)
    names = {id(p): name for name, p in model.named_parameters()}
    seen: set[int] = set()
    for group in groups:
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise TaskError(
                    f"param_groups lists a parameter of shape {tuple(parameter.shape)} that is "
                    "not the model's: take the parameters from the model that it is called with, "
                    "as in lambda model: [{'params': list(model.parameters())}]"
                )
            if id(parameter) in seen:
                raise TaskError(
                    f"param_groups lists {names[id(parameter)]!r} twice, and it would be updated "
                    "twice: list it once"
                )
            seen.add(id(parameter))
    if not seen:
        raise TaskError("param_groups lists no parameter: there is nothing to train")
    return _with_multiples(groups)


def freeze_rest(
    model: nn.Module, groups: Sequence[Mapping[str, Any]], *, at_zero: bool = True
) -> None:
    """Set `requires_grad` to False for parameters in no group, and in groups with a rate of 0.

    No gradient of them is needed, and a norm by which gradients are clipped leaves them out.

    Args:
        model: The network.
        groups: The result of `groups_of`.
        at_zero: Whether groups with a rate of 0 count; not where parts take turns, since a part
            that is frozen as a whole still has its turn.

    >>> net = nn.Linear(2, 1)
    >>> found = groups_of(lambda m: [{"params": m.weight, "lr_mult": 0}, {"params": m.bias}], net)
    >>> freeze_rest(net, found)
    >>> net.weight.requires_grad, net.bias.requires_grad
    (False, True)
    """
    held = {
        id(parameter)
        for group in groups
        if not at_zero or group.get(LR_MULT, 1.0) > 0 or group.get(COUNTED)
        for parameter in group["params"]
    }
    for parameter in model.parameters():
        if id(parameter) not in held:
            parameter.requires_grad_(False)


def _as_groups(listed: Any) -> list[dict[str, Any]]:
    wrong = (
        "give a list of tables with 'params', such as "
        "[{'params': list(model.body.parameters())}, "
        "{'params': list(model.head.parameters()), 'lr_mult': 10}]"
    )
    if isinstance(listed, Mapping) or not hasattr(listed, "__iter__"):
        raise BadTypeError(f"param_groups returned {kind_of(listed)}: {wrong}")
    groups = []
    for group in listed:
        if not isinstance(group, Mapping) or "params" not in group:
            raise BadTypeError(f"param_groups returned {kind_of(group)} in a list: {wrong}")
        params = group["params"]
        tensors = [params] if isinstance(params, Tensor) else list(params)
        if not all(isinstance(parameter, Tensor) for parameter in tensors):
            raise BadTypeError(f"the 'params' of a group are not all tensors: {wrong}")
        trained = [p for p in tensors if p.requires_grad]
        groups.append({**group, "params": trained})
    return [group for group in groups if group["params"]]


def _with_multiples(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rates = [group.pop("lr") for group in groups if "lr" in group]
    if rates and len(rates) < len(groups):
        raise BadValueError(
            f"{len(rates)} of {len(groups)} parameter groups have their own 'lr': give every group "
            "one, or none and 'lr_mult', the multiple of the recipe's rate"
        )
    for name, values in (("lr", rates), (LR_MULT, [g.get(LR_MULT, 1.0) for g in groups])):
        for value in values:
            if not (math.isfinite(value) and value >= 0):
                raise BadValueError(
                    f"{name}={value} of a parameter group: give a finite number >= 0"
                )
    largest = max(rates, default=0.0)
    if rates and not largest:
        raise BadValueError("every parameter group has lr=0: nothing would be trained")
    if not any(group.get(LR_MULT, 1.0) for group in groups):
        raise BadValueError("every parameter group has lr_mult=0: nothing would be trained")
    for place, group in enumerate(groups):
        own = float(rates[place]) / float(largest) if rates else 1.0
        group[LR_MULT] = own * float(group.get(LR_MULT, 1.0))
        group[OWN] = sorted(set(group) - {"params", LR_MULT, OWN, COUNTED})
    return groups
