"""How throughput and database load grow with the workers: a model, and measurements of it.

The workers are virtual: they wait as long as training would take and hand in Records that were
made before. All else is real: the driver, its claims, heartbeats, Records and the database.

    trials a second  =  min(W / T,  (1 - h) / d)
    h  =  2 · 32 · W · b · 3 / 60

W workers, T seconds a trial, d the driver's seconds for claiming and storing one trial, b its
seconds to extend one lease; three heartbeats are sent in 60 seconds for two groups of 32 trials a
worker. A worker waits when W / T is more than the driver stores.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.study_storage import record
from etude.storage.study import Claim, StoredStudy, StudyDatabase
from etude.storage.study.objects import record_bytes
from etude.studies.driver import GROUP, work
from etude.studies.executors.ray import AHEAD
from etude.studies.executors.remote import Lost, RemoteExecutor, RemoteJob
from etude.studies.executors.worker import PlainResult
from etude.studies.plan import StudyPlan
from etude.studies.trials import planned_trials

WORKERS = (10, 100, 1_000)
LOADS = (0.5, 2.0)
"""W / T as a share of what the driver can do."""

SECONDS = 20.0
"""How long each is measured, about."""

RECORDS = 20_000
"""How many are made for each measurement."""

NEAR = 0.2
"""How far a measurement may be from the model to count as near."""


class Enough(Exception):  # noqa: N818  (nothing went wrong)
    """The measurement is over."""


class VirtualExecutor(RemoteExecutor):
    """Workers that only wait.

    Args:
        workers: How many.
        seconds: What a trial takes; 0 to hand in at once.
        contents: The Records' bytes, enough for all trials that are handed in.
        until: After how many seconds to stop.
    """

    def __init__(
        self, workers: int, seconds: float, contents: Sequence[bytes], until: float
    ) -> None:
        super().__init__()
        self.workers, self.seconds, self.until = workers, seconds, until
        self._contents, self._used = contents, 0
        self._queue: deque[RemoteJob] = deque()
        self._busy: list[tuple[float, int, RemoteJob]] = []
        self._count = self.stored = self._handed = 0
        self.begun = 0.0

    @property
    def slots(self) -> int:
        """As on Ray."""
        return AHEAD * self.workers

    def start(self, job: RemoteJob) -> None:
        """Queue a job."""
        self._queue.append(job)

    def ended(self, seconds: float) -> Iterable[tuple[RemoteJob, Sequence[PlainResult] | Lost]]:
        """Return the jobs that have ended by now.

        As in a steady state, the first jobs of the workers end evenly spread over the time of one.
        """
        now = time.perf_counter()
        if not self.begun:
            self.begun = now
        self.stored, self._handed = self.stored + self._handed, 0  # the driver is back: all stored
        if now - self.begun > self.until:
            raise Enough
        while self._queue and len(self._busy) < self.workers:
            job = self._queue.popleft()
            share = min(1.0, (self._count + 0.5) / self.workers)
            self._count += 1
            ends = now + len(job.places) * self.seconds * share
            heapq.heappush(self._busy, (ends, self._count, job))
        if self._busy and self._busy[0][0] > now:
            time.sleep(min(seconds, self._busy[0][0] - now))
        done: list[tuple[RemoteJob, Sequence[PlainResult] | Lost]] = []
        while self._busy and self._busy[0][0] <= time.perf_counter():
            job = heapq.heappop(self._busy)[2]
            content = (self._next() for _ in job.places)
            done.append((job, [(one, "", "") for one in content]))
            self._handed += len(job.places)
        return done

    def _next(self) -> bytes:
        self._used += 1
        return self._contents[self._used % len(self._contents)]


def _rate(study: StoredStudy, executor: VirtualExecutor) -> tuple[float, float]:
    """Return how many trials a second were stored from the first wait on, and when that was."""
    started = time.perf_counter()
    with contextlib.suppress(Enough):
        work(study, executor, wait=False)
    return executor.stored / (time.perf_counter() - executor.begun), executor.begun - started


def _lease(study: StoredStudy) -> float:
    """Return the seconds of extending one of many leases."""
    claims: list[Claim] = []
    while len(claims) < AHEAD * GROUP * 100:
        claims += study.claim(15 * GROUP, "benchmark")
    started = time.perf_counter()
    study.heartbeat(claims)
    return (time.perf_counter() - started) / len(claims)


def measure() -> dict[str, Any]:
    """Return what one trial and one lease cost, and the rates by the model and measured."""
    plan = StudyPlan(
        name="scale", tasks="cancer-mlp", lrs={"from": 1e-4, "to": 1.0, "points": 1_100},
        seeds={"from": 0, "to": 63, "by": 1}, steps=5,
    )  # fmt: skip
    plain = [one.plain() for one in planned_trials(plan)]
    numbers = itertools.count()

    def contents() -> list[bytes]:
        """Return Records that no study has: one that is stored already costs next to nothing."""
        return [record_bytes(record(number)) for number in itertools.islice(numbers, RECORDS)]

    with tempfile.TemporaryDirectory() as name, StudyDatabase(Path(name) / "scale.db") as database:

        def fresh(count: float) -> StoredStudy:
            """Return a study of its own, so that each begins alike."""
            return database.create(f"scale {len(database.studies())}", {}, plain[: int(count)])

        limit, _ = _rate(fresh(20_000), VirtualExecutor(15, 0.0, contents(), SECONDS))
        found: dict[str, Any] = {"limit": limit, "rows": [], "lease": _lease(fresh(12_000))}
        for workers in WORKERS:
            for load in LOADS:
                seconds = workers / (load * limit)
                executor = VirtualExecutor(workers, seconds, contents(), SECONDS)
                count = AHEAD * GROUP * workers + 2 * load * limit * SECONDS
                rate, filling = _rate(fresh(count), executor)
                row = {
                    "workers": workers, "seconds": seconds, "measured": rate, "filling": filling,
                    "model": model(workers, seconds, limit, found["lease"]),
                }  # fmt: skip
                found["rows"].append(row)
                print(row, flush=True)
    return found


def model(workers: int, seconds: float, limit: float, lease: float) -> float:
    """Return the trials a second that are expected."""
    beats = AHEAD * GROUP * workers * lease * 3 / 60
    return min(workers / seconds, max(0.0, 1 - beats) * limit)


def page(found: dict[str, Any]) -> list[str]:
    """Return the lines of this section."""
    limit, lease = found["limit"], found["lease"]
    lines = [
        "## 1,000 workers", "",
        "Virtual workers: they wait as long as training would take, and hand in Records that were "
        "made before; the driver and the database are real. One driver stores at most "
        f"{limit:,.0f} trials a second with their Records; extending one lease takes it "
        f"{lease * 1e6:,.0f} µs, so that the heartbeats of 1,000 workers take "
        f"{AHEAD * GROUP * 1_000 * lease * 3 / 60:.0%} of its time.", "",
        "| workers | seconds a trial | W / T | model, trials/s | measured | first claims, s |",
        "|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    lines += [
        f"| {row['workers']:,} | {row['seconds']:.2f} | {row['workers'] / row['seconds']:,.0f} | "
        f"{row['model']:,.0f} | {row['measured']:,.0f} | {row['filling']:.1f} |"
        for row in found["rows"]
    ]
    off = [row["measured"] / row["model"] - 1 for row in found["rows"]]
    near = sum(abs(one) <= NEAR for one in off)
    lines += [
        "",
        f"Measured against the model: {', '.join(f'{one:+.0%}' for one in off)}; {near} of "
        f"{len(off)} within {NEAR:.0%}. What breaks first is the one driver that stores: past its "
        "limit workers wait. The model takes the cost of a trial as fixed, but a driver that is "
        "behind stores more of them in one transaction.",
    ]
    return lines
