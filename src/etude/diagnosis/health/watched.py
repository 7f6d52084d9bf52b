"""`train` and `tune` under watch, as `etude.train` and `etude.tune` offer them.

`training` and `tuning` import nothing that judges a run; here the watch is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, Unpack

import torch

from etude.diagnosis.health.observer import WatchObserver
from etude.diagnosis.health.run_log import Log, LogObserver, RunLog
from etude.diagnosis.health.tuning_log import TuningLog
from etude.engines import Engine
from etude.errors import BadTypeError, shown
from etude.recipe import Recipe
from etude.record import Record
from etude.tasks.task import Task
from etude.training import train as training
from etude.training.observer import Observer, Reading
from etude.training.state.state import RunState
from etude.training.world import World, given
from etude.trials.valid_samples import ValidSamples
from etude.tuning import tune as tuning
from etude.tuning.result import TuneResult

Watch: TypeAlias = bool | WatchObserver | None
"""Whether to watch, or what watches; None watches where a folder keeps what is found."""


class TrainOptions(TypedDict, total=False):
    """The other arguments of `etude.training.train.train`."""

    resume: bool
    steps: int | str | None
    more: int | None
    accept_changes: bool
    device: str | torch.device | None
    evaluations: int | None
    checkpoint_every: int | str
    probes: Mapping[str, Callable[[RunState], Reading]] | None
    on_step: Callable[[RunState], None] | None
    world: World | None


class TuneOptions(TypedDict, total=False):
    """The other arguments of `etude.tuning.tune.tune`."""

    objective: str | None
    maximize: bool | None
    folds: int
    seeds: int
    valid_samples: ValidSamples
    lr_range: tuple[float, float] | None
    lrs: Iterable[float] | None
    start_from: str | None
    over: Mapping[str, Any] | None
    engine: str | Engine | None
    resume: bool
    more: float | None
    accept_changes: bool
    device: str | torch.device | None
    memory: int | None
    progress: bool | None
    world: World | None


def train(
    task: Task,
    recipe: Recipe | None = None,
    *,
    watch: Watch = None,
    folder: str | Path | None = None,
    observers: Sequence[Observer] = (),
    log: Log = None,
    **options: Unpack[TrainOptions],
) -> Record:
    """Train a task's model with a recipe and return the record, with the trained model.

    The user's model, generators and the global random state do not change. A NaN or Inf ends the
    run as 'diverged'; this is not an error.

    Args:
        task: What to learn.
        recipe: How to learn it; None takes the task's defaults, or the folder's recipe when
            resuming.
        watch: Whether to watch the run; the weights have the same bits with and without. What is
            found is in `record.notes["watch"]`, in the folder and in the report. None watches if
            there is a folder, unless `world` shards the weights. A `WatchObserver` watches as it is
            set.
        folder: The folder for recipe, record, series, checkpoints and the trained model; without
            one nothing is written.
        observers: Called during training; what they return becomes series of the record.
        log: Where to show the run: 'wandb', 'mlflow', 'tensorboard' or 'aim', or a sink. At each
            evaluation, the series of the updates before it and the validation loss and metric
            are logged; see `docs/logging.md`. A logger that fails is warned of, and the run goes
            on. The weights have the same bits with and without.
        options: `resume`, `steps`, `more`, `accept_changes`, `device`, `evaluations`,
            `checkpoint_every`, `probes`, `on_step` and `world`, as in
            `etude.training.train.train`.

    Returns:
        The record; `record.model` is the trained network.

    Raises:
        TaskError: If model, data and loss do not fit together.
        BadTypeError: If `watch` is something else.
        BadValueError: If a value of the recipe does not fit the task.
        StorageError: If the folder cannot be written, or holds another run.
        Interrupted: After Ctrl-C or SIGTERM; the message says how to resume.

    >>> from torch.nn.functional import mse_loss
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> task = Task(lambda: torch.nn.Linear(1, 1), (x, 3 * x), loss=mse_loss)
    >>> record = train(task, Recipe(lr=0.1, steps=50, batch_size=16), watch=True)
    >>> print(record.status, record.notes["watch"]["diagnosis"]["findings"])
    finished []
    """
    if watch is None and given(options.get("world")).shards:
        watch = False
    seen = [*observers, *_watching(watch, folder, observers)]
    if log is None:
        return training.train(task, recipe, folder=folder, observers=seen, **options)
    shown_in = RunLog(log, task.name, folder)
    try:
        seen.append(LogObserver(shown_in))
        return training.train(task, recipe, folder=folder, observers=seen, **options)
    finally:
        shown_in.close()


def tune(
    task: Task,
    recipe: Recipe | None = None,
    budget: float | None = None,
    *,
    watch: Watch = None,
    folder: str | Path | None = None,
    observers: Sequence[Observer] = (),
    log: Log = None,
    **options: Unpack[TuneOptions],
) -> TuneResult:
    """Find the learning rate that trains a task best, and return the model trained with it.

    A few trials start on the recipe's real, full-length schedule from the same initial weights and
    with the same batches. They are paused, the worse are dropped, the better continue from where
    they stood, and the best is finished: its whole past is part of the final run.

    The user's model, generators and the global random state do not change.

    Args:
        task: What to learn.
        recipe: How; its `lr` is what is looked for. None takes the task's defaults.
        budget: In full training runs, the finished model included; at least 1.2. None is 3.0, or
            what the folder's tuning has.
        watch: Whether to watch the trials; results have the same bits with and without. What is
            found in the chosen run is in `best.record.notes["watch"]` and in the report, that of
            each trial in its folder. None watches if there is a folder.
        folder: Where to keep everything; None keeps it in memory.
        observers: Called while the trials train; each run has copies.
        log: Where to show the tuning: 'wandb', 'mlflow', 'tensorboard' or 'aim', or a sink. At each
            pause, the updates and evaluations of the trials that were trained are logged, each
            trial as a run of its own; at the end the answer, and the finished run as by `train`.
            See `docs/logging.md`.
        options: `objective`, `maximize`, `folds`, `seeds`, `valid_samples`, `lr_range`, `lrs`,
            `start_from`, `over`, `engine`, `resume`, `more`, `accept_changes`, `device`, `memory`,
            `progress` and `world`, as in `etude.tuning.tune.tune`.

    Returns:
        The rate, what ties with it, where training breaks, the cost, and the trained model.

    Raises:
        TaskError: If model, data and loss do not fit together.
        BadTypeError: If `watch` is something else.
        BadValueError: If the budget is too small, or a value does not fit the task.
        StorageError: If the folder cannot be written, or holds another run.
        Interrupted: After Ctrl-C or SIGTERM; the message says how to resume.

    >>> from torch.nn.functional import mse_loss
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> task = Task(lambda: torch.nn.Linear(1, 1), (x, 3 * x), loss=mse_loss)
    >>> best = tune(task, Recipe(steps=80, batch_size=16), budget=1.5, progress=False)
    >>> best.tied[0] <= best.lr <= best.tied[1], best.cost <= 1.5
    (True, True)
    """
    seen = [*observers, *_watching(watch, folder, observers)]
    if log is None:
        return tuning.tune(task, recipe, budget, folder=folder, observers=seen, **options)
    shown_in = TuningLog(RunLog(log, task.name, folder))
    try:
        found = tuning.tune(
            task,
            recipe,
            budget,
            folder=folder,
            observers=seen,
            paused=shown_in.paused,
            **options,
        )
        if given(options.get("world")).is_main:
            shown_in.finish(found)
        return found
    finally:
        shown_in.close()


def _watching(
    watch: Watch, folder: str | Path | None, observers: Sequence[Observer]
) -> list[WatchObserver]:
    """Return what watches, unless one of the observers does."""
    if isinstance(watch, WatchObserver):
        return [watch]
    if watch is not None and not isinstance(watch, bool):
        raise BadTypeError(f"watch is {shown(watch)}: give True, False or a WatchObserver")
    wanted = folder is not None if watch is None else watch
    known = any(isinstance(one, WatchObserver) for one in observers)
    return [WatchObserver()] if wanted and not known else []
