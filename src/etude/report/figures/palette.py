"""Colours of the report in a light and a dark theme, also for colour-blind readers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """The colours of one theme.

    Attributes:
        paper: The background of the page.
        ink: Text, and the most important lines.
        soft: Less important text.
        rule: Lines of axes and tables.
        grid: Grid lines behind the data.
        accent: The chosen rate, and validation values.
        pale: A pale accent, for the first of ordered lines.
        second: Another quantity than that in the accent.
        raw: Values before smoothing.
        warn: Values that show a failure.
        tied: The area of rates that tie.
        unstable: The area of rates that break training.
        heat: The positions of the lowest and the highest rate on the plasma scale, without colours
            that have too little contrast to the background.
    """

    paper: str
    ink: str
    soft: str
    rule: str
    grid: str
    accent: str
    pale: str
    second: str
    raw: str
    warn: str
    tied: str
    unstable: str
    heat: tuple[float, float]


LIGHT = Theme(
    paper="#fdfdfb",
    ink="#1d2229",
    soft="#5b6572",
    rule="#c4cad1",
    grid="#e9ecef",
    accent="#0b5488",
    pale="#9db9cf",
    second="#a34a00",
    raw="#b4bcc6",
    warn="#b23a0e",
    tied="rgba(11, 84, 136, 0.10)",
    unstable="rgba(178, 58, 14, 0.09)",
    heat=(0.0, 0.66),
)

DARK = Theme(
    paper="#14171b",
    ink="#e7eaee",
    soft="#9ba6b3",
    rule="#454d57",
    grid="#262b31",
    accent="#6fb7ea",
    pale="#4a7391",
    second="#eda65b",
    raw="#59636e",
    warn="#ff8a5c",
    tied="rgba(111, 183, 234, 0.14)",
    unstable="rgba(255, 138, 92, 0.13)",
    heat=(0.42, 0.94),
)

# The plasma scale of matplotlib (Smith and van der Walt 2015). Its lightness rises evenly, so that
# its order is visible with any colour vision, and in grey print.
_PLASMA = (
    (13, 8, 135),
    (70, 3, 159),
    (114, 1, 168),
    (156, 23, 158),
    (189, 55, 134),
    (216, 87, 107),
    (237, 121, 83),
    (251, 159, 58),
    (253, 202, 38),
    (240, 249, 33),
)


def heat(place: float, theme: Theme) -> str:
    """Return the colour at a position between the lowest (0) and the highest rate (1).

    >>> heat(0.0, LIGHT)
    '#0d0887'
    """
    low, high = theme.heat
    return _between(_PLASMA, low + place * (high - low))


def depth(place: float, theme: Theme) -> str:
    """Return the colour at a position between the first (0) and the last (1) of ordered lines.

    >>> depth(1.0, LIGHT) == LIGHT.accent
    True
    """
    return _between((_numbers(theme.pale), _numbers(theme.accent)), place)


def places(rates: Sequence[float]) -> tuple[float, ...]:
    """Return the logarithmic position of each rate between the lowest (0) and the highest (1).

    >>> places([0.01, 0.1, 1.0])
    (0.0, 0.5, 1.0)
    """
    if not rates:
        return ()
    low, high = math.log10(min(rates)), math.log10(max(rates))
    if low == high:
        return (0.5,) * len(rates)
    return tuple((math.log10(rate) - low) / (high - low) for rate in rates)


def _numbers(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def _between(stops: Sequence[Sequence[int]], place: float) -> str:
    """Return the colour at a position from 0 to 1 between equally spaced colours."""
    position = min(1.0, max(0.0, place)) * (len(stops) - 1)
    index = min(int(position), len(stops) - 2)
    share = position - index
    mixed = (
        round(a + share * (b - a)) for a, b in zip(stops[index], stops[index + 1], strict=True)
    )
    return "#" + "".join(f"{channel:02x}" for channel in mixed)
