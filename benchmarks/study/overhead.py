"""What storage and scheduling add to the time of training."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from etude.studies.driver import GROUP
from etude.studies.groups import GroupTrainer
from etude.studies.plan import StudyPlan
from etude.studies.study import study
from etude.studies.trials import groups_of, planned_trials

PLAN = {
    "name": "overhead",
    "tasks": "digits-cnn",
    "lrs": {"from": 1e-4, "to": 1e-2, "points": GROUP},
    "seeds": [0, 1],
    "steps": 60,
}
ROUNDS = 3


def alone() -> float:
    """Return the seconds of training the groups alone, by one process."""
    trials = planned_trials(StudyPlan(**PLAN))
    started = time.perf_counter()
    with GroupTrainer("loop") as trainer:
        for numbers in groups_of(trials, GROUP):
            trainer.train([trials[number] for number in numbers])
    return time.perf_counter() - started


def stored() -> float:
    """Return the seconds of the study that trains and stores the same."""
    planned = time.perf_counter()
    planned_trials(StudyPlan(**PLAN))  # both begin with a plan
    planned = time.perf_counter() - planned
    with tempfile.TemporaryDirectory() as name:
        started = time.perf_counter()
        study(PLAN, storage=Path(name) / "studies.db", engine="loop", progress=False)
        return time.perf_counter() - started - planned


def measure() -> dict[str, Any]:
    """Return the seconds of both, round by round."""
    alone()
    pairs = [(alone(), stored()) for _ in range(ROUNDS)]
    return {"alone": [a for a, _ in pairs], "stored": [b for _, b in pairs]}


def page(found: dict[str, Any]) -> list[str]:
    """Return the lines of this section."""
    shares = [b / a - 1 for a, b in zip(found["alone"], found["stored"], strict=True)]
    return [
        "## Storage and scheduling", "",
        f"64 trials of digits-cnn, {PLAN['steps']} updates each, by the plain loop: "
        f"{statistics.median(found['alone']):.2f} s alone. A study with its database, records and "
        f"leases takes {statistics.median(shares):+.1%} (rounds: "
        f"{', '.join(f'{share:+.1%}' for share in shares)}; aim: at most 3%).",
    ]  # fmt: skip
