"""Figure: the final loss against the rate, with a line for each kind of run of one task."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etude.report import frame, words
from etude.report.palette import LIGHT, Theme, heat
from etude.report.view import rates_view, view

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

HEIGHT = 380
"""The height of the figure in pixels."""


@dataclass(frozen=True)
class StudyCurve:
    """One kind of run.

    Attributes:
        name: What distinguishes it.
        rates: The rates, ascending.
        low: The least final loss over the seeds at each; infinite where all diverged.
        mean: The mean; infinite where a run diverged.
        high: The largest; infinite where a run diverged.
    """

    name: str
    rates: tuple[float, ...]
    low: tuple[float, ...]
    mean: tuple[float, ...]
    high: tuple[float, ...]


def caption() -> str:
    """Return the caption."""
    return (
        "The mean final validation loss over the seeds at each rate; the bars reach from the least "
        "to the largest. A rate at which a run diverged has no point. The dotted line is the "
        "untrained loss."
    )


def draw(curves: tuple[StudyCurve, ...], untrained: float, theme: Theme = LIGHT) -> Figure:
    """Draw the figure of one task."""
    from plotly.graph_objects import Figure, Scatter

    shown = view([loss for one in curves for loss in one.mean], untrained)
    across = rates_view([rate for one in curves for rate in one.rates])
    traces = []
    for i, one in enumerate(curves):
        colour = heat(i / max(1, len(curves) - 1), theme) if len(curves) > 1 else theme.accent
        kept = [j for j, loss in enumerate(one.mean) if math.isfinite(loss)]
        traces.append(
            Scatter(
                x=[one.rates[j] for j in kept],
                y=[_short(one.mean[j]) for j in kept],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [_short(one.high[j] - one.mean[j]) for j in kept],
                    "arrayminus": [_short(one.mean[j] - one.low[j]) for j in kept],
                    "thickness": 1,
                    "width": 0,
                },
                name=words.safe(one.name),
                mode="lines+markers",
                line={"color": colour, "width": 2},
                marker={"size": 6, "color": colour, "symbol": i % 20},
                hovertemplate="rate %{x:~g}<br>loss %{y:.4g}<extra></extra>",
            )
        )
    line = {"color": theme.soft, "width": 1, "dash": "dot"}
    inside = math.isfinite(untrained) and shown.low < untrained < shown.high
    shapes = [{"type": "line", "xref": "x domain", "x0": 0, "x1": 1, "line": line}]
    return Figure(
        traces,
        frame.layout(
            theme,
            HEIGHT,
            margin={"l": frame.MARGIN, "r": 14, "t": 40, "b": 46},
            showlegend=len(curves) > 1,
            legend_y=frame.legend_place(HEIGHT - 40 - 46),
            xaxis=frame.rate_axis(theme, across),
            yaxis=frame.value_axis(theme, shown),
            shapes=[{**s, "yref": "y", "y0": untrained, "y1": untrained} for s in shapes if inside],
            annotations=[frame.panel_title("validation loss", theme)],
        ),
    )


def _short(value: float) -> float:
    """Return a number rounded to what a figure can show."""
    return float(f"{value:.5g}")
