"""Pictures of a plan: a bar for each parameter or slice, in a terminal or as SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from etude.layerwise.multipliers import Multiplier
from etude.layerwise.parts import Part
from etude.layerwise.planning import Plan
from etude.schedules import Schedule

POINTS = 64
"""Number of points of a curve over the run."""


class RateBar(NamedTuple):
    """One line of the picture.

    Attributes:
        name: The parameter's name, with the slice.
        shape: Its shape.
        size: The number of scalars in it.
        rule: The rule that sets its multiplier.
        multiplier: Its multiplier at its largest rate.
        rate: Its largest rate over the run.
        decay: The multiplier of its weight decay.
        text: The multiplier as a number, or as a schedule's text.
        curve: Its multiplier at `POINTS` steps of the run; empty if it is constant.
        role: Whether its layer is 'input', 'middle' or 'output'; '' if that is unknown.
    """

    name: str
    shape: tuple[int, ...]
    size: int
    rule: str
    multiplier: float
    rate: float
    decay: float
    text: str
    curve: tuple[float, ...]
    role: str = ""


def bars(
    plan: Plan,
    lr: float,
    shape: Schedule,
    length: int,
    parts: Sequence[Part] = (),
) -> list[RateBar]:
    """Return the bars of a plan over a run.

    Args:
        plan: The multipliers of all parameters, bound to the run.
        lr: The peak of the recipe's rate.
        shape: The recipe's schedule, bound to the run.
        length: The run's length in updates.
        parts: The model's parts, with the roles from a forward pass; None takes the plan's parts.
    """
    roles = {part.name: _role(part) for part in (*(row.part for row in plan.rows), *parts)}
    steps = np.unique(np.linspace(0, length - 1, min(length, 100_000)).round())
    base = lr * np.asarray(shape(steps), dtype=np.float64)
    known: dict[Multiplier, tuple[float, float, tuple[float, ...]]] = {}
    found = []
    for row in plan.rows:
        if row.multiplier not in known:
            known[row.multiplier] = _largest(row.multiplier, steps, base)
        multiplier, rate, curve = known[row.multiplier]
        own = row.multiplier
        text = repr(own) if isinstance(own, Schedule) else f"{own:.4g}"
        found.append(
            RateBar(
                row.name, row.part.shape, row.count, row.rule, multiplier, rate, row.decay,
                text, curve, roles[row.part.name],
            )
        )  # fmt: skip
    return found


def _role(part: Part) -> str:
    return " + ".join(sorted(part.places)) if part.told else ""


def _largest(
    multiplier: Multiplier, steps: np.ndarray, base: np.ndarray
) -> tuple[float, float, tuple[float, ...]]:
    """Return the multiplier and the rate at the largest rate, and the curve."""
    if not isinstance(multiplier, Schedule):
        return multiplier, float(multiplier * base.max()), ()
    values = np.asarray(multiplier(steps), dtype=np.float64)
    rates = values * base
    at = int(rates.argmax())
    places = np.linspace(0, len(steps) - 1, POINTS).round().astype(int)
    return float(values[at]), float(rates[at]), tuple(float(v) for v in values[places])


def span(lines: Sequence[RateBar]) -> float:
    """Return the number of decades that half of the picture covers, at least log10(2)."""
    decades = [abs(math.log10(bar.multiplier)) for bar in lines if bar.multiplier > 0]
    return max([math.log10(2), *decades])


def terminal(bar: RateBar, decades: float, half: int = 10) -> str:
    """Return a bar for a terminal: right of the line for multipliers above 1, left for below.

    >>> terminal(RateBar("w", (1,), 1, "-", 10.0, 0.1, 1.0, "10", ()), 1.0, half=4)
    '    │████'
    """
    if bar.multiplier == 0:
        return f"{'frozen':>{half}}│{'':{half}}"
    cells = round(half * min(1.0, abs(math.log10(bar.multiplier)) / decades))
    left, right = (cells, 0) if bar.multiplier < 1 else (0, cells)
    return f"{'█' * left:>{half}}│{'█' * right:<{half}}"


ROW, WIDE, CURVE, LETTER = 18, 220, 120, 6.6
"""Sizes in pixels: the height of a line, the widths of bars and curves, the width of a letter."""


def svg(lines: Sequence[RateBar]) -> str:
    """Return the picture as SVG: bars on a log scale around 1, and curves of scheduled ones."""
    decades = span(lines)
    left = max(60, round(LETTER * max((len(bar.name) for bar in lines), default=0)))
    beside = CURVE + 110 if any(bar.curve for bar in lines) else 80
    height, width = ROW * len(lines) + 40, left + WIDE + beside
    middle = left + WIDE / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="11" '
        'role="img" aria-label="Multiplier of the learning rate, by parameter">',
        f'<line x1="{middle}" y1="20" x2="{middle}" y2="{height - 16}" stroke="#888"/>',
        _text(middle, 14, "× 1", "middle"),
        _text(left, 14, f"× {10**-decades:.3g}"),
        _text(left + WIDE, 14, f"× {10**decades:.3g}", "end"),
    ]
    for index, bar in enumerate(lines):
        top = 24 + ROW * index
        parts.append(_text(left - 8, top + 11, bar.name, "end"))
        parts += _mark(bar, top, middle, decades)
        parts.append(_text(left + WIDE + 8, top + 11, f"{bar.rate:.3g}"))
        if bar.curve:
            parts.append(_curve(bar.curve, left + WIDE + 90, top))
    return "\n".join([*parts, "</svg>"])


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="currentColor">'
        f"{html.escape(text)}</text>"
    )


def _mark(bar: RateBar, top: float, middle: float, decades: float) -> list[str]:
    """Return a bar's rectangle, or the word 'frozen'."""
    if bar.multiplier == 0:
        return [
            f'<text x="{middle - 4}" y="{top + 11}" text-anchor="end" fill="#b23a0e">frozen</text>'
        ]
    size = WIDE / 2 * min(1.0, abs(math.log10(bar.multiplier)) / decades)
    left = middle - size if bar.multiplier < 1 else middle
    colour = "#0b5488" if bar.multiplier >= 1 else "#a34a00"
    return [
        f'<rect x="{left:.1f}" y="{top + 2}" width="{max(size, 1.5):.1f}" height="{ROW - 6}" '
        f'fill="{colour}"/>'
    ]


