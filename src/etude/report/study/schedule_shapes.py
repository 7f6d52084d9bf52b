"""Figure: the schedules of a study as they were run, named with their mean rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from etude.record import Record
from etude.report import words
from etude.report.figures import frame
from etude.report.figures.curves import thin
from etude.report.figures.palette import LIGHT, Theme, heat
from etude.report.figures.view import View
from etude.report.study.loss_curves import DASHES
from etude.report.study.naming import clipped

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

INNER, ROW = 220, 21
"""The height of the panel and of a line of the key, in pixels."""

POINTS = 60
"""The largest number of points of a line."""


@dataclass(frozen=True)
class ScheduleShape:
    """One schedule.

    Attributes:
        name: Its text.
        note: Its mean rank, in words; may be empty.
        places: Shares of the run.
        values: The rate over its peak at each.
    """

    name: str
    note: str
    places: tuple[float, ...]
    values: tuple[float, ...]


def shape_of(name: str, note: str, record: Record) -> ScheduleShape | None:
    """Return the schedule of a run; None if its Record does not hold the rates."""
    rates = np.asarray(record.series.get("lr", ()), float)
    if rates.size < 2 or not np.isfinite(rates).all() or rates.max() <= 0:
        return None
    kept = thin(rates, POINTS)
    return ScheduleShape(
        name,
        note,
        tuple(float(round(k / max(1, record.length - 1), 4)) for k in kept.tolist()),
        tuple(float(f"{v:.4g}") for v in (rates[kept] / rates.max()).tolist()),
    )


def caption() -> str:
    """Return the caption."""
    return (
        "The learning rate over its peak, as it was in a run with each schedule, in the order of "
        "the mean rank at the end."
    )


def draw(shapes: Sequence[ScheduleShape], theme: Theme = LIGHT) -> Figure:
    """Draw the figure."""
    from plotly.graph_objects import Figure, Scatter

    key = ROW * len(shapes)
    last = max(1, len(shapes) - 1)
    return Figure(
        [
            Scatter(
                x=one.places,
                y=one.values,
                name=words.safe(clipped(one.name)) + (f": {one.note}" if one.note else ""),
                mode="lines",
                line={
                    "width": 2.2, "color": heat(i / last, theme), "dash": DASHES[i % len(DASHES)]
                },
                hovertemplate="%{fullData.name}<br>%{x:.0%} of the run<br>"
                "× %{y:.3g}<extra></extra>",
            )
            for i, one in enumerate(shapes)
        ],
        frame.layout(
            theme,
            INNER + 30 + 52 + key,
            margin={"l": frame.MARGIN, "r": 14, "t": 30, "b": 52 + key},
            showlegend=True,
            legend={
                **frame.layout(theme, 0)["legend"],
                "orientation": "v",
                "y": frame.legend_place(INNER),
                "itemclick": "toggle",
                "itemdoubleclick": "toggleothers",
            },
            xaxis=frame.update_axis(
                theme, 1, name="share of the run", tickformat=".0%", nticks=6
            ),
            yaxis=frame.value_axis(theme, View(-0.02, 1.05, False), nticks=5),
            annotations=[frame.panel_title("learning rate / its peak", theme)],
        ),
    )  # fmt: skip
