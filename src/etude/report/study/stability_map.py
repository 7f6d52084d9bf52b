"""Figure: the loss of each kind of run at each rate, as a map; hatched where training diverged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etude.report import words
from etude.report.figures import frame
from etude.report.figures.palette import LIGHT, Theme, heat
from etude.report.study.naming import clipped, rate_text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

HEIGHT, TOP, BOTTOM = 48, 62, 46
"""The height of a row with its name, and of the margins, in pixels."""

HALF = 0.24
"""Half of the height of a box, in rows."""

MOST_TICKS = 6
"""The largest number of rates that are named along the axis of a narrow page."""


@dataclass(frozen=True)
class MapRow:
    """One kind of run.

    Attributes:
        name: What it is.
        rates: The rates, ascending.
        losses: The mean final loss at each; infinite where a run diverged.
        untrained: The mean loss before training.
        best: The rate with the least loss; None if no run trained.
    """

    name: str
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    untrained: float
    best: float | None

    def left(self) -> list[float]:
        """Return how much of the drop each rate missed: 0 is the best rate, 1 is untrained."""
        finite = [loss for loss in self.losses if math.isfinite(loss)]
        drop = self.untrained - min(finite, default=math.nan)
        if not drop > 0:
            return [1.0 if math.isfinite(loss) else math.nan for loss in self.losses]
        least = min(finite)
        return [
            min(1.0, (loss - least) / drop) if math.isfinite(loss) else math.nan
            for loss in self.losses
        ]


def caption() -> str:
    """Return the caption."""
    return (
        "How much of the possible drop of the loss each rate missed: 0% is the best rate of the "
        "row (ring), 100% is no better than untrained. Hatched: a run diverged."
    )


def draw(rows: Sequence[MapRow], theme: Theme = LIGHT) -> Figure:
    """Draw the map, the first row on top."""
    from plotly.graph_objects import Figure

    rates = sorted({rate for row in rows for rate in row.rates})
    place = {rate: i for i, rate in enumerate(rates)}
    every = -(-len(rates) // MOST_TICKS)
    named = range(0, len(rates), every)
    height = HEIGHT * len(rows) + TOP + BOTTOM
    return Figure(
        [_cells(rows, place, theme), *_rings(rows, place), _colours(theme, HEIGHT * len(rows))],
        frame.layout(
            theme,
            height,
            margin={"l": 14, "r": 14, "t": TOP, "b": BOTTOM},
            barmode="overlay",
            bargap=0,
            xaxis={
                "range": [-0.5, len(rates) - 0.5],
                "tickvals": list(named),
                "ticktext": [rate_text(rates[i]) for i in named],
                "tickangle": 0,
                "tickfont": {"size": 12, "color": theme.soft},
                "title": {"text": "learning rate", "font": {"size": 13, "color": theme.soft}},
                "showgrid": False,
                "zeroline": False,
                "fixedrange": True,
            },
            yaxis={"range": [len(rows) - 0.7, -0.75], "visible": False, "fixedrange": True},
            annotations=[
                *(
                    frame.note(
                        words.safe(clipped(row.name)), theme, xref="paper", x=0, xanchor="left",
                        y=i - HALF, yanchor="bottom",
                    )
                    for i, row in enumerate(rows)
                ),
                _colours_title(theme),
            ],
        ),
    )  # fmt: skip


def _cells(rows: Sequence[MapRow], place: Mapping[float, int], theme: Theme) -> Any:
    """Return a box for each rate of each row, hatched where a run diverged."""
    from plotly.graph_objects import Bar

    x, base, told, colours, hatches = [], [], [], [], []
    for i, row in enumerate(rows):
        for rate, left in zip(row.rates, row.left(), strict=True):
            broken = math.isnan(left)
            x.append(place[rate])
            base.append(round(i - HALF, 2))
            colours.append(theme.paper if broken else heat(round(left, 2), theme))
            hatches.append("/" if broken else "")
            missed = "a run diverged" if broken else f"missed {100 * left:.3g}%"
            told.append(f"{words.safe(row.name)}<br>rate {rate_text(rate)}: {missed}")
    return Bar(
        x=x,
        y=[2 * HALF] * len(x),
        base=base,
        width=0.96,
        hovertext=told,
        hovertemplate="%{hovertext}<extra></extra>",
        marker={
            "color": colours,
            "line": {"width": 1, "color": theme.rule},
            "pattern": {
                "shape": hatches,
                "fillmode": "overlay",
                "fgopacity": 1,
                "fgcolor": theme.warn,
                "size": 7,
                "solidity": 0.3,
            },
        },
        showlegend=False,
    )


def _rings(rows: Sequence[MapRow], place: Mapping[float, int]) -> list[Any]:
    """Return a ring at the best rate of each row, white in black so that it shows on any colour."""
    from plotly.graph_objects import Scatter

    best = [(place[row.best], i) for i, row in enumerate(rows) if row.best is not None]
    return [
        Scatter(
            x=[x for x, _ in best],
            y=[y for _, y in best],
            mode="markers",
            marker={
                "symbol": "circle-open", "size": 13, "color": colour,
                "line": {"width": width, "color": colour},
            },
            hoverinfo="skip",
            showlegend=False,
        )
        for colour, width in (("#000000", 4.5), ("#ffffff", 2))
        if best
    ]  # fmt: skip


def _colours(theme: Theme, inner: int) -> Any:
    """Return the scale of the colours, above the map."""
    from plotly.graph_objects import Scatter

    bar = {
        "orientation": "h", "thickness": 9, "len": 1, "x": 0.5, "y": 1 + 6 / inner,
        "yanchor": "bottom", "outlinewidth": 0, "tickvals": [0.01, 0.5, 0.99],
        "ticktext": ["0%", "50%", "100%"], "tickfont": {"size": 12, "color": theme.soft},
        "ticks": "",
    }  # fmt: skip
    marker = {
        "color": [0.0], "cmin": 0, "cmax": 1, "showscale": True, "colorbar": bar,
        "colorscale": [[i / 8, heat(i / 8, theme)] for i in range(9)],
    }  # fmt: skip
    return Scatter(x=[None], y=[None], mode="markers", marker=marker, hoverinfo="skip")


def _colours_title(theme: Theme) -> dict[str, Any]:
    text = "share of the possible drop that a rate missed"
    return {**frame.panel_title(text, theme, lift=38), "xshift": 0}
