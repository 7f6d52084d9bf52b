"""Databases of other versions, kept as they were written: SQLite as a file, PostgreSQL as SQL."""

from __future__ import annotations

import math
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text

from etude.errors import StorageError
from etude.storage.study import Acceptance, Counts, StudyDatabase, TrialResult, TrialState
from etude.storage.study.schema import VERSION
from tests.storage.study.common import Clock

KEPT = Path(__file__).parents[2] / "data"


@pytest.fixture(params=["sqlite", "postgres"])
def version_1(request, tmp_path):
    """The place of a database that the first version wrote."""
    if request.param == "sqlite":
        return shutil.copy(KEPT / "study_1.db", tmp_path / "studies.db")
    server = request.getfixturevalue("server")
    url = server.emptied()
    server.sql((KEPT / "study_1.sql").read_text())
    return url


def test_a_database_of_the_first_version_is_read_and_used_on(version_1):
    with StudyDatabase(version_1, clock=Clock(3e9)) as database:
        assert [one.name for one in database.studies()] == ["empty", "kept"]
        study = database.resume("kept")
        assert study.plan == {"lrs": [0.1, 0.2, 0.3, 0.4, 0.5]}
        assert study.counts() == Counts(waiting=2, done=2, failed=1)
        done, diverged, failed, running, waiting = study.trials()
        assert (done.loss, done.metric, done.seconds, done.values) == (0.5, 0.9, 1.5, {})
        assert (diverged.loss, diverged.diverged) == (math.inf, True)
        assert (failed.error, failed.place) == ("ValueError: no such layer", "model.py:12")
        assert (running.attempts, running.lost, waiting.state) == (1, 0, TrialState.WAITING)
        claims = study.claim(5, "new")
        assert [(c.number, c.attempt) for c in claims] == [(3, 2), (4, 1)]
        assert (
            study.finish([TrialResult(c, 1.0, values={"edge": 2.0}) for c in claims])
            == [Acceptance.ACCEPTED] * 2
        )
        assert study.trial(3).lost == 1
    with StudyDatabase(version_1) as again:
        assert again.resume("kept").counts() == Counts(done=4, failed=1)


def shape(place):
    """The columns, keys and indexes of all tables, whatever order a migration gave them."""
    url = str(place) if "://" in str(place) else f"sqlite:///{place}"
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        found = inspect(connection)
        tables = {}
        for name in found.get_table_names():
            columns = {
                (
                    c["name"],
                    str(c["type"]).replace("DOUBLE", "REAL").replace(" PRECISION", ""),
                    c["nullable"],
                )
                for c in found.get_columns(name)
            }
            keys = found.get_pk_constraint(name)["constrained_columns"]
            indexes = sorted(tuple(i["column_names"]) for i in found.get_indexes(name))
            foreign = sorted(f["referred_table"] for f in found.get_foreign_keys(name))
            tables[name] = columns, keys, indexes, foreign
    engine.dispose()
    return tables


def test_a_migrated_database_has_the_shape_of_a_new_one(version_1, tmp_path, request):
    StudyDatabase(version_1).close()
    migrated = shape(version_1)
    if "://" in str(version_1):
        new = request.getfixturevalue("server").emptied()
    else:
        new = tmp_path / "new.db"
    StudyDatabase(new).close()
    assert migrated == shape(new)


def test_a_migration_that_fails_changes_nothing(tmp_path, monkeypatch):
    place = shutil.copy(KEPT / "study_1.db", tmp_path / "studies.db")

    def broken(connection):
        connection.execute(text("ALTER TABLE etude_trials ADD COLUMN lost INTEGER"))
        connection.execute(text("ALTER TABLE no_such_table ADD COLUMN more TEXT"))

    monkeypatch.setattr("etude.storage.study.migrations.STEPS", {1: broken})
    with pytest.raises(StorageError, match="no such table"):
        StudyDatabase(place)
    monkeypatch.undo()
    with StudyDatabase(place) as database:
        assert database.resume("kept").counts().total == 5


def test_many_that_migrate_at_once_do_so_once(version_1):
    errors: list[Exception] = []

    def open_it():
        try:
            StudyDatabase(version_1).close()
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_newer_database_is_refused_in_one_line(place):
    StudyDatabase(place).close()
    url = place if "://" in place else f"sqlite:///{place}"
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE etude_version SET version = {VERSION + 1}"))
    engine.dispose()
    message = rf"is of version {VERSION + 1}, and this Etude reads up to {VERSION}: install"
    with pytest.raises(StorageError, match=message) as told:
        StudyDatabase(place)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("version", ["'two'", "0", "-1", "2.5", "NULL"])
def test_a_version_that_is_none_is_refused(tmp_path, version):
    place = tmp_path / "studies.db"
    StudyDatabase(place).close()
    connection = sqlite3.connect(place)
    connection.executescript(
        "DROP TABLE etude_version; CREATE TABLE etude_version (version);"
        f"INSERT INTO etude_version VALUES ({version})"
    )
    connection.close()
    with pytest.raises(StorageError, match="is damaged: its version is"):
        StudyDatabase(place)
