"""Builds torch optimizers by name."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from etude.errors import (
    BadTypeError,
    BadValueError,
    MissingExtraError,
    TaskError,
    kind_of,
    nearest_names,
    shown,
)
from etude.errors import where as place_of
from etude.layerwise.blocks import split_blocks
from etude.layerwise.flow import Flow
from etude.layerwise.matrices import split
from etude.layerwise.rates import apply
from etude.layerwise.spec import LrMult
from etude.optimizers.hyperparameters import HIDDEN
from etude.optimizers.own_values import own_values
from etude.optimizers.row import OptimizerRow
from etude.optimizers.table import OWN, ROWS, get

Group = dict[str, Any]
"""A torch parameter group: 'params', and the values that differ from the optimizer's."""

LABELS = frozenset(
    {
        *("params", "param_names", "name", "lr", "initial_lr", "lr_mult", "matrix", "own_values"),
        "counted",
    }
)
"""What a group may hold besides values of its optimizer."""

NARROW = frozenset({torch.bfloat16, torch.float16})
"""Types of weights in which an update of a thousandth of a weight is rounded away."""


def build(
    name: str,
    model_or_params: nn.Module | Iterable[Tensor] | Sequence[Group],
    *,
    lr: float | Tensor | None = None,
    lr_mult: LrMult | Mapping[str, Any] | str | None = None,
    flow: Flow | None = None,
    groups: Sequence[Group] | None = None,
    **hyperparameters: Any,
) -> Optimizer:
    """Build a torch Optimizer by name, with its library's own defaults.

    Args:
        name: A name of the table, for instance 'adamw'.
        model_or_params: A model, whose trainable parameters are used, or the parameters, or
            torch parameter groups.
        lr: The rate; with 0 no parameter changes. None is the default of its library. If it is a
            0-d tensor, every group gets a separate tensor.
        lr_mult: Multipliers of the rate for parts of the model, as `LrMult.of` reads them.
        flow: The result of `etude.layerwise.trace` for the model, for multipliers and optimizers
            that depend on input and output layers. Without it, names of modules are used.
        groups: Parameter groups of the model, if it has some of its own; those of a `Task` with
            `param_groups` have their multiple of the rate under 'lr_mult'.
        **hyperparameters: Hyperparameters of the optimizer's row, checked against its bounds.

    Warns:
        UserWarning: If groups set values that the optimizer does not read, or if it estimates its
            rate and the weights are in 16 bits.

    Raises:
        UnknownNameError: If the optimizer or a hyperparameter is unknown.
        BadValueError: If a value is out of bounds, or the optimizer refuses the combination.
        BadTypeError: If the rate is a tensor, and the optimizer's library changes it.
        TaskError: If there is no trainable parameter, one is listed twice or has no shape yet,
            or the model has complex parameters or sparse gradients that the optimizer does not
            support.
        MissingExtraError: If it comes from a library that is not installed.

    >>> build("sgd", nn.Linear(2, 1), lr=0.1, momentum=0.9).defaults["momentum"]
    0.9
    """
    row = get(name)
    checked = row.check(hyperparameters)
    lr = row.lr if lr is None else lr
    if not 0 <= lr < float("inf"):
        raise BadValueError(f"lr={lr!r} is out of bounds: give a finite number >= 0")
    model = model_or_params if isinstance(model_or_params, nn.Module) else None
    matrix = checked.pop("matrix", None)
    given = {key: group[key] for group in groups or () for key in group}
    if model is None:
        groups = as_groups(model_or_params)  # type: ignore[arg-type]
        if matrix not in (None, (HIDDEN,)):
            raise BadTypeError(
                f"matrix={list(matrix)!r} selects parameters by their names: give the model, or "
                'parameter groups, with "matrix": False for tensors that are not matrices'
            )
    else:
        refuse_sparse(row, checked, model)
        groups = as_groups(groups or (p for p in model.parameters() if p.requires_grad))
        _refuse_group_rates(row, groups)
        if row.chooses_matrices:
            groups = split(groups, model, matrix or (HIDDEN,), flow)
        if row.by_blocks:
            groups = split_blocks(groups, model)
    _check_parameters(groups)
    _refuse_complex(row, groups, model)
    _refuse_tensors(row, [lr, *(group.get("lr") for group in groups)])
    _warn_of_narrow(row, groups)
    groups = _with_numbers(groups)
    optimizer = _construct(row, groups, lr, checked)
    if model is not None:
        _check_complete(optimizer, model)
        _warn_of_unread(row, given, optimizer)
    if lr_mult is not None:
        apply(optimizer, model, lr_mult, flow=flow)
    return optimizer


