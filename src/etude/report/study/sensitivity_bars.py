"""Figure: what a rate of the range costs on average, as a bar for each kind of run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etude.report import words
from etude.report.figures import frame
from etude.report.figures.palette import LIGHT, Theme
from etude.report.study.naming import clipped
from etude.studies.analysis.intervals import Interval

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

HEIGHT, TOP, BOTTOM = 44, 8, 46
"""The height of a row with its name, and of the margins, in pixels."""

HALF = 0.17
"""Half of the height of a bar, in rows."""


@dataclass(frozen=True)
class SensitivityBar:
    """The sensitivity of one kind of run to its rate."""

    name: str
    found: Interval


def caption() -> str:
    """Return the caption."""
    return (
        "Sensitivity to the learning rate: the mean over the rates of min(loss, untrained loss) "
        "minus the least loss (Wortsman et al., arXiv 2309.14322), in units of the loss, with its "
        "90% interval over seeds. A longer bar: a wrong rate costs more. Bars can be compared "
        "where the rates and the loss are the same. Without those of which no rate ends below the "
        "untrained loss."
    )


def draw(bars: Sequence[SensitivityBar], theme: Theme = LIGHT) -> Figure:
    """Draw the bars, the first on top."""
    from plotly.graph_objects import Bar, Figure

    rows = list(range(len(bars)))
    top = max((max(one.found.value, one.found.high) for one in bars), default=0.0) or 1.0
    return Figure(
        [
            Bar(
                x=[one.found.value for one in bars],
                y=rows,
                orientation="h",
                width=2 * HALF,
                marker={"color": theme.accent},
                error_x={
                    "type": "data", "symmetric": False, "thickness": 1.5, "width": 4,
                    "color": theme.ink,
                    "array": [max(0.0, one.found.high - one.found.value) for one in bars],
                    "arrayminus": [max(0.0, one.found.value - one.found.low) for one in bars],
                },
                hovertext=[words.safe(one.name) for one in bars],
                hovertemplate="%{hovertext}<br>%{x:.3g}<extra></extra>",
                showlegend=False,
            )
        ],
        frame.layout(
            theme,
            HEIGHT * len(bars) + TOP + BOTTOM,
            margin={"l": 14, "r": 14, "t": TOP, "b": BOTTOM},
            xaxis={
                "range": [0, 1.04 * top], "nticks": 6, "zeroline": True, "zerolinewidth": 1,
                "zerolinecolor": theme.rule, "gridcolor": theme.grid, "fixedrange": True,
                "tickfont": {"size": 12, "color": theme.soft},
                "title": {"text": "sensitivity", "font": {"size": 13, "color": theme.soft}},
            },
            yaxis={"range": [len(bars) - 0.6, -0.8], "visible": False, "fixedrange": True},
            annotations=[
                frame.note(
                    words.safe(clipped(one.name)), theme, xref="paper", x=0, xanchor="left",
                    y=i - HALF, yanchor="bottom",
                )
                for i, one in enumerate(bars)
            ],
        ),
    )  # fmt: skip
