"""A compressed network as plain tensors, and as the network again.

Weights that pruning set to zero are not kept: the others stand one after the other, with one bit
for each weight that says whether it is among them. Nothing that is read back is run: the network is
built by its task, and made to fit what is written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from etude.compression import int8_layers, linear_int8
from etude.compression.derived import LAYERS, joined, weight_names
from etude.compression.int8_layers import (
    Int8Weights,
    hold_int8,
    int8_name,
    scale_name,
    scale_shape,
)
from etude.compression.linear_int8 import Int8Mode
from etude.compression.structured import Sizes, resize
from etude.errors import StorageError, UnknownNameError, member, shorten, shown
from etude.storage.model_weights import load_weights
from etude.torch_internals import own_parameters

VALUES, BITS = "#values", "#bits"
"""What is added to the name of a weight for the values that are not zero, and for where they are;
no parameter's name has such an end."""


@dataclass(frozen=True)
class WeightsLayout:
    """How the tensors of a file make up a network; all but the tensors.

    Attributes:
        sizes: The layers that are smaller than the task builds them.
        linear: The linear layers that torchao computes in int8, with their mode.
        weights: The layers with int8 weights of Etude's own.
        packed: The weights whose zeros are not kept.
        same: By name, the tensor that it is the same as.
    """

    sizes: Sizes
    linear: Mapping[str, Int8Mode]
    weights: tuple[str, ...]
    packed: tuple[str, ...]
    same: Mapping[str, str]

    def plain(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        return {
            "sizes": {name: dict(changes) for name, changes in self.sizes.items()},
            "linear": dict(self.linear),
            "weights": list(self.weights),
            "packed": list(self.packed),
            "same": dict(self.same),
        }

    @classmethod
    def of(cls, plain: object) -> WeightsLayout:
        """Read what `plain` returned; it may come from an unknown source.

        Raises:
            StorageError: If it is anything else.
        """
        try:
            assert isinstance(plain, dict)
            tables = {name: dict(plain[name]) for name in ("sizes", "linear", "same")}
            lists = {name: tuple(plain[name]) for name in ("weights", "packed")}
            names = (*tables["same"].values(), *lists["weights"], *lists["packed"])
            assert all(isinstance(name, str) for name in names)
            modes = {n: member(Int8Mode, mode, "mode") for n, mode in tables["linear"].items()}
        except (AssertionError, KeyError, TypeError, ValueError, UnknownNameError) as error:
            raise StorageError(
                f"the description of the compressed model is damaged: {error or 'no table'}"
            ) from error
        return cls(tables["sizes"], modes, lists["weights"], lists["packed"], tables["same"])


def taken_apart(
    model: nn.Module, sizes: Sizes, pruned: Collection[str]
) -> tuple[WeightsLayout, dict[str, Tensor]]:
    """Return a compressed network as plain tensors, and how they make it up.

    Args:
        model: The network.
        sizes: The layers that structured pruning made smaller.
        pruned: The weights, by name, that have zeros which need not be kept.
    """
    tensors: dict[str, Tensor] = {}
    same: dict[str, str] = {}
    first: dict[int, str] = {}
    linear = {
        name: linear_int8.mode_of(layer)
        for name, layer in model.named_modules()
        if linear_int8.is_quantised(layer)
    }
    held = {joined(name, "weight") for name in linear}
    packed = []
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in held:
            continue
        if id(tensor) in first:
            same[name] = first[id(tensor)]
            continue
        first[id(tensor)] = name
        plain = tensor.detach().cpu()
        stays = plain != 0
        if name in pruned and _saves(stays, plain):
            packed.append(name)
            tensors[name + VALUES] = plain[stays]
            tensors[name + BITS] = torch.from_numpy(np.packbits(stays.numpy().ravel()))
        else:
            tensors[name] = plain.clone(memory_format=torch.contiguous_format)
    layers = dict(model.named_modules())
    for name in linear:
        for one, tensor in linear_int8.plain_tensors(layers[name]).items():
            tensors[joined(name, one)] = tensor.detach().cpu().contiguous()
    own = tuple(name for name, layer in layers.items() if isinstance(layer, Int8Weights))
    return WeightsLayout(sizes, linear, own, tuple(packed), same), tensors


def _saves(stays: Tensor, plain: Tensor) -> bool:
    """Return whether a weight is smaller without its zeros."""
    size = plain.element_size()
    return int(stays.sum()) * size + -(-plain.numel() // 8) < plain.numel() * size


def put_together(
    model: nn.Module, layout: WeightsLayout, tensors: Mapping[str, Tensor]
) -> nn.Module:
    """Make a newly built network the one that was taken apart, in place.

    Args:
        model: The network as its task builds it, on the CPU.
        layout: How the tensors make it up.
        tensors: The tensors.

    Raises:
        StorageError: If they do not fit the network.
    """
    try:
        resize(model, layout.sizes)
        weights = dict(tensors)
        layers = dict(model.named_modules())
        for name in layout.packed:
            values, bits = weights.pop(name + VALUES), weights.pop(name + BITS)
            weights[name] = _unpacked(name, values, bits, _parameter(model, name))
        for name, source in layout.same.items():
            weights[name] = weights[source]
        held = {name: _taken(weights, name, mode) for name, mode in layout.linear.items()}
        for name in layout.linear:
            weights[joined(name, "weight")] = _parameter(model, joined(name, "weight")).detach()
        _hold_own(layers, layout, weights)
        load_weights(model, weights)
        for name, mode in layout.linear.items():
            layer = layers[name]
            if type(layer) is not nn.Linear:
                raise StorageError(f"layer {shown(name)} is no linear layer in the task's model")
            linear_int8.hold(layer, mode, held[name])
    except StorageError:
        raise
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split())
        raise StorageError(
            f"the compressed model is damaged, or of another task: {shorten(said, 300)}"
        ) from error
    return model.eval()


def _parameter(model: nn.Module, name: str) -> Tensor:
    return dict(model.named_parameters(remove_duplicate=False))[name]


def _unpacked(name: str, values: Tensor, bits: Tensor, like: Tensor) -> Tensor:
    count = like.numel()
    if bits.dtype != torch.uint8 or bits.numel() != -(-count // 8):
        raise StorageError(f"the weight {shown(name)} is damaged: it has other places than zeros")
    stays = torch.from_numpy(np.unpackbits(bits.numpy().ravel(), count=count)).bool()
    if values.ndim != 1 or int(stays.sum()) != values.numel():
        raise StorageError(f"the weight {shown(name)} is damaged: it has more or fewer values")
    whole = torch.zeros(count, dtype=values.dtype)
    whole[stays] = values
    return whole.view(like.shape)


def _taken(weights: dict[str, Tensor], name: str, mode: Int8Mode) -> dict[str, Tensor]:
    parts = ["weight_int8", "weight_scale"]
    parts += ["input_scale"] if mode == Int8Mode.STATIC else []
    # Kernels compute other bits at addresses that are not aligned, as in a file mapped to memory.
    return {one: weights.pop(joined(name, one)).clone() for one in parts}


def _hold_own(
    layers: Mapping[str, nn.Module], layout: WeightsLayout, weights: Mapping[str, Tensor]
) -> None:
    """Give the layers their own int8 weights; what was one tensor is one again."""
    made: dict[str, Tensor] = {}

    def once(name: str) -> Tensor:
        source = layout.same.get(name, name)
        if source not in made:
            made[source] = weights[source].clone()
        return made[source]

    for name in layout.weights:
        layer = layers[name]
        if type(layer) not in LAYERS:
            raise StorageError(f"layer {shown(name)} of the task's model cannot have int8 weights")
        found = {}
        for one in weight_names(layer):
            parameter = own_parameters(layer)[one]
            held, scale = once(joined(name, int8_name(one))), once(joined(name, scale_name(one)))
            assert parameter is not None
            rows = (parameter.shape[0], *[1] * (parameter.ndim - 1))  # of earlier versions
            fits = scale.shape in (rows, scale_shape(parameter.shape))
            if held.shape != parameter.shape or held.dtype != torch.int8 or not fits:
                raise StorageError(f"the int8 weight of layer {shown(name)} is of another shape")
            found[one] = (held, scale)
        hold_int8(layer, found)


def int8_layer(layer: nn.Module) -> bool:
    """Return whether a layer's weights are int8, by torchao or by Etude."""
    return isinstance(layer, int8_layers.Int8Weights) or linear_int8.is_quantised(layer)
