"""Figure: the gradient's norm at the output of each layer, from the input to the output."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etude.measure.backprop import Backprop
from etude.report import words
from etude.report.figures import frame
from etude.report.figures.palette import LIGHT, Theme
from etude.report.figures.view import View

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

ROW = 24
"""The height of a layer's line in pixels."""

LETTERS = 20
"""The largest number of letters of a layer's name beside the axis; the pointer shows all of it."""


@dataclass(frozen=True)
class GradientChain:
    """The data of the figure.

    Attributes:
        names: The layers, in the order of the forward pass.
        norms: The norm of the gradient at each layer's output; 0 if none came.
        trunk: Whether each layer is on the trunk.
        view: The range of the axis.
    """

    names: tuple[str, ...]
    norms: tuple[float, ...]
    trunk: tuple[bool, ...]
    view: View


def info(found: Backprop) -> GradientChain:
    """Return the data of the figure."""
    norms = tuple(row.gradient or 0.0 for row in found.layers)
    seen = [n for n in norms if 0 < n < math.inf]
    low, high = (min(seen), max(seen)) if seen else (0.1, 1.0)
    view = View(low / 1.6, high * 1.6, True)
    trunk = tuple(row.trunk for row in found.layers)
    return GradientChain(tuple(row.name for row in found.layers), norms, trunk, view)


def caption(info: GradientChain) -> str:
    """Return the caption."""
    text = "The norm of the gradient at the output of each layer. The backward pass goes upwards: "
    text += "from the output, at the bottom, to the input, at the top."
    if not all(info.trunk):
        text += " Open circles: layers in a branch, which only a part of the gradient passes."
    return text


def short(name: str) -> str:
    """Return a name that fits beside the axis: its end.

    >>> short("blocks.11.feed_forward.activation")
    '…forward.activation'
    """
    return name if len(name) <= LETTERS else "…" + name[-LETTERS + 2 :]


def draw(info: GradientChain, theme: Theme = LIGHT) -> Figure:
    """Draw the figure."""
    from plotly.graph_objects import Figure, Scatter

    places = list(range(len(info.names)))
    hover = "%{customdata}<br>‖gradient‖ %{x:.4g}<extra></extra>"

    def dots(trunk: bool) -> Scatter:
        chosen = [p for p in places if info.trunk[p] == trunk and info.norms[p] > 0]
        marker = {"size": 8, "color": theme.accent}
        if not trunk:
            marker = {
                "size": 8, "color": theme.paper, "line": {"color": theme.soft, "width": 1.5},
            }  # fmt: skip
        return Scatter(
            x=[info.norms[p] for p in chosen],
            y=chosen,
            customdata=[words.safe(info.names[p]) for p in chosen],
            mode="lines+markers" if trunk else "markers",
            line={"color": theme.accent, "width": 2},
            marker=marker,
            hovertemplate=hover,
        )

    left = 14 + round(7.2 * max((len(short(n)) for n in info.names), default=0))
    height = ROW * max(1, len(places))
    return Figure(
        [dots(trunk=False), dots(trunk=True)],
        frame.layout(
            theme,
            height + 76,
            xaxis={
                **frame.rate_axis(theme, info.view),
                "showgrid": True,
                "gridcolor": theme.grid,
                "title": {
                    "text": "‖dL/d(output)‖",
                    "font": {"color": theme.soft, "size": 13},
                    "standoff": 8,
                },
            },
            yaxis={
                "range": [len(places) - 0.5, -0.5],
                "tickmode": "array",
                "tickvals": places,
                "ticktext": [words.safe(short(name)) for name in info.names],
                "tickfont": {"size": 12, "color": theme.soft},
                "showgrid": False,
                "zeroline": False,
            },
            margin={"l": left, "r": 14, "t": 12, "b": 52},
        ),
    )
