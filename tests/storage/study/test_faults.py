"""Faults, for real: killed processes, eight writers, a full disk, a server that goes away."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import Connection, event

from etude import files
from etude.errors import StorageError
from etude.storage.study import (
    Acceptance,
    Claim,
    Counts,
    LeaseKeeper,
    StudyDatabase,
    TrialResult,
    TrialState,
    leases,
)
from tests.storage.study.common import loss_of, parameters, record, result, study_of

FORK = multiprocessing.get_context("fork")

LEASE = 0.5


def work(place: str, folder: Path, log: Path, seed: int) -> None:
    """What a worker process does until the study is finished; it notes what it was told."""
    draw = random.Random(seed)
    try:
        database = StudyDatabase(place, folder=folder)
        study = database.resume("rates")
        while not study.counts().finished:
            claims = study.claim(draw.randint(1, 4), f"worker {seed}", seconds=LEASE, most_lost=999)
            with LeaseKeeper(study, claims, seconds=LEASE):
                time.sleep(draw.uniform(0, 0.02))
                results = [
                    TrialResult(claim, loss_of(claim), record=record(claim.parameters["lr"]))
                    for claim in claims
                ]
                told = study.finish(results)
            for claim, one in zip(claims, told, strict=True):
                note(log, f"{one} {claim.number}\n")
            if not claims:
                time.sleep(0.05)
    except BaseException as error:  # noqa: BLE001
        note(log, f"error {type(error).__name__}: {error}\n")


def note(log: Path, line: str) -> None:
    with log.open("a") as file:
        file.write(line)


def start(place: str, tmp_path: Path, seed: int) -> multiprocessing.Process:
    process = FORK.Process(target=work, args=(place, tmp_path / "files", tmp_path / "log", seed))
    process.start()
    return process


def disturbed(opened, place, tmp_path, *, trials: int, workers: int, kills: int) -> None:
    """Kill workers at random moments, start others, and hold the study to an undisturbed one."""
    database = opened()
    study = study_of(database, trials)
    draw = random.Random(kills)
    running = [start(place, tmp_path, seed) for seed in range(workers)]
    done = 0
    while not study.counts().finished:
        time.sleep(draw.uniform(0, 0.1))
        if done < kills:
            victim = draw.randrange(workers)
            os.kill(running[victim].pid, signal.SIGKILL)
            running[victim].join()
            done += 1
            running[victim] = start(place, tmp_path, workers + done)
    for process in running:
        process.join()
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line for line in lines if line.startswith("error")] == []
    accepted = Counter(line for line in lines if line.startswith(Acceptance.ACCEPTED))
    assert set(accepted.values()) <= {1}
    assert study.counts() == Counts(done=trials)
    for trial, given in zip(study.trials(), parameters(trials), strict=True):
        assert trial.parameters == given
        assert trial.loss == pytest.approx(1 / given["lr"] + given["depth"], abs=1e-9)
        assert study.record(trial).recipe.lr == given["lr"]


def test_killed_workers_cost_no_trial_and_repeat_none(opened, place, tmp_path):
    disturbed(opened, place, tmp_path, trials=24, workers=3, kills=5)


def test_eight_writers_on_one_database(opened, place, tmp_path):
    disturbed(opened, place, tmp_path, trials=48, workers=8, kills=0)


@pytest.mark.slow
def test_a_hundred_kills_at_random_moments(opened, place, tmp_path):
    disturbed(opened, place, tmp_path, trials=600, workers=6, kills=100)


def test_a_study_is_used_on_after_a_fork(opened):
    database = opened()
    study = study_of(database, 4)
    study.claim(1, "parent")

    def child() -> None:
        study.finish([result(claim) for claim in study.claim(2, "child")])

    process = FORK.Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert study.counts() == Counts(waiting=1, running=1, done=2)


# ---- no space ----------------------------------------------------------------------------------


def limited(database: StudyDatabase, pages: int) -> None:
    """Let a database grow no further, as on a full disk; SQLite answers both alike."""

    def opened_connection(connection: sqlite3.Connection, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count={pages}")

    database.close()
    event.listen(database._connector._engine, "connect", opened_connection)


def test_a_full_disk_is_told_in_one_line_and_loses_nothing(tmp_path):
    place = tmp_path / "studies.db"
    database = StudyDatabase(place)
    study = study_of(database, 50)
    claims = study.claim(50, "a")
    study.finish([result(claim) for claim in claims[:10]])
    limited(database, 1)
    wide = {f"value {i}": float(i) for i in range(2_000)}
    with pytest.raises(StorageError, match="there is no space left; free some space") as told:
        study.finish([result(claim, values=wide) for claim in claims[10:]])
    assert "\n" not in str(told.value)
    assert study.counts() == Counts(running=40, done=10)
    database.close()
    with StudyDatabase(place) as again:
        found = again.resume("rates").finish([result(c, values=wide) for c in claims[10:]])
        assert found == [Acceptance.ACCEPTED] * 40


def test_no_space_for_files_leaves_the_database_as_it_was(database, monkeypatch):
    study = study_of(database, 3)
    claims = study.claim(3, "a")
    study.finish([result(claims[0], record=record())])
    calls = []

    def full(path: Path) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    rest = [result(claim, record=record(lr)) for claim, lr in zip(claims[1:], (1, 2), strict=True)]
    monkeypatch.setattr(files, "_sync_file", full)
    with pytest.raises(StorageError, match="No space left on device; free some space"):
        study.finish(rest)
    monkeypatch.undo()
    assert study.counts() == Counts(running=2, done=1)
    assert not [path for path in study.files.path.rglob("*") if files.is_temporary(path)]
    assert study.finish(rest) == [Acceptance.ACCEPTED] * 2


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of one megabyte; only root can mount it."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(file) -> None:
    while True:
        file.write(b"x" * 4_096)


def test_a_disk_that_is_really_full_is_told_and_the_study_goes_on_after_it(small_disk):
    database = StudyDatabase(small_disk / "studies.db")
    study = study_of(database, 40)
    claims = study.claim(40, "a")
    study.finish([result(claim, record=record()) for claim in claims[:10]])
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        fill(file)
    wide = {f"value {i}": float(i) for i in range(300)}
    with pytest.raises(StorageError, match="space"):
        study.finish([result(claim, record=record(0.3)) for claim in claims[10:]])
    with pytest.raises(StorageError, match=r"no space left|reading or writing failed"):
        study.finish([result(claim, values=wide) for claim in claims[10:]])
    assert study.counts() == Counts(running=30, done=10)
    ballast.unlink()
    assert (
        study.finish([result(c, record=record(0.3)) for c in claims[10:]])
        == [Acceptance.ACCEPTED] * 30
    )
    assert all(study.record(trial).length == 4 for trial in study.trials())


# ---- a database that is busy or away -----------------------------------------------------------


def test_a_writer_waits_for_one_that_holds_the_lock(tmp_path):
    place = tmp_path / "studies.db"
    study = study_of(StudyDatabase(place), 2)
    holder = sqlite3.connect(place, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    threading.Timer(1.5, lambda: holder.execute("COMMIT")).start()
    assert len(study.claim(2, "a")) == 2
    assert study.counts() == Counts(running=2)


def test_a_lock_that_is_never_let_go_is_told_in_the_end(tmp_path):
    place = tmp_path / "studies.db"
    study = study_of(StudyDatabase(place, patience=0.1), 2)
    holder = sqlite3.connect(place, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    assert study.counts() == Counts(waiting=2)  # readers do not wait
    with pytest.raises(StorageError, match=r"in use by another process for more than 0\.1 s"):
        study.claim(1, "a")
    holder.execute("COMMIT")
    assert len(study.claim(1, "a")) == 1


@pytest.mark.slow
def test_postgres_may_be_away_for_ten_seconds(server, tmp_path):
    with StudyDatabase(server.emptied(), folder=tmp_path) as database:
        study = study_of(database, 400)
        told: list[Acceptance] = []
        errors: list[Exception] = []

        def drive() -> None:
            try:
                while claims := study.claim(2, threading.current_thread().name):
                    time.sleep(0.02)
                    told.extend(study.finish([result(claim) for claim in claims]))
            except Exception as error:  # noqa: BLE001
                errors.append(error)

        drivers = [threading.Thread(target=drive) for _ in range(3)]
        for driver in drivers:
            driver.start()
        time.sleep(0.5)
        server.restart_after(10)
        for driver in drivers:
            driver.join()
        assert errors == []
        assert study.counts() == Counts(done=400)
        assert Acceptance.LATE not in told
        assert len(told) == 400
        assert [trial.loss for trial in study.trials(state=TrialState.DONE)] == [
            pytest.approx(1 / given["lr"] + given["depth"]) for given in parameters(400)
        ]


def test_a_lease_that_is_granted_during_another_claim_is_kept(server, tmp_path, monkeypatch):
    """A slow claim sees the lease after it read the clock; the lease is no future one."""
    with StudyDatabase(server.emptied(), folder=tmp_path) as database:
        study = study_of(database, 2)
        quick: list[Claim] = []
        see = leases.see

        def seen_late(connection: Connection, number: int, names: set[str]) -> None:
            if names == {"slow"}:
                quick.extend(study.claim(1, "quick"))
            see(connection, number, names)

        monkeypatch.setattr(leases, "see", seen_late)
        slow = study.claim(2, "slow")
        assert [claim.number for claim in quick + slow] == [0, 1]
        assert study.finish([result(claim) for claim in quick + slow]) == [Acceptance.ACCEPTED] * 2
        assert [trial.attempts for trial in study.trials()] == [1, 1]


def test_no_server_is_told_at_once():
    with pytest.raises(StorageError, match=r"cannot use the study database .*refused") as told:
        StudyDatabase("postgresql://someone:secret@127.0.0.1:1/studies")
    assert "secret" not in str(told.value)
    assert "\n" not in str(told.value)
