"""A run's state as bytes, for the way from one process to another; nothing is unpickled."""

from __future__ import annotations

import json
from typing import Any

from safetensors.torch import load, save

from etude.training.state_tree import flatten, unflatten

_SIZE = 8


def pack(state: dict[str, Any]) -> bytes:
    """Return a state as bytes: the length of its JSON, the JSON, its tensors.

    >>> import torch
    >>> unpack(pack({"step": 3, "w": torch.ones(2)}))["w"].tolist()
    [1.0, 1.0]
    """
    tree, tensors = flatten(state)
    text = json.dumps(tree).encode()
    return len(text).to_bytes(_SIZE, "big") + text + save(tensors)


def unpack(parcel: bytes) -> dict[str, Any]:
    """Return the state that `pack` was given."""
    size = int.from_bytes(parcel[:_SIZE], "big")
    tree = json.loads(parcel[_SIZE : _SIZE + size])
    state = unflatten(tree, load(parcel[_SIZE + size :]))
    assert isinstance(state, dict)
    return state
