"""Structured pruning: removes whole channels and units, so that the network is smaller.

The importance of a channel is the Euclidean norm of all the weights that make it (Li et al. 2017,
arXiv:1608.08710); torch.nn.utils.prune chooses the least. Where the graph does not allow a channel
to be removed, its weights are masked instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from etude.compression.channels import OUTPUT, ChannelGroup, channel_groups
from etude.compression.derived import RECURRENT, compressible, joined, owners
from etude.errors import BadValueError, StorageError, shown
from etude.torch_internals import BATCH_NORMS, own_buffers, own_parameters

SIZES: Mapping[str, tuple[str, str]] = {
    "Linear": ("out_features", "in_features"),
    "Conv1d": ("out_channels", "in_channels"),
    "Conv2d": ("out_channels", "in_channels"),
    "Conv3d": ("out_channels", "in_channels"),
}
"""By the class of a layer, the attributes with its numbers of rows and columns."""

Sizes = Mapping[str, Mapping[str, int]]
"""By layer, the attributes that changed, with their new values."""


@dataclass(frozen=True)
class Removal:
    """What structured pruning did.

    Attributes:
        sizes: The layers that are smaller.
        masks: Of the layers whose channels could not be removed, by the parameter's name.
        reasons: Why they could not, by layer.
        notes: What else to know, as sentences.
    """

    sizes: Sizes
    masks: Mapping[str, Tensor]
    reasons: Mapping[str, str]
    notes: tuple[str, ...]


def remove_channels(model: nn.Module, share: float, inputs: Sequence[Any] | None) -> Removal:
    """Remove the share of channels with the smallest weights, in place.

    Args:
        model: The network, in evaluation mode.
        share: The share of the channels of each group of layers, in [0, 1).
        inputs: A batch that the model can be called with, to follow its graph; None if it cannot.

    Raises:
        BadValueError: If the model has no layer with channels to remove or to mask.

    >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    >>> remove_channels(net, 0.5, [torch.zeros(1, 3)]).sizes
    {'0': {'out_features': 4}, '2': {'in_features': 4}}
    >>> net
    Sequential(
      (0): Linear(in_features=3, out_features=4, bias=True)
      (1): ReLU()
      (2): Linear(in_features=4, out_features=2, bias=True)
    )
    """
    groups: list[ChannelGroup] = []
    blind, last = "the task's step calls the model in its own way", ""
    if inputs is not None:
        groups, blind = channel_groups(model, inputs)
        last = _last_layer(model, inputs) if blind else ""
    layers = dict(model.named_modules())
    free = [group for group in groups if not group.fixed and group.readers]
    unread = [group for group in groups if group.fixed == OUTPUT or group not in free]
    whole = {one for g in unread if g.fixed in (OUTPUT, "") for one in g.makers}
    reasons = {one: group.fixed for group in groups for one in group.makers if group.fixed}
    removable = {one for group in free for one in group.makers}
    sizes: dict[str, dict[str, int]] = {}
    masks: dict[str, Tensor] = {}
    told: dict[str, str] = {}
    kept = [(group, _largest(group, layers, share)) for group in free]
    for group, rows in kept:
        _cut(group, layers, rows, sizes)
    tied = {one for known in owners(model).values() if len(known) > 1 for one in known}
    for name, layer in compressible(model):
        if type(layer).__name__ not in SIZES or name in removable or name in whole:
            continue
        weight = own_parameters(layer)["weight"]
        if name == last or joined(name, "weight") in tied or weight is None:
            continue
        masks[joined(name, "weight")] = (
            _rows(weight.detach(), share)[:, None]
            .expand(weight.shape[0], weight[0].numel())
            .reshape(weight.shape)
        )
        told[name] = reasons.get(name, blind or "it is not reached by the graph that was followed")
    if not free and not masks:
        raise BadValueError(
            "the model has no layer whose channels can be removed: structured pruning needs linear "
            "or convolutional layers before the last one; --prune sets single weights to zero"
        )
    return Removal(sizes, masks, told, _notes(model))


def _last_layer(model: nn.Module, inputs: Sequence[Any]) -> str:
    """Return the layer with weights that is called last, whose outputs are the model's."""
    called: list[str] = []
    hooks = [
        layer.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, layer in compressible(model)
    ]
    try:
        with torch.no_grad():
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return called[-1] if called else ""


