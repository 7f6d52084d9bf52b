"""What the process wants to hear of: libraries change that when they are first loaded."""

from __future__ import annotations

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
