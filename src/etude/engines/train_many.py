"""`train_many`: one Task, many Recipes, one Record each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import torch

from etude.engines.auto import AutoEngine
from etude.engines.base import Engine
from etude.engines.loop import LoopEngine
from etude.engines.process.engine import PoolEngine
from etude.engines.ray.cluster import is_address
from etude.engines.ray.engine import RayEngine
from etude.engines.vmap.engine import VmapEngine
from etude.engines.vmap_pool import VmapPoolEngine
from etude.errors import BadTypeError, BadValueError, kind_of, unknown_name
from etude.recipe import Recipe
from etude.record import Record
from etude.tasks.task import Task
from etude.training.observer import Observer
from etude.training.request import AdvanceRequest, OnStep
from etude.training.run import Run
from etude.warning_filters import filters_kept

ENGINES: Mapping[str, Callable[[], Engine]] = MappingProxyType(
    {
        "loop": LoopEngine,
        "pool": PoolEngine,
        "vmap": VmapEngine,
        "vmap pool": VmapPoolEngine,
        "ray": RayEngine,
        "auto": AutoEngine,
    }
)
"""The engines by name."""


def engine_for(engine: str | Engine) -> Engine:
    """Return a new engine by name, or the given engine itself.

    Args:
        engine: A name, or an engine. 'ray' starts a Ray cluster on this machine, and
            'ray://HOST:PORT' joins the one there; `RayEngine('auto')` joins one that runs here.

    Raises:
        UnknownNameError: If there is no engine of that name.
        BadTypeError: If the argument is neither a name nor an engine.
        MissingExtraError: If the engine needs a package that is not installed.

    >>> engine_for("loop").name
    'loop'
    """
    if isinstance(engine, Engine):
        return engine
    if not isinstance(engine, str):
        raise BadTypeError(f"engine={engine!r}: give a name ({', '.join(ENGINES)}) or an Engine")
    if engine.startswith("ray://") and is_address(engine):
        return RayEngine(engine)
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    return ENGINES[engine]()


@filters_kept()
def train_many(
    task: Task,
    recipes: Iterable[Recipe],
    engine: str | Engine = "auto",
    *,
    device: str | torch.device | None = None,
    evaluations: int = 20,
    observers: Sequence[Observer] = (),
    on_step: OnStep | None = None,
) -> list[Record]:
    """Train a task's model with each of several recipes, and return their records in order.

    Each record equals that of `etude.train` with the same recipe: to the bit in the engine 'loop';
    also in 'pool', which computes each run with one thread; up to roundoff if runs are stacked.

    Args:
        task: What to learn.
        recipes: How to learn it, one recipe for each run.
        engine: 'loop', 'pool', 'vmap', 'vmap pool', 'ray' or 'auto', or an Engine.
        device: Where to train; as in `train`.
        evaluations: The number of evaluations in each run, besides the one before training.
        observers: Called while the runs train; each run has its own copies. What they return
            becomes series of the records. If an engine does not support an observer, another
            engine is used.
        on_step: Called as a run makes progress, with its state and the number of updates done.

    Returns:
        One record per recipe, with the trained model.

    Raises:
        TaskError: If model, data and loss do not fit together; the message names the run.
        BadValueError: If a value of a recipe does not fit the task, or there is no recipe.

    >>> from torch.nn.functional import mse_loss
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> task = Task(lambda: torch.nn.Linear(1, 1), (x, 3 * x), loss=mse_loss)
    >>> recipes = [Recipe(lr=lr, steps=20, batch_size=16) for lr in (0.1, 0.01)]
    >>> [str(record.status) for record in train_many(task, recipes)]
    ['finished', 'finished']
    """
    listed = list(recipes)
    if not listed:
        raise BadValueError("recipes is empty: give at least one Recipe")
    for index, recipe in enumerate(listed):
        if not isinstance(recipe, Recipe):
            raise BadTypeError(f"recipes[{index}] is {kind_of(recipe)}: give a Recipe")
    if evaluations < 1:
        raise BadValueError(f"evaluations={evaluations}: give at least 1, the one at the end")
    chosen = engine_for(engine)
    try:
        chosen.open()
        runs = prepare_runs(task, listed, chosen, device=device, observers=observers)
        chosen.advance(
            runs,
            AdvanceRequest(
                evaluation_steps=lambda state: state.evenly_spaced(evaluations), on_step=on_step
            ),
        )
    finally:
        if chosen is not engine:
            chosen.close()
    for run in runs:
        run.release()
    return [run.record() for run in runs]


def prepare_runs(
    task: Task,
    recipes: Sequence[Recipe],
    engine: Engine,
    *,
    device: str | torch.device | None = None,
    observers: Sequence[Observer] = (),
) -> list[Run]:
    """Return the runs before their first update; their data is moved to the device once.

    Args:
        task: What to learn.
        recipes: How to learn it, one recipe for each run.
        engine: The engine that will train them.
        device: As for `train_many`.
        observers: As for `train_many`.

    Raises:
        TaskError: If model, data and loss do not fit together.
        BadValueError: If a value of a recipe does not fit the task.
    """
    runs: list[Run] = []
    threads: dict[int, int] = {}
    for recipe in recipes:
        run = Run(task, recipe, device=device, observers=copy.deepcopy(tuple(observers)))
        task = run.task
        if run.batch_size not in threads:
            run.check()
            threads[run.batch_size] = run.threads
        run.limit_threads(threads[run.batch_size])
        runs.append(run)
    if isinstance(engine, PoolEngine):
        for run in runs:  # one core for each run, instead of all cores for one run at a time
            run.limit_threads(1)
    return runs
