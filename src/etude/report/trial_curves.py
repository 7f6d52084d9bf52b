"""Figure: validation and training loss of every rate tried, coloured by the rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from etude.record import Status
from etude.report import frame, words
from etude.report.curves import MOST, PlottedCurve, curve, evaluated, smooth, window_for
from etude.report.palette import LIGHT, Theme, heat, places
from etude.report.view import View, shown_length, view
from etude.tuning.result import TuneResult
from etude.tuning.trial_summary import TrialSummary

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


class CurveEnd(StrEnum):
    """Why a rate's curve ends where it does."""

    FINISHED = "finished"
    DROPPED = "dropped"
    DIVERGED = "diverged"


_ENDS = {
    Status.FINISHED: CurveEnd.FINISHED,
    Status.STOPPED: CurveEnd.DROPPED,
    Status.DIVERGED: CurveEnd.DIVERGED,
}

FEWEST = 50
"""Points that the training loss of every rate keeps at least."""

POINTS = 6_000
"""Points of all training losses together: a page with many rates stays small."""

LINE = 0.08
"""Share of the panel's height that the name of a rate takes."""

PANELS, GAP, TOP, BOTTOM = [270, 210], 44, 30, 46


@dataclass(frozen=True)
class TrialCurve:
    """One rate: its curves, where they end and why.

    Attributes:
        named: Whether there is room for the rate beside the end of its curve.
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
    """What the figure shows: the rates ascending, and the range of each panel.

    Attributes:
        window: Updates over which the training loss is smoothed.
    """

    length: int
    window: int
    trials: tuple[TrialCurve, ...]
    valid: View
    train: View


def info(result: TuneResult) -> TrialCurves:
    """Return the numbers of the figure."""
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
    """Give names to the curves whose ends lie far enough from those that have one already."""
    taken: list[tuple[float, float, float]] = []
    marked = []
    for one in sorted(trials, key=lambda c: not c.chosen):
        place = _end(one, shown, length)
        free = False
        if place is not None:
            width = frame.room(words.rate(one.lr))
            left = place[0] - width if _beside(one, length).endswith("left") else place[0]
            above = LINE / 2 if _beside(one, length).startswith("top") else -LINE / 2
            level = place[1] + above
            free = all(
                left >= right or left + width <= start or abs(level - other) >= LINE
                for start, right, other in taken
            )
            if free:
                taken.append((left, left + width, level))
        marked.append(replace(one, named=free))
    return tuple(sorted(marked, key=lambda c: c.lr))


def _end(one: TrialCurve, shown: View, length: int) -> tuple[float, float] | None:
    """Return where a curve ends, as shares of the panel; None outside of it."""
    if not one.valid or not shown.low <= one.valid.values[-1] <= shown.high:
        return None
    low, high = shown.limits()
    loss = one.valid.values[-1]
    level = math.log10(loss) if shown.log else loss
    return one.valid.steps[-1] / length, (level - low) / (high - low)


def caption(info: TrialCurves) -> str:
    """Say what one should see."""
    parts = [
        "All rates start from the same weights and see the same batches, so the lines differ by "
        "the rate alone; the thick one was kept. A line that stops early was dropped there, and "
        "cost no more."
    ]
    if any(c.end == CurveEnd.DIVERGED for c in info.trials):
        parts.append("A cross ends a line that diverged.")
    parts.append(f"Training loss: {smoothing(info.window)}.")
    return " ".join(parts)


def smoothing(window: int) -> str:
    """Say how a training loss was smoothed.

    >>> smoothing(30)
    'debiased exponential mean, each update keeping 0.9667 (about 30 updates)'
    """
    if window == 1:
        return "as it was, not smoothed"
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
    # The chosen is drawn last, over the others.
    order = sorted(range(len(places_of)), key=lambda i: info.trials[i].chosen)
    for index in order:
        colour = heat(places_of[index], theme)
        traces += _one(info.trials[index], info.length, colour, theme)
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


def _one(one: TrialCurve, length: int, colour: str, theme: Theme) -> list[Any]:
    """Return the two lines of a rate and the mark at its end."""
    from plotly.graph_objects import Scatter

    hover = f"rate {words.rate(one.lr)}<br>loss %{{y:.4g}}<br>update %{{x}}<extra></extra>"
    traces = [
        Scatter(
            x=line.steps,
            y=line.values,
            mode="lines",
            line={"color": colour, "width": thick if one.chosen else 1.5},
            xaxis=f"x{axis}",
            yaxis=f"y{axis}",
            hovertemplate=hover,
        )
        for line, axis, thick in ((one.valid, "", 3.2), (one.train, "2", 2.4))
        if line
    ]
    if one.valid:
        symbols = {
            CurveEnd.FINISHED: "circle",
            CurveEnd.DROPPED: "circle-open",
            CurveEnd.DIVERGED: "x",
        }
        mark = {"symbol": symbols[one.end], "size": 9, "line": {"width": 1.8}}
        traces.append(
            Scatter(
                x=[one.valid.steps[-1]],
                y=[one.valid.values[-1]],
                cliponaxis=False,
                mode="markers+text" if one.named else "markers",
                text=[words.rate(one.lr)],
                textposition=_beside(one, length),
                textfont={"size": 12, "color": colour},
                marker={**mark, "color": theme.warn if one.end == CurveEnd.DIVERGED else colour},
                hovertemplate=f"rate {words.rate(one.lr)}<br>{one.end} after "
                f"{words.plural(one.updates, 'update')}<extra></extra>",
            )
        )
    return traces


def _beside(one: TrialCurve, length: int) -> str:
    """Return where the name of a rate stands, clear of the line that comes to its end."""
    fits = one.valid.steps[-1] / length + frame.room(words.rate(one.lr)) <= 1
    if one.end != CurveEnd.FINISHED and fits:
        return "top right"
    falls = len(one.valid.values) > 1 and one.valid.values[-1] < one.valid.values[-2]
    return "bottom left" if falls else "top left"


def _colour_bar(info: TrialCurves, theme: Theme, total: int) -> list[Any]:
    """Return the key from colour to rate: a bar above the panels, every tried rate a tick."""
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
    """Return rates far enough from each other for their names to stand side by side."""
    span = math.log10(rates[-1] / rates[0])

    def far(low: float, high: float) -> bool:
        needed = (frame.room(words.rate(low)) + frame.room(words.rate(high))) / 2
        return math.log10(high / low) > span * needed

    kept = [rates[0]]
    for rate in rates[1:-1]:
        if far(kept[-1], rate) and far(rate, rates[-1]):
            kept.append(rate)
    return [*kept, rates[-1]]
