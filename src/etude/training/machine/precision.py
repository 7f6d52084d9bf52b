"""Tests whether a precision can be computed on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from etude.errors import TaskError

RECURRENT: Mapping[str, Callable[..., nn.RNNBase]] = {
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    "RNN_TANH": nn.RNN,
    "RNN_RELU": nn.RNN,
}
"""torch's recurrent layers by their mode."""


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return the context of a forward pass: autocast to the precision, or nothing for 'float32'."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def refusal(layer: nn.RNNBase, precision: str, device: torch.device | str = "cpu") -> str:
    """Return why a recurrent layer cannot be trained in a precision; empty if it can.

    This does one forward and one backward pass of a small layer of the same kind on the device.

    >>> refusal(nn.LSTM(3, 4), "float32")
    ''
    """
    device = torch.device(device)
    options: dict[str, Any] = {}
    if layer.mode.startswith("RNN_"):
        options["nonlinearity"] = layer.mode.removeprefix("RNN_").lower()
    if layer.proj_size:
        options["proj_size"] = 2
    small = RECURRENT[layer.mode](
        3, 4, bias=layer.bias, bidirectional=layer.bidirectional, **options
    ).to(device)
    try:
        with torch.enable_grad(), autocast(device, precision):
            output, _ = small(torch.ones(2, 3, 3, device=device))
            output.float().sum().backward()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return ""


def _recurrent(model: nn.Module) -> Iterator[tuple[str, nn.RNNBase]]:
    """Yield the first recurrent layer of each kind, with its name."""
    seen = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase) and module.mode in RECURRENT:
            kind = (module.mode, module.bias, module.bidirectional, bool(module.proj_size))
            if kind not in seen:
                seen.add(kind)
                yield name, module


def refuse_recurrent(model: nn.Module, precision: str, device: torch.device) -> None:
    """Check that the recurrent layers of a model can be trained in a precision.

    Raises:
        TaskError: If one cannot; the message names the layer.
    """
    if precision == "float32":
        return
    for name, layer in _recurrent(model):
        if reason := refusal(layer, precision, device):
            what = f"layer {name!r}" if name else "the model"
            raise TaskError(
                f"precision={precision!r}: {what} ({layer.mode.partition('_')[0]}) cannot be "
                f"computed in {precision} on {_place(device)} of this machine ({reason}): give "
                "precision='float32'"
            )


def only_lower(precision: str, device: torch.device, error: TaskError) -> TaskError:
    """Return the error for a model that runs in float32, but not in the recipe's precision."""
    return TaskError(
        f"precision={precision!r}: the model runs on {_place(device)} in float32, and fails in "
        f"{precision} ({error}): give precision='float32', or keep what fails out of autocast with "
        f"torch.autocast({device.type!r}, enabled=False)"
    )


def _place(device: torch.device) -> str:
    return "the CPU" if device.type == "cpu" else str(device)
