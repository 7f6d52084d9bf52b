"""Restores saved weights and buffers in a model, with their shapes and memory layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import StorageError, shown
from etude.memory_layout import moved, overlaps, reach
from etude.torch_internals import own_buffers, own_parameters, unsaved_buffers


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], *, same: bool = False) -> None:
    """Load saved weights and buffers into a model, even if its buffers have other shapes now.

    Args:
        model: The network.
        weights: The weights and buffers, as `state_dict` returns them.
        same: Whether they are from this same object. Then a buffer that is missing was None.

    Raises:
        StorageError: If a weight is of another kind of number than the model's.
    """
    fit_buffers(model, weights, same=same)
    model.load_state_dict(dict(weights))


def untied(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return weights and buffers to write, each memory once, and the names that are left out.

    The weights of a recurrent layer are parts of one memory on a GPU: each is written alone.

    Args:
        state: The weights and buffers, as `state_dict` returns them.

    Returns:
        The weights and buffers by name; and the other names, each with the name of the same memory.

    >>> one = torch.arange(3.0)
    >>> kept, others = untied({"b": one, "a": one, "c": one[:2]})
    >>> sorted(kept), others
    (['a', 'c'], {'b': 'a'})
    """
    kept: dict[str, Tensor] = {}
    others: dict[str, str] = {}
    for names in _same_memory(state):
        first, *rest = sorted(names)
        tensor = state[first].detach().contiguous()
        alone = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        kept[first] = tensor if alone else tensor.clone()
        others |= dict.fromkeys(rest, first)
    return kept, others


def load_untied(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load what `untied` returned first.

    Raises:
        StorageError: If a weight is of another kind of number than the model's.
        RuntimeError: If names or shapes are those of another model.
    """
    fit_buffers(model, weights)
    state, found = model.state_dict(), dict(weights)
    for names in _same_memory(state):
        if any(name in weights for name in names):
            for name in names:  # what another name loads is copied to itself
                found.setdefault(name, state[name])
    model.load_state_dict(found)


def _same_memory(state: Mapping[str, Tensor]) -> list[list[str]]:
    """Return the names by memory: those of one list share all of it."""
    alike: dict[Any, list[str]] = {}
    for name, tensor in state.items():
        size = reach(tensor.shape, tensor.stride()) * tensor.element_size()
        place = (tensor.device, tensor.data_ptr(), size) if size else name
        alike.setdefault(place, []).append(name)
    return list(alike.values())


def unsaved_state(model: nn.Module) -> dict[str, Tensor | None]:
    """Return the buffers that a model's `state_dict` leaves out, by their full name.

    A state that is carried from batch to batch may be kept in such a buffer (`persistent=False`).
    """
    return {
        f"{path}.{name}" if path else name: buffer
        for path, module in model.named_modules()
        for name, buffer in own_buffers(module).items()
        if name in unsaved_buffers(module)
    }


def load_unsaved(model: nn.Module, saved: Mapping[str, Tensor | None]) -> None:
    """Restore what `unsaved_state` returned; a buffer that was not saved stays as it is.

    Raises:
        KeyError: If the model has no such buffer.
    """
    layers = dict(model.named_modules())
    with torch.no_grad():
        for key, value in saved.items():
            path, _, name = key.rpartition(".")
            buffers = own_buffers(layers[path])
            before = buffers[name]
            if value is None:
                buffers[name] = None
            elif before is None:
                device = next((p.device for p in model.parameters()), value.device)
                buffers[name] = value.detach().to(device, copy=True)
            elif _alike(before, value) and torch.equal(before, value.to(before.device)):
                continue  # a table that the model computes once
            elif _alike(before, value) and not overlaps(before):
                before.copy_(value)
            else:
                buffers[name] = value.detach().to(before.device, copy=True)


def load_state(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Restore a run's weights and buffers, with their layout in memory.

    Args:
        model: The network, as it was built.
        saved: Its saved `state_dict`; the model may use these tensors without a copy.
    """
    found = dict(saved)
    memo: dict[int, torch.UntypedStorage] = {}
    for path, module in model.named_modules():
        for name, tensor in (*own_parameters(module).items(), *own_buffers(module).items()):
            key = f"{path}.{name}" if path else name
            kept = found.get(key)
            if tensor is None or kept is None or not _alike(kept, tensor):
                continue
            if kept.stride() != tensor.stride() or overlaps(kept):
                tensor.data = moved(kept, tensor.device, memo)
                found[key] = tensor  # it already has the saved values
    load_weights(model, found)


def fit_buffers(model: nn.Module, weights: Mapping[str, Tensor], *, same: bool = False) -> None:
    """Give a model's buffers the shapes and types of saved ones; see `load_weights`.

    A buffer with a state that is carried from batch to batch may be None at first, of another size,
    or count in whole numbers at first and in others later. Weights stay as the model has them.

    Raises:
        StorageError: If a weight is of another kind of number: torch would drop the imaginary part,
            or take whole numbers for weights.
    """
    for path, module in model.named_modules():
        for name, weight in own_parameters(module).items():
            key = f"{path}.{name}" if path else name
            saved = weights.get(key)
            if weight is not None and saved is not None and not _holds(weight, saved):
                raise StorageError(
                    f"the weight {shown(key)} holds numbers of {saved.dtype}, the model's are of "
                    f"{weight.dtype}"
                )
        buffers = own_buffers(module)
        for name, buffer in buffers.items():
            saved = weights.get(f"{path}.{name}" if path else name)
            if name in unsaved_buffers(module):
                continue
            if saved is None:
                buffers[name] = None if same else buffer
            elif buffer is None or not _alike(buffer, saved):
                device = next((p.device for p in model.parameters()), saved.device)
                buffers[name] = torch.empty_like(saved, device=device)


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype


def _holds(weight: Tensor, saved: Tensor) -> bool:
    """Return whether a weight takes saved numbers, which may be floats of another precision."""
    floats = weight.is_floating_point() and saved.is_floating_point()
    return floats or weight.dtype == saved.dtype