def _largest(group: ChannelGroup, layers: Mapping[str, nn.Module], share: float) -> Tensor:
    """Return the numbers of the channels that stay, in order."""
    weights = [_weight(layers[name]).detach().flatten(1) for name in group.makers]
    return _rows(torch.cat(weights, dim=1), share).nonzero().flatten()


def _rows(weight: Tensor, share: float) -> Tensor:
    """Return which rows stay: all but the share with the smallest norm, and at least one."""
    rows = weight.shape[0]
    count = min(round(share * rows), rows - 1)
    if not count:
        return torch.ones(rows, dtype=torch.bool)
    flat = weight.flatten(1)
    method: Any = prune.LnStructured(amount=count, n=2, dim=0)
    found: Tensor = method.compute_mask(flat, default_mask=torch.ones_like(flat))
    return found[:, 0].bool()


def _weight(layer: nn.Module) -> nn.Parameter:
    found = own_parameters(layer)["weight"]
    assert found is not None
    return found


def _cut(
    group: ChannelGroup,
    layers: Mapping[str, nn.Module],
    rows: Tensor,
    sizes: dict[str, dict[str, int]],
) -> None:
    if len(rows) == group.size:
        return
    for name in group.makers:
        attribute = SIZES[type(layers[name]).__name__][0]
        _select(layers[name], ("weight", "bias"), 0, rows)
        _set(layers[name], name, attribute, len(rows), sizes)
    for name in group.norms:
        _select(layers[name], ("weight", "bias", "running_mean", "running_var"), 0, rows)
        _set(layers[name], name, "num_features", len(rows), sizes)
    for name, each in group.readers:
        attribute = SIZES[type(layers[name]).__name__][1]
        columns = (rows[:, None] * each + torch.arange(each)).flatten()
        _select(layers[name], ("weight",), 1, columns)
        _set(layers[name], name, attribute, len(columns), sizes)


def _set(
    layer: nn.Module, name: str, attribute: str, value: int, sizes: dict[str, dict[str, int]]
) -> None:
    setattr(layer, attribute, value)
    sizes.setdefault(name, {})[attribute] = value


def _select(layer: nn.Module, names: Sequence[str], axis: int, kept: Tensor) -> None:
    """Keep some rows or columns of a layer's tensors."""
    parameters, buffers = own_parameters(layer), own_buffers(layer)
    for name in names:
        parameter, buffer = parameters.get(name), buffers.get(name)
        if parameter is not None:
            chosen = parameter.detach().index_select(axis, kept.to(parameter.device))
            parameters[name] = nn.Parameter(chosen, requires_grad=parameter.requires_grad)
        if buffer is not None:
            buffers[name] = buffer.index_select(axis, kept.to(buffer.device))


def _notes(model: nn.Module) -> tuple[str, ...]:
    recurrent = [name for name, layer in compressible(model) if type(layer) in RECURRENT]
    if not recurrent:
        return ()
    return (
        f"The units of recurrent layers ({', '.join(recurrent)}) are left whole: each goes back "
        "into all the gates, so that it cannot be removed like a channel. --prune sets single "
        "weights of these layers to zero.",
    )


def resize(model: nn.Module, sizes: Mapping[str, Any]) -> None:
    """Give a newly built model the sizes of a smaller one, in place; its values are not set.

    Args:
        model: The network, as its task builds it.
        sizes: What `remove_channels` returned; it may come from an unknown source.

    Raises:
        StorageError: If it does not fit the model.
    """
    layers = dict(model.named_modules())
    for name, changes in sizes.items():
        layer = layers.get(name)
        kind = type(layer)
        known: tuple[str, ...] = SIZES.get(kind.__name__, ())
        if kind in BATCH_NORMS:
            known = ("num_features",)
        if layer is None or not isinstance(changes, Mapping) or not set(changes) <= set(known):
            raise StorageError(
                f"the sizes of layer {shown(name)} do not fit the task's model: they are of "
                "another model"
            )
        for attribute, value in changes.items():
            before = getattr(layer, attribute)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= before:
                raise StorageError(
                    f"layer {shown(name)} is damaged: {attribute}={shown(value)} is not between 1 "
                    f"and the {before} that the task's model has"
                )
            kept = torch.arange(value)
            if attribute.startswith("in_"):
                _select(layer, ("weight",), 1, kept)
            else:
                _select(layer, ("weight", "bias", "running_mean", "running_var"), 0, kept)
            setattr(layer, attribute, value)
