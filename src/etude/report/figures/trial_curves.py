"""Figure: validation and training loss of every rate tried, coloured by the rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from etude.record import Status
from etude.report import words
from etude.report.figures import frame
from etude.report.figures.curves import MOST, PlottedCurve, curve, evaluated, smooth, window_for
from etude.report.figures.palette import LIGHT, Theme, heat, places
from etude.report.figures.view import View, shown_length, view
from etude.tuning.result import TuneResult
from etude.tuning.trial_summary import TrialSummary

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


class CurveEnd(StrEnum):
    """Why the curve of a rate ends."""

    FINISHED = "finished"
    DROPPED = "dropped"
    DIVERGED = "diverged"


_ENDS = {
    Status.FINISHED: CurveEnd.FINISHED,
    Status.STOPPED: CurveEnd.DROPPED,
    Status.DIVERGED: CurveEnd.DIVERGED,
}

FEWEST = 50
"""The smallest number of points of the training loss of a rate."""

POINTS = 6_000
"""The number of points of all training losses together, which keeps the page small."""

LINE = 0.08
"""The height of a rate's label, as a share of the panel's height."""

PANELS, GAP, TOP, BOTTOM = [270, 210], 44, 30, 46


@dataclass(frozen=True)
class TrialCurve:
    """The curves of one rate, and why they end.

    Attributes:
        lr: The rate.
        valid: The validation loss.
        train: The smoothed training loss.
        end: Why the curves end.
        updates: The number of updates done.
        chosen: Whether it is the chosen rate.
        named: Whether there is space for a label beside the end of its curve.
    """

    lr: float
    valid: PlottedCurve
    train: PlottedCurve
    end: CurveEnd
    updates: int
    chosen: bool
    named: bool = False


@dataclass(frozen=True)
class TrialCurves:
    """The data of the figure.

    Attributes:
        length: The number of updates of the full run.
        window: The number of updates over which the training loss is smoothed.
        trials: The curves, ascending by rate.
        valid: The range of the validation losses.
        train: The range of the training losses.
    """

    length: int
    window: int
    trials: tuple[TrialCurve, ...]
    valid: View
    train: View


def info(result: TuneResult) -> TrialCurves:
    """Return the data of the figure."""
    length = result.record.length
    window = window_for(length)
    most = max(FEWEST, min(MOST, POINTS // len(result.trials)))
    trials = tuple(_curve_of(trial, result.lr, window, most) for trial in result.trials)
    firsts = sorted(c.train.values[0] for c in trials if c.train)
    first = firsts[len(firsts) // 2] if firsts else math.nan
    shown = view([v for c in trials for v in c.valid.values], result.untrained.loss)
    return TrialCurves(
        length=length,
        window=window,
        trials=_named(trials, shown, length),
        valid=shown,
        train=view([v for c in trials for v in c.train.values], first),
    )


def _curve_of(trial: TrialSummary, chosen: float, window: int, most: int) -> TrialCurve:
    record = trial.record
    return TrialCurve(
        lr=trial.lr,
        valid=evaluated(record.evaluations),
        train=curve(smooth(record.series.get("loss", ()), window), most),
        end=_ENDS[record.status],
        updates=record.cost.steps,
        chosen=trial.lr == chosen,
    )


def _named(trials: tuple[TrialCurve, ...], shown: View, length: int) -> tuple[TrialCurve, ...]:
    """Label the curves whose ends are far enough from those of other labelled curves."""
    taken: list[tuple[float, float, float]] = []
    marked = []
    for trial in sorted(trials, key=lambda c: not c.chosen):
        place = _end(trial, shown, length)
        free = False
        if place is not None:
            width = frame.room(words.rate(trial.lr))
            left = place[0] - width if _beside(trial, length).endswith("left") else place[0]
            above = LINE / 2 if _beside(trial, length).startswith("top") else -LINE / 2
            level = place[1] + above
            free = all(
                left >= right or left + width <= start or abs(level - other) >= LINE
                for start, right, other in taken
            )
            if free:
                taken.append((left, left + width, level))
        marked.append(replace(trial, named=free))
    return tuple(sorted(marked, key=lambda c: c.lr))


def _end(trial: TrialCurve, shown: View, length: int) -> tuple[float, float] | None:
    """Return the end of a curve, as shares of the panel; None if it is outside."""
    if not trial.valid or not shown.low <= trial.valid.values[-1] <= shown.high:
        return None
    low, high = shown.limits()
    loss = trial.valid.values[-1]
    level = math.log10(loss) if shown.log else loss
    return trial.valid.steps[-1] / length, (level - low) / (high - low)


def caption(info: TrialCurves) -> str:
    """Return the caption."""
    parts = [
        "All rates start from the same weights and get the same batches, so the lines differ only "
        "by the rate. The thick line is the chosen rate. A trial whose line stops early was "
        "dropped there and caused no further cost."
    ]
    if any(c.end == CurveEnd.DIVERGED for c in info.trials):
        parts.append("A cross marks a trial that diverged.")
    parts.append(f"Training loss: {smoothing(info.window)}.")
    return " ".join(parts)


def smoothing(window: int) -> str:
    """Return how a training loss was smoothed.

    >>> smoothing(30)
    'debiased exponential mean, each update keeping 0.9667 (about 30 updates)'
    """
    if window == 1:
        return "not smoothed"
    return (
        f"debiased exponential mean, each update keeping {1 - 1 / window:.4g} "
        f"(about {window} updates)"
    )


def draw(info: TrialCurves, theme: Theme = LIGHT) -> Figure:
    """Draw the figure."""
    from plotly.graph_objects import Figure

    length = shown_length(info.length, max(c.updates for c in info.trials))
    total, (upper, lower) = frame.stacked(PANELS, GAP, TOP + 44, BOTTOM)
    traces = []
    places_of = places([c.lr for c in info.trials])
    # The chosen rate is drawn last, above the others.
    order = sorted(range(len(places_of)), key=lambda i: info.trials[i].chosen)
    for index in order:
        colour = heat(places_of[index], theme)
        traces += _traces(info.trials[index], info.length, colour, theme)
    bar = _colour_bar(info, theme, total)
    return Figure(
        [*traces, *bar],
        frame.layout(
            theme,
            total,
            margin={"l": frame.MARGIN, "r": 14, "t": TOP + 44, "b": BOTTOM},
            xaxis=frame.update_axis(theme, length, title=False, anchor="y"),
            xaxis2=frame.update_axis(theme, length, anchor="y2", matches="x"),
            yaxis=frame.value_axis(theme, info.valid, domain=upper, anchor="x"),
            yaxis2=frame.value_axis(theme, info.train, domain=lower, anchor="x2"),
            annotations=[
                *([frame.panel_title("learning rate", theme, lift=66)] if bar else []),
                frame.panel_title("validation loss", theme),
                frame.panel_title(
                    "training loss" if info.window == 1 else "training loss, smoothed", theme, "2"
                ),
            ],
        ),
    )


def _traces(trial: TrialCurve, length: int, colour: str, theme: Theme) -> list[Any]:
    """Return the two lines of a rate and the marker at its end."""
    from plotly.graph_objects import Scatter

    hover = f"rate {words.rate(trial.lr)}<br>loss %{{y:.4g}}<br>update %{{x}}<extra></extra>"
    traces = [
        Scatter(
            x=line.steps,
            y=line.values,
            mode="lines",
            line={"color": colour, "width": thick if trial.chosen else 1.5},
            xaxis=f"x{axis}",
            yaxis=f"y{axis}",
            hovertemplate=hover,
        )
        for line, axis, thick in ((trial.valid, "", 3.2), (trial.train, "2", 2.4))
        if line
    ]
    if trial.valid:
        symbols = {
            CurveEnd.FINISHED: "circle",
            CurveEnd.DROPPED: "circle-open",
            CurveEnd.DIVERGED: "x",
        }
        mark = {"symbol": symbols[trial.end], "size": 9, "line": {"width": 1.8}}
        traces.append(
            Scatter(
                x=[trial.valid.steps[-1]],
                y=[trial.valid.values[-1]],
                cliponaxis=False,
                mode="markers+text" if trial.named else "markers",
                text=[words.rate(trial.lr)],
                textposition=_beside(trial, length),
                textfont={"size": 12, "color": colour},
                marker={**mark, "color": theme.warn if trial.end == CurveEnd.DIVERGED else colour},
                hovertemplate=f"rate {words.rate(trial.lr)}<br>{trial.end} after "
                f"{words.plural(trial.updates, 'update')}<extra></extra>",
            )
        )
    return traces


def _beside(trial: TrialCurve, length: int) -> str:
    """Return the position of a rate's label, beside the end of its line."""
    fits = trial.valid.steps[-1] / length + frame.room(words.rate(trial.lr)) <= 1
    if trial.end != CurveEnd.FINISHED and fits:
        return "top right"
    falls = len(trial.valid.values) > 1 and trial.valid.values[-1] < trial.valid.values[-2]
    return "bottom left" if falls else "top left"


