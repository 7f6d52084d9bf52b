"""Takes whole numbers as people write them: 1e3 and 1000.0 are 1000."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

FLOATING = re.compile(r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?$")
"""A decimal number, with an exponent of at most two digits."""


def spelt_out(command: Any, args: list[str]) -> list[str]:
    """Return the arguments with the values of options for whole numbers written in digits.

    A value that is not whole stays as it was typed, and is refused when it is parsed.

    Args:
        command: The verb, or the group of verbs of which the arguments name one.
        args: Its arguments.
    """
    for word in args:
        if word.startswith("-"):
            continue
        inner = getattr(command, "commands", {}).get(word)
        if inner is None:
            break
        command = inner
    names = {name for option in command.params if _takes_whole(option) for name in option.opts}
    return list(_spelt_out(args, names))


def _spelt_out(args: list[str], names: set[str]) -> Iterator[str]:
    """Yield the arguments; `names` are the options for whole numbers.

    >>> list(_spelt_out(["--seeds", "1e1", "--lr=1e1", "--batch-size=64.0", "--seeds", "1.5"],
    ...      {"--seeds", "--batch-size"}))
    ['--seeds', '10', '--lr=1e1', '--batch-size=64', '--seeds', '1.5']
    """
    before = ""
    for word in args:
        option, equals, value = word.partition("=")
        if before in names:
            yield digits(word)
        elif equals and option in names:
            yield f"{option}={digits(value)}"
        else:
            yield word
        before = word


def digits(text: str) -> str:
    """Return the text of a whole number in digits; any other text as it is.

    >>> digits("1e3"), digits("2.0"), digits("1.5"), digits("20 epochs")
    ('1000', '2', '1.5', '20 epochs')
    """
    if not FLOATING.match(text):
        return text
    number = Decimal(text)
    return str(int(number)) if number == number.to_integral_value() else text


def _takes_whole(option: Any) -> bool:
    """Return whether an option takes a whole number; older versions of typer name its type."""
    described = getattr(getattr(option, "type_descriptor", None), "annotation", None)
    named = getattr(getattr(option, "type", None), "name", "")
    return described is int or str(named).startswith("integer")
