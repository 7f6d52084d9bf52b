"""Trains the trials of a stored study on this machine, group by group, by the engines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from etude.errors import StorageError
from etude.storage.study import Claim, LeaseKeeper, StoredStudy, worker_name
from etude.studies.groups import GroupTrainer, TrainedTrial
from etude.studies.trials import PlannedTrial, groups_of
from etude.tasks.table import is_bundled
from etude.tasks.trusted import is_trusted

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
    with GroupTrainer(engine) as trainer:
        while True:
            for numbers in groups:
                while claims := study.claim(len(numbers), worker, among=numbers):
                    _train_claimed(study, claims, planned, trainer)
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
    trainer: GroupTrainer,
) -> None:
    with LeaseKeeper(study, claims):
        try:
            found = trainer.train([planned[claim.number] for claim in claims])
        except BaseException:
            study.release(claims)
            raise
        store(study, claims, found)


def store(study: StoredStudy, claims: Sequence[Claim], found: Sequence[TrainedTrial]) -> None:
    """Store what came of claimed trials: the records in one transaction, then the errors."""
    pairs = list(zip(claims, found, strict=True))
    study.finish([one.result(claim) for claim, one in pairs if one.record is not None])
    for claim, one in pairs:
        if one.record is None:
            study.fail(claim, one.error, one.place)
