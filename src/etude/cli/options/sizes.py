"""Takes a new size alone, or after the tuned one: `--batch-size 64`, `--batch-size 16 64`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand

from etude.cli.options.choices import length
from etude.errors import BadValueError, shown

OPTIONS = ("--batch-size", "--steps")
"""The options whose tuned size is in the recipe, and may be typed too."""

_SIZE = re.compile(r"^\d[\d.eE+]*( ?[a-z]+)?$")
"""A number, or one with a unit, such as '20 epochs'."""

_TO = " to "


class SizedCommand(TyperCommand):
    """A verb whose options for a batch size and a length may have two values."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, with two sizes after an option as one value."""
        return super().parse_args(ctx, paired(args))


def paired(args: Sequence[str]) -> list[str]:
    """Return arguments in which two sizes after an option are one word.

    >>> paired(["digits-mlp", "--batch-size", "16", "64", "--mup"])
    ['digits-mlp', '--batch-size', '16 to 64', '--mup']
    >>> paired(["--steps", "400", "digits-mlp"])
    ['--steps', '400', 'digits-mlp']
    """
    found: list[str] = []
    for word in args:
        if found[-2:-1] and found[-2] in OPTIONS and all(map(_SIZE.match, (found[-1], word))):
            found[-1] += f"{_TO}{word}"
        else:
            found.append(word)
    return found


def new_size(option: str, typed: str | None, tuned: int | str | None) -> int | str | None:
    """Return the new size of an option that was typed; None if it was not.

    Args:
        option: The option.
        typed: Its value: a size, or the tuned and the new one with ' to ' between them.
        tuned: The recipe's size; None if it is the task's.

    Raises:
        BadValueError: If the tuned size that was typed is not the recipe's.

    >>> new_size("--batch-size", "64", 16), new_size("--batch-size", "16 to 64", 16)
    (64, 64)
    """
    if typed is None:
        return None
    before, both, after = typed.partition(_TO)
    if not both:
        return length(typed)
    if length(before) != tuned:
        field = option.strip("-").replace("-", "_")
        raise BadValueError(
            f"{option} {before} {after}: the recipe was tuned with {field}={shown(tuned)}; give "
            f"the new one alone, {option} {after}, or --set {field}={before} too"
        )
    return length(after)
