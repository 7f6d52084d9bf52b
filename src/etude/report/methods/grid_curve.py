"""Figure: the final score of every rate of a grid."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from etude.methods.grid_result import GridResult
from etude.report.figures import frame
from etude.report.figures.palette import LIGHT, Theme
from etude.report.figures.view import rates_view, view

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

HEIGHT = 360
"""The height of the figure in pixels."""


def caption(found: GridResult) -> str:
    """Return the caption."""
    parts = ["The final validation loss at each rate."]
    if len(found.seeds) > 1:
        parts = ["The mean final validation loss over the seeds at each rate; a dot for each seed."]
    if any(one.diverged for one in found.rates):
        parts.append("Crosses at the top: rates at which a run diverged.")
    if len(found.tied) > 1:
        parts.append("Blue area: the rates whose end cannot be told from the best's.")
    return " ".join(parts)


def draw(found: GridResult, theme: Theme = LIGHT) -> Figure:
    """Draw the figure."""
    from plotly.graph_objects import Figure, Scatter

    untrained = found.untrained.loss if math.isfinite(found.untrained.loss) else math.nan
    ended = [one for one in found.rates if one.last is not None]
    dots = [(one.lr, loss) for one in found.rates for loss in one.losses if math.isfinite(loss)]
    shown = view([loss for _, loss in dots], untrained)
    broken = [one.lr for one in found.rates if one.diverged]
    traces = [
        Scatter(
            x=[one.lr for one in ended],
            y=[float(f"{one.last.loss:.5g}") for one in ended if one.last is not None],
            name="mean",
            mode="lines+markers",
            line={"color": theme.accent, "width": 2},
            marker={"size": 8, "color": theme.accent},
            hovertemplate="rate %{x:~g}<br>loss %{y:.4g}<extra></extra>",
        )
    ]
    if len(found.seeds) > 1:
        traces.append(
            Scatter(
                x=[lr for lr, _ in dots],
                y=[float(f"{loss:.5g}") for _, loss in dots],
                name="one seed",
                mode="markers",
                marker={"size": 5, "color": theme.second},
                hovertemplate="rate %{x:~g}<br>loss %{y:.4g}<extra></extra>",
            )
        )
    if broken:
        traces.append(
            Scatter(
                x=broken,
                y=[shown.high] * len(broken),
                name="diverged",
                mode="markers",
                marker={"symbol": "x", "size": 10, "color": theme.warn},
                cliponaxis=False,
                hovertemplate="rate %{x:~g}<br>diverged<extra></extra>",
            )
        )
    return Figure(
        traces,
        frame.layout(
            theme,
            HEIGHT,
            margin={"l": frame.MARGIN, "r": 14, "t": 40, "b": 46},
            showlegend=len(traces) > 1,
            legend_y=frame.legend_place(HEIGHT - 40 - 46),
            xaxis=frame.rate_axis(theme, rates_view([one.lr for one in found.rates])),
            yaxis=frame.value_axis(theme, shown),
            shapes=_areas(found, theme),
            annotations=[frame.panel_title("validation loss", theme)],
        ),
    )


def _areas(found: GridResult, theme: Theme) -> list[dict[str, object]]:
    if len(found.tied) < 2:
        return []
    place = {"xref": "x", "yref": "y domain", "y0": 0, "y1": 1, "layer": "below"}
    return [
        {"type": "rect", "x0": found.tied[0], "x1": found.tied[-1], "fillcolor": theme.tied}
        | {"line": {"width": 0}, **place}
    ]
