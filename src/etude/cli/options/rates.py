"""Reads a list of learning rates as it is typed."""

from __future__ import annotations

import numpy as np

from etude.errors import BadValueError

MOST = 1_000
"""The largest number of rates of a range."""


def read_rates(text: str | None, option: str = "--lrs") -> list[float] | None:
    """Return the rates of a text: values separated by commas, or a range LOW:HIGH:COUNT.

    A range has equal ratios. None stays None.

    Args:
        text: What was typed.
        option: The option, for messages.

    Raises:
        BadValueError: If the text is neither.

    >>> read_rates("0.1, 0.01"), read_rates("0.001:0.1:3")
    ([0.1, 0.01], [0.001, 0.01, 0.1])
    """
    if text is None:
        return None
    if ":" not in text:
        return [_number(part, text, option) for part in text.split(",")]
    ends = text.split(":")
    if len(ends) != 3 or not ends[2].strip().isdecimal():
        raise BadValueError(f"{option} {text!r}: write a range as LOW:HIGH:COUNT, such as 1e-4:1:9")
    low, high, count = _number(ends[0], text, option), _number(ends[1], text, option), int(ends[2])
    if not 0 < low < high < float("inf"):
        raise BadValueError(f"{option} {text!r}: give 0 < LOW < HIGH, such as 1e-4:1:9")
    if not 2 <= count <= MOST:
        raise BadValueError(f"{option} {text!r}: COUNT={count} is out of bounds: give 2 to {MOST}")
    return [float(f"{lr:.6g}") for lr in np.geomspace(low, high, count)]


def read_range(text: str | None) -> tuple[float, float] | None:
    """Return the lowest and the highest rate of a text LOW:HIGH; None stays None.

    Raises:
        BadValueError: If the text is something else.

    >>> read_range("1e-4:0.01")
    (0.0001, 0.01)
    """
    if text is None:
        return None
    ends = text.split(":")
    if len(ends) != 2:
        raise BadValueError(f"--lr-range {text!r}: write LOW:HIGH, such as 1e-4:1e-2")
    low, high = (_number(end, text, "--lr-range", "1e-4:1e-2") for end in ends)
    if not 0 < low < high < float("inf"):
        raise BadValueError(f"--lr-range {text!r}: give 0 < LOW < HIGH, such as 1e-4:1e-2")
    return low, high


def _number(
    part: str, text: str, option: str = "--lrs", such: str = "0.001,0.01,0.1 or 1e-4:1:9"
) -> float:
    try:
        return float(part)
    except ValueError:
        raise BadValueError(
            f"{option} {text!r}: {part.strip()!r} is not a number; write {such}"
        ) from None
