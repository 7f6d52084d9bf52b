"""Parameters, gradients and moments in parts over the processes, by torch's `fully_shard`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from etude.errors import BadValueError, TaskError
from etude.optimizers import get as optimizer_row
from etude.recipe import Recipe
from etude.tasks.task import Task
from etude.training.sharded import is_sharded, whole, with_tensors

LISTS = (nn.ModuleList, nn.Sequential)
"""Containers whose elements are the blocks of a model."""


MIXED = "mixed torch.Tensor and DTensor"
"""A part of torch's message when a layer is called whose weights were not gathered."""


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules whose parameters are gathered together: the elements of its lists.

    A list in a list is opened, a block is not. What belongs to no block is gathered with the model.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Sequential(nn.Linear(2, 1)))
    >>> [type(one).__name__ for one in blocks(net)]
    ['Linear', 'Linear']
    """
    for child in model.children():
        if isinstance(model, LISTS) and not isinstance(child, LISTS):
            if next(child.parameters(), None) is not None:
                yield child
        else:
            yield from blocks(child)


def shard(model: nn.Module, device: torch.device, size: int) -> None:
    """Leave this process its part of every parameter of a model, in place.

    Every block is gathered before its forward and its backward pass, and dropped after each. Blocks
    that share a parameter with something else are gathered with the rest of the model.
    """
    mesh = init_device_mesh(device.type, (size,))
    found = list(blocks(model))
    users: dict[int, set[int]] = {}
    inside = {id(module): index for index, one in enumerate(found) for module in one.modules()}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            users.setdefault(id(parameter), set()).add(inside.get(id(module), -1))
    for one in found:
        if all(len(users[id(parameter)]) == 1 for parameter in one.parameters()):
            _fully_shard(one, mesh)
    _fully_shard(model, mesh)


def _fully_shard(module: nn.Module, mesh: DeviceMesh) -> None:
    fully_shard(module, mesh=mesh, reshard_after_forward=True)
    assert isinstance(module, FSDPModule)
    # A reduction has the same tensors in all processes, whatever their shares have reached.
    module.set_reduce_scatter_unused_params(True)
    if mesh.device_type == "cpu":  # gloo has no mean
        module.set_force_sum_reduction_for_comms(True)


def set_exchanging(model: nn.Module, exchanges: bool) -> None:
    """Say whether the next backward pass exchanges gradients, or adds them to this process's."""
    assert isinstance(model, FSDPModule)
    model.set_requires_gradient_sync(exchanges)


# ---- states --------------------------------------------------------------------------------------


def whole_state(state: Mapping[str, Any], *, keeps: bool) -> dict[str, Any]:
    """Return a run's state with whole tensors; every process must call it.

    Args:
        state: The state of this process.
        keeps: Whether this process needs the whole tensors; else it keeps its parts.
    """

    def gathered(tensor: Tensor) -> Tensor:
        found = whole(tensor)
        return found.cpu() if keeps and is_sharded(tensor) else tensor

    found: dict[str, Any] = with_tensors(state, gathered)
    return found


def whole_weights(model: nn.Module, *, keeps: bool) -> dict[str, Tensor]:
    """Return a model's weights and buffers by name, tied ones once; every process must call it."""
    seen: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        seen.setdefault(id(tensor), name)
    found = model.state_dict()
    return whole_state({name: found[name] for name in seen.values()}, keeps=keeps)


def parted_state(
    saved: Mapping[str, Any], model: nn.Module, optimizer: Optimizer
) -> dict[str, Any]:
    """Return a saved state of whole tensors with this process's part of each."""
    named = dict(model.state_dict())
    parts = {**saved, "model": _like(saved["model"], named)}
    stopping = saved.get("stopping")
    if stopping is not None:
        parts["stopping"] = {**stopping, "weights": _like(stopping["weights"], named)}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    groups = saved["optimizer"]["param_groups"]
    places = [place for group in groups for place in group["params"]]
    of = dict(zip(places, parameters, strict=False))
    moments = {
        place: {name: _part(value, of.get(place)) for name, value in kept.items()}
        for place, kept in saved["optimizer"]["state"].items()
    }
    parts["optimizer"] = {**saved["optimizer"], "state": moments}
    return parts


def _like(saved: Mapping[str, Tensor], named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: _part(value, named.get(name)) for name, value in saved.items()}


def _part(value: Any, like: Tensor | None) -> Any:
    """Return the part of a tensor that this process has of one of the same shape."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or is_sharded(value):
        return value
    if value.shape != like.shape:
        return value
    mesh = like.device_mesh
    # All processes have the same tensor: each takes its part, without a message.
    return distribute_tensor(value.to(like.device), mesh, like.placements, src_data_rank=None)


# ---- errors ------------------------------------------------------------------------------------


def explained(error: Exception) -> Exception:
    """Return an error that says what to do if weights were used that were not gathered."""
    if MIXED not in str(error):
        return error
    return TaskError(
        "shard: the step uses a layer or a weight of the model without calling the model, and "
        "weights are gathered only for a call: let model.forward do it, or leave shard out "
        f"({error})"
    )


def refuse_sharding(task: Task, recipe: Recipe, model: nn.Module) -> None:
    """Raise for what cannot be trained with sharded parameters.

    Raises:
        BadValueError: With the reason and what to do.
    """
    reason = _why_not_recipe(recipe) or _why_not_model(task, model)
    if reason:
        raise BadValueError(f"shard: {reason}, or leave shard out")


def _why_not_recipe(recipe: Recipe) -> str:
    """Return why a recipe needs whole tensors; empty if it does not."""
    row = optimizer_row(recipe.optimizer.name)
    if row.why_no_shards:
        return f"{row.name} needs whole tensors ({row.why_no_shards}): take 'adamw' or 'sgd'"
    if recipe.compress is not None:
        return f"compress={repr(recipe.compress)!r} exchanges whole gradients: leave it out"
    penalties = {"l1": recipe.l1, "l2": recipe.l2, "activity": recipe.activity}
    for name, value in penalties.items():
        if value:
            return f"{name}={value:g} is a term of the loss over whole weights: use weight_decay"
    if recipe.precision == "float16":
        return "precision='float16' scales the loss by what it finds in whole gradients: " + (
            "take 'bfloat16'"
        )
    if recipe.clip_adaptive is not None:
        return f"clip_adaptive={recipe.clip_adaptive:g} compares rows with weights: use clip_norm"
    if recipe.spikes is not None and recipe.spikes.name == "rewind":
        return f"spikes={recipe.spikes!r} keeps whole states: take 'skip' or 'zclip'"
    if recipe.lr_mult is not None:
        for rule in recipe.lr_mult.rules:
            if rule.selector.gates or rule.selector.rows:
                return f"lr_mult has {rule.selector.text!r}, rows of a tensor: name whole tensors"
        if any(policy.name == "trust" for policy in recipe.lr_mult.policies):
            return "the policy trust() of lr_mult compares whole tensors: leave it out"
    return ""


def _why_not_model(task: Task, model: nn.Module) -> str:
    if task.alternates:
        return "parts of the model take turns, each with a gradient of its own: train them whole"
    for name, parameter in model.named_parameters():
        if parameter.dim() == 0:
            return f"the parameter {name!r} is a scalar: give it the shape (1,)"
        if parameter.is_complex():
            return f"the parameter {name!r} is complex: keep its parts as real parameters"
    for name, module in model.named_modules():
        if getattr(module, "sparse", False):
            return f"{name or 'the model'} has sparse gradients: give it sparse=False"
    return ""
