"""Figure: the learning rate that each update used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from etude.record import Record
from etude.report import frame, words
from etude.report.curves import PlottedCurve, curve
from etude.report.palette import LIGHT, Theme
from etude.report.view import View, shown_length

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True)
class ScheduleCurve:
    """The data of the figure.

    Attributes:
        length: The number of updates of the full run.
        rates: The rate of each update that was done.
        highest: The first update with the highest rate, and that rate; None without updates.
        text: The text of the schedule.
        lr: The rate that the schedule multiplies.
    """

    length: int
    rates: PlottedCurve
    highest: tuple[int, float] | None
    text: str
    lr: float


def info(record: Record) -> ScheduleCurve:
    """Return the data of the figure."""
    rates = curve(record.series.get("lr", ()))
    highest = None
    if rates:
        top = max(rates.values)
        highest = rates.steps[rates.values.index(top)], top
    return ScheduleCurve(
        record.length, rates, highest, repr(record.recipe.schedule), record.recipe.lr
    )


def caption(info: ScheduleCurve) -> str:
    """Return the caption."""
    text = f"{words.rate(info.lr)} × ({info.text}), at every update."
    if info.highest is not None:
        step, top = info.highest
        text += f" The highest rate is {words.number(top)}, at update {words.count(step)}."
    if info.rates and info.rates.steps[-1] + 1 < info.length:
        text += " The line ends where the run ended."
    return text


def draw(info: ScheduleCurve, theme: Theme = LIGHT) -> Figure:
    """Draw the figure."""
    from plotly.graph_objects import Figure, Scatter

    top = info.highest[1] if info.highest is not None else info.lr
    low = min((0.0, *info.rates.values))
    return Figure(
        [
            Scatter(
                x=info.rates.steps,
                y=info.rates.values,
                mode="lines" if len(info.rates.steps) > 1 else "markers",
                line={"color": theme.accent, "width": 2.2},
                fill="tozeroy",
                fillcolor=theme.tied,
                hovertemplate="update %{x}<br>rate %{y:.4g}<extra></extra>",
            )
        ],
        frame.layout(
            theme,
            240,
            xaxis=frame.update_axis(theme, shown_length(info.length, info.rates.steps[-1] + 1))
            if info.rates
            else frame.update_axis(theme, info.length),
            yaxis=frame.value_axis(
                theme, View(low, 1.06 * top, False), nticks=5, exponentformat="e", tickformat="~g"
            ),
            annotations=[frame.panel_title("learning rate", theme)],
        ),
    )
