"""Previews of a schedule: sampled points, and an SVG picture of them."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from etude.errors import BadValueError, EtudeError
from etude.schedules._base import Schedule, operation
from etude.schedules._numbers import count, written

_WIDTH, _HEIGHT, _MARGIN = 360, 120, 8
_ENDLESS = 1_000


class Preview(NamedTuple):
    """Sampled values of a schedule.

    Args:
        steps: Rising steps, both ends of the run included.
        values: The value at each of them.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]


def preview(schedule: Schedule, steps: int | None = None, points: int = 400) -> Preview:
    """Sample a schedule for plotting.

    A run with more steps than points is divided into bins. Each bin contributes the lowest and the
    highest of up to 32 of its values, in the order of steps, so that a coarse grid does not miss
    restarts and spikes.

    Args:
        schedule: The schedule; if it is not bound, it is bound to `steps`.
        steps: Length of the run; None for the schedule's own length, or 1,000 if it has none.
        points: The largest number of points, at least 4.

    Returns:
        The sampled steps and values; every step if the run has at most `points` steps.

    Raises:
        BadValueError: The schedule cannot be bound to that many steps.

    Examples:
        >>> from etude.schedules import warmup
        >>> preview(warmup(2) >> 0.5 * warmup(2))
        Preview(steps=(0, 1, 2, 3, 4), values=(0.0, 0.5, 0.0, 0.25, 0.5))
    """
    most = count("points", points, at_least=4, at_most=1_000_000)
    own = schedule.length
    if steps is None:
        run = max(1, math.ceil(own)) if own is not None else _ENDLESS
    else:
        run = count("steps", steps)
    bound = schedule.over(run)
    taken = list(range(run + 1)) if run < most else _extremes(bound, run, most)
    return Preview(tuple(taken), tuple(bound(t) for t in taken))


def _extremes(schedule: Schedule, run: int, most: int) -> list[int]:
    """Return the steps at both ends of the run and of the extremes in each bin between."""
    bins = (most - 2) // 2
    edges = [run * i // bins for i in range(bins + 1)]
    taken = {0, run}
    for start, stop in pairwise(edges):
        stride = max(1, (stop - start) // 32)
        inside = [(schedule(t), t) for t in range(start, stop, stride)]
        taken |= {min(inside)[1], max(inside)[1]}
    return sorted(taken)


def finite_preview(schedule: Schedule, steps: int | None, points: int) -> Preview:
    """Sample a schedule, as `preview` does, for a picture.

    Raises:
        BadValueError: The schedule cannot be bound, or a value is not finite.
    """
    seen = preview(schedule, steps, points)
    if not all(map(math.isfinite, seen.values)):
        raise BadValueError(f"{schedule!r} has values that are not finite: .clip() it to draw it")
    return seen


def svg(schedule: Schedule, steps: int | None = None) -> str:
    """Draw a schedule as a small SVG of value over step, with the limits of both axes.

    Args:
        schedule: The schedule; if it is not bound, it is bound to `steps`.
        steps: Length of the run; None for the schedule's own length, or 1,000 if it has none.

    Returns:
        A self-contained `<svg>` element.

    Raises:
        BadValueError: The schedule cannot be bound, or a value is not finite.

    Examples:
        >>> from etude.schedules import cosine
        >>> svg(cosine(100)).startswith("<svg ")
        True
    """
    seen = finite_preview(schedule, steps, _WIDTH)
    low, high = min(0.0, *seen.values), max(seen.values)
    x = _scaled(seen.steps, 0.0, seen.steps[-1], _MARGIN, _WIDTH - _MARGIN)
    y = _scaled(seen.values, low, high, _HEIGHT - _MARGIN - 12, _MARGIN + 12)
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    name = html.escape(repr(schedule) if len(repr(schedule)) < 300 else "a schedule")
    text = '<text x="{}" y="{}" font-size="10" fill="currentColor" text-anchor="{}">{}</text>'
    return "".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            f'width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{name}">',
            f"<title>{name}</title>",
            f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-width="1.5"/>',
            text.format(_MARGIN, _MARGIN + 4, "start", f"{high:.4g}"),
            text.format(_MARGIN, _HEIGHT - 4, "start", f"{low:.4g} at the bottom"),
            text.format(_WIDTH - _MARGIN, _HEIGHT - 4, "end", f"{written(seen.steps[-1])} steps"),
            "</svg>",
        ]
    )


@operation
def picture(schedule: Schedule) -> str:
    """Return the HTML for a notebook: the text, and the picture if it can be drawn."""
    text = f"<code>{html.escape(repr(schedule))}</code>"
    try:
        return f"<div>{text}<br>{svg(schedule)}</div>"
    except EtudeError as error:
        return f"<div>{text}<br><small>{html.escape(str(error))}</small></div>"


def _scaled(
    values: Sequence[float], low: float, high: float, at_low: float, at_high: float
) -> list[float]:
    width = (high - low) or 1.0
    return [at_low + (at_high - at_low) * ((v - low) / width) for v in values]
