"""Databases and files from an unknown source: nothing runs, and each fault is one clear line."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from etude.errors import BadValueError, StorageError
from etude.storage.study import Counts, StudyDatabase
from etude.storage.study.objects import RECORD, record_bytes, record_of
from tests.storage.study.common import record, result, study_of

ALTERED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A database with a study of three trials; the first is done and has a record."""
    place = tmp_path / "studies.db"
    with StudyDatabase(place) as database:
        study = study_of(database, 3)
        study.finish([result(study.claim(1, "a")[0], record=record(), values={"edge": 2.0})])
    return place


def altered(place: Path, *statements: str, values: tuple[object, ...] = ()) -> None:
    with closing(sqlite3.connect(place)) as connection:
        for words in statements:
            connection.execute(words, values)
        connection.commit()


def read_all(place: Path) -> None:
    """Everything that can be read of a database, and a claim."""
    with StudyDatabase(place) as database:
        for summary in database.studies():
            study = database.resume(summary.name)
            study.counts()
            study.workers()
            for trial in study.trials():
                if trial.record:
                    study.record(trial)
            study.claim(3, "b")


def refusal(read: Callable[[], object]) -> str:
    """The message of the one error that may be raised; empty without an error."""
    try:
        read()
    except StorageError as error:
        return str(error)
    return ""


COLUMNS = ("number", "parameters", "state", "attempts", "lost", "worker", "granted", "expires",
           "loss", "metric", "diverged", "seconds", "more", "record", "weights", "error", "place",
           "finished")  # fmt: skip

odd = (
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.sampled_from(["{", "[]", '{"a": NaN}', '{"a": 1, "a": 2}', "../../x", "[" * 2_000])
)  # fmt: skip


@ALTERED
@given(column=st.sampled_from(COLUMNS), value=odd, number=st.integers(0, 2))
def test_a_row_with_any_other_value_is_read_or_refused_in_one_line(kept, column, value, number):
    copy = kept.with_name("copy.db")
    copy.write_bytes(kept.read_bytes())
    for rest in ("copy.db-wal", "copy.db-shm"):
        kept.with_name(rest).unlink(missing_ok=True)
    try:
        altered(copy, f"UPDATE etude_trials SET {column} = ? WHERE number = {number}",
                values=(value,))  # fmt: skip
    except (sqlite3.IntegrityError, sqlite3.DataError, UnicodeEncodeError):
        return
    assert "\n" not in refusal(lambda: read_all(copy))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE etude_trials SET state = 'paused'", "the state of a trial is 'paused'"),
        ("UPDATE etude_trials SET parameters = '[1]'", "the parameters of trial 0 is damaged"),
        ("UPDATE etude_trials SET loss = 'low'", "the loss of trial 0 is 'low'"),
        ("UPDATE etude_trials SET record = '../../etc/passwd'", "is not the digest of a file"),
        ("UPDATE etude_studies SET uid = '../../../../elsewhere/b'", "folder of a study"),
        ("UPDATE etude_studies SET plan = '{'", "the plan of the study 'rates' is damaged"),
        ("DROP TABLE etude_trials", "the table 'etude_trials' is missing"),
        ("ALTER TABLE etude_trials DROP COLUMN more", "'etude_trials' has no column 'more'"),
        ("CREATE VIEW odd AS SELECT 1", "has the view 'odd', which Etude does not make"),
        (
            "CREATE TRIGGER odd AFTER UPDATE ON etude_trials BEGIN DELETE FROM etude_trials; END",
            "has the trigger 'odd', which Etude does not make",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(kept, change, message):
    altered(kept, change)
    with pytest.raises(StorageError, match=message) as told:
        read_all(kept)
    assert "\n" not in str(told.value)


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path):
    place = tmp_path / "studies.db"
    place.write_bytes(b"not a database, but a text that is long enough" * 100)
    before = place.read_bytes()
    with pytest.raises(StorageError, match="it is not a SQLite database"):
        StudyDatabase(place)
    assert place.read_bytes() == before


def test_a_database_of_another_program_is_left_as_it_is(tmp_path):
    place = tmp_path / "studies.db"
    altered(place, "CREATE TABLE notes (text)")
    before = place.read_bytes()
    with pytest.raises(StorageError, match=r"another program \(it has the table 'notes'\)"):
        StudyDatabase(place)
    assert place.read_bytes() == before  # not even its journal mode, which is in the file, changes
    assert [one.name for one in tmp_path.iterdir()] == ["studies.db"]


def test_a_damaged_database_is_refused(kept):
    content = bytearray(kept.read_bytes())
    content[4_096:] = b"\xff" * (len(content) - 4_096)
    kept.write_bytes(bytes(content))
    with pytest.raises(StorageError, match=r"is damaged|cannot use the study database"):
        read_all(kept)


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "studies.db")
    with pytest.raises(StorageError, match="it is not an ordinary file"):
        StudyDatabase(tmp_path / "studies.db")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("mysql://user:secret@host/name", "studies are not stored in 'mysql://user:.*@host/name'"),
        ("sqlite://", "studies are not stored in"),
        ("sqlite:///:memory:", "studies are not stored in"),
        ("://", "the URL of the study database cannot be read"),
    ],
)
def test_another_place_is_refused_without_its_password(place, message):
    with pytest.raises(BadValueError, match=message) as told:
        StudyDatabase(place)
    assert "secret" not in str(told.value)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write to the folder"):
        StudyDatabase(tmp_path / "file" / "studies.db")


# ---- files -------------------------------------------------------------------------------------


def record_file(kept: Path) -> Path:
    (path,) = kept.with_suffix(".files").rglob("*.safetensors")
    return path


def test_a_record_that_was_changed_or_lost_is_told(kept):
    path = record_file(kept)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(StorageError, match=r"the record of trial 0 .* is damaged: its digest"):
        read_all(kept)
    path.unlink()
    with pytest.raises(StorageError, match="cannot read the record of trial 0"):
        read_all(kept)
    os.mkfifo(path)
    with pytest.raises(StorageError, match="it is not an ordinary file"):
        read_all(kept)


@ALTERED
@given(place=st.integers(0, 3_000), byte=st.integers(0, 255))
def test_a_record_of_other_bytes_is_read_or_refused_in_one_line(place, byte):
    content = bytearray(record_bytes(record()))
    content[place % len(content)] = byte
    assert "\n" not in refusal(lambda: record_of(bytes(content), "the record"))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff" * 20, save({}), save({}, {"other": "{}"}), save({}, {RECORD: "{"}),
        save({}, {RECORD: "[]"}), save({}, {RECORD: "{}"}), save({}, {RECORD: "[" * 100_000}),
        save({}, {RECORD: json.dumps({**record().plain(), "status": "well"})}),
        save({}, {RECORD: json.dumps({**record().plain(), "recipe": {"lr": "high"}})}),
    ],
)  # fmt: skip
def test_a_file_that_is_no_record_is_refused_in_one_line(content):
    with pytest.raises(StorageError, match="the record is damaged") as told:
        record_of(content, "the record")
    assert "\n" not in str(told.value)


def test_a_database_is_opened_from_a_path_with_odd_characters(tmp_path):
    place = tmp_path / "a b?c#d%20é.db"
    with StudyDatabase(place) as database:
        study_of(database, 2)
    assert place.exists()
    with StudyDatabase(place) as database:
        assert database.resume("rates").counts() == Counts(waiting=2)
