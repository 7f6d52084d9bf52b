"""Figure: gradient norm and relative update of each layer over the updates of a watched run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from etude.diagnosis.history import Floats, History, Quantity
from etude.report import words
from etude.report.figures import frame
from etude.report.figures.curves import thin
from etude.report.figures.palette import LIGHT, Theme, depth
from etude.report.figures.view import View

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

NAMED = 8
"""The largest number of curves in the key; the pointer shows the names of the others."""

MOST = 200
"""The largest number of points of a line."""

PANELS = (
    (Quantity.GRADIENT_NORM, "gradient norm"),
    (Quantity.UPDATE_RATIO, "update / weight"),
)
"""What is drawn, from the top."""


@dataclass(frozen=True)
class LayerCurve:
    """The readings of one layer.

    Attributes:
        name: Its name.
        values: One series for each panel; a value that is not positive is left out.
    """

    name: str
    values: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class LayerReadings:
    """The data of the figure.

    Attributes:
        length: The number of updates of the run.
        steps: The sampled updates.
        curves: The layers, from the input to the output.
    """

    length: int
    steps: tuple[int, ...]
    curves: tuple[LayerCurve, ...]

    def __bool__(self) -> bool:
        return any(value is not None for c in self.curves for row in c.values for value in row)


def info(history: History) -> LayerReadings:
    """Return the data of the figure."""
    total = history.of_layers(PANELS[0][0])
    kept = thin(np.nan_to_num(total.sum(1)) if total.size else np.empty(0), MOST)
    curves = []
    for index, layer in enumerate(history.layers):
        rows = tuple(_row(history.of_layers(quantity)[kept, index]) for quantity, _ in PANELS)
        if any(value is not None for row in rows for value in row):
            curves.append(LayerCurve(layer.name, rows))
    return LayerReadings(history.updates, tuple(history.steps[kept].tolist()), tuple(curves))


def _row(values: Floats) -> tuple[float | None, ...]:
    """Return values for a logarithmic axis, to the digits that can be seen."""
    return tuple(float(f"{v:.4g}") if math.isfinite(v) and v > 0 else None for v in values.tolist())


def caption(info: LayerReadings) -> str:
    """Return the caption."""
    text = (
        "Per layer, from the input (pale) to the output (strong): the norm of its gradient, and "
        "the norm of its update over that of its weights."
    )
    if len(info.curves) > NAMED:
        text += f" The key names the first {NAMED} of {words.count(len(info.curves))} layers."
    return text


def draw(info: LayerReadings, theme: Theme = LIGHT) -> Figure:
    """Draw the figure."""
    from plotly.graph_objects import Figure, Scatter

    last = max(1, len(info.curves) - 1)
    key = 22 * min(NAMED, len(info.curves))
    heights = [180, 180]
    height, domains = frame.stacked(heights, 46, 30, 46 + key)
    axes: dict[str, object] = {}
    titles = []
    for panel, (_, name) in enumerate(PANELS):
        axis = "" if panel == 0 else str(panel + 1)
        values = [v for curve in info.curves for v in curve.values[panel] if v is not None]
        low, high = (min(values), max(values)) if values else (0.1, 1.0)
        view = View(low / 1.5, high * 1.5, True)
        axes[f"yaxis{axis}"] = frame.value_axis(
            theme, view, anchor=f"x{axis}", domain=domains[panel]
        )
        axes[f"xaxis{axis}"] = frame.update_axis(
            theme, info.length, title=panel == len(PANELS) - 1, anchor=f"y{axis}"
        )
        titles.append(frame.panel_title(name, theme, axis))
    return Figure(
        [
            Scatter(
                x=info.steps,
                y=curve.values[panel],
                xaxis=f"x{panel + 1}" if panel else "x",
                yaxis=f"y{panel + 1}" if panel else "y",
                name=words.safe(curve.name),
                legendgroup=str(index),
                mode="lines+markers" if len(info.steps) < 3 else "lines",
                connectgaps=False,
                line={"color": depth(index / last, theme), "width": 2},
                showlegend=panel == 0 and index < NAMED,
                hovertemplate="%{fullData.name}<br>update %{x}<br>%{y:.3g}<extra></extra>",
            )
            for panel in range(len(PANELS))
            for index, curve in enumerate(info.curves)
        ],
        frame.layout(
            theme,
            height,
            **axes,
            annotations=titles,
            margin={"l": frame.MARGIN, "r": 14, "t": 30, "b": 46 + key},
            showlegend=True,
            legend={
                **frame.layout(theme, 0)["legend"],
                "orientation": "v",
                "y": frame.legend_place(sum(heights) + 46),
            },
        ),
    )
