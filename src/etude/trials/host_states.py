"""States of runs in the machine's memory, where a GPU has no room for all trials."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from etude.memory_layout import PLAIN
from etude.storage.state_tree import copied, flatten, unflatten


class HostStates:
    """Copies of runs' states in the machine's memory.

    With a stream they are copied to pinned memory while the device goes on with other work; `read`
    waits for them. The state on the device can be let go of at once: the stream keeps its memory
    until it is copied.

    Args:
        states: The states, as `Run.state_dict` returns them.
        stream: The CUDA stream that copies; None copies at once.

    >>> held = HostStates([{"step": 3, "weight": torch.ones(2)}])
    >>> next(held.read())
    {'step': 3, 'weight': tensor([1., 1.])}
    """

    def __init__(
        self, states: Sequence[dict[str, Any]], stream: torch.cuda.Stream | None = None
    ) -> None:
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream(stream.device))
        keep = copied if stream is None else _by(stream)
        self._trees = [flatten(state, keep) for state in states]
        self._done = None if stream is None else stream.record_event()

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the states, in tensors of the CPU."""
        if self._done is not None:
            self._done.synchronize()
        for tree in self._trees:
            yield unflatten(*tree)


def _by(stream: torch.cuda.Stream) -> Callable[[Tensor], Tensor]:
    """Return what copies a tensor to pinned memory by a stream, without waiting for it."""

    def keep(content: Tensor) -> Tensor:
        # What is no plain number is turned into bytes next, which must be there by then.
        if content.device.type != "cuda" or content.dtype not in PLAIN:
            return copied(content)
        held = torch.empty(content.shape, dtype=content.dtype, pin_memory=True)
        with torch.cuda.stream(stream):
            held.copy_(content, non_blocking=True)
        content.record_stream(stream)
        return held

    return keep
