"""`study`: trains every combination of a plan, and returns what they show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from etude.errors import BadTypeError, Interrupted, kind_of
from etude.next_step import StartedStudy
from etude.progress import bar
from etude.storage.study import StoredStudy, StudyDatabase
from etude.studies.driver import refuse_untrusted, work
from etude.studies.executors import Executor, executor_for
from etude.studies.plan import StudyPlan
from etude.studies.result import StudyResult
from etude.studies.samplers import Sampled
from etude.studies.trials import planned_trials
from etude.tasks.references.ref import TaskRef
from etude.tasks.references.trusted import remember

DATABASE = "studies.db"
"""The file that stores studies where none is named."""


def study(
    plan: StudyPlan | dict[str, Any],
    *,
    storage: str | Path = DATABASE,
    engine: str = "auto",
    on: str | Executor = "local",
    workers: int | None = None,
    progress: bool | None = None,
) -> StudyResult:
    """Train every combination of a plan, and return the losses against the rates.

    The trials are stored in a database as they end. The same call goes on where an earlier one
    stopped; several processes may work on one study at the same time.

    Args:
        plan: A StudyPlan, or its fields as a dictionary.
        storage: A SQLite file, or the URL of a PostgreSQL database.
        engine: The engine that trains the trials: 'auto', 'pool', 'loop', 'vmap'.
        on: Where to train: 'local', or a Ray cluster: 'ray' starts one on this machine, 'auto' or
            'ray://HOST:PORT' joins one; or an Executor.
        workers: How many groups of trials to train at a time, each by one process with its share
            of the cores, or its own GPU. None: on this machine one group after the other, by
            engines that use all cores; on Ray as many as there is room for.
        progress: Whether to show a bar; None shows one in a terminal.

    Returns:
        The result, with one row for each trial.

    Raises:
        BadValueError: If a value of the plan is out of bounds.
        TaskError: If a task cannot be built.
        MissingExtraError: If Ray is asked for and not installed.
        EtudeError: If a worker cannot build a task, or the cluster cannot be reached.
        StorageError: If the storage has another study of this name, or cannot be used.
        Interrupted: After Ctrl-C; the message says how many trials are stored, and how to go on.

    >>> from tempfile import TemporaryDirectory
    >>> folder = TemporaryDirectory()
    >>> plan = StudyPlan(name="rates", tasks="cancer-mlp", lrs=[0.001, 0.1], steps=20)
    >>> found = study(plan, storage=f"{folder.name}/studies.db", engine="loop")
    >>> found.summaries()[0].optimum.lr
    0.1
    >>> folder.cleanup()
    """
    executor = executor_for(on, engine, workers)
    if isinstance(plan, dict):
        plan = StudyPlan(**plan)
    if not isinstance(plan, StudyPlan):
        raise BadTypeError(f"plan is {kind_of(plan)}: give a StudyPlan, or a dictionary")
    source = None if plan.sampler is None else Sampled(plan)
    trials = planned_trials(plan) if source is None else source.first()
    for one in {trial.ref.key: trial.ref for trial in trials}.values():
        remember(one)
    with StudyDatabase(storage) as database:
        stored = database.open_study(plan.name, plan.plain(), (one.plain() for one in trials))
        step = _next_step(stored, storage, engine, on, workers)
        return _trained(stored, executor, source, progress, step)


def resume(
    name: str,
    *,
    storage: str | Path = DATABASE,
    engine: str = "auto",
    on: str | Executor = "local",
    workers: int | None = None,
    progress: bool | None = None,
) -> StudyResult:
    """Go on with a study that is stored.

    Args:
        name: Its name.
        storage: As for `study`.
        engine: As for `study`.
        on: As for `study`.
        workers: As for `study`.
        progress: As for `study`.

    Raises:
        UnknownNameError: If there is no study of this name.
        StorageError: If it names code that was not run here before; `study` with its plan runs it.
        Interrupted: As for `study`.
    """
    executor = executor_for(on, engine, workers)
    with StudyDatabase(storage) as database:
        stored = database.resume(name)
        source = _source(stored)
        step = _next_step(stored, storage, engine, on, workers)
        return _trained(stored, executor, source, progress, step)


def _trained(
    stored: StoredStudy,
    executor: Executor,
    source: Sampled | None,
    progress: bool | None,
    step: StartedStudy,
) -> StudyResult:
    """Train what is not done yet, and return the result.

    Raises:
        Interrupted: After Ctrl-C; the message says how many trials are stored, and how to go on.
    """
    try:
        with bar(progress, stored.name) as shown:
            work(
                stored,
                executor,
                on_progress=shown,
                propose=None if source is None else source.propose,
            )
        return StudyResult.of(stored)
    except KeyboardInterrupt as stop:
        counts = stored.counts()
        ended = counts.done + counts.failed
        raise Interrupted(
            f"interrupted; {ended:,} of {counts.total:,} trials are stored", step
        ) from stop


def _next_step(
    stored: StoredStudy,
    storage: str | Path,
    engine: str,
    on: str | Executor,
    workers: int | None,
) -> StartedStudy:
    """Return how to go on with a study in the same way."""
    settings = {
        "engine": None if engine == "auto" else engine,
        "on": None if on == "local" or not isinstance(on, str) else on,
        "workers": workers,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    return StartedStudy(stored.name, str(storage), given)


def _source(stored: StoredStudy) -> Sampled | None:
    """Return what proposes the trials of a stored study; its tasks are loaded if trusted."""
    if stored.plan.get("sampler") is None:
        return None
    plan = StudyPlan(**stored.plan)
    refuse_untrusted(
        [
            TaskRef.of(reference, options)
            for part in plan.parts()
            for reference in part.tasks or ()
            for options in part.models or ({},)
        ]
    )
    return Sampled(plan)
