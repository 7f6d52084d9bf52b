"""The GPUs of this machine, for processes that each see one of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from etude.errors import BadTypeError, BadValueError, shown

VISIBLE = "CUDA_VISIBLE_DEVICES"


def gpu_names() -> tuple[str, ...]:
    """Return the GPUs that this process sees, by the names that CUDA_VISIBLE_DEVICES gives them."""
    named = os.environ.get(VISIBLE)
    if named is not None:
        return tuple(name for name in named.split(",") if name)
    return tuple(str(i) for i in range(torch.cuda.device_count()))


def like(device: torch.device) -> tuple[str, ...]:
    """Return the GPUs of the same model as a run's own: others may give other bits.

    Args:
        device: A CUDA device.
    """
    model = torch.cuda.get_device_name(device)
    pairs = enumerate(gpu_names()[: torch.cuda.device_count()])
    return tuple(name for i, name in pairs if torch.cuda.get_device_name(i) == model)


def checked_devices(devices: Sequence[str]) -> tuple[str, ...]:
    """Return names of GPUs, if this process sees them.

    Raises:
        BadTypeError: If they are no list of names.
        BadValueError: If there are none, or one is not there; the message names those that are.
    """
    if isinstance(devices, (str, bytes)) or not isinstance(devices, Sequence):
        raise BadTypeError(f"devices={shown(devices)}: give a list of GPUs, such as ['0', '1']")
    known = gpu_names()
    if not devices:
        raise BadValueError("devices is empty: give at least one GPU, or None for all of them")
    found = []
    for one in devices:
        name = str(one).removeprefix("cuda:")
        if name not in known:
            fix = "train with device='cpu', for there is none at all"
            fix = f"give some of {', '.join(map(repr, known))}" if known else fix
            raise BadValueError(f"devices has {shown(one)}, and there is no such GPU here: {fix}")
        found.append(name)
    return tuple(found)


@contextmanager
def seen_alone(name: str | None) -> Iterator[None]:
    """Let a process that is started in the block see one GPU alone; None changes nothing."""
    if name is None:
        yield
        return
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before
