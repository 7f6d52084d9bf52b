"""Figure: the training loss against the growing rate of the ramps of a range test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etude.methods.range_test import RangeTest
from etude.report import words
from etude.report.figures import frame
from etude.report.figures.palette import LIGHT, Theme, heat
from etude.report.figures.view import rates_view, view

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

HEIGHT = 380
"""The height of the figure in pixels."""


def caption(found: RangeTest) -> str:
    """Return the caption."""
    text = (
        "The loss of each update against its rate, smoothed as "
        f"{found.rule.plan.library} does; one line for each seed."
    )
    if found.lr is not None:
        text += f" The line marks the suggestion, {words.number(found.lr, 3)}"
        text += "." if found.interval is None else "; the blue area is its range over the seeds."
    return text


def draw(found: RangeTest, theme: Theme = LIGHT) -> Figure:
    """Draw the figure."""
    from plotly.graph_objects import Figure, Scatter

    start = max((ramp.smoothed[0] for ramp in found.ramps if ramp.smoothed), default=float("nan"))
    shown = view([v for ramp in found.ramps for v in ramp.smoothed], start, log=False)
    rates = [lr for ramp in found.ramps for lr in ramp.lrs] or [found.rule.plan.low]
    last = max(1, len(found.ramps) - 1)
    shapes = []
    across = {"yref": "y domain", "y0": 0, "y1": 1, "xref": "x", "layer": "below"}
    if found.interval is not None:
        low, high = found.interval
        area = {"type": "rect", "x0": low, "x1": high, "fillcolor": theme.tied}
        shapes.append({**across, **area, "line": {"width": 0}})
    if found.lr is not None:
        line = {"color": theme.accent, "width": 1.5, "dash": "dash"}
        shapes.append({**across, "type": "line", "x0": found.lr, "x1": found.lr, "line": line})
    return Figure(
        [
            Scatter(
                x=[float(f"{lr:.5g}") for lr in ramp.lrs],
                y=[float(f"{loss:.5g}") for loss in ramp.smoothed],
                name=f"seed {ramp.seed}",
                mode="lines",
                line={"color": heat(index / last, theme), "width": 2},
                hovertemplate="%{fullData.name}<br>rate %{x:~g}<br>loss %{y:.4g}<extra></extra>",
            )
            for index, ramp in enumerate(found.ramps)
        ],
        frame.layout(
            theme,
            HEIGHT,
            margin={"l": frame.MARGIN, "r": 14, "t": 40, "b": 46},
            showlegend=len(found.ramps) > 1,
            legend_y=frame.legend_place(HEIGHT - 40 - 46),
            xaxis=frame.rate_axis(theme, rates_view(rates)),
            yaxis=frame.value_axis(theme, shown),
            shapes=shapes,
            annotations=[frame.panel_title("smoothed training loss", theme)],
        ),
    )
