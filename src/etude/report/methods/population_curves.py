"""Figure: the rate of every member of a population, and of the best member's line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etude.methods.population_result import PopulationResult
from etude.report.figures import frame
from etude.report.figures.palette import LIGHT, Theme
from etude.report.figures.view import rates_view

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

HEIGHT = 360
"""The height of the figure in pixels."""


@dataclass(frozen=True)
class PopulationCurves:
    """The data of the figure.

    Attributes:
        length: The number of updates of a run.
        steps: The updates at which a generation begins, and the last update's end.
        members: For each member, its rate in each generation, the last one twice; NaN after it
            diverged.
        best: The same of the best member's line, its donors' included; empty if all diverged.
    """

    length: int
    steps: tuple[int, ...]
    members: tuple[tuple[float, ...], ...]
    best: tuple[float, ...]


def info(found: PopulationResult) -> PopulationCurves:
    """Return the data of the figure."""
    steps = (0, *found.ends)
    rows = []
    for one in found.members:
        pairs = zip(one.rates, one.scores, strict=True)
        rates = [rate if math.isfinite(score) else math.nan for rate, score in pairs]
        rows.append((*rates, rates[-1]))
    best: tuple[float, ...] = ()
    if found.best is not None:
        moved = [sum(step >= b for b in found.history.boundaries) for step in steps]
        best = tuple(found.history.lr * found.history.factors[i] for i in moved)
    return PopulationCurves(found.record.length, steps, tuple(rows), best)


def caption(found: PopulationResult) -> str:
    """Return the caption."""
    text = (
        "What the recipe's schedule is multiplied by, in each generation: a thin line for each "
        "member."
    )
    return text if found.best is None else f"{text} Thick: the line of the best, as it is replayed."


def draw(info: PopulationCurves, theme: Theme = LIGHT) -> Figure:
    """Draw the figure."""
    from plotly.graph_objects import Figure, Scatter

    rates = [r for row in (*info.members, info.best) for r in row if math.isfinite(r)]
    traces = [
        Scatter(
            x=list(info.steps),
            y=[float(f"{rate:.5g}") for rate in row],
            name=f"member {number}",
            mode="lines",
            line={"color": theme.pale, "width": 1, "shape": "hv"},
            hovertemplate=f"member {number}<br>update %{{x}}<br>rate %{{y:~g}}<extra></extra>",
        )
        for number, row in enumerate(info.members)
    ]
    if info.best:
        traces.append(
            Scatter(
                x=list(info.steps),
                y=[float(f"{rate:.5g}") for rate in info.best],
                name="best",
                mode="lines",
                line={"color": theme.accent, "width": 3, "shape": "hv"},
                hovertemplate="best<br>update %{x}<br>rate %{y:~g}<extra></extra>",
            )
        )
    return Figure(
        traces,
        frame.layout(
            theme,
            HEIGHT,
            margin={"l": frame.MARGIN, "r": 14, "t": 40, "b": 46},
            showlegend=False,
            xaxis=frame.update_axis(theme, info.length),
            yaxis=frame.value_axis(theme, rates_view(rates)),
            annotations=[frame.panel_title("learning rate at the peak", theme)],
        ),
    )
