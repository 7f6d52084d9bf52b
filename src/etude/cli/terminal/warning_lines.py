"""Shows Etude's own warnings as one line each; those of other programs keep their file and line."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import etude

_OWN = (str(Path(etude.__file__).parent), contextlib.__file__)
"""Where Etude's warnings seem to come from; a function in a context manager is called by Python."""


@contextlib.contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Write a warning of Etude as 'etude: warning: …', without a place in its code."""
    before = warnings.formatwarning

    def written(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if category is UserWarning and filename.startswith(_OWN):
            return f"etude: warning: {message}\n"
        return before(message, category, filename, lineno, line)

    warnings.formatwarning = written
    try:
        yield
    finally:
        warnings.formatwarning = before