def as_groups(parameters: Iterable[Tensor] | Sequence[Group]) -> list[Group]:
    """Return parameters as parameter groups: one group, unless groups were given."""
    listed: list[Any] = list(parameters)
    if listed and all(isinstance(item, dict) for item in listed):
        return [{**item, "params": list(item["params"])} for item in listed]
    return [{"params": listed}]


def factory(row: OptimizerRow) -> Any:
    """Return the class that a row names.

    Raises:
        MissingExtraError: If its library is not installed.
        BadValueError: If a row of the user's own names what cannot be imported.
    """
    if row.name in OWN:
        return OWN[row.name][1]
    try:
        return getattr(importlib.import_module(row.module), row.attribute)
    except (ImportError, AttributeError) as error:
        if not row.package:
            raise BadValueError(
                f"the optimizer {row.name!r} is {row.factory!r}, which cannot be imported "
                f"({error}): put {row.module.partition('.')[0]!r} where Python finds it, or mend "
                "the row's factory"
            ) from error
        raise MissingExtraError(
            f"the optimizer {row.name!r} comes from {row.package}, which cannot be loaded "
            f"({error}): pip install 'etude[optimizers]'"
        ) from error


def refuse_sparse(row: OptimizerRow, hyperparameters: dict[str, Any], model: nn.Module) -> None:
    """Raise if a model's embeddings have sparse gradients that the optimizer does not support.

    Raises:
        TaskError: The message names the embedding, and the optimizers that support it.
    """
    for where, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not getattr(module, "sparse", False) or weight is None or not weight.requires_grad:
            continue
        _refuse_sparse_gradient(row, hyperparameters, f"{where}.weight".lstrip("."))


def refuse_sparse_gradients(
    row: OptimizerRow, hyperparameters: Mapping[str, Any], model: nn.Module
) -> None:
    """Raise for gradients that are sparse, if the optimizer does not support them.

    Raises:
        TaskError: The message names the parameter, and the optimizers that support it.
    """
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and parameter.grad.is_sparse:
            _refuse_sparse_gradient(row, hyperparameters, name)


def _refuse_sparse_gradient(
    row: OptimizerRow, hyperparameters: Mapping[str, Any], parameter: str
) -> None:
    if row.sparse == "no":
        able = ", ".join(other.name for other in ROWS.values() if other.sparse != "no")
        raise TaskError(
            f"{row.name} does not take sparse gradients, and that of {parameter!r} is sparse: "
            f"use {able}, or build the embedding with sparse=False"
        )
    if row.sparse == "without decay" and row.value(hyperparameters, "weight_decay"):
        raise TaskError(
            f"{row.name} takes the sparse gradient of {parameter!r} only without weight decay: "
            "give weight_decay=0, or build the embedding with sparse=False"
        )


def _construct(
    row: OptimizerRow, groups: list[Group], lr: float | Tensor, hyperparameters: dict[str, Any]
) -> Optimizer:
    make = factory(row)
    if row.name in OWN:
        return _construct_own(make, row, groups, lr, hyperparameters)
    try:
        # Some libraries print a line on construction, which must not reach the user's output.
        # Some refuse a rate of 0 on construction, although they can train with it.
        with contextlib.redirect_stdout(io.StringIO()):
            optimizer: Optimizer = make(groups, lr=lr if lr else row.lr, **hyperparameters)
    except ValueError as error:
        raise BadValueError(f"{row.name} refuses {hyperparameters}: {error}") from error
    if not lr:
        for group in optimizer.param_groups:
            group["lr"] = lr
    own_values(optimizer, [(group, ("lr", None)) for group in optimizer.param_groups])
    for group in optimizer.param_groups:
        if group.get("lr_mult", 1.0) != 1.0:
            group["lr"] = group["lr"] * group["lr_mult"]
    return optimizer


def _construct_own(
    make: Any,
    row: OptimizerRow,
    groups: list[Group],
    lr: float | Tensor,
    hyperparameters: dict[str, Any],
) -> Optimizer:
    """Build an optimizer of the user's own; the rates of its groups stay in their proportion."""
    given = float(lr) or row.lr
    try:
        known = isinstance(make, type)
        made = make(groups, lr=given, **hyperparameters) if known else make(groups, given)
    except Exception as error:
        raise TaskError(f"the optimizer {row.name} failed: {error}{place_of(error)}") from error
    if not isinstance(made, Optimizer):
        raise BadTypeError(
            f"the optimizer {row.name} returned {kind_of(made)}: return a torch Optimizer"
        )
    for group in made.param_groups:
        share = float(group["lr"]) / given
        if not 0 <= share < float("inf"):
            raise BadValueError(
                f"the optimizer {row.name} gives a group the rate {group['lr']!r}: give every "
                "group a finite rate >= 0"
            )
        if share != 1.0:
            group["lr_mult"] = share * group.get("lr_mult", 1.0)
        group["lr"] = float(lr) * group.get("lr_mult", 1.0)
    return made


