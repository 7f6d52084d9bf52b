"""How trials are trained: the engine, the folder, the device, memory, signals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from etude.engines.base import Engine
from etude.next_step import SavedState
from etude.progress import Bar, silent
from etude.storage.tuning_folder import TuningFolder
from etude.training.observer import Observer
from etude.trials.trial import Trial


def unheard(trials: Sequence[Trial]) -> None:
    """Tell nobody of a pause."""


@dataclass(frozen=True)
class TrialContext:
    """How trials are trained; nothing in it changes the result.

    Attributes:
        engine: The engine that trains the runs.
        folder: The folder of the trials; None keeps them in memory.
        device: As in `train`.
        memory: The number of bytes that paused trials may take; the others are stored on disk,
            those of a GPU in the machine's memory. None allows half of the free memory.
        observers: Called while the runs train; each run has copies.
        bar: The progress bar.
        stop: Called before every update; the trials stop if it returns True.
        paused: Called with trials that were trained up to a share of their runs, and evaluated.
        saved: Returns what is saved in the folder, for the message after an interruption.
    """

    engine: Engine
    folder: TuningFolder | None = None
    device: str | torch.device | None = None
    memory: int | None = None
    observers: tuple[Observer, ...] = ()
    bar: Bar = silent
    stop: Callable[[], bool] = bool
    paused: Callable[[Sequence[Trial]], None] = unheard
    saved: Callable[[], SavedState] | None = None
