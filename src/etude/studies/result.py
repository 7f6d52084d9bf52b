"""What a study shows: its trials, a summary for each kind of run, and their Records."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from etude.errors import BadValueError, StorageError, shown
from etude.record import Record
from etude.shows_itself import ShowsItself
from etude.storage.study import ObjectFolder, StoredStudy, TrialState
from etude.studies.rows import RunKind, StudyRow
from etude.studies.summary import RateSummary, family, limits_of, summary_of


@dataclass(frozen=True)
class StudyResult(ShowsItself):
    """What a study has shown so far.

    `print` shows one line for each kind of run; a notebook shows the findings and the table, and
    `plot` and `report` the figures.

    Attributes:
        name: Its name.
        rows: Its trials, in order.
        files: The folder of its Records; None without one.
    """

    name: str
    rows: tuple[StudyRow, ...]
    files: ObjectFolder | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return self.summary()

    @classmethod
    def of(cls, study: StoredStudy) -> StudyResult:
        """Read the result of a stored study."""
        return cls(study.name, tuple(StudyRow.of(one) for one in study.trials()), study.files)

    @property
    def done(self) -> int:
        """How many trials are done."""
        return sum(row.state == TrialState.DONE for row in self.rows)

    def summaries(self) -> list[RateSummary]:
        """Return one summary for each kind of run, in the order of the trials."""
        return list(self._summaries)

    @cached_property
    def _summaries(self) -> Sequence[RateSummary]:
        kinds: dict[RunKind, list[StudyRow]] = defaultdict(list)
        for row in self.rows:
            kinds[row.kind].append(row)
        measured = limits_of(self.rows)
        return [summary_of(kind, rows, measured.get(family(kind))) for kind, rows in kinds.items()]

    def best(self) -> dict[str, RateSummary]:
        """Return the kind of run with the least mean loss, for each task."""
        found: dict[str, RateSummary] = {}
        for one in self._summaries:
            if one.optimum is None:
                continue
            before = found.get(one.kind.task)
            if before is None or one.optimum.loss < _loss(before):
                found[one.kind.task] = one
        return found

    @cached_property
    def _row_of(self) -> dict[int, StudyRow]:
        return {row.number: row for row in self.rows}

    def record(self, number: int) -> Record:
        """Return the Record of a trial, from which every number about it comes.

        Args:
            number: The trial's number.

        Raises:
            BadValueError: If there is no trial of this number.
            StorageError: If it has no Record, or the file is missing or damaged.
        """
        row = self._row_of.get(number)
        if row is None:
            raise BadValueError(
                f"the study {self.name!r} has no trial {shown(number)}: it has {len(self.rows):,}"
            )
        if row.record is None or self.files is None:
            raise StorageError(f"the record of trial {number} was not stored")
        return self.files.record(row.record, f"the record of trial {number}")


def _loss(one: RateSummary) -> float:
    return math.inf if one.optimum is None else one.optimum.loss