def _colour_bar(info: TrialCurves, theme: Theme, total: int) -> list[Any]:
    """Return the colour bar above the panels, with a tick for each rate."""
    from plotly.graph_objects import Scatter

    rates = [c.lr for c in info.trials]
    if len(rates) < 2:
        return []
    low, high = math.log10(rates[0]), math.log10(rates[-1])
    scale = [[i / 16, heat(i / 16, theme)] for i in range(17)]
    bar = {
        "orientation": "h",
        "thickness": 9,
        "len": 1,
        "x": 0.5,
        "y": 1 + 26 / (total - TOP - 44 - BOTTOM),
        "yanchor": "bottom",
        "outlinewidth": 0,
        "tickvals": [math.log10(r) for r in _apart(rates)],
        "ticktext": [words.rate(r) for r in _apart(rates)],
        "tickangle": 0,
        "tickfont": {"size": 12, "color": theme.soft},
        "ticks": "outside",
        "ticklen": 3,
        "tickcolor": theme.rule,
    }
    marker = {"color": [low], "cmin": low, "cmax": high, "colorscale": scale, "showscale": True}
    return [
        Scatter(
            x=[None], y=[None], mode="markers", marker={**marker, "colorbar": bar}, hoverinfo="skip"
        )
    ]


def _apart(rates: list[float]) -> list[float]:
    """Return rates that are far enough apart for their labels to fit side by side."""
    span = math.log10(rates[-1] / rates[0])

    def far(low: float, high: float) -> bool:
        needed = (frame.room(words.rate(low)) + frame.room(words.rate(high))) / 2
        return math.log10(high / low) > span * needed

    kept = [rates[0]]
    for rate in rates[1:-1]:
        if far(kept[-1], rate) and far(rate, rates[-1]):
            kept.append(rate)
    return [*kept, rates[-1]]
