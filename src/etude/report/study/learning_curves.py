"""Figure: the validation loss over the updates of one kind of run, with a line for each rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etude.record import Record, Status
from etude.report import words
from etude.report.figures import frame
from etude.report.figures.palette import LIGHT, Theme, heat, places
from etude.report.figures.view import view
from etude.report.study.naming import rate_text
from etude.studies.summary import RateSummary

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

INNER, ROW = 280, 21
"""The height of the panel and of a row of the key, in pixels."""

IN_A_ROW = 3
"""How many rates stand in a row of the key on a narrow page."""

MOST_POINTS = 40
"""The largest number of evaluations of a line."""


@dataclass(frozen=True)
class RateCurve:
    """The mean over seeds of the validation loss at one rate.

    Attributes:
        lr: The rate.
        steps: The updates at which every run that goes on was evaluated.
        losses: The mean at each.
        broken: How many of the runs diverged.
        best: Whether it is the best rate.
    """

    lr: float
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    broken: int
    best: bool


@dataclass(frozen=True)
class LearningCurves:
    """The curves of one kind of run.

    Attributes:
        length: The updates of a run.
        untrained: The loss before training.
        curves: One for each rate, ascending.
    """

    length: int
    untrained: float
    curves: tuple[RateCurve, ...]


def info(one: RateSummary, records: Mapping[int, Record]) -> LearningCurves | None:
    """Return the curves of a kind; None if no Record of it was stored."""
    found, length = [], 0
    for at, lr in enumerate(one.lrs):
        runs = [records[n] for n in one.numbers[at] if n in records]
        if len(runs) < len(one.numbers[at]):
            continue
        length = max(length, *(run.length for run in runs))
        steps, losses = _mean(runs)
        broken = sum(run.status == Status.DIVERGED for run in runs)
        found.append(RateCurve(lr, steps, losses, broken, at == one.best_at))
    return LearningCurves(length, one.untrained, tuple(found)) if found else None


def _mean(runs: Sequence[Record]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return the mean of the finite losses, as far as every run was evaluated."""
    tables = [{e.step: e.loss for e in run.evaluations if math.isfinite(e.loss)} for run in runs]
    common = sorted(set.intersection(*(set(table) for table in tables)))
    stride = -(-len(common) // MOST_POINTS)
    kept = [*common[:-1][:: max(1, stride)], *common[-1:]]
    means = (sum(table[step] for table in tables) / len(tables) for step in kept)
    return tuple(kept), tuple(float(f"{mean:.4g}") for mean in means)


def caption() -> str:
    """Return the caption."""
    return (
        "The validation loss over the updates, the mean over seeds, with a line for each rate; the "
        "thick line is the best rate. A line ends with a cross where a run diverged. Choose a rate "
        "in the key to hide its line."
    )


def draw(info: LearningCurves, theme: Theme = LIGHT) -> Figure:
    """Draw the figure."""
    from plotly.graph_objects import Figure

    shown = view([v for one in info.curves for v in one.losses], info.untrained)
    key = ROW * -(-len(info.curves) // IN_A_ROW)
    colours = [heat(place, theme) for place in places([one.lr for one in info.curves])]
    return Figure(
        [
            trace
            for one, colour in zip(info.curves, colours, strict=True)
            for trace in _traces(one, colour, theme)
        ],
        frame.layout(
            theme,
            INNER + 30 + 58 + key,
            margin={"l": frame.MARGIN, "r": 14, "t": 30, "b": 58 + key},
            showlegend=True,
            legend={
                **frame.layout(theme, 0)["legend"],
                "y": frame.legend_place(INNER),
                "itemclick": "toggle",
                "itemdoubleclick": "toggleothers",
                "title": {"text": "rate", "font": {"size": 12.5, "color": theme.soft}},
            },
            xaxis=frame.update_axis(theme, max(1, info.length)),
            yaxis=frame.value_axis(theme, shown),
            annotations=[frame.panel_title("validation loss", theme)],
        ),
    )


def _traces(one: RateCurve, colour: str, theme: Theme) -> list[Any]:
    from plotly.graph_objects import Scatter

    rate = rate_text(one.lr)
    line = Scatter(
        x=one.steps,
        y=one.losses,
        name=rate,
        legendgroup=rate,
        mode="lines",
        line={"color": colour, "width": 3.4 if one.best else 1.7},
        hovertemplate=f"rate {rate}<br>update %{{x}}<br>loss %{{y:.4g}}<extra></extra>",
    )
    last = slice(-1, None) if one.broken else slice(0)
    return [
        line,
        Scatter(
            x=one.steps[last],
            y=one.losses[last],
            legendgroup=rate,
            showlegend=False,
            mode="markers",
            marker={"symbol": "x", "size": 9, "color": theme.warn},
            cliponaxis=False,
            hovertemplate=f"rate {rate}<br>{words.plural(one.broken, 'run')} diverged"
            "<extra></extra>",
        ),
    ]
