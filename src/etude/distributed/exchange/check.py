"""Refuses an exchange of gradients that recipe, model or backend do not take, before training."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from etude.distributed.exchange.counting import backend_of
from etude.distributed.exchange.table import ExchangeRow, row_of
from etude.errors import BadValueError
from etude.recipe import Recipe
from etude.tasks.task import Task

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def refuse_exchange(
    recipe: Recipe, task: Task, model: nn.Module, group: dist.ProcessGroup | None
) -> None:
    """Raise if a run cannot exchange its gradients as its recipe says.

    Args:
        recipe: The recipe.
        task: The task.
        model: The network, on its device.
        group: The process group; None for a run in one process.

    Raises:
        BadValueError: With the reason and the fix; every process raises the same.
    """
    if recipe.compress is None:
        return
    row, what = row_of(recipe.compress), f"compress={repr(recipe.compress)!r}"
    if group is None:
        raise BadValueError(
            f"{what} says how processes exchange gradients, and this run has one process: train "
            "it in several, or leave compress out"
        )
    reason = row.why_not(recipe) or _why_not_task(row, task) or _why_not_model(row, model)
    if not reason:
        reason = _why_not_backend(row, group, next(model.parameters()).device)
    if reason:
        raise BadValueError(f"{what}: {reason}")


def _why_not_task(row: ExchangeRow, task: Task) -> str:
    if task.alternates:
        return "parts of the model take turns, each with a gradient of its own: leave compress out"
    return ""


def _why_not_model(row: ExchangeRow, model: nn.Module) -> str:
    """Return why a model's gradients cannot be sent in this way; empty if they can."""
    for name, module in model.named_modules():
        if getattr(module, "sparse", False):
            return (
                f"{name or 'the model'} has sparse gradients, which are not compressed: give "
                "sparse=False, or leave compress out"
            )
    for name, parameter in model.named_parameters():
        if parameter.is_complex() and not row.local:
            return f"the parameter {name!r} is complex: take 'local-sgd', or leave compress out"
        if row.name == "powersgd" and (parameter.dim() == 0 or parameter.numel() == 0):
            return (
                f"the parameter {name!r} has the shape {tuple(parameter.shape)}, which torch's "
                "PowerSGD does not take: give it the shape (1,), or take 'topk'"
            )
    return ""


def _why_not_backend(row: ExchangeRow, group: dist.ProcessGroup, device: torch.device) -> str:
    """Return why the backend cannot do the sums, by trying one; empty if it can."""
    if not row.sixteen:
        return ""
    dtype = DTYPES[row.name]
    try:
        found = torch.ones(2, dtype=dtype, device=device)
        dist.all_reduce(found, group=group)
        works = bool((found == group.size()).all())
        why = "gives a wrong sum"
    except RuntimeError as error:
        works, why = False, str(error).partition("\n")[0]
    if works:
        return ""
    name = str(dtype).removeprefix("torch.")
    return (
        f"the backend {backend_of(group)!r} does not add up {name} on {device.type} ({why}): take "
        "'powersgd', 'topk' or a local method, which send float32"
    )
