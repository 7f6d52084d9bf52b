"""int8 for linear layers, by torchao: weights and inputs are int8, and so is the product.

dynamic: every row of the input gets its own scale when it comes (symmetric).
static: one scale for all inputs of a layer, from the largest seen on training data.
qat: the network trains with rounded weights and inputs first; then as dynamic, but with a zero
point for each row of the input, as torchao trains it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import MissingExtraError, StorageError
from etude.torch_internals import own_parameters
from etude.warning_filters import filters_kept, logger_kept

STATIC_RANGE = 127.5
"""Half the number of steps between -128 and 127, as torchao divides a symmetric range."""


class Int8Mode(StrEnum):
    """How the inputs of a layer become int8; each is equal to its text."""

    DYNAMIC = "dynamic"
    STATIC = "static"
    QAT = "qat"


@contextmanager
def _quietly() -> Iterator[None]:
    """Hear nothing of what torchao says when it is loaded: it lacks parts not used here.

    torch warns of how torchao registers its types.
    """
    with filters_kept(), logger_kept("torchao"), logger_kept("torch.utils"):
        yield


def torchao() -> ModuleType:
    """Return `torchao.quantization`.

    Raises:
        MissingExtraError: If torchao is not installed, or is too old.
    """
    try:
        with _quietly():
            import torchao.quantization as found
            from torchao.quantization import Int8StaticActivationInt8WeightConfig  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "int8 needs torchao 0.18 or newer: pip install 'etude[compress]'"
        ) from error
    module: ModuleType = found
    return module


def quantise(
    model: nn.Module,
    names: Collection[str],
    mode: Int8Mode,
    scales: Mapping[str, Tensor] | None = None,
) -> None:
    """Make linear layers int8, in place.

    Args:
        model: The network.
        names: The layers.
        mode: How their inputs become int8.
        scales: With 'static', the scale of each layer's input, as `input_scales` returns it; a
            layer without one is quantised as with 'dynamic'.
    """
    for name in names:
        scale = (scales or {}).get(name)
        own = mode if mode != Int8Mode.STATIC or scale is not None else Int8Mode.DYNAMIC
        _quantise(model, [name], _config(own, scale))


def _quantise(model: nn.Module, names: Collection[str], config: Any) -> None:
    found = torchao()
    with _quietly():
        found.quantize_(model, config, filter_fn=partial(_named, names=set(names)))


def _named(layer: nn.Module, name: str, names: Collection[str]) -> bool:
    return name in names


def _config(mode: Int8Mode, scale: Tensor | None = None) -> Any:
    found = torchao()
    if mode == Int8Mode.STATIC:
        return found.Int8StaticActivationInt8WeightConfig(
            act_quant_scale=scale,
            granularity=[found.PerTensor(), found.PerRow()],
            set_inductor_config=False,
        )
    kinds = found.MappingType
    return found.Int8DynamicActivationInt8WeightConfig(
        act_mapping_type=kinds.ASYMMETRIC if mode == Int8Mode.QAT else kinds.SYMMETRIC,
        granularity=found.PerRow(),
        set_inductor_config=False,
    )


def train_rounded(model: nn.Module, names: Collection[str]) -> None:
    """Let linear layers train with rounded weights and inputs, in place."""
    found = torchao()
    with _quietly():
        from torchao.quantization import qat

        config = qat.QATConfig(
            activation_config=qat.IntxFakeQuantizeConfig(
                torch.int8, "per_token", is_symmetric=False
            ),
            weight_config=qat.IntxFakeQuantizeConfig(torch.int8, "per_channel", is_symmetric=True),
            step="prepare",
        )
        found.quantize_(model, config, filter_fn=partial(_named, names=set(names)))


def forget_ranges(model: nn.Module) -> None:
    """Let layers that train with rounding forget the ranges of the last batch, in place.

    They keep them with their graph, and a tensor with a graph cannot be copied.
    """
    with _quietly():
        from torchao.quantization.qat.fake_quantizer import FakeQuantizerBase
    for module in model.modules():
        if isinstance(module, FakeQuantizerBase):
            vars(module).update(scale=None, zero_point=None)


def end_rounding(model: nn.Module) -> None:
    """Make layers that trained with rounding plain linear layers again, in place."""
    with _quietly():
        from torchao.quantization import qat, quantize_

        quantize_(model, qat.QATConfig(step="convert"), filter_fn=_rounded)


def _rounded(layer: nn.Module, name: str) -> bool:
    from torchao.quantization.qat.linear import FakeQuantizedLinear

    return isinstance(layer, FakeQuantizedLinear)


def input_scales(
    model: nn.Module, names: Collection[str], batches: Iterable[Any], call: Any
) -> dict[str, Tensor]:
    """Return the scale of each layer's input: the largest absolute value seen, over 127.5.

    A layer that was never called, or with inputs of several numbers of axes, has no scale.

    Args:
        model: The network, in evaluation mode.
        names: The layers.
        batches: Training batches.
        call: Calls the model with a batch.
    """
    largest: dict[str, Tensor] = {}
    axes: dict[str, set[int]] = {}

    def note(layer: nn.Module, inputs: Any, name: str) -> None:
        x = inputs[0].detach()
        axes.setdefault(name, set()).add(x.ndim)
        if x.numel():
            seen = x.abs().amax().float()
            largest[name] = torch.maximum(largest[name], seen) if name in largest else seen

    layers = dict(model.named_modules())
    hooks = [layers[name].register_forward_pre_hook(partial(note, name=name)) for name in names]
    try:
        with torch.no_grad():
            for batch in batches:
                call(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    tiny = torch.finfo(torch.float32).eps
    return {
        name: (seen / STATIC_RANGE).clamp(min=tiny).view([1] * next(iter(axes[name])))
        for name, seen in largest.items()
        if len(axes[name]) == 1 and bool(torch.isfinite(seen))
    }


# ---- to and from plain tensors -----------------------------------------------------------------


def is_quantised(layer: nn.Module) -> bool:
    """Return whether a layer's weight is one of torchao's."""
    weight = own_parameters(layer).get("weight")
    return weight is not None and hasattr(weight, "qdata")


def plain_tensors(layer: nn.Module) -> dict[str, Tensor]:
    """Return what an int8 linear layer holds in place of its weight, as plain tensors by name."""
    weight: Any = own_parameters(layer)["weight"]
    found = {"weight_int8": weight.qdata, "weight_scale": weight.scale}
    if weight.act_quant_scale is not None:
        found["input_scale"] = weight.act_quant_scale
    return found


def mode_of(layer: nn.Module) -> Int8Mode:
    """Return how the inputs of an int8 linear layer become int8."""
    weight: Any = own_parameters(layer)["weight"]
    if weight.act_quant_scale is not None:
        return Int8Mode.STATIC
    kinds = torchao().MappingType
    asymmetric = weight.act_quant_kwargs.mapping_type == kinds.ASYMMETRIC
    return Int8Mode.QAT if asymmetric else Int8Mode.DYNAMIC


def hold(layer: nn.Linear, mode: Int8Mode, tensors: Mapping[str, Tensor]) -> None:
    """Give a linear layer the weight that `plain_tensors` returned, in place.

    Raises:
        StorageError: If the tensors do not fit the layer.
    """
    found = torchao()
    with _quietly():
        from torchao.quantization.quantize_.workflows import QuantizeTensorToInt8Kwargs
    rows, columns = layer.out_features, layer.in_features
    held, scale = tensors["weight_int8"], tensors["weight_scale"]
    at = tensors.get("input_scale")
    fits = held.shape == (rows, columns) and held.dtype == torch.int8 and scale.shape == (rows, 1)
    if (
        not fits
        or (mode == Int8Mode.STATIC) != (at is not None)
        or (at is not None and at.numel() != 1)
    ):
        raise StorageError("the int8 weight of a linear layer does not fit the task's model")
    kinds = found.MappingType
    before = own_parameters(layer)["weight"]
    assert before is not None
    weight = found.Int8Tensor(
        held,
        scale,
        [1, columns],
        before.dtype,
        zero_point=torch.zeros_like(scale, dtype=torch.int8),
        act_quant_scale=at,
        act_quant_kwargs=QuantizeTensorToInt8Kwargs(
            granularity=found.PerTensor() if at is not None else found.PerRow(),
            mapping_type=kinds.ASYMMETRIC if mode == Int8Mode.QAT else kinds.SYMMETRIC,
        ),
    )
    own_parameters(layer)["weight"] = nn.Parameter(weight, requires_grad=False)
