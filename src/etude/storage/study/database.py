"""The study database: many studies in one SQLite file or one PostgreSQL database."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, delete, insert, select

from etude.errors import (
    BadTypeError,
    BadValueError,
    StorageError,
    UnknownNameError,
    shown,
    unknown_name,
)
from etude.storage.study import canonical
from etude.storage.study.connection import PATIENCE, Connector
from etude.storage.study.migrations import prepare
from etude.storage.study.objects import ObjectFolder
from etude.storage.study.reading import real, tables_of, text, whole
from etude.storage.study.schema import studies, trials, workers
from etude.storage.study.study import StoredStudy
from etude.storage.study.trial_rows import counts_of, insert_trials
from etude.storage.study.values import Counts, StudySummary

LONGEST_NAME = 200
"""The longest name of a study, in characters."""

FILES = ".files"
"""What the folder beside a SQLite file is called, after the file's name without its ending."""


class StudyDatabase:
    """Opens a study database, and creates or migrates its tables.

    Any number of processes may use one database at the same time. A StudyDatabase may be used from
    several threads, and after a fork; it is not sent to another process, which opens its own.

    Args:
        place: A file for SQLite, which needs no server and must be on a local disk, or a URL:
            `sqlite:///FILE`, or `postgresql://USER@HOST/NAME`, which needs the extra `postgres`.
        folder: The folder for records and weights. None: for SQLite the file's name with
            `.files`; for PostgreSQL none, and records are refused.
        patience: For how many seconds an operation waits for a database that is busy or away.
        clock: Seconds by which leases are granted and expire, for tests; None for the database's
            own rule, see `Connector.now`.

    Raises:
        StorageError: If it cannot be opened, is damaged, newer, or another program's.
        MissingExtraError: If PostgreSQL is wanted and psycopg is missing.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> folder = TemporaryDirectory()
        >>> with StudyDatabase(f"{folder.name}/studies.db") as database:
        ...     study = database.create("rates", {"lrs": [0.1, 0.2]}, [{"lr": 0.1}, {"lr": 0.2}])
        ...     claims = study.claim(1, "worker 1")
        ...     study.counts()
        Counts(waiting=1, running=1, done=0, failed=0)
        >>> folder.cleanup()
    """

    def __init__(
        self,
        place: str | Path,
        *,
        folder: str | Path | None = None,
        patience: float = PATIENCE,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._connector = Connector(place, patience, clock)
        path = self._connector.path
        if folder is None and path is not None:
            folder = path.with_suffix(FILES)
        self.folder = None if folder is None else Path(folder)
        opening = patience if path is not None else 0.0  # a server that is not there is told now
        self._connector.write(lambda connection: prepare(connection, self.place), patience=opening)

    @property
    def place(self) -> str:
        """The file or the URL, without a password."""
        return self._connector.place

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._connector.close()

    # ---- studies -------------------------------------------------------------------------------

    def create(
        self, name: str, plan: Mapping[str, Any], parameters: Iterable[Mapping[str, Any]] = ()
    ) -> StoredStudy:
        """Create a study with all of its trials, in one transaction.

        Args:
            name: Its name, 1 to 200 characters.
            plan: What the study is, as values that JSON can hold.
            parameters: One table for each trial, numbered from 0 in this order.

        Raises:
            StorageError: If there is a study of this name.
            BadValueError: If two trials have equal parameters, or the name cannot be used.
        """
        made = self._create(name, plan, parameters, may_exist=False)
        return self._study(made)

    def open_study(
        self, name: str, plan: Mapping[str, Any], parameters: Iterable[Mapping[str, Any]] = ()
    ) -> StoredStudy:
        """Return the study of this name and plan; create it if there is none.

        Args:
            name: Its name.
            plan: What the study is; that of an existing study must be equal.
            parameters: See `create`. They are not read if the study exists.

        Raises:
            StorageError: If the study of this name has another plan; the message names where they
                differ.
        """
        return self._study(self._create(name, plan, parameters, may_exist=True))

    def resume(self, name: str) -> StoredStudy:
        """Return the study of this name.

        Raises:
            UnknownNameError: If there is none; the message lists similar names.
        """
        found = self._connector.read(lambda connection: _row_of(connection, name))
        if found is None:
            known = [one.name for one in self.studies()]
            if not known:
                raise UnknownNameError(
                    f"unknown study {shown(name)}: {self.place!r} holds no study; name another "
                    "database, or start a study there"
                )
            raise unknown_name("study", name, known)
        return self._study(found)

    def studies(self) -> list[StudySummary]:
        """Return one line for each study, by name."""

        def work(connection: Connection) -> list[StudySummary]:
            counts = counts_of(connection, self._connector.clock())
            rows = tables_of(connection.execute(select(studies).order_by(studies.c.name)))
            return [
                StudySummary(
                    text(row["name"], "the name of a study"),
                    text(row["digest"], "the digest of a study"),
                    real(row["created"], "the creation of a study") or 0.0,
                    counts.get(row["id"], Counts()),
                )
                for row in rows
            ]

        return self._connector.read(work)

    def delete(self, name: str, *, force: bool = False) -> None:
        """Delete a study, its trials and its files.

        Args:
            name: Its name.
            force: Whether to delete a study that has results or is running.

        Raises:
            StorageError: If it has, and `force` is not given.
            UnknownNameError: If there is no study of this name.
        """
        study = self.resume(name)

        def work(connection: Connection) -> None:
            counts = counts_of(connection, self._connector.clock(), study.id)
            found = counts.get(study.id, Counts())
            if not force and (found.done or found.failed or found.running):
                raise StorageError(
                    f"the study {name!r} has {found.done:,} trials done, {found.failed:,} failed "
                    f"and {found.running:,} running: give force=True to delete all of them"
                )
            for table in (trials, workers):
                connection.execute(delete(table).where(table.c.study == study.id))
            connection.execute(delete(studies).where(studies.c.id == study.id))

        self._connector.write(work)
        if study.files is not None:
            study.files.delete()

    # ---- inside --------------------------------------------------------------------------------

    def _create(
        self,
        name: str,
        plan: Mapping[str, Any],
        parameters: Iterable[Mapping[str, Any]],
        *,
        may_exist: bool,
    ) -> Mapping[str, Any]:
        _refuse_name(name)
        words = canonical.canonical(plan, "the plan")
        digest, uid, created = canonical.digest_of(words), uuid.uuid4().hex, time.time()
        tables = None

        def work(connection: Connection) -> Mapping[str, Any]:
            nonlocal tables
            found = _row_of(connection, name)
            if found is not None:
                self._refuse_existing(found, words, uid, may_exist)
                return found
            tables = list(parameters) if tables is None else tables
            row = insert(studies).values(
                name=name, uid=uid, plan=words, digest=digest, created=created
            )
            connection.execute(row)
            made = _row_of(connection, name)
            assert made is not None
            insert_trials(connection, made["id"], tables)
            return made

        return self._connector.write(work)

    def _refuse_existing(
        self, found: Mapping[str, Any], plan: str, uid: str, may_exist: bool
    ) -> None:
        name = found["name"]
        if not may_exist and found["uid"] != uid:
            raise StorageError(
                f"{self.place!r} already has a study {name!r}: resume it, or choose another name"
            )
        if found["plan"] != plan:
            kept = canonical.read(found["plan"], f"the plan of the study {name!r}")
            given = canonical.read(plan, "the plan")
            raise StorageError(
                f"the study {name!r} in {self.place!r} has another plan: "
                f"{canonical.differences(kept, given)}. Restore the plan, or choose another name"
            )

    def _study(self, row: Mapping[str, Any]) -> StoredStudy:
        name = text(row["name"], "the name of a study")
        uid = text(row["uid"], f"the folder of the study {shown(name)}")
        if len(uid) != 32 or not uid.isalnum():  # it becomes a path
            raise StorageError(
                f"the study database is damaged: the folder of a study is {shown(uid)}"
            )
        place = None if self.folder is None else ObjectFolder(self.folder / uid)
        plan = canonical.read(row["plan"], f"the plan of the study {shown(name)}")
        return StoredStudy(
            self._connector, whole(row["id"], "the id of a study"), name, plan,
            text(row["digest"], "the digest of a study"), place,
        )  # fmt: skip


def _row_of(connection: Connection, name: str) -> Mapping[str, Any] | None:
    found = tables_of(connection.execute(select(studies).where(studies.c.name == name)))
    return found[0] if found else None


def _refuse_name(name: object) -> None:
    if not isinstance(name, str):
        raise BadTypeError(f"the name of a study is {shown(name)}: give text")
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable() or name != name.strip():
        raise BadValueError(
            f"the name of a study is {shown(name)}: give 1 to {LONGEST_NAME} printable characters "
            "without spaces around them"
        )