def _warn_of_unread(row: OptimizerRow, given: Group, optimizer: Optimizer) -> None:
    """Name what groups of a task set and the optimizer does not read, such as a misspelt value."""
    for key, value in given.items():
        if key in optimizer.defaults or key in LABELS or value is None or value is False:
            continue
        near = nearest_names(key, [name for name in optimizer.defaults if name not in LABELS])
        hint = f"; did you mean {near[0]!r}?" if near else ""
        warnings.warn(
            f"param_groups sets {key!r} to {shown(value)}, which {row.name} does not read: it has "
            f"no effect{hint}",
            stacklevel=3,
        )


def _refuse_group_rates(row: OptimizerRow, groups: list[Group]) -> None:
    if row.why_no_rates and len({group.get("lr_mult", 1.0) for group in groups}) > 1:
        raise BadValueError(
            f"{row.name} refuses parameter groups with separate rates: {row.why_no_rates}; give "
            "every group the same rate, or use an optimizer such as adamw"
        )


def _check_parameters(groups: list[Group]) -> None:
    parameters = [p for group in groups for p in group["params"]]
    if not parameters:
        raise TaskError("there is no trainable parameter: every requires_grad is False")
    if len({id(p) for p in parameters}) != len(parameters):
        raise TaskError("a parameter is listed twice, and would be updated twice: list it once")
    if any(isinstance(p, UninitializedParameter) for p in parameters):
        raise TaskError(
            "a lazy layer has no shape yet: run the model on one batch, then build the optimizer"
        )
    if not any(p.numel() for p in parameters):
        raise TaskError("there is no trainable parameter: all have 0 elements")


def _with_numbers(groups: list[Group]) -> list[Group]:
    """Leave out empty parameters, since some libraries divide by their size."""
    return [{**group, "params": [p for p in group["params"] if p.numel()]} for group in groups]


def _refuse_complex(row: OptimizerRow, groups: list[Group], model: nn.Module | None) -> None:
    if row.complex_numbers:
        return
    found = {id(p) for group in groups for p in group["params"] if p.is_complex()}
    if found:
        named = () if model is None else model.named_parameters()
        names = [repr(name) for name, p in named if id(p) in found]
        able = ", ".join(other.name for other in ROWS.values() if other.complex_numbers)
        raise TaskError(
            f"{row.name} does not take complex parameters, and {' and '.join(names[:3]) or 'one'} "
            f"is complex: use {able}, or keep the real and imaginary parts as real parameters"
        )


def _refuse_tensors(row: OptimizerRow, rates: Iterable[object]) -> None:
    for rate in rates:
        if row.why_no_tensor and isinstance(rate, Tensor):
            raise BadTypeError(
                f"{row.name} takes no tensor as a rate, since {row.why_no_tensor}: give "
                f"lr={rate.item():g}"
            )


def _warn_of_narrow(row: OptimizerRow, groups: list[Group]) -> None:
    """Say that an optimizer that measures how far weights have moved cannot see small moves."""
    kinds = {p.dtype for group in groups for p in group["params"]}
    narrow = sorted(str(kind).removeprefix("torch.") for kind in kinds & NARROW)
    if row.rate_free and row.why_no_rates and not row.closure and narrow:
        warnings.warn(
            f"{row.name} estimates its rate from how far the weights have moved, and its first "
            f"updates are lost in weights of {narrow[0]}: it may train far more slowly than in "
            "float32, or not at all. Keep the weights in float32, with autocast for speed "
            "(precision='bfloat16' of a recipe)",
            stacklevel=3,
        )


def _check_complete(optimizer: Optimizer, model: nn.Module) -> None:
    reached = {id(p) for group in optimizer.param_groups for p in group["params"]}
    wanted = ((n, p) for n, p in model.named_parameters() if p.requires_grad and p.numel())
    missed = [name for name, p in wanted if id(p) not in reached]
    if missed:
        raise TaskError(
            f"{', '.join(missed[:5])} would not be trained: put every parameter into a group, or "
            "set its requires_grad to False"
        )
