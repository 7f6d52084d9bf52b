"""The study database: trials in SQLite or PostgreSQL, records and weights as files beside it.

Only this package knows its files and its SQL. See `StudyDatabase` and `StoredStudy`.
"""

from etude.storage.study.database import StudyDatabase
from etude.storage.study.keeper import LeaseKeeper
from etude.storage.study.objects import ObjectFolder
from etude.storage.study.study import LEASE, StoredStudy, worker_name
from etude.storage.study.values import (
    Acceptance,
    Claim,
    Counts,
    StoredTrial,
    StoredWorker,
    StudySummary,
    TrialResult,
    TrialState,
)

__all__ = [
    "LEASE",
    "Acceptance",
    "Claim",
    "Counts",
    "LeaseKeeper",
    "ObjectFolder",
    "StoredStudy",
    "StoredTrial",
    "StoredWorker",
    "StudyDatabase",
    "StudySummary",
    "TrialResult",
    "TrialState",
    "worker_name",
]
