"""The command line of a benchmark: help, names and flags; anything else is an error."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def read(
    doc: str | None,
    arguments: Sequence[str] | None = None,
    *,
    flags: Sequence[str] = (),
    names: str = "",
) -> tuple[list[str], set[str]]:
    """Return the names and the flags that were given; `--help` prints the docstring and ends.

    Args:
        doc: The module's docstring.
        arguments: What was given; None for the command line.
        flags: Those that the benchmark knows, such as '--held'.
        names: What may be named, in words; empty where nothing may.

    >>> read("Measures.", ["--held", "digits-mlp"], flags=["--held"], names="task")
    (['digits-mlp'], {'--held'})
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    for flag in flags:
        parser.add_argument(flag, action="append_const", const=flag, dest="flags")
    if names:
        parser.add_argument("names", nargs="*", metavar=names.upper())
    found = parser.parse_intermixed_args(arguments)
    return list(getattr(found, "names", [])), set(getattr(found, "flags", None) or ())
