"""Figure: the loss of each kind of run at each rate, as a map; crosses where training diverged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etude.report import frame, words
from etude.report.palette import LIGHT, Theme, heat

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

HEIGHT, TOP, BOTTOM = 54, 8, 46
"""The height of a row with its name, and of the margins, in pixels."""

HALF = 0.24
"""Half of the height of a box, in rows."""


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
            return [1.0] * len(self.losses)
        least = min(finite)
        return [
            min(1.0, (loss - least) / drop) if math.isfinite(loss) else math.nan
            for loss in self.losses
        ]


def caption() -> str:
    """Return the caption."""
    return (
        "How much of the possible drop of the loss each rate missed: 0% is the best rate of the "
        "row (ring), 100% is no better than untrained. Crosses: a run diverged."
    )


def draw(rows: tuple[MapRow, ...], theme: Theme = LIGHT) -> Figure:
    """Draw the map, the first row on top."""
    from plotly.graph_objects import Figure

    rates = sorted({rate for row in rows for rate in row.rates})
    place = {rate: i for i, rate in enumerate(rates)}
    names = [words.safe(row.name) for row in rows]
    return Figure(
        [_cells(rows, place), *_marks(rows, place, theme)],
        frame.layout(
            theme,
            HEIGHT * len(rows) + TOP + BOTTOM,
            margin={"l": 14, "r": 14, "t": TOP, "b": BOTTOM},
            xaxis={
                "range": [-0.5, len(rates) - 0.5],
                "tickvals": list(range(len(rates))),
                "ticktext": [words.rate(rate) for rate in rates],
                "tickfont": {"size": 12, "color": theme.soft},
                "title": {"text": "learning rate", "font": {"size": 13, "color": theme.soft}},
                "showgrid": False,
                "zeroline": False,
                "fixedrange": True,
            },
            yaxis={"range": [len(rows) - 0.7, -0.75], "visible": False, "fixedrange": True},
            shapes=[shape for i, row in enumerate(rows) for shape in _boxes(row, i, place, theme)],
            annotations=[
                frame.note(
                    name, theme, xref="paper", x=0, xanchor="left", y=i - HALF, yanchor="bottom"
                )
                for i, name in enumerate(names)
            ],
        ),
    )


def _boxes(row: MapRow, at: int, place: Mapping[float, int], theme: Theme) -> list[dict[str, Any]]:
    """Return a coloured box for each rate of a row; an empty one where a run diverged."""
    return [
        {
            "type": "rect",
            "x0": place[rate] - 0.48,
            "x1": place[rate] + 0.48,
            "y0": at - HALF,
            "y1": at + HALF,
            "layer": "below",
            "line": {"width": 1, "color": theme.grid},
            "fillcolor": theme.paper if math.isnan(left) else heat(left, theme),
        }
        for rate, left in zip(row.rates, row.left(), strict=True)
    ]


def _cells(rows: tuple[MapRow, ...], place: Mapping[float, int]) -> Any:
    """Return invisible points that tell what a box shows."""
    from plotly.graph_objects import Scatter

    x, y, told = [], [], []
    for i, row in enumerate(rows):
        for rate, left in zip(row.rates, row.left(), strict=True):
            x.append(place[rate])
            y.append(i)
            missed = "a run diverged" if math.isnan(left) else f"missed {100 * left:.3g}%"
            told.append(f"{words.safe(row.name)}<br>rate {words.rate(rate)}: {missed}")
    return Scatter(
        x=x,
        y=y,
        text=told,
        mode="markers",
        marker={"size": 24, "opacity": 0},
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )


def _marks(rows: tuple[MapRow, ...], place: Mapping[float, int], theme: Theme) -> list[Any]:
    """Return the crosses where a run diverged, and the rings at the best rates."""
    from plotly.graph_objects import Scatter

    broken = [
        (place[rate], i)
        for i, row in enumerate(rows)
        for rate, loss in zip(row.rates, row.losses, strict=True)
        if not math.isfinite(loss)
    ]
    best = [(place[row.best], i) for i, row in enumerate(rows) if row.best is not None]
    kinds = (("x-thin", broken, theme.warn, 9), ("circle-open", best, "#ffffff", 13))
    return [
        Scatter(
            x=[x for x, _ in found],
            y=[y for _, y in found],
            mode="markers",
            marker={
                "symbol": symbol,
                "size": size,
                "color": colour,
                "line": {"width": 2, "color": colour},
            },
            hoverinfo="skip",
            showlegend=False,
        )
        for symbol, found, colour, size in kinds
        if found
    ]
