"""int8 for the layers that torchao does not quantise: convolutions, embeddings, recurrent layers.

Only the weights are int8; a layer computes with s · q in floating point, where a row of the weight
has the scale s = max|w| / 127 and q = round(w / s). Neighbouring short rows share a scale: its four
bytes would be half as much as a row of 8 weights. This saves memory, not time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etude.compression.derived import (
    LAYERS,
    RECURRENT,
    classes,
    compressible,
    joined,
    owners,
    weight_names,
)
from etude.torch_internals import flat_names, flat_weights, own_buffers, own_parameters

SERVED = 64
"""The fewest weights with a scale of their own: a scale then adds at most 1/16 to their bytes."""

LARGEST = 127
"""The largest int8 that is used; -128 is left out, so that the grid is symmetric."""


class Int8Weights(nn.Module):
    """A layer whose weights are int8, with one scale for each row, or for some short rows."""

    def derived(self, name: str) -> Tensor:
        """Return s · q."""
        held, scale = own_buffers(self)[int8_name(name)], own_buffers(self)[scale_name(name)]
        assert held is not None
        assert scale is not None
        return restored(held, scale)


class FakeInt8(nn.Module):
    """A layer that trains with weights rounded to int8; gradients pass the rounding unchanged.

    The straight-through estimator: Bengio et al. 2013, arXiv:1308.3432.
    """

    def derived(self, name: str) -> Tensor:
        """Return w + (s · q - w), where the bracket is a constant for the gradient."""
        raw = own_parameters(self)[name]
        assert raw is not None
        held, scale = quantised(raw.detach())
        return raw + (restored(held, scale) - raw.detach())


INT8 = classes(Int8Weights, __name__)
FAKE = classes(FakeInt8, __name__)
for _kind in (*INT8.values(), *FAKE.values()):
    globals()[_kind.__name__] = _kind  # to be pickled by name


def int8_name(name: str) -> str:
    """Return the name of the buffer that holds an int8 weight."""
    return f"{name}_int8"


def scale_name(name: str) -> str:
    """Return the name of the buffer that holds the scales of an int8 weight."""
    return f"{name}_row_scale"


def rows_of_scale(shape: Sequence[int]) -> int:
    """Return how many rows of a weight of some shape share a scale: as many as hold 64 weights.

    >>> rows_of_scale((256, 8)), rows_of_scale((256, 64)), rows_of_scale((16, 1, 3, 3))
    (8, 1, 8)
    """
    columns = math.prod(shape[1:])
    return max(1, math.ceil(SERVED / columns)) if columns else 1


def scale_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of the scales of a weight of some shape.

    >>> scale_shape((250, 8)), scale_shape((16, 1, 3, 3))
    ((32, 1), (2, 1, 1, 1))
    """
    return math.ceil(shape[0] / rows_of_scale(shape)), *[1] * (len(shape) - 1)


def restored(held: Tensor, scale: Tensor) -> Tensor:
    """Return s · q; a scale for each row, as in earlier versions, is used as it is."""
    if len(scale) != len(held):
        scale = scale.repeat_interleave(rows_of_scale(held.shape), 0)[: len(held)]
    return held * scale


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the int8 values q of a weight, and the scales of its rows: w ≈ s · q.

    >>> held, scale = quantised(torch.tensor([[0.5, -1.27], [0.01, 0.0]]))
    >>> held.tolist(), [round(float(s), 6) for s in scale]
    ([[50, -127], [1, 0]], [0.01])
    """
    kind = weight.dtype
    weight = weight if kind == torch.float64 else weight.float()
    rows, together = weight.flatten(1).abs(), rows_of_scale(weight.shape)
    rows = F.pad(rows, (0, 0, 0, -len(rows) % together))
    rows = rows.reshape(len(rows) // together, together * rows.shape[1])
    largest = rows.amax(1) if rows.shape[1] else weight.new_zeros(len(weight))
    scale = (largest / LARGEST).to(kind)
    # 0 for a row of zeros, and where so small a number does not exist in the type of the weight.
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    scale = scale.view(-1, *[1] * (weight.ndim - 1))
    each = scale.repeat_interleave(together, 0)[: len(weight)] if together > 1 else scale
    return (weight / each).round().clamp(-LARGEST, LARGEST).to(torch.int8), scale


def fake_quantise(model: nn.Module, names: Collection[str]) -> None:
    """Let layers train with weights that are rounded to int8, in place."""
    for name, layer in list(compressible(model)):
        if name in names:
            layer.__class__ = FAKE[type(layer)]


def unfake(model: nn.Module) -> None:
    """Give layers that trained with rounded weights their own class back, in place."""
    for layer in model.modules():
        if isinstance(layer, FakeInt8):
            base: Any = next(base for base, kind in FAKE.items() if type(layer) is kind)
            layer.__class__ = base


def to_int8(model: nn.Module, names: Collection[str]) -> None:
    """Replace the weights of layers by int8 ones, in place; tied weights stay one tensor."""
    done: dict[int, tuple[Tensor, Tensor]] = {}
    kept = []  # so that no id is used twice
    for name, layer in list(compressible(model)):
        if name not in names:
            continue
        for one in weight_names(layer):
            parameter = own_parameters(layer)[one]
            assert parameter is not None
            if id(parameter) not in done:
                done[id(parameter)] = quantised(parameter.detach())
                kept.append(parameter)
        hold_int8(layer, {one: done[id(own_parameters(layer)[one])] for one in weight_names(layer)})


def hold_int8(layer: nn.Module, weights: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Give a layer int8 weights, in place.

    Args:
        layer: A layer that can be compressed.
        weights: By the name of a weight, the int8 values and their scales.
    """
    base = next(base for base in LAYERS if type(layer) is base)
    if isinstance(layer, RECURRENT):
        flat, names = flat_weights(layer), flat_names(layer)
        flat[:] = [None if name in weights else t for name, t in zip(names, flat, strict=True)]
    for name, (held, scale) in weights.items():
        del own_parameters(layer)[name]
        layer.register_buffer(int8_name(name), held)
        layer.register_buffer(scale_name(name), scale)
    layer.__class__ = INT8[base]


def tied_layers(model: nn.Module) -> Iterator[str]:
    """Yield the layers whose weights are those of another layer too."""
    names = owners(model)
    for name, layer in compressible(model):
        found = (own_parameters(layer)[one] for one in weight_names(layer))
        if any(len(names[id(p)]) > 1 for p in found):
            yield name


def shared_elsewhere(model: nn.Module) -> set[str]:
    """Return the layers that share a weight with a module that cannot be compressed."""
    supported = {
        joined(name, one) for name, layer in compressible(model) for one in weight_names(layer)
    }
    names = owners(model)
    return {
        name
        for name, layer in compressible(model)
        for one in weight_names(layer)
        if not set(names[id(own_parameters(layer)[one])]) <= supported
    }
