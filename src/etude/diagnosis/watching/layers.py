"""The layers and parameters of one or several models, as a watch counts them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.optim import Optimizer

from etude.diagnosis.evidence.usual_weights import usual_size
from etude.diagnosis.history import LayerInfo, ParameterInfo
from etude.layerwise.parts import kind_of, owner_of
from etude.torch_internals import uncompiled

Models: TypeAlias = nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module]

ROOT = "(model)"
"""The name of the layer whose parameters belong to the model itself."""


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside `DataParallel`, `DistributedDataParallel` and `torch.compile`.

    >>> net = nn.Linear(1, 1)
    >>> unwrapped(nn.DataParallel(net)) is net
    True
    """
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        inner = uncompiled(model)
        if isinstance(inner, wrappers):
            inner = inner.module
        if inner is model:
            return model
        model = inner


def named_models(models: Models) -> dict[str, nn.Module]:
    """Return the models by the prefix of their parameters' names; '' for a single model."""
    if isinstance(models, nn.Module):
        return {"": models}
    pairs = models.items() if isinstance(models, Mapping) else enumerate(models)
    return {f"{name}.": model for name, model in pairs}


class LayerTable:
    """Parameters and layers by number; a tied parameter belongs to the layer that has it first.

    Args:
        models: The networks by prefix, unwrapped.
        optimizers: What updates them.

    Attributes:
        tensors: The floating-point parameters, in the models' order.
        layer_of: The number of each parameter's layer, by the parameter's `id`.
        usual_norms: The norm of each parameter as its layer draws it; NaN if that is not known.
    """

    def __init__(self, models: Mapping[str, nn.Module], optimizers: Sequence[Optimizer]) -> None:
        self.models = dict(models)
        self.optimizers = tuple(optimizers)
        self.tensors: list[Tensor] = []
        self.names: list[str] = []
        self.usual_norms: list[float] = []
        self.layer_of: dict[int, int] = {}
        self._layers: list[LayerInfo] = []
        self._layer_index: list[int] = []
        self._order: dict[int, int] = {}
        for prefix, model in models.items():
            for name, parameter in model.named_parameters():
                if id(parameter) in self.layer_of or not _readable(parameter):
                    continue
                self._add(prefix, model, name, parameter)

    def _add(self, prefix: str, model: nn.Module, name: str, parameter: Tensor) -> None:
        owner, leaf = owner_of(model, name)
        full = (prefix + (name[: -len(leaf)].rstrip(".") if name.endswith(leaf) else "")).strip(".")
        if ".parametrizations" in full:
            full = full.partition(".parametrizations")[0]
        full = full or ROOT
        known = {layer.name: number for number, layer in enumerate(self._layers)}
        number = known.get(full, len(self._layers))
        if number == len(self._layers):
            self._layers.append(LayerInfo(full, kind_of(owner)))
        layer = self._layers[number]
        self._layers[number] = replace(layer, parameters=(*layer.parameters, prefix + name))
        self.layer_of[id(parameter)] = number
        self.tensors.append(parameter)
        self.names.append(prefix + name)
        usual = math.nan if "parametrizations." in name else usual_size(owner, parameter)
        self.usual_norms.append(usual * math.sqrt(parameter.numel()))
        self._layer_index.append(number)

    def __len__(self) -> int:
        return len(self.tensors)

    def holders(self) -> list[int | None]:
        """Return for each parameter the number of the optimizer that holds it, or None."""
        held: dict[int, int] = {}
        for number, optimizer in enumerate(self.optimizers):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    held.setdefault(id(parameter), number)
        return [held.get(id(parameter)) for parameter in self.tensors]

    def use(self, number: int) -> None:
        """Note that a layer is used now; the first uses give the layers' depths."""
        self._order.setdefault(number, len(self._order))

    def describe(self, number: int, *, units: int, activation: str, gate: bool) -> None:
        """Note what a forward pass showed of a layer."""
        layer = self._layers[number]
        self._layers[number] = replace(layer, units=units, activation=activation, gate=gate)

    def set_outputs(self, hidden: Iterable[int], outputs: Iterable[int]) -> None:
        """Note which layers stand before another one, and which give the result."""
        for number in outputs:
            self._layers[number] = replace(self._layers[number], output=True)
        for number in hidden:
            self._layers[number] = replace(self._layers[number], output=False)

    def layers(self) -> tuple[LayerInfo, ...]:
        """Return the layers, in the models' order, with their depths."""
        last = len(self._order)
        return tuple(
            replace(layer, depth=self._order.get(number, last + number) if last else number)
            for number, layer in enumerate(self._layers)
        )

    def parameters(self) -> tuple[ParameterInfo, ...]:
        """Return the parameters, in the models' order."""
        decays = {
            id(parameter): (float(group.get("weight_decay") or 0.0), _is_decoupled(one, group))
            for one in self.optimizers
            for group in one.param_groups
            for parameter in group["params"]
        }
        return tuple(
            ParameterInfo(name, layer, holder, tensor.requires_grad, *decays.get(id(tensor), ()))
            for name, layer, holder, tensor in zip(
                self.names, self._layer_index, self.holders(), self.tensors, strict=True
            )
        )


def _is_decoupled(optimizer: Optimizer, group: Mapping[str, Any]) -> bool:
    """Return whether a weight decay is taken from the weights and not added to the gradient."""
    stated = group.get("decoupled_weight_decay")
    return type(optimizer).__name__ == "AdamW" if stated is None else bool(stated)


def _readable(parameter: Tensor) -> bool:
    lazy = isinstance(parameter, nn.parameter.UninitializedParameter)
    return not lazy and parameter.is_floating_point() and parameter.numel() > 0
