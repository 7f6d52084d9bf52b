"""What storing a trial costs: durable trials a second, beside Optuna's storages, in one run.

A trial is trivial: it is asked for, and its result is stored. The storages take turns in short
blocks, and the medians over the rounds are compared. 'Etude, one at a time' claims and
finishes every trial alone; 'in groups' does so 32 trials at a time, as an executor does; 'with
records' also writes each trial's Record as a file. Optuna's loop is `study.optimize` with a random
sampler and one parameter. Everything runs in one process, on the same disk.

    python -m benchmarks.study_storage

The results go to benchmarks/results/study_storage.json and study_storage.md.
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend

from benchmarks import arguments
from etude.recipe import Recipe
from etude.record import Cost, Evaluation, Record, Status
from etude.storage.study import StoredStudy, StudyDatabase, TrialResult

RESULTS = Path(__file__).parent / "results"
ROUNDS, SECONDS = 7, 2.0
GROUP = 32
LARGE = 100_000
"""The trials of the study that is listed and resumed."""


def record(number: int) -> Record:
    """Return a Record of the size of a short run: 200 updates, 20 evaluations."""
    series = {"loss": np.linspace(2.0, 1.0 + number % 7, 200), "lr": np.full(200, 0.1)}
    evaluations = tuple(Evaluation(10 * i, 2.0 - i / 20, 0.5, (1.0,) * 8) for i in range(20))
    return Record(
        "trivial", Recipe(lr=0.1, steps=200, batch_size=8, seed=number), Status.FINISHED, "", 200,
        "accuracy", series, evaluations, Cost(200, 1_600, 0.1), {"torch": "2"},
    )  # fmt: skip


Loop = Callable[[int], None]
"""Runs so many trials."""


def etude_loop(folder: Path, group: int, records: bool) -> Loop:
    study = StudyDatabase(folder / f"etude-{group}-{records}.db").create("trivial", {})
    numbers = iter(range(10**9))

    def run(count: int) -> None:
        study.add({"lr": 0.1, "seed": next(numbers)} for _ in range(count))
        while claims := study.claim(group, "benchmark"):
            study.finish(
                [
                    TrialResult(c, 0.5, 0.9, record=record(c.number) if records else None)
                    for c in claims
                ]
            )

    return run


def optuna_loop(storage: Any) -> Loop:
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
    return lambda count: study.optimize(
        lambda trial: trial.suggest_float("lr", 1e-4, 1.0, log=True), n_trials=count
    )


def loops(folder: Path) -> Iterator[tuple[str, Loop, int]]:
    """Return each storage by name, with the number of trials that it is given first."""
    yield "Etude, in groups of 32", etude_loop(folder, GROUP, False), 256
    yield "Etude, in groups of 32, with records", etude_loop(folder, GROUP, True), 128
    yield "Etude, one at a time", etude_loop(folder, 1, False), 32
    yield "Etude, one at a time, with records", etude_loop(folder, 1, True), 16
    yield "Optuna, SQLite", optuna_loop(f"sqlite:///{folder}/optuna.db"), 8
    backend = JournalFileBackend(str(folder / "optuna.log"))
    yield "Optuna, journal file", optuna_loop(optuna.storages.JournalStorage(backend)), 8
    yield "Optuna, in memory (nothing is durable)", optuna_loop(None), 64


def measure(folder: Path) -> dict[str, list[float]]:
    """Return trials a second of each storage, round by round."""
    made = list(loops(folder))
    counts = {name: count for name, _, count in made}
    found: dict[str, list[float]] = {name: [] for name, _, _ in made}
    for name, run, count in made:  # to warm up, and to find how many trials fill a block
        started = time.perf_counter()
        run(count)
        seconds = time.perf_counter() - started
        counts[name] = max(2, round(count * SECONDS / seconds))
    for _ in range(ROUNDS):
        for name, run, _ in made:
            started = time.perf_counter()
            run(counts[name])
            found[name].append(counts[name] / (time.perf_counter() - started))
    return found


def large(folder: Path) -> dict[str, float]:
    """Return the seconds that a study of 100,000 stored trials takes to list and to resume."""
    place = folder / "large.db"
    times: dict[str, float] = {}

    def timed(what: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        times[what] = time.perf_counter() - started
        return result

    database = StudyDatabase(place)
    plan = {"lrs": LARGE}
    tables = [{"lr": 0.1, "seed": i, "model": "mlp"} for i in range(LARGE)]
    study: StoredStudy = timed("create", lambda: database.create("large", plan, tables))

    def finish() -> None:
        while claims := study.claim(2_000, "benchmark"):
            study.finish([TrialResult(claim, 0.5, 0.9, seconds=1.0) for claim in claims])

    timed("claim and finish, in groups of 2,000", finish)
    database.close()
    again = timed("open", lambda: StudyDatabase(place))
    study = timed("resume", lambda: again.open_study("large", plan))
    timed("count by state", study.counts)
    timed("list all studies", again.studies)
    count = timed("read all trials", lambda: sum(1 for _ in study.trials()))
    assert count == LARGE
    timed("ask for a trial when none is waiting", lambda: study.claim(1, "benchmark"))
    return times


def fsyncs(folder: Path) -> float:
    """Return how many flushes to the disk a second make, one after another."""
    with (folder / "flush").open("wb") as file:
        started = time.perf_counter()
        for _ in range(100):
            file.write(b"x" * 4_096)
            file.flush()
            os.fsync(file.fileno())
    return 100 / (time.perf_counter() - started)


def table(content: dict[str, Any]) -> str:
    """Return the page."""
    rates = {name: statistics.median(values) for name, values in content["rates"].items()}
    sqlite, journal = rates["Optuna, SQLite"], rates["Optuna, journal file"]
    lines = [
        "# What storing a trial costs", "",
        f"{content['machine']}. Written by `python -m benchmarks.study_storage`.", "",
        "Trials a second from one process, with trivial trials: medians over "
        f"{ROUNDS} rounds of blocks of about {SECONDS:g} s, lowest and highest in brackets. Every "
        "trial of Etude is durable when its result is stored: SQLite in WAL mode with "
        "`synchronous=FULL`, files flushed before the database names them.", "",
        "| storage | trials a second | to Optuna's SQLite | to its journal |",
        "|---|---:|---:|---:|",
    ]  # fmt: skip
    for name, values in content["rates"].items():
        lines.append(
            f"| {name} | {rates[name]:,.0f} ({min(values):,.0f} to {max(values):,.0f}) | "
            f"{rates[name] / sqlite:,.1f} | {rates[name] / journal:,.1f} |"
        )
    lines += ["", f"A study of {LARGE:,} stored trials:", "", "| | seconds |", "|---|---:|"]
    lines += [f"| {name} | {seconds:.3f} |" for name, seconds in content["large"].items()]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, and write the page."""
    arguments.read(__doc__)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flushes = fsyncs(folder)
        rates, times = measure(folder), large(folder)
    machine = (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, SQLite "
        f"{sqlite3.sqlite_version}, SQLAlchemy {version('sqlalchemy')}, Optuna "
        f"{version('optuna')}; the disk made {flushes:,.0f} flushes a second; load average "
        f"{load_before:.1f} before and {os.getloadavg()[0]:.1f} after"
    )
    content = {"machine": machine, "rates": rates, "large": times}
    (RESULTS / "study_storage.json").write_text(json.dumps(content, indent=1) + "\n")
    (RESULTS / "study_storage.md").write_text(table(content))
    print(table(content))


if __name__ == "__main__":
    main()
