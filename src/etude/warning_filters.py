"""What the process wants to hear of: libraries change that when they are first loaded."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def filters_kept() -> Iterator[None]:
    """Leave `warnings.filters` as they were: what is loaded on the way adds some of its own.

    >>> before = list(warnings.filters)
    >>> with filters_kept():
    ...     warnings.simplefilter("always")
    >>> warnings.filters == before
    True
    """
    before = list(warnings.filters)
    try:
        yield
    finally:
        if warnings.filters != before:
            warnings.filters[:] = before  # type: ignore[index]


@contextmanager
def logger_kept(name: str, level: int = logging.ERROR) -> Iterator[None]:
    """Hear nothing below a level from a library's logger, for a block; then all as before.

    A logger belongs to the user, who may want to hear more or less of it than we do.

    >>> logger = logging.getLogger("some.library")
    >>> logger.setLevel(logging.DEBUG)
    >>> with logger_kept("some.library"):
    ...     logger.level == logging.ERROR
    True
    >>> logger.level == logging.DEBUG
    True
    """
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(max(level, logger.getEffectiveLevel()))
    try:
        yield
    finally:
        logger.setLevel(before)
