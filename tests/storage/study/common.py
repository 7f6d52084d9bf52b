"""What the tests of the study database share."""

from __future__ import annotations

from typing import Any

import numpy as np

from etude.recipe import Recipe
from etude.record import Cost, Evaluation, Record
from etude.storage.study import Claim, StoredStudy, StudyDatabase, TrialResult

PLAN = {"lrs": [0.1, 0.2], "seeds": 3}


def parameters(count: int) -> list[dict[str, Any]]:
    return [{"lr": 0.1 * (i + 1), "depth": i % 3, "task": {"name": "digits"}} for i in range(count)]


def study_of(database: StudyDatabase, count: int = 6, name: str = "rates") -> StoredStudy:
    return database.create(name, PLAN, parameters(count))


def loss_of(claim: Claim) -> float:
    """A result that only the parameters decide, as training does."""
    return round(1.0 / claim.parameters["lr"] + claim.parameters["depth"], 12)


def result(claim: Claim, **more: Any) -> TrialResult:
    return TrialResult(claim, **{"loss": loss_of(claim), "metric": 0.5, "seconds": 0.1, **more})


def record(lr: float = 0.1, status: str = "finished") -> Record:
    evaluations = (Evaluation(0, 2.0, 0.1, (1.5, 2.5)), Evaluation(4, 1.0, 0.7, (0.5, 1.5)))
    return Record(
        "line", Recipe(lr=lr, steps=4, batch_size=8), status, "", 4, "accuracy",
        {"loss": np.array([2.0, 1.5, np.inf, np.nan]), "lr": np.full(4, lr)}, evaluations,
        Cost(4, 32, 0.25), {"torch": "2"},
    )  # fmt: skip


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
