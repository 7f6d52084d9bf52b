"""Draws a line in the terminal with braille characters, which have two by four dots each."""

from __future__ import annotations

from collections.abc import Sequence

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def plot(xs: Sequence[float], ys: Sequence[float], width: int = 64, height: int = 12) -> list[str]:
    """Return lines of text that show y over x, with an axis from 0, or from the lowest y if below.

    Args:
        xs: The positions, ascending.
        ys: The value at each position.
        width: The number of characters in a line.
        height: The number of lines.

    >>> for line in plot([0, 1, 2, 3], [0, 1, 2, 3], width=2, height=1): print(line)
    3 ⡠⠊
    >>> for line in plot([0, 1], [5, 5], width=2, height=2): print(line)
    5 ⠉⠉
    0
    """
    low, high = min(0.0, *ys), max(ys)
    span = (high - low) or 1.0
    columns, rows = 2 * width, 4 * height
    reach = (xs[-1] - xs[0]) or 1.0
    grid = [[0] * width for _ in range(height)]
    last: int | None = None
    where = 0
    for column in range(columns):
        x = xs[0] + reach * column / (columns - 1)
        while where < len(xs) - 2 and xs[where + 1] < x:
            where += 1
        after = min(where + 1, len(xs) - 1)
        width_here = (xs[after] - xs[where]) or 1.0
        y = ys[where] + (ys[after] - ys[where]) * min(1.0, (x - xs[where]) / width_here)
        row = round((rows - 1) * (high - y) / span)
        # A steep part is drawn as a vertical line in the column, instead of separate dots.
        for touched in _between(row, row if last is None else last):
            grid[touched // 4][column // 2] |= _DOTS[touched % 4][column % 2]
        last = row
    labels = [f"{high:.4g}", *[""] * (height - 2), f"{low:.4g}"][:height]
    left = max(map(len, labels))
    return [
        f"{label:>{left}} {''.join(chr(0x2800 + dots) for dots in line)}".rstrip("\u2800 ")
        for label, line in zip(labels, grid, strict=True)
    ]


def _between(row: int, last: int) -> range:
    """Return the rows from this column's value to that of the last column, without the latter."""
    if row < last:
        return range(row, last)
    return range(row, last, -1) if row > last else range(row, row + 1)
