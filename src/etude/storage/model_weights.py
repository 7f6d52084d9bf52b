"""Saved weights and buffers put back into a model, in the shapes and places that they had."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from etude.memory_layout import moved, overlaps
from etude.torch_internals import own_buffers, own_parameters, unsaved_buffers


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], *, same: bool = False) -> None:
    """Put saved weights and buffers into a model, whatever shape its buffers have just now.

    Args:
        model: The network.
        weights: As `state_dict` returns them.
        same: Whether they are of this very model: a buffer that they lack was None then.
    """
    fit_buffers(model, weights, same=same)
    model.load_state_dict(dict(weights))


def load_state(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Put a run's weights and buffers back, laid out in memory as they were.

    Args:
        model: The network, as it was built.
        saved: What its `state_dict` was; it may go on in these very tensors.
    """
    found = dict(saved)
    memo: dict[int, torch.UntypedStorage] = {}
    for path, module in model.named_modules():
        for name, tensor in (*own_parameters(module).items(), *own_buffers(module).items()):
            key = f"{path}.{name}" if path else name
            kept = found.get(key)
            if tensor is None or kept is None or kept.shape != tensor.shape:
                continue
            if kept.stride() != tensor.stride() or overlaps(kept):
                tensor.data = moved(kept, tensor.device, memo)
                found[key] = tensor  # what it is loaded from is itself
    load_weights(model, found)


def fit_buffers(model: nn.Module, weights: Mapping[str, Tensor], *, same: bool = False) -> None:
    """Give a model's buffers the shapes of saved ones; see `load_weights`.

    A buffer that holds a state from batch to batch may be None at first, or of another size.
    """
    for path, module in model.named_modules():
        buffers = own_buffers(module)
        for name, buffer in buffers.items():
            saved = weights.get(f"{path}.{name}" if path else name)
            if name in unsaved_buffers(module):
                continue
            if saved is None:
                buffers[name] = None if same else buffer
            elif buffer is None or buffer.shape != saved.shape:
                device = next((p.device for p in model.parameters()), saved.device)
                buffers[name] = torch.empty_like(saved, device=device)
