"""The options that give a study's plan on the command line: one for each key of a plan."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from typer.core import TyperCommand

from etude.cli.options.choices import pairs
from etude.cli.options.over import split_at_commas, value_of
from etude.errors import BadValueError

AXES = (
    "tasks",
    "models",
    "optimizers",
    "schedules",
    "lrs",
    "batch_sizes",
    "clips",
    "seeds",
    "steps",
)
"""The keys of a plan that hold several values."""

PLAIN = ("tasks", "schedules")
"""Those whose values are texts as they are written."""

SPELT = {f"--{axis.replace('_', '-')}": axis for axis in AXES}
"""The option of each."""

SPAN = re.compile(r"^[^:=\s]+(:[^:\s]+){1,2}$")


class ListedValues(TyperCommand):
    """A verb whose options for axes take several words: `--seeds 0 1 2`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, where a word after an axis' value is one more value."""
        return super().parse_args(ctx, list(_repeated(args)))


def _repeated(args: list[str]) -> list[str]:
    """Return arguments in which each word of an axis has the option before it.

    >>> _repeated(["rates", "--seeds", "0", "1", "--json"])
    ['rates', '--seeds', '0', '--seeds', '1', '--json']
    """
    found: list[str] = []
    axis = ""
    for word in args:
        if word.startswith("-"):
            axis = word if word in SPELT else ""
        elif axis and (len(found) < 1 or found[-1] != axis):
            found.append(axis)
        found.append(word)
    return found


def axes_of(typed: Mapping[str, list[str] | None]) -> dict[str, Any]:
    """Return the keys of a plan that were typed.

    Args:
        typed: The words of each axis; None for those that were not typed.

    Raises:
        BadValueError: If a word is no value of its axis; the message names the option.

    >>> axes_of({"lrs": ["1e-4:1:9"], "seeds": ["0:2"], "steps": None})
    {'lrs': {'from': 0.0001, 'to': 1, 'points': 9}, 'seeds': {'from': 0, 'to': 2, 'by': 1}}
    >>> axes_of({"lrs": ["sgd=0.1,1", "adam=0.01"], "models": ["depth=2,width=8"]})
    {'lrs': {'sgd': [0.1, 1], 'adam': [0.01]}, 'models': [{'depth': 2, 'width': 8}]}
    """
    return {axis: _axis(axis, words) for axis, words in typed.items() if words}


def _axis(axis: str, words: list[str]) -> Any:
    option = f"--{axis.replace('_', '-')}"
    if axis == "models":
        return [_table(option, word) for word in words]
    if axis == "lrs" and any("=" in word for word in words):
        return _by_optimizer(option, words)
    items = [item.strip() for word in words for item in split_at_commas(word)]
    if not all(items):
        raise BadValueError(f"{option} {' '.join(words)!r} has an empty value: leave it out")
    if axis in PLAIN:
        return items
    if axis == "optimizers":
        return [_table(option, item) if "{" in item or "=" in item else item for item in items]
    return _numbers(axis, option, items)


def _numbers(axis: str, option: str, items: list[str]) -> Any:
    """Return numbers, lengths such as '20 epochs', or the one range."""
    if not any(SPAN.match(item) for item in items):
        return [value_of(item) for item in items]
    if len(items) > 1:
        raise BadValueError(
            f"{option} {', '.join(items)!r}: give one range FROM:TO:POINTS, or values, not both"
        )
    ends = [value_of(part) for part in items[0].split(":")]
    if len(ends) == 3:
        return {"from": ends[0], "to": ends[1], "points": ends[2]}
    found = {"from": ends[0], "to": ends[1]}
    return found | {"by": 1} if axis == "seeds" else found


def _by_optimizer(option: str, words: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in words:
        name, equals, values = word.partition("=")
        if not equals or not name.strip() or not values.strip():
            raise BadValueError(
                f"{option} {word!r}: write OPTIMIZER=RATES for each optimizer, such as "
                f"{option} sgd=1e-3:1:7 adam=1e-5:0.1:7"
            )
        items = [item.strip() for item in split_at_commas(values)]
        found[name.strip()] = _numbers("lrs", option, items)
    return found


def _table(option: str, word: str) -> dict[str, Any]:
    """Return a table, written as {key = value} or as key=value,key=value."""
    text = word.strip()
    if text.startswith("{"):
        try:
            table: dict[str, Any] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError as error:
            raise BadValueError(f"{option} {word!r} is not a TOML table: {error}") from error
        return table
    if text in ("", "none"):
        return {}
    return pairs(split_at_commas(text), option)
