"""What surrounds trials while they train: the engine, the bar, signals, what a stop leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch

from etude.engines import AutoEngine, Engine, engine_for
from etude.next_step import SavedState, Verb
from etude.progress import bar
from etude.storage.tuning_folder import TuningFolder
from etude.tasks.task import Task
from etude.training.interrupt import StopRequest, stop_on_signal
from etude.training.observer import Observer
from etude.training.world import World, current, refuse_sharded
from etude.trials.context import TrialContext, unheard
from etude.trials.trial import Trial


@contextmanager
def trial_session(
    verb: Verb,
    task: Task,
    home: TuningFolder | None,
    *,
    engine: str | Engine | None = None,
    device: str | torch.device | None = None,
    memory: int | None = None,
    observers: Sequence[Observer] = (),
    progress: bool | None = None,
    paused: Callable[[Sequence[Trial]], None] | None = None,
) -> Iterator[TrialContext]:
    """Return how trials are trained, within a `with` block.

    With a folder, the first Ctrl-C or SIGTERM is a request to stop between two updates. An engine
    that is made here is closed at the end.

    Args:
        verb: What was called, for the message after an interruption.
        task: The task.
        home: The folder of the trials; None keeps them in memory.
        engine: A name, or an engine; None takes the faster of loop and pool.
        device: As in `train`.
        memory: As in `TrialContext`.
        observers: As there.
        progress: Whether to draw a bar; None draws it at a terminal.
        paused: As in `TrialContext`; only the main process of a world calls it.
    """
    world = current()
    refuse_sharded(world, verb)
    chosen = AutoEngine(exact=True) if engine is None else engine_for(engine)
    watched: AbstractContextManager[StopRequest | None] = (
        nullcontext() if home is None else stop_on_signal()
    )
    try:
        chosen.open()
        with watched as asked, bar(progress if world.is_main else False, task.name) as show:
            yield TrialContext(
                engine=chosen,
                folder=home,
                device=device,
                memory=memory,
                observers=tuple(observers),
                bar=show,
                stop=partial(_stops, asked, world),
                paused=paused if paused is not None and world.is_main else unheard,
                saved=None if home is None else lambda: _saved(verb, home, task, asked),
            )
    finally:
        if chosen is not engine:
            chosen.close()


def _stops(asked: StopRequest | None, world: World) -> bool:
    """Return whether any process was asked to stop; without a folder none is."""
    if asked is None or world.size == 1:
        return bool(asked)
    return world.any(bool(asked))[0]


def _saved(verb: Verb, home: TuningFolder, task: Task, asked: StopRequest | None) -> SavedState:
    """Return what is saved when the trials are interrupted."""
    ref, signal = task.ref, None if asked is None else asked.signal
    return SavedState(
        verb,
        home.path,
        signal=None if signal is None else signal.name,
        reference=None if ref is None else ref.reference,
        options={} if ref is None else ref.options,
    )
