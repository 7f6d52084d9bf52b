"""Magnitude pruning: which weights go, and layers in which they stay exactly zero.

The smallest weights by absolute value are set to zero (Han et al. 2015, arXiv:1506.02626), over all
layers together or in each layer alone; torch.nn.utils.prune chooses them. During fine-tuning a
layer computes with w ∘ m: the gradient of a weight that is gone is zero, and whatever momentum,
weight decay or a mean of weights do to the parameter, the weight stays zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from etude.compression.derived import (
    classes,
    compressible,
    joined,
    left_out,
    owners,
    weight_names,
)
from etude.errors import BadValueError
from etude.torch_internals import own_buffers, own_parameters


class Scope(StrEnum):
    """Among which weights the smallest are looked for; each is equal to its text."""

    GLOBAL = "global"
    LAYER = "layer"


class Masked(nn.Module):
    """A layer that computes with its weights where its masks are True, and with 0 elsewhere."""

    def derived(self, name: str) -> Tensor:
        """Return a masked weight."""
        raw, mask = own_parameters(self)[name], own_buffers(self)[mask_name(name)]
        assert raw is not None
        assert mask is not None
        return torch.where(mask, raw, raw.new_zeros(()))


MASKED = classes(Masked, __name__)
globals().update({kind.__name__: kind for kind in MASKED.values()})  # to be pickled by name


def mask_name(name: str) -> str:
    """Return the name of the mask of a weight.

    >>> mask_name("weight")
    'weight_mask'
    """
    return f"{name}_mask"


def magnitude_masks(model: nn.Module, share: float, scope: Scope) -> dict[str, Tensor]:
    """Return which weights stay, by the parameter's full name; tied weights have one mask.

    Embedding tables are pruned only where a layer that multiplies by them shares their weights.

    Args:
        model: The network.
        share: The share of the weights to set to zero, in [0, 1).
        scope: Whether the smallest are looked for over all layers together, or in each.

    Raises:
        BadValueError: If the model has no layer that can be pruned.

    >>> layer = nn.Linear(4, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[0.1, -3.0, 0.2, 1.0]]))
    >>> magnitude_masks(layer, 0.5, Scope.GLOBAL)["weight"].tolist()
    [[False, True, False, True]]
    """
    weights = _prunable(model)
    if not weights:
        raise BadValueError(
            f"the model has no layer that can be pruned: {_kinds(model)}. Linear, convolutional "
            "and recurrent layers of torch can"
        )
    if scope == Scope.LAYER:
        return {name: _smallest_out(weight, share) for name, weight in weights.items()}
    flat = _smallest_out(torch.cat([weight.flatten() for weight in weights.values()]), share)
    parts = torch.split(flat, [weight.numel() for weight in weights.values()])
    return {
        name: part.view(weight.shape)
        for (name, weight), part in zip(weights.items(), parts, strict=True)
    }


def _smallest_out(weight: Tensor, share: float) -> Tensor:
    method: Any = prune.L1Unstructured(amount=share)
    found: Tensor = method.compute_mask(weight, default_mask=torch.ones_like(weight))
    return found.bool()


def _prunable(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights to prune by their first name."""
    names = owners(model)
    whole = set(left_out(model))
    supported = {
        joined(name, one) for name, layer in compressible(model) for one in weight_names(layer)
    }
    found: dict[str, Tensor] = {}
    for _, layer in compressible(model):
        if isinstance(layer, nn.Embedding):
            continue
        for one in weight_names(layer):
            parameter = own_parameters(layer)[one]
            assert parameter is not None
            known = names[id(parameter)]
            # A mask in one layer alone would leave the others with the whole weight.
            if set(known) <= supported and not set(known) & whole:
                found.setdefault(known[0], parameter.detach())
    return found


def _kinds(model: nn.Module) -> str:
    kinds = sorted({type(one).__name__ for one in model.modules() if own_parameters(one)})
    return f"it has {', '.join(kinds)}" if kinds else "it has no parameters"


def mask(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Put masks into a model's layers, in place, and set what they leave out to zero.

    Args:
        model: The network.
        masks: By the full name of a parameter, True where its values stay.
    """
    by_id = {
        id(parameter): masks[name]
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if name in masks
    }
    for _, layer in list(compressible(model)):
        found = {
            one: by_id.get(id(parameter))
            for one in weight_names(layer)
            if (parameter := own_parameters(layer)[one]) is not None
        }
        if all(one is None for one in found.values()):
            continue
        for name, parameter in own_parameters(layer).items():
            if name not in found or parameter is None:
                continue
            kept = found[name]
            kept = torch.ones_like(parameter, dtype=torch.bool) if kept is None else kept
            with torch.no_grad():
                parameter.masked_fill_(~kept, 0.0)
            layer.register_buffer(mask_name(name), kept.clone(), persistent=False)
        layer.__class__ = MASKED[type(layer)]


def unmask(model: nn.Module) -> None:
    """Give a model its own layers back, in place, with zeros where the masks were False."""
    for layer in model.modules():
        if not isinstance(layer, Masked):
            continue
        base: Any = next(base for base, kind in MASKED.items() if type(layer) is kind)
        for name in weight_names(layer):
            parameter, kept = own_parameters(layer)[name], own_buffers(layer)[mask_name(name)]
            assert parameter is not None
            assert kept is not None
            with torch.no_grad():
                parameter.masked_fill_(~kept, 0.0)
            delattr(layer, mask_name(name))
        layer.__class__ = base
