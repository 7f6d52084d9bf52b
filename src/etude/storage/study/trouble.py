"""Errors of a database: which pass by themselves, and what the others say to a user."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from etude.errors import StorageError, shown

BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")
"""SQLite's errors that pass when another process has finished its transaction."""

PASSING = ("08", "40", "57P")
"""SQLSTATE classes of PostgreSQL that pass: no connection, serialization, shutdown or start."""

TOO_MANY_CONNECTIONS = "53300"

SQLITE_REASONS = {
    "SQLITE_FULL": "there is no space left; free some space and go on: what is stored stays",
    "SQLITE_READONLY": "it is read-only; make it and its folder writable, or copy it",
    "SQLITE_CANTOPEN": "it cannot be opened; check that its folder exists and is writable",
    "SQLITE_NOTADB": "it is not a SQLite database; choose another file",
    "SQLITE_CORRUPT": "it is damaged; restore a copy, or begin a new one in another file",
    "SQLITE_IOERR": "reading or writing failed; check the disk, and free some space",
    "SQLITE_TOOBIG": "it holds a value larger than Etude ever stores; it is not Etude's",
}
"""What SQLite's errors mean, by the start of their names."""


def passes(error: DBAPIError) -> bool:
    """Return whether it is worth trying again: the database is busy, restarting or away."""
    name = _sqlite_name(error)
    if name:
        return name.startswith(BUSY)
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return str(state).startswith(PASSING) or state == TOO_MANY_CONNECTIONS
    # psycopg gives no SQLSTATE when a connection breaks or cannot be made
    return error.connection_invalidated or type(error.orig).__name__ == "OperationalError"


def told(error: SQLAlchemyError, place: str) -> StorageError:
    """Return the error that a user sees: one line with the database, the reason and the fix."""
    if not isinstance(error, DBAPIError):
        return StorageError(f"cannot use the study database {shown(place, 300)}: {_line(error)}")
    name = _sqlite_name(error)
    for start, reason in SQLITE_REASONS.items():
        if name.startswith(start):
            return StorageError(f"cannot use the study database {shown(place, 300)}: {reason}")
    if getattr(error.orig, "sqlstate", None) == "53100":
        return StorageError(
            f"cannot write the study database {shown(place, 300)}: its server has no space left; "
            "free some space there and go on: what is stored stays"
        )
    return StorageError(f"cannot use the study database {shown(place, 300)}: {_line(error.orig)}")


def _sqlite_name(error: DBAPIError) -> str:
    return str(getattr(error.orig, "sqlite_errorname", ""))


def _line(error: object) -> str:
    return " ".join(str(error).split())
