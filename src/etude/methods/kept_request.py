"""Reads back what the folder of a grid or of a population was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from etude.errors import BadTypeError, BadValueError, StorageError, shown
from etude.storage.grid_folder import GridFolder
from etude.storage.population_folder import PopulationFolder


@contextmanager
def kept_request(
    home: GridFolder | PopulationFolder | None,
    given: Sequence[object],
    what: str,
    *,
    leave_out: str,
) -> Iterator[Mapping[str, Any]]:
    """Give the plain form of a kept request, which may come from a stranger.

    Args:
        home: The folder.
        given: What the caller was given beside it; all must be None.
        what: What it holds: 'grid' or 'population'.
        leave_out: What the folder decides, in words.

    Raises:
        BadValueError: If there is no folder, or something was given that the folder decides.
        StorageError: If the folder holds none, or the block finds it damaged.
    """
    if home is None:
        raise BadValueError(f"resume=True needs folder=, the folder of the {what} to go on with")
    if any(one is not None for one in given):
        raise BadValueError(
            f"resume=True goes on with the folder's own {leave_out}: leave them out"
        )
    if not home.begun:
        raise StorageError(
            f"{str(home.path)!r} holds no {what} to resume: there is no {home.file.name} in it"
        )
    try:
        plain = home.table()["request"]
        if not (isinstance(plain["objective"], str) and plain["objective"]):
            raise BadTypeError(f"objective={shown(plain['objective'])} is no name")
        if not isinstance(plain["maximize"], bool | None):
            raise BadTypeError(f"maximize={shown(plain['maximize'])} is neither true nor false")
        yield plain
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(
            f"the {what} {str(home.file)!r} is damaged: {type(error).__name__}: {error}"
        ) from error
