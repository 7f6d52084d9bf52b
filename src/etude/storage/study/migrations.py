"""Creates the schema, brings an older one up to date, and refuses a newer one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, insert, inspect, select, text, update

from etude.errors import StorageError, shown
from etude.storage.study.schema import VERSION, metadata, versions

Step = Callable[[Connection], None]


def _from_1(connection: Connection) -> None:
    """Count lost workers, keep further values of a result, and note the workers."""
    for words in (
        "ALTER TABLE etude_trials ADD COLUMN lost INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE etude_trials ADD COLUMN more TEXT",
        "CREATE TABLE etude_workers ("
        "study INTEGER NOT NULL REFERENCES etude_studies (id), name VARCHAR(200) NOT NULL, "
        "since DOUBLE PRECISION NOT NULL, seen DOUBLE PRECISION NOT NULL, "
        "PRIMARY KEY (study, name))",
    ):
        connection.execute(text(words))


STEPS: Mapping[int, Step] = {1: _from_1}
"""For each older version what makes the next one of it. A step never changes once released."""

LOCK = 7_364_211
"""The advisory lock of PostgreSQL under which one process alone creates or migrates tables."""


def prepare(connection: Connection, place: str) -> None:
    """Create or migrate the tables, in the transaction of the connection: all or nothing.

    Raises:
        StorageError: If the database is newer, damaged, or another program's.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    tables = set(inspect(connection).get_table_names())
    if versions.name not in tables:
        if tables and connection.dialect.name == "sqlite":
            raise StorageError(
                f"{place!r} is a database of another program (it has the table "
                f"{shown(min(tables))}): choose another file"
            )
        metadata.create_all(connection)
        connection.execute(insert(versions).values(version=VERSION))
        return
    refuse_foreign(connection, place)
    for version in range(version_of(connection, place), VERSION):
        STEPS[version](connection)
        connection.execute(update(versions).values(version=version + 1))
    refuse_incomplete(connection, place)


def version_of(connection: Connection, place: str) -> int:
    """Return the version of a database.

    Raises:
        StorageError: If it is newer than this Etude, or no version at all.
    """
    found = [row.version for row in connection.execute(select(versions.c.version))]
    if len(found) != 1 or not isinstance(found[0], int) or found[0] < 1:
        raise StorageError(
            f"the study database {place!r} is damaged: its version is {shown(found)}, not one "
            "number"
        )
    if found[0] > VERSION:
        raise StorageError(
            f"the study database {place!r} is of version {found[0]}, and this Etude reads up to "
            f"{VERSION}: install the Etude that wrote it, or a newer one"
        )
    return found[0]


def refuse_foreign(connection: Connection, place: str) -> None:
    """Raise for triggers and views, which could act on their own; Etude makes none.

    Raises:
        StorageError: If a SQLite database has one.
    """
    if connection.dialect.name != "sqlite":
        return
    query = text("select type, name from sqlite_master where type in ('trigger', 'view')")
    for kind, name in connection.execute(query):
        raise StorageError(
            f"the study database {place!r} has the {kind} {shown(name)}, which Etude does not "
            "make: it is not opened"
        )


def refuse_incomplete(connection: Connection, place: str) -> None:
    """Raise if a table or a column is missing.

    Raises:
        StorageError: The message names it.
    """
    found = inspect(connection)
    for table in metadata.sorted_tables:
        if not found.has_table(table.name):
            raise StorageError(
                f"the study database {place!r} is damaged: the table {table.name!r} is missing"
            )
        missing = {c.name for c in table.columns} - {
            column["name"] for column in found.get_columns(table.name)
        }
        if missing:
            raise StorageError(
                f"the study database {place!r} is damaged: the table {table.name!r} has no column "
                f"{min(missing)!r}"
            )
