"""Figure: the learning rate that each update used, or a schedule by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from etude.record import Record
from etude.report import words
from etude.report.figures import frame
from etude.report.figures.curves import MOST, PlottedCurve, curve
from etude.report.figures.palette import LIGHT, Theme
from etude.report.figures.view import View, shown_length
from etude.report.schedule_values import ScheduleValues
from etude.schedules.preview import finite_preview

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True)
class ScheduleCurve:
    """The data of the figure.

    Attributes:
        length: The number of updates of the full run.
        rates: The rate of each update that was done.
        highest: The first update with the highest rate of those drawn, and that rate; None without
            updates.
        text: The text of the schedule.
        lr: The rate that the schedule multiplies; None for a schedule by itself.
        unit: The name of a step.
    """

    length: int
    rates: PlottedCurve
    highest: tuple[int, float] | None
    text: str
    lr: float | None
    unit: str = "update"

    @property
    def name(self) -> str:
        """The name of the values."""
        return "value" if self.lr is None else "learning rate"


def info(record: Record) -> ScheduleCurve:
    """Return the data of the figure."""
    rates = curve(record.series.get("lr", ()))
    return ScheduleCurve(
        record.length, rates, _highest(rates), repr(record.recipe.schedule), record.recipe.lr
    )


def of_values(found: ScheduleValues) -> ScheduleCurve:
    """Return the data of the figure of a schedule by itself.

    Raises:
        BadValueError: If a value is not finite.
    """
    seen = finite_preview(found.schedule, found.length, MOST)
    values = PlottedCurve(tuple(seen.steps), tuple(seen.values))
    return ScheduleCurve(
        found.length, values, _highest(values), repr(found.schedule), None, found.unit
    )


def _highest(values: PlottedCurve) -> tuple[int, float] | None:
    if not values:
        return None
    top = max(values.values)
    return values.steps[values.values.index(top)], top


def caption(info: ScheduleCurve) -> str:
    """Return the caption."""
    if info.lr is None:
        return f"{info.text} at each {info.unit} of the run, and at its end."
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

    top = info.highest[1] if info.highest is not None else info.lr or 1.0
    low = min((0.0, *info.rates.values))
    shown = shown_length(info.length, info.rates.steps[-1] + 1) if info.rates else info.length
    short = info.name.split()[-1]
    return Figure(
        [
            Scatter(
                x=info.rates.steps,
                y=info.rates.values,
                mode="lines" if len(info.rates.steps) > 1 else "markers",
                line={"color": theme.accent, "width": 2.2, "simplify": False},
                fill="tozeroy",
                fillcolor=theme.tied,
                hovertemplate=f"{info.unit} %{{x}}<br>{short} %{{y:.4g}}<extra></extra>",
            )
        ],
        frame.layout(
            theme,
            240,
            xaxis=frame.update_axis(theme, shown, name=f"{info.unit}s"),
            yaxis=frame.value_axis(
                theme,
                View(low, top + 0.06 * (top - low) or 1.0, False),
                nticks=5,
                exponentformat="e",
                tickformat="~g",
            ),
            annotations=[frame.panel_title(info.name, theme)],
        ),
    )
