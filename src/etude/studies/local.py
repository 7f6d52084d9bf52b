"""Trains the trials of a stored study on this machine, group by group, by the engines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

from etude import tasks
from etude.engines import train_many
from etude.errors import EtudeError, StorageError, where
from etude.record import Record
from etude.storage.study import Claim, LeaseKeeper, StoredStudy, TrialResult, worker_name
from etude.studies.curvature import curvature, stand_ins
from etude.studies.trials import PlannedTrial, groups_of
from etude.tasks.table import is_bundled
from etude.tasks.task import Task
from etude.tasks.trusted import is_trusted
from etude.training.train import train

GROUP = 32
"""The largest number of trials that are trained together. It is the same for all workers, since
stacked runs depend on it in their last bits."""

POLL = 0.5
"""How many seconds to wait before looking again for trials that other workers have."""

OnProgress = Callable[[float, float, str], None]
"""Called with the number of trials done, of all, and what is trained."""


def work(
    study: StoredStudy,
    *,
    engine: str = "auto",
    on_progress: OnProgress | None = None,
    wait: bool = True,
) -> None:
    """Train every trial of a study that is not done yet.

    Any number of processes may work on one study at the same time. A trial that raises is stored
    as failed, with its error, and the others go on. When this is interrupted, the trials of the
    group in training go back to the queue.

    Args:
        study: The study.
        engine: The engine that trains a group.
        on_progress: Called after each group.
        wait: Whether to wait for the trials that other workers have, and to take them over where
            a worker is lost.

    Raises:
        StorageError: If the database cannot be used, or names code that is not trusted here.
    """
    planned = [
        PlannedTrial.from_plain(one.parameters, f"trial {one.number} of the study {study.name!r}")
        for one in study.trials()
    ]
    refuse_untrusted(planned)
    groups, worker = groups_of(planned, GROUP), worker_name()
    loaded: dict[str, Task] = {}
    while True:
        for numbers in groups:
            while claims := study.claim(len(numbers), worker, among=numbers):
                _train_claimed(study, claims, planned, engine, loaded)
                _told(study, planned[numbers[0]], on_progress)
        if study.counts().finished or not wait:
            return
        time.sleep(POLL)


def refuse_untrusted(planned: Sequence[PlannedTrial]) -> None:
    """Raise if a trial names code that neither comes with Etude nor was run here by the user.

    Raises:
        StorageError: If one does.
    """
    for ref in {one.ref.key: one.ref for one in planned}.values():
        if not is_bundled(ref) and not is_trusted(ref):
            raise StorageError(
                f"the study names the task {ref.reference!r}, which is code that was not run here "
                "before, or has changed since: run the study with its plan once, if you trust it"
            )


def _told(study: StoredStudy, one: PlannedTrial, on_progress: OnProgress | None) -> None:
    if on_progress is not None:
        counts = study.counts()
        on_progress(counts.done + counts.failed, counts.total, one.ref.reference)


def _train_claimed(
    study: StoredStudy,
    claims: Sequence[Claim],
    planned: Sequence[PlannedTrial],
    engine: str,
    loaded: dict[str, Task],
) -> None:
    ref = planned[claims[0].number].ref
    with LeaseKeeper(study, claims):
        try:
            if ref.key not in loaded:
                loaded[ref.key] = tasks.load(ref.reference, **ref.options)
            task = loaded[ref.key]
            recipes = [planned[claim.number].recipe for claim in claims]
            records = train_many(task, recipes, engine)
        except EtudeError as error:
            _one_by_one(study, claims, planned, loaded.get(ref.key), error)
        except BaseException:
            study.release(claims)
            raise
        else:
            firsts = stand_ins(planned)
            study.finish(
                [
                    result_of(c, r, curvature(task, r.recipe) if c.number in firsts else None)
                    for c, r in zip(claims, records, strict=True)
                ]
            )


def _one_by_one(
    study: StoredStudy,
    claims: Sequence[Claim],
    planned: Sequence[PlannedTrial],
    task: Task | None,
    error: EtudeError,
) -> None:
    """Train each trial of a group that raised alone, and store which of them raise."""
    for i, claim in enumerate(claims):
        try:
            if task is None:
                raise error
            study.finish([result_of(claim, train(task, planned[claim.number].recipe))])
        except EtudeError as own:
            study.fail(claim, own, where(own))
        except BaseException:
            study.release(claims[i:])
            raise


def result_of(
    claim: Claim, record: Record, measured: Mapping[str, float] | None = None
) -> TrialResult:
    """Return what a trial's record tells, with what the summaries of a study need.

    Further values: `untrained_loss`, the validation loss before training; `half_loss`, that of the
    last evaluation in the first half of the run; and those that were measured beside training, see
    `etude.studies.curvature`.
    """
    seen = record.evaluations
    half = [one.loss for one in seen if one.step <= record.length / 2]
    values = {
        "untrained_loss": seen[0].loss if seen and seen[0].step == 0 else math.nan,
        "half_loss": half[-1] if half else math.nan,
        **(measured or {}),
    }
    kept = {name: value for name, value in values.items() if math.isfinite(value)}
    return TrialResult.of(claim, record, values=kept)
