"""Parses a recipe's text, TOML or JSON, which may be untrusted, into a table of fields."""

from __future__ import annotations

import tomllib
from typing import Any

from etude import files
from etude.errors import BadValueError, kind_of

LARGEST = 2**20
"""The size in bytes of the largest recipe file that is read."""

MOST_DOTS = 1_000
"""The largest number of dots in one line of TOML; a key takes quadratic time in its parts."""


class RecipeError(BadValueError):
    """A field of a recipe is unknown, of the wrong kind, or out of bounds."""


def json_table(text: str) -> dict[str, Any]:
    """Read a recipe's fields from JSON."""
    try:
        table = files.parse_json(text)
    except ValueError as error:
        raise RecipeError(f"the recipe is not valid JSON: {error}") from error
    if not isinstance(table, dict):
        raise RecipeError(f"a recipe is a table of fields, not {kind_of(table)}")
    return table


def toml_table(text: str) -> dict[str, Any]:
    """Read a recipe's fields from TOML."""
    if any(line.count(".") > MOST_DOTS for line in text.splitlines()):
        raise RecipeError(f"the recipe has a line with more than {MOST_DOTS:,} dots: break it up")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise RecipeError("the recipe is not valid TOML: it is nested too deep") from None
    except ValueError as error:
        raise RecipeError(f"the recipe is not valid TOML: {error}") from error
