"""Connections to SQLite or PostgreSQL: transactions that are repeated until they pass, and a clock.

SQLite is used in WAL mode with `synchronous=FULL`: readers do not wait, writers wait for each
other, and a transaction that has returned survives a power failure.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Double,
    Engine,
    cast,
    create_engine,
    event,
    extract,
    func,
    literal,
    make_url,
    select,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from etude import files
from etude.errors import BadValueError, MissingExtraError, StorageError, shown
from etude.storage.study.schema import versions
from etude.storage.study.trouble import passes, told

T = TypeVar("T")

PATIENCE = 60.0
"""For how many seconds a transaction is repeated while the database is busy or away."""

BUSY_SECONDS = 1.0
"""How long SQLite itself waits for a lock before the transaction is begun again."""

LARGEST_VALUE = 2**26
"""The size in bytes of the largest value that is read from SQLite."""

_PAUSES = random.Random()
"""Our own random numbers: those of the user's program are left alone."""

GUARDS = ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0", "foreign_keys=ON")
"""What SQLite is told of a file that may be from a stranger."""

DURABLE = ("journal_mode=WAL", "synchronous=FULL")
"""How our own files are written; the mode is kept in the file, and another program's is left."""

READS = "etude_reads"
"""The execution option of a transaction that only reads."""


class Connector:
    """Runs transactions on one database, in any thread and after a fork.

    Args:
        place: A file for SQLite, or a URL: `sqlite:///FILE` or `postgresql://USER@HOST/NAME`.
        patience: For how many seconds a transaction is repeated.
        clock: Seconds by which leases are granted and expire; None for the database's own rule.

    Attributes:
        path: The file, None for PostgreSQL.
        place: What to call the database in messages; it has no password.
    """

    def __init__(
        self,
        place: str | Path,
        patience: float = PATIENCE,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.url, self.path = _url_of(place)
        self.place = str(self.path or self.url.render_as_string(hide_password=True))
        self.patience, self._clock = patience, clock
        self._engine, self._process = self._build(), os.getpid()
        self._reads: dict[str, Any] = {READS: True}
        if self.path is None:
            self._reads["isolation_level"] = "REPEATABLE READ"

    def write(self, work: Callable[[Connection], T], *, patience: float | None = None) -> T:
        """Run `work` in one transaction that writes, and return what it returns.

        If the connection is lost while the transaction is committed, nobody knows whether it was:
        `work` is run again, and must recognise what it has already done.

        Raises:
            StorageError: If the database cannot be used, or is busy or away for too long.
        """
        return self._run(work, self.patience if patience is None else patience, {})

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction that only reads; it waits for no writer.

        All its statements see the database as it was at the first of them.

        Raises:
            StorageError: As `write`.
        """
        return self._run(work, self.patience, self._reads)

    def now(self, connection: Connection) -> float:
        """Return the time by which leases are granted and expire, in seconds.

        PostgreSQL: the server's clock, one for all machines. SQLite: the machine's monotonic
        clock, one for all of its processes, which no correction of the time changes. It restarts
        with the machine, and a server's clock may be set; `leases` allows for both.
        """
        return float(connection.execute(select(self.clock())).scalar_one())

    def clock(self) -> ColumnElement[float]:
        """Return an expression for the time, see `now`; a statement reads it when it meets a row.

        Compare stored times with this, not with `now`: on PostgreSQL a statement also sees what
        other transactions have stored since `now` was read, and such a time is no future.
        """
        if self._clock is not None:
            return literal(self._clock(), Double)
        if self.path is not None:  # one process writes at a time
            return literal(time.monotonic(), Double)
        return cast(extract("epoch", func.clock_timestamp()), Double)

    def close(self) -> None:
        """Close all connections; the next transaction opens new ones."""
        self._engine.dispose()

    def _run(self, work: Callable[[Connection], T], patience: float, options: dict[str, Any]) -> T:
        until, pause = time.monotonic() + patience, 0.005
        while True:
            try:
                connected = self._own().connect().execution_options(**options)
                with connected as connection, connection.begin():
                    return work(connection)
            except DBAPIError as error:
                if not passes(error):
                    raise told(error, self.place) from error
                if time.monotonic() + pause > until:
                    raise self._gave_up(error, patience) from error
            except SQLAlchemyError as error:
                raise told(error, self.place) from error
            time.sleep(pause * _PAUSES.uniform(0.5, 1.5))
            pause = min(2 * pause, 0.5)

    def _gave_up(self, error: DBAPIError, patience: float) -> StorageError:
        if self.path is None:
            return told(error, self.place)
        return StorageError(
            f"the study database {self.place!r} is in use by another process for more than "
            f"{patience:g} seconds: end the process that holds it, and go on"
        )

    def _own(self) -> Engine:
        """Return the engine of this process: a connection must not be shared after a fork."""
        if self._process != os.getpid():
            self._engine.dispose(close=False)
            self._engine, self._process = self._build(), os.getpid()
        return self._engine

    def _build(self) -> Engine:
        if self.path is not None:
            return _sqlite(self.url)
        try:
            return create_engine(self.url, connect_args={"connect_timeout": 10})
        except ImportError as error:
            raise MissingExtraError(
                f"PostgreSQL needs psycopg ({error}): pip install 'etude[postgres]'"
            ) from error


def _url_of(place: str | Path) -> tuple[URL, Path | None]:
    """Return the URL of a place, and the file of a SQLite database."""
    words = str(place)
    if "://" not in words:
        return _sqlite_url(Path(words))
    try:
        url = make_url(words)
    except (ArgumentError, ValueError):
        raise BadValueError(
            "the URL of the study database cannot be read: give a file, or "
            "postgresql://USER@HOST/NAME"
        ) from None
    backend = url.drivername.partition("+")[0]
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg"), None
    if backend == "sqlite" and url.database not in (None, "", ":memory:"):
        return _sqlite_url(Path(str(url.database)))
    raise BadValueError(
        f"studies are not stored in {shown(url.render_as_string(hide_password=True), 200)}: give "
        "a file for SQLite, or postgresql://USER@HOST/NAME"
    )


def _sqlite_url(path: Path) -> tuple[URL, Path]:
    path = path.expanduser().absolute()
    files.make_folder(path.parent)
    if path.exists():
        files.regular(path, "the study database")
    return URL.create("sqlite", database=str(path)), path


def _is_foreign(connection: sqlite3.Connection) -> bool:
    """Return whether a database has tables, and none of ours."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    return bool(tables) and versions.name not in tables


def _sqlite(url: URL) -> Engine:
    """Return an engine whose transactions begin as SQLite's should, and whose file is untrusted."""
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS, "isolation_level": None})

    def opened(connection: sqlite3.Connection, _: object) -> None:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE)
        for pragma in (*GUARDS, *(() if _is_foreign(connection) else DURABLE)):
            connection.execute(f"PRAGMA {pragma}")

    def begun(connection: Connection) -> None:
        reads = connection.get_execution_options().get(READS)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", opened)
    event.listen(engine, "begin", begun)
    return engine
