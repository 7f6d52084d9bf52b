"""Figure: the final loss against the rate, with a line and a band for each kind of run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etude.report import words
from etude.report.figures import frame
from etude.report.figures.palette import LIGHT, Theme, heat
from etude.report.figures.view import View, rates_view, view
from etude.report.study.naming import clipped

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

INNER, ROW = 300, 21
"""The height of the panel and of a line of the key, in pixels."""

DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True)
class StudyCurve:
    """One kind of run.

    Attributes:
        name: What distinguishes it.
        rates: The rates, ascending.
        low: The lower end of the interval of the mean final loss at each; infinite where a run
            diverged.
        mean: The mean.
        high: The upper end of its interval.
        tied: The interval of the best rate over seeds; None if no rate trained.
        best: The best rate and its loss; None if no rate trained.
        limit: The rate above which the curvature before training makes a step unstable.
    """

    name: str
    rates: tuple[float, ...]
    low: tuple[float, ...]
    mean: tuple[float, ...]
    high: tuple[float, ...]
    tied: tuple[float, float] | None = None
    best: tuple[float, float] | None = None
    limit: float | None = None


def caption(curves: Sequence[StudyCurve]) -> str:
    """Return the caption."""
    told = (
        "The mean final validation loss at each rate, with its 90% interval over seeds as a band. "
        "Ring: the best rate, with the rates that are the best of 90% of the draws of the seeds as "
        "a bar. A cross at the top marks a rate at which a run diverged. The dotted line is the "
        "untrained loss."
    )
    if any(one.limit is not None for one in curves):
        told += (
            " Dashed and upright: the rate above which the curvature before training makes a step "
            "unstable."
        )
    return told + " Choose a line in the key to hide it."


def draw(curves: Sequence[StudyCurve], untrained: float, theme: Theme = LIGHT) -> Figure:
    """Draw the figure."""
    from plotly.graph_objects import Figure

    shown = view([loss for one in curves for loss in one.mean], untrained, below=0.1)
    across = rates_view([rate for one in curves for rate in one.rates])
    traces: list[Any] = []
    for i, one in enumerate(curves):
        colour = heat(i / (len(curves) - 1), theme) if len(curves) > 1 else theme.accent
        traces += _traces(one, i, colour, shown, theme)
    key = ROW * len(curves) if len(curves) > 1 else 0
    return Figure(
        traces,
        frame.layout(
            theme,
            INNER + 40 + 52 + key,
            margin={"l": frame.MARGIN, "r": 14, "t": 40, "b": 52 + key},
            showlegend=len(curves) > 1,
            legend=_legend(theme),
            xaxis=frame.rate_axis(theme, across),
            yaxis=frame.value_axis(theme, shown),
            shapes=_lines(curves, untrained, shown, across, theme),
            annotations=[frame.panel_title("validation loss", theme, lift=20)],
        ),
    )


def _legend(theme: Theme) -> dict[str, Any]:
    return {
        **frame.layout(theme, 0)["legend"],
        "orientation": "v",
        "y": frame.legend_place(INNER),
        "itemclick": "toggle",
        "itemdoubleclick": "toggleothers",
    }


def _traces(one: StudyCurve, index: int, colour: str, shown: View, theme: Theme) -> list[Any]:
    """Return the band, the line, the bar of rates that tie with the best, its ring, the crosses."""
    from plotly.graph_objects import Scatter

    kept = [j for j, loss in enumerate(one.mean) if math.isfinite(loss)]
    broken = [j for j, loss in enumerate(one.mean) if not math.isfinite(loss)]
    group = {"legendgroup": str(index), "showlegend": False}
    floor = shown.low if shown.log else -math.inf
    low = [max(one.low[j], floor) for j in kept]
    high = [one.high[j] if math.isfinite(one.high[j]) else shown.high for j in kept]
    x = [one.rates[j] for j in kept]
    # A trace may be empty: figures with the same traces are stored as their differences.
    return [
        Scatter(
            x=[*x, *reversed(x)],
            y=[*low, *reversed(high)],
            fill="toself",
            mode="lines",
            fillcolor=_faint(colour),
            line={"width": 0},
            hoverinfo="skip",
            **group,
        ),
        Scatter(
            x=x,
            y=[one.mean[j] for j in kept],
            name=words.safe(clipped(one.name)),
            legendgroup=str(index),
            mode="lines+markers",
            line={"color": colour, "width": 2, "dash": DASHES[index % len(DASHES)]},
            marker={"size": 6, "color": colour, "symbol": index % 20},
            hovertemplate="rate %{x:~g}<br>loss %{y:.4g}<extra></extra>",
        ),
        _best(one, colour, group),
        Scatter(
            x=[one.rates[j] for j in broken],
            y=[shown.high] * len(broken),
            mode="markers",
            marker={"symbol": "x", "size": 9, "color": colour},
            cliponaxis=False,
            hovertemplate="rate %{x:~g}<br>a run diverged<extra></extra>",
            **group,
        ),
    ]


def _best(one: StudyCurve, colour: str, group: dict[str, Any]) -> Any:
    from plotly.graph_objects import Scatter

    best = [] if one.best is None else [one.best]
    low, high = one.tied or (math.nan, math.nan)
    return Scatter(
        x=[rate for rate, _ in best],
        y=[loss for _, loss in best],
        mode="markers",
        error_x={
            "type": "data", "symmetric": False, "array": [high - rate for rate, _ in best],
            "arrayminus": [rate - low for rate, _ in best], "thickness": 3, "width": 0,
            "color": colour,
        },
        marker={
            "symbol": "circle-open", "size": 14, "color": colour,
            "line": {"width": 2, "color": colour},
        },
        cliponaxis=False,
        hoverinfo="skip",
        **group,
    )  # fmt: skip


def _lines(
    curves: Sequence[StudyCurve], untrained: float, shown: View, across: View, theme: Theme
) -> list[dict[str, Any]]:
    """Return the line of the untrained loss, and one at each rate that the curvature predicts."""
    found: list[dict[str, Any]] = []
    if math.isfinite(untrained) and shown.low < untrained < shown.high:
        found.append(
            {"type": "line", "xref": "x domain", "x0": 0, "x1": 1, "yref": "y", "y0": untrained,
             "y1": untrained, "line": {"color": theme.soft, "width": 1, "dash": "dot"}}
        )  # fmt: skip
    limits = sorted({one.limit for one in curves if one.limit is not None})
    found += (
        {"type": "line", "xref": "x", "x0": limit, "x1": limit, "yref": "y domain", "y0": 0,
         "y1": 1, "layer": "below", "line": {"color": theme.warn, "width": 1.5, "dash": "dash"}}
        for limit in limits
        if across.low < limit < across.high
    )  # fmt: skip
    return found


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.13)"
