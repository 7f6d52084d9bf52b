"""Layers whose weights are computed, whenever they are read, from what the layers hold.

A layer gets another class, derived from its own: names of modules and parameters stay, so that
recipes, multipliers of the rate and checkpoints go on to fit.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from etude.torch_internals import flat_names, flat_weights, own_parameters

RECURRENT: tuple[type[nn.RNNBase], ...] = (nn.RNN, nn.LSTM, nn.GRU)

PLAIN: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Embedding,
)
"""Layers with one matrix, kernel or table, called 'weight'."""

LAYERS: tuple[type[nn.Module], ...] = (*PLAIN, *RECURRENT)
"""The layers that can be compressed. A class derived from one may compute anything else."""


class OneWeight(nn.Module):
    """A layer that reads its weight as `self.weight`."""

    def derived(self, name: str) -> Tensor:
        """Return what the layer computes with in place of its weight of this name."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:
        """The weight, computed anew."""
        return self.derived("weight")


class ManyWeights(nn.Module):
    """A recurrent layer, which keeps a list of the tensors that it computes with."""

    def derived(self, name: str) -> Tensor:
        """Return what the layer computes with in place of its weight of this name."""
        raise NotImplementedError

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Compute the layer with the derived weights."""
        with _in_use(self, self.derived):
            return super().forward(*inputs, **named)


@contextmanager
def _in_use(layer: Any, derived: Any) -> Iterator[None]:
    flat, names = flat_weights(layer), flat_names(layer)
    kept = list(flat)
    matrices = set(weight_names(layer))
    flat[:] = [derived(name) if name in matrices else getattr(layer, name, None) for name in names]
    on_cpu = all(tensor is None or tensor.is_cpu for tensor in flat)
    try:
        with nullcontext() if on_cpu else _apart():
            yield
    finally:
        flat[:] = kept


@contextmanager
def _apart() -> Iterator[None]:
    """Hear nothing of what cuDNN says of weights that lie apart in memory, as derived ones do."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single")
        yield


def weight_names(layer: nn.Module) -> tuple[str, ...]:
    """Return the names of a layer's matrices, without its biases.

    >>> weight_names(nn.Linear(2, 3)), weight_names(nn.LSTM(2, 3))
    (('weight',), ('weight_ih_l0', 'weight_hh_l0'))
    """
    if isinstance(layer, nn.RNNBase):
        return tuple(name for name in flat_names(layer) if name.startswith("weight"))
    return ("weight",)


def classes(kind: type[Any], module: str) -> dict[type[nn.Module], type[nn.Module]]:
    """Return, for every layer that can be compressed, its class with weights of a kind.

    Args:
        kind: What derives the weights: a class with a method `derived`.
        module: The module that keeps the classes, so that they can be pickled.
    """
    found: dict[type[nn.Module], type[nn.Module]] = {}
    for base in LAYERS:
        reads = ManyWeights if base in RECURRENT else OneWeight
        name = f"{kind.__name__}{base.__name__}"
        found[base] = type(name, (kind, reads, base), {"__module__": module, "__doc__": None})
    return found


def compressible(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of a model that can be compressed, with their names."""
    for name, layer in model.named_modules():
        if type(layer) in LAYERS and all(
            own_parameters(layer).get(one) is not None for one in weight_names(layer)
        ):
            yield name, layer


def joined(name: str, parameter: str) -> str:
    """Return the full name of a layer's parameter.

    >>> joined("head", "weight"), joined("", "weight")
    ('head.weight', 'weight')
    """
    return f"{name}.{parameter}" if name else parameter


def left_out(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the matrices that belong to no layer which can be compressed."""
    known = {
        id(own_parameters(layer)[one])
        for _, layer in compressible(model)
        for one in weight_names(layer)
    }
    return tuple(name for name, p in model.named_parameters() if p.ndim >= 2 and id(p) not in known)


def owners(model: nn.Module) -> dict[int, list[str]]:
    """Return the full names under which each parameter is known, by the parameter's id."""
    found: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for own, parameter in own_parameters(module).items():
            if parameter is not None:
                found.setdefault(id(parameter), []).append(joined(name, own))
    return found