def _curve(values: Sequence[float], left: float, top: float) -> str:
    """Return a line that shows a multiplier over the run."""
    largest = max(*values, 1e-30)
    points = " ".join(
        f"{left + CURVE * i / (len(values) - 1):.1f},"
        f"{top + ROW - 5 - (ROW - 7) * value / largest:.1f}"
        for i, value in enumerate(values)
    )
    return f'<polyline points="{points}" fill="none" stroke="currentColor"/>'


def page(title: str, lines: Sequence[RateBar]) -> str:
    """Return a self-contained HTML page with the picture and the table."""
    decayed = any(bar.decay != 1 for bar in lines)
    cells = "\n".join(
        "<tr>"
        + "".join(
            f"<td>{html.escape(text)}</td>"
            for text in (
                bar.name, "×".join(map(str, bar.shape)), f"{bar.size}", bar.role, bar.rule,
                bar.text, f"{bar.rate:.4g}", *([f"{bar.decay:.4g}"] if decayed else []),
            )
        )
        + "</tr>"
        for bar in lines
    )  # fmt: skip
    heads = "".join(
        f"<th>{head}</th>"
        for head in (
            "parameter", "shape", "numbers", "layer", "rule", "multiplier", "rate at the peak",
            *(["weight decay ×"] if decayed else []),
        )
    )  # fmt: skip
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font-family: system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }}
table {{ border-collapse: collapse; font-size: 0.85rem; margin-top: 2rem; }}
td, th {{ text-align: left; padding: 0.2rem 0.8rem 0.2rem 0; border-bottom: 1px solid #8884; }}
.wide {{ overflow-x: auto; }}
svg {{ display: block; }}
</style></head><body>
<h1>{html.escape(title)}</h1>
<p>Bars: the multiplier of the learning rate, on a log scale; the number is the largest rate over
the run. Lines: a multiplier over the run.</p>
<div class="wide">{svg(lines)}</div>
<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>
{cells}
</tbody></table></div></body></html>
"""
