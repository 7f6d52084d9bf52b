"""Figure: the multipliers that change over the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from etude.measure.layer_rates import LayerRates
from etude.report import words
from etude.report.figures import frame
from etude.report.figures.palette import LIGHT, Theme, depth
from etude.report.figures.view import View

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

NAMED = 8
"""The largest number of curves in the key; the pointer shows the names of the others."""


@dataclass(frozen=True)
class MultiplierCurve:
    """One multiplier over the run.

    Attributes:
        names: The parameters that have it, in the model's order.
        values: The multiplier at the figure's steps.
    """

    names: tuple[str, ...]
    values: tuple[float, ...]

    @property
    def name(self) -> str:
        """The first parameter, and the number of others."""
        more = len(self.names) - 1
        return self.names[0] + (f" and {more} more" if more else "")


@dataclass(frozen=True)
class MultiplierCurves:
    """The data of the figure.

    Attributes:
        length: The number of updates of the run.
        steps: The steps of the curves' values.
        curves: The curves, in the model's order; parameters with the same multiplier share one.
    """

    length: int
    steps: tuple[int, ...]
    curves: tuple[MultiplierCurve, ...]


def info(found: LayerRates) -> MultiplierCurves:
    """Return the data of the figure."""
    names: dict[tuple[float, ...], list[str]] = {}
    for row in found.rows:
        if row.curve:
            names.setdefault(row.curve, []).append(row.name)
    points = max((len(curve) for curve in names), default=0)
    steps = np.linspace(0, found.length - 1, points).round().astype(int).tolist()
    curves = tuple(MultiplierCurve(tuple(of), curve) for curve, of in names.items())
    return MultiplierCurves(found.length, tuple(steps), curves)


def caption(info: MultiplierCurves) -> str:
    """Return the caption."""
    text = "The multiplier of the rate at each update, if it changes over the run."
    if len(info.curves) > NAMED:
        text += f" The key names the first {NAMED} of {words.count(len(info.curves))} curves."
    return text


def draw(info: MultiplierCurves, theme: Theme = LIGHT) -> Figure:
    """Draw the figure."""
    from plotly.graph_objects import Figure, Scatter

    last = max(1, len(info.curves) - 1)
    top = max((max(curve.values) for curve in info.curves), default=1.0)
    low = min((0.0, *(min(curve.values) for curve in info.curves)))
    key = 22 * min(NAMED, len(info.curves))
    inner, margin = 200, {"l": frame.MARGIN, "r": 14, "t": 30, "b": 46 + key}
    return Figure(
        [
            Scatter(
                x=info.steps,
                y=curve.values,
                name=words.safe(curve.name),
                mode="lines",
                line={"color": depth(index / last, theme), "width": 2},
                showlegend=index < NAMED,
                hovertemplate="%{fullData.name}<br>update %{x}<br>× %{y:.4g}<extra></extra>",
            )
            for index, curve in enumerate(info.curves)
        ],
        frame.layout(
            theme,
            inner + 76 + key,
            xaxis=frame.update_axis(theme, info.length),
            yaxis=frame.value_axis(theme, View(low, 1.06 * top or 1.0, False), nticks=5),
            annotations=[frame.panel_title("multiplier", theme)],
            margin=margin,
            showlegend=True,
            legend={
                **frame.layout(theme, 0)["legend"],
                "orientation": "v",
                "y": frame.legend_place(inner),
            },
        ),
    )
