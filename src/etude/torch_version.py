"""The versions of torch that Etude runs on, and what others lack; see docs/torch-versions.md."""

from __future__ import annotations

import multiprocessing
import warnings
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from etude.errors import MissingExtraError

FLOOR = (2, 6)
LACKING = "it has no torch.accelerator, and Etude was not tried with it"

NEWEST = (2, 13)
"""The newest torch that the tests were run with."""


@cache
def require_torch() -> None:
    """Refuse a torch that is too old, and warn of one that is newer than any that was tried.

    torch itself is not loaded for it. The warning is given once, and not in worker processes.

    Raises:
        MissingExtraError: If torch is missing, or older than `FLOOR`.

    >>> require_torch()
    """
    wanted = _text(FLOOR)
    try:
        found = version("torch")
    except PackageNotFoundError as error:
        raise MissingExtraError(
            f"Etude trains with torch, which is not installed: pip install 'torch>={wanted}'"
        ) from error
    if _numbers(found) < FLOOR:
        raise MissingExtraError(
            f"torch {found} is too old: {LACKING}; pip install 'torch>={wanted}'"
        )
    if _numbers(found) > NEWEST and multiprocessing.parent_process() is None:
        warnings.warn(
            f"Etude was not tried with torch {found}; the newest it was tried with is "
            f"{newest_tried()}. Where something fails, pip install 'torch=={newest_tried()}.*'",
            stacklevel=2,
        )


def newest_tried() -> str:
    """Return the newest version of torch that Etude was tried with.

    >>> newest_tried().split(".")[0]
    '2'
    """
    return _text(NEWEST)


def _text(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def _numbers(text: str) -> tuple[int, ...]:
    """Return the first two numbers of a version.

    >>> _numbers("2.13.0+cpu"), _numbers("2.9.0a0")
    ((2, 13), (2, 9))
    """
    return tuple(int(part) for part in text.split("+")[0].split(".")[:2])
