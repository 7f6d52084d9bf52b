"""One suite for all databases: `opened` opens a study database of each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from etude.storage.study import StudyDatabase
from tests.storage.study.server import Server, why_not


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    running = Server()
    yield running
    running.close()


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a database can be opened: a file, or the URL of an empty database."""
    if request.param == "sqlite":
        return str(tmp_path / "studies.db")
    return request.getfixturevalue("server").emptied()


@pytest.fixture
def opened(place: str, tmp_path: Path) -> Iterator[Callable[..., StudyDatabase]]:
    """Opens the database of a test, as often as it likes."""
    made: list[StudyDatabase] = []

    def open_it(**more: Any) -> StudyDatabase:
        made.append(StudyDatabase(place, **{"folder": tmp_path / "files", **more}))
        return made[-1]

    yield open_it
    for database in made:
        database.close()


@pytest.fixture
def database(opened: Callable[..., StudyDatabase]) -> StudyDatabase:
    return opened()
