"""The driver of a study: claims trials group by group, hands them to an executor, stores results.

It is the only one that uses the database. Several drivers may work on one study.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from etude.errors import StorageError
from etude.storage.study import Claim, LeaseKeeper, StoredStudy, worker_name
from etude.studies.curvature import curvature_of, stand_ins
from etude.studies.executors import Executor, HereExecutor
from etude.studies.groups import TrainedTrial
from etude.studies.trials import PlannedTrial, groups_of
from etude.tasks.references.ref import TaskRef
from etude.tasks.references.trusted import is_trusted
from etude.tasks.table import is_bundled

GROUP = 32
"""The largest number of trials that are trained together. It is the same for all workers, since
stacked runs depend on it in their last bits."""

POLL = 0.5
"""How many seconds to wait for a result, and before looking again for trials that others have."""

AT_ONCE = 15
"""How many groups are claimed in one transaction at most."""

COUNT = 10.0
"""After how many seconds the trials that other drivers have finished are counted again."""

OnProgress = Callable[[float, float, str], None]
"""Called with the number of trials done, of all, and what is trained."""

Propose = Callable[[StoredStudy], Sequence[PlannedTrial]]
"""Returns the trials to train next, from what the study holds."""


def work(
    study: StoredStudy,
    executor: Executor | None = None,
    *,
    on_progress: OnProgress | None = None,
    wait: bool = True,
    propose: Propose | None = None,
) -> None:
    """Train every trial of a study that is not done yet.

    Any number of processes may work on one study at the same time. A trial that raises is stored
    as failed, with its error, and the others go on. When this is interrupted, the trials of the
    groups in training go back to the queue.

    Args:
        study: The study.
        executor: Where to train; it is opened if there is anything to train, and closed. None
            trains in this process.
        on_progress: Called when results are stored.
        wait: Whether to wait for the trials that other drivers have, and to take them over where
            one is lost.
        propose: Returns the trials of the next round whenever all others are finished; none ends
            the study. None trains what is stored.

    Raises:
        StorageError: If the database cannot be used, or names code that is not trusted here.
        EtudeError: If the executor's workers cannot build a task, or cannot be reached.
    """
    if propose is None and study.counts().finished:
        return
    planned = _planned(study)
    refuse_untrusted(_refs(planned))
    with executor or HereExecutor() as where:
        _Driver(study, where, planned, on_progress, propose).run(wait)


def _planned(study: StoredStudy) -> list[PlannedTrial]:
    return [
        PlannedTrial.from_plain(parameters, f"trial {number} of the study {study.name!r}")
        for number, parameters in study.parameters()
    ]


def _refs(planned: Sequence[PlannedTrial]) -> list[TaskRef]:
    return list({one.ref.key: one.ref for one in planned}.values())


def refuse_untrusted(refs: Sequence[TaskRef]) -> None:
    """Raise if a task is code that neither comes with Etude nor was run here by the user.

    Raises:
        StorageError: If one is.
    """
    for ref in refs:
        if not is_bundled(ref) and not is_trusted(ref):
            raise StorageError(
                f"the study names the task {ref.reference!r}, which is code that was not run here "
                "before, or has changed since: run the study with its plan once, if you trust it"
            )


class _Driver:
    """Works on one study with one executor."""

    def __init__(
        self,
        study: StoredStudy,
        executor: Executor,
        planned: Sequence[PlannedTrial],
        on_progress: OnProgress | None,
        propose: Propose | None,
    ) -> None:
        self.study, self.executor, self.planned = study, executor, planned
        self.on_progress, self.propose = on_progress, propose
        self.worker = worker_name()
        self.groups = groups_of(list(planned), GROUP)
        self.curved = stand_ins(planned)
        self.held: dict[int, list[Claim]] = {}
        self._keys = itertools.count()
        self._ended = self._total = 0
        self._counted = 0.0

    def run(self, wait: bool) -> None:
        """Train until nothing is left to claim; if `wait`, until every trial is done."""
        checked = False
        self._next_round()
        with LeaseKeeper(self.study, ()) as keeper:
            try:
                while True:
                    groups = self._open_groups()
                    if groups and not checked:
                        first = [self.planned[numbers[0]] for numbers in groups]
                        self.executor.check(_refs(first))
                        checked = True
                    self._train(deque(groups), keeper)
                    while self.held:
                        self._collect(keeper)
                    finished = self.study.counts().finished
                    if finished and self._next_round():
                        continue
                    if finished or not wait:
                        return
                    time.sleep(POLL)
            except BaseException:
                self.study.release([c for claims in self.held.values() for c in claims])
                raise

    def _next_round(self) -> bool:
        """Add the trials of the next round, whose groups follow from them alone."""
        trials = [] if self.propose is None else self.propose(self.study)
        if not trials:
            return False
        numbers = self.study.add(one.plain() for one in trials)
        self.planned = _planned(self.study)
        self.curved = stand_ins(self.planned)
        self.groups = [[numbers[i] for i in group] for group in groups_of(trials, GROUP)]
        return True

    def _open_groups(self) -> list[list[int]]:
        """Return the groups of which a trial can be claimed."""
        waiting = set(self.study.waiting())
        return [numbers for numbers in self.groups if not waiting.isdisjoint(numbers)]

    def _train(self, groups: deque[list[int]], keeper: LeaseKeeper) -> None:
        while groups:
            free = max(1, min(AT_ONCE, self.executor.slots - len(self.held)))
            self._claim([groups.popleft() for _ in range(min(free, len(groups)))], keeper)
            while len(self.held) >= self.executor.slots:
                self._collect(keeper)

    def _claim(self, groups: Sequence[Sequence[int]], keeper: LeaseKeeper) -> None:
        """Claim some groups in one transaction, and hand them in."""
        among = [number for numbers in groups for number in numbers]
        claims = self.study.claim(len(among), self.worker, among=among)
        found = {claim.number: claim for claim in claims}
        keys = {next(self._keys): numbers for numbers in groups}
        for key, numbers in keys.items():
            if own := [found[number] for number in numbers if number in found]:
                self.held[key] = own
        keeper.add(claims)
        for key in keys:
            if key in self.held:
                trials = [self.planned[claim.number] for claim in self.held[key]]
                self.executor.submit(key, trials)

    def _collect(self, keeper: LeaseKeeper) -> None:
        """Store the groups that have ended, all in one transaction."""
        ended = self.executor.collect(POLL)
        pairs = [pair for key, found in ended for pair in zip(self.held[key], found, strict=True)]
        if not pairs:
            return
        measured = {
            claim.number: curvature_of(self.planned[claim.number])
            for claim, one in pairs
            if claim.number in self.curved and one.record is not None
        }
        store(self.study, pairs, measured)
        keeper.drop(claim for claim, _ in pairs)
        for key, _ in ended:
            del self.held[key]
        self._tell(len(pairs), self.planned[pairs[-1][0].number].ref.reference)

    def _tell(self, more: int, what: str) -> None:
        if self.on_progress is None:
            return
        self._ended += more
        if not self._total or time.monotonic() - self._counted > COUNT:
            counts, self._counted = self.study.counts(), time.monotonic()
            self._ended, self._total = counts.done + counts.failed, counts.total
        self.on_progress(min(self._ended, self._total), self._total, what)


def store(
    study: StoredStudy,
    pairs: Sequence[tuple[Claim, TrainedTrial]],
    measured: Mapping[int, Mapping[str, float]] = MappingProxyType({}),
) -> None:
    """Store what came of claimed trials: the records in one transaction, then the errors.

    Args:
        study: The study.
        pairs: The claims, and what came of each.
        measured: Further values of some trials, by their numbers.
    """
    results = [(c, one, measured.get(c.number)) for c, one in pairs if one.record is not None]
    study.finish([one.result(claim, values) for claim, one, values in results])
    for claim, one in pairs:
        if one.record is None:
            study.fail(claim, one.error, one.place)
