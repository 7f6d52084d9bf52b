"""A study of 100,000 stored trials: how long it takes to list, report and resume it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from etude.storage.study import StudyDatabase, TrialResult
from etude.studies.plan import StudyPlan
from etude.studies.result import StudyResult
from etude.studies.study import resume
from etude.studies.trials import planned_trials

T = TypeVar("T")

PLAN = {
    "name": "large",
    "tasks": ["cancer-mlp", "diabetes-mlp"],
    "optimizers": ["adam", {"name": "sgd", "momentum": 0.9}],
    "schedules": ["cosine()", "constant()", "warmup('5%') >> cosine()", "linear()", "one_cycle()"],
    "lrs": {"from": 1e-4, "to": 1.0, "points": 50},
    "seeds": {"from": 0, "to": 99, "by": 1},
    "steps": 5,
}


def measure() -> dict[str, Any]:
    """Return the seconds of each."""
    times: dict[str, float] = {}

    def timed(what: str, work: Callable[[], T]) -> T:
        started = time.perf_counter()
        result = work()
        times[what] = time.perf_counter() - started
        print(f"{what}: {times[what]:.2f} s", flush=True)
        return result

    plan = StudyPlan(**PLAN)
    trials = timed("plan", lambda: planned_trials(plan))
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / "large.db"
        with StudyDatabase(place) as database:
            plain = (one.plain() for one in trials)
            study = timed("create", lambda: database.open_study(plan.name, plan.plain(), plain))
            values = {"untrained_loss": 1.0, "half_loss": 0.7}
            while claims := study.claim(2_000, "benchmark"):
                study.finish([TrialResult(c, 0.5, 0.9, seconds=1.0, values=values) for c in claims])
        with StudyDatabase(place) as database:
            timed("list (`etude study ls`)", database.studies)
            study = database.resume(plan.name)
            found = timed("read the result (`show`)", lambda: StudyResult.of(study))
            timed("summaries", found.summaries)
        timed("resume, nothing left", lambda: resume(plan.name, storage=place, progress=False))
        _reopen(place, 32)
        timed(
            "resume, one group of 32 trials left",
            lambda: resume(plan.name, storage=place, engine="loop", progress=False),
        )
    return {"trials": len(trials), "times": times}


def _reopen(place: Path, count: int) -> None:
    """Put the last trials of the study back to the queue."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(place)) as connection, connection:
        connection.execute(
            "update etude_trials set state = 'waiting' where number in "
            "(select number from etude_trials order by number desc limit ?)", (count,)
        )  # fmt: skip


def page(found: dict[str, Any]) -> list[str]:
    """Return the lines of this section."""
    lines = [f"## {found['trials']:,} stored trials", "", "| | seconds |", "|---|---:|"]
    return lines + [f"| {name} | {seconds:.2f} |" for name, seconds in found["times"].items()]
