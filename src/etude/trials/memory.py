"""The memory of a tuning's trials: what waits is moved out while it is short."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from etude.free_memory import free_memory
from etude.trials.trial import Trial


class TrialMemory:
    """Holds trials to a number of bytes.

    Those that were used longest ago are moved out: from a GPU to the machine's memory, by a stream
    of their own while the device trains others; on disk where that is short too, and from the CPU.

    Args:
        limit: The bytes that trials may take.
        device: Where they are trained.
        alone: Whether one process trains each run. Of several, each holds a part of the state, and
            they save it together.
    """

    def __init__(self, limit: int, device: torch.device, *, alone: bool = True) -> None:
        self.limit = limit
        self._device = device
        self._swaps = alone and device.type == "cuda"
        self._stream: torch.cuda.Stream | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def has_room(self, trials: Iterable[Trial], more: int) -> bool:
        """Return whether some more bytes fit in beside trials."""
        return sum(one.size() for one in trials) + more <= self.limit

    def make_room(self, trials: Sequence[Trial]) -> None:
        """Move out the trials that were used longest ago, until the others fit in."""
        sizes = {one.name: one.size() for one in trials if one.in_memory}
        for trial in sorted(trials, key=lambda one: one.last_used):
            if sum(sizes.values()) <= self.limit or len(sizes) == 1:
                return
            if trial.in_memory:
                self._move_out(trial)
                sizes.pop(trial.name)

    def _move_out(self, trial: Trial) -> None:
        if self._swaps and trial.size() <= free_memory() // 2:
            if self._stream is None and self._device.type == "cuda":
                self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            trial.offload_to_host(self._stream)
            return
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="etude-")
        trial.offload(Path(self._temporary.name))

    def close(self) -> None:
        """Delete the trials that were moved to disk because memory was short."""
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None
