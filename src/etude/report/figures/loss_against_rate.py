"""Figure: validation loss against learning rate, with a line for each number of updates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etude.record import Status
from etude.report import words
from etude.report.figures import frame
from etude.report.figures.palette import LIGHT, Theme, depth
from etude.report.figures.view import View, rates_view, view
from etude.tuning.result import TuneResult

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True)
class Depth:
    """The rates with an evaluation after `updates`, ascending, and their validation losses."""

    updates: int
    rates: tuple[float, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class LossAgainstRate:
    """The data of the figure.

    Attributes:
        length: The number of updates of the full run.
        depths: One for each number of updates at which a rate was paused or finished.
        best: The chosen rate and its last validation loss; None if the loss is not finite.
        tied: The lowest and the highest rate that may be as good.
        stable_below: As in the result.
        diverged: The rates that diverged, and their numbers of updates.
        above: The rates whose last loss is above the range, and that loss.
        untrained: The loss before training; NaN if it is not finite.
        rates: All rates tried, ascending.
        view: The range of the losses.
    """

    length: int
    depths: tuple[Depth, ...]
    best: tuple[float, float] | None
    tied: tuple[float, float]
    stable_below: float | None
    diverged: tuple[tuple[float, int], ...]
    above: tuple[tuple[float, float], ...]
    untrained: float
    rates: tuple[float, ...]
    view: View


def info(result: TuneResult) -> LossAgainstRate:
    """Return the data of the figure."""
    ended = {
        trial.record.evaluations[-1].step
        for trial in result.trials
        if trial.record.evaluations and trial.record.status != Status.DIVERGED
    }
    depths = tuple(d for step in sorted(ended - {0}) if (d := _depth(result, step)).rates)
    untrained = result.untrained.loss if math.isfinite(result.untrained.loss) else math.nan
    shown = view([loss for d in depths for loss in d.losses], untrained, below=0.22)
    last = {rate: loss for d in depths for rate, loss in zip(d.rates, d.losses, strict=True)}
    chosen = last.get(result.lr)
    return LossAgainstRate(
        length=result.record.length,
        depths=depths,
        best=None if chosen is None else (result.lr, chosen),
        tied=result.tied,
        stable_below=result.stable_below,
        diverged=tuple(
            (trial.lr, trial.record.cost.steps)
            for trial in result.trials
            if trial.record.status == Status.DIVERGED
        ),
        above=tuple((lr, loss) for lr, loss in sorted(last.items()) if loss > shown.high),
        untrained=untrained,
        rates=tuple(trial.lr for trial in result.trials),
        view=shown,
    )


def _depth(result: TuneResult, step: int) -> Depth:
    found = [
        (trial.lr, e.loss)
        for trial in result.trials
        for e in trial.record.evaluations
        if e.step == step and math.isfinite(e.loss)
    ]
    return Depth(step, tuple(lr for lr, _ in found), tuple(loss for _, loss in found))


def caption(info: LossAgainstRate) -> str:
    """Return the caption."""
    parts = [
        "Each line connects rates after the same number of updates; a stronger line is later in "
        "the run. Lower is better. The evidence is strong if all lines have their minimum "
        "at the same rate."
    ]
    if info.best is not None:
        parts.append(f"Ring: the chosen rate, {words.rate(info.best[0])}.")
    if info.tied[0] < info.tied[1]:
        parts.append("Blue area: rates that may be as good.")
    if info.stable_below is not None:
        parts.append("Red area: rates from the lowest one above it at which training broke.")
    if info.diverged:
        parts.append("Crosses at the top: rates whose loss became NaN or infinite.")
    if info.above:
        parts.append("Triangles at the top: losses above the range of the axis.")
    return " ".join(parts)


def draw(info: LossAgainstRate, theme: Theme = LIGHT, height: int = 430) -> Figure:
    """Draw the figure."""
    from plotly.graph_objects import Figure

    across = rates_view(info.rates)
    shapes, notes = _shades(info, across, theme)
    return Figure(
        [*_lines(info, theme), *_best(info, theme), *_edge(info, theme)],
        frame.layout(
            theme,
            height,
            margin={"l": frame.MARGIN, "r": 14, "t": 52, "b": 46},
            showlegend=True,
            legend_y=frame.legend_place(height - 52 - 46),
            xaxis=frame.rate_axis(theme, across),
            yaxis=frame.value_axis(theme, info.view),
            shapes=shapes,
            annotations=[
                frame.panel_title("validation loss", theme, lift=27),
                *notes,
            ],
        ),
    )


def _lines(info: LossAgainstRate, theme: Theme) -> list[Any]:
    from plotly.graph_objects import Scatter

    traces = []
    for index, line in enumerate(info.depths):
        place = index / max(1, len(info.depths) - 1) if len(info.depths) > 1 else 1.0
        colour = depth(place, theme)
        updates = words.plural(line.updates, "update")
        part = words.share(line.updates, info.length)
        traces.append(
            Scatter(
                x=line.rates,
                y=line.losses,
                name=f"after {updates}" if index == 0 else words.count(line.updates),
                mode="lines+markers",
                line={"color": colour, "width": 1.4 + 1.2 * place},
                marker={"size": 6 + 2 * place, "color": colour},
                hovertemplate=f"rate %{{x:~g}}<br>loss %{{y:.4g}}<br>after {updates}, {part}"
                "<extra></extra>",
            )
        )
    return traces


def _best(info: LossAgainstRate, theme: Theme) -> list[Any]:
    from plotly.graph_objects import Scatter

    if info.best is None:
        return []
    rate, loss = info.best
    return [
        Scatter(
            x=[rate],
            y=[loss],
            mode="markers+text",
            text=[f"<b>{words.rate(rate)}</b>"],
            textposition="bottom center",
            textfont={"color": theme.ink, "size": 14},
            marker={
                "symbol": "circle-open",
                "size": 17,
                "color": theme.ink,
                "line": {"width": 2, "color": theme.ink},
            },
            cliponaxis=False,
            hoverinfo="skip",
            showlegend=False,
        )
    ]


def _edge(info: LossAgainstRate, theme: Theme) -> list[Any]:
    """Return the marks at the top edge, for rates whose loss is not finite or out of range."""
    from plotly.graph_objects import Scatter

    rows = [
        ("x", "diverged", [(r, f"diverged at update {n}") for r, n in info.diverged]),
        ("triangle-up", "off the axis", [(r, f"loss {words.number(v)}") for r, v in info.above]),
    ]
    return [
        Scatter(
            x=[rate for rate, _ in marks],
            y=[info.view.high] * len(marks),
            name=name,
            mode="markers",
            text=[text for _, text in marks],
            marker={"symbol": symbol, "size": 10, "color": theme.warn},
            cliponaxis=False,
            hovertemplate="rate %{x:~g}<br>%{text}<extra></extra>",
        )
        for symbol, name, marks in rows
        if marks
    ]


def _shades(info: LossAgainstRate, across: View, theme: Theme) -> tuple[list[Any], list[Any]]:
    """Return the shaded ranges and the line of the untrained loss, with their labels."""
    shapes, notes = [], []
    common = {"type": "rect", "xref": "x", "yref": "y domain", "y0": 0, "y1": 1, "layer": "below"}
    over = {"xref": "x", "yref": "y domain", "y": 1, "yanchor": "bottom", "yshift": 3}
    if info.tied[0] < info.tied[1]:
        shapes.append(
            {**common, "x0": info.tied[0], "x1": info.tied[1], "fillcolor": theme.tied}
            | {"line": {"width": 0}}
        )
        low, high = across.limits()
        middle = math.log10(info.tied[0] * info.tied[1]) / 2
        place: dict[str, Any] = {"x": middle}
        free = 1 - frame.room("unstable") if info.stable_below is not None else 1.0
        if (middle - low) / (high - low) + frame.room("tied") / 2 > free:
            place = {"x": low + free * (high - low), "xanchor": "right"}
        notes.append(frame.note("tied", theme, **place, **over))
    if info.stable_below is not None:
        shapes.append(
            {**common, "x0": info.stable_below, "x1": across.high, "fillcolor": theme.unstable}
            | {"line": {"width": 0}}
        )
        end = math.log10(across.high)
        notes.append(frame.note("unstable", theme, x=end, xanchor="right", **over))
    if info.view.low < info.untrained < info.view.high:
        line = {"color": theme.soft, "width": 1, "dash": "dot"}
        shapes.append(
            {"type": "line", "xref": "x domain", "x0": 0, "x1": 1, "line": line, "layer": "below"}
            | {"yref": "y", "y0": info.untrained, "y1": info.untrained}
        )
        level = math.log10(info.untrained) if info.view.log else info.untrained
        where = {"xref": "x domain", "x": 0.005, "xanchor": "left", "y": level, "yanchor": "top"}
        text = f"untrained {words.number(info.untrained)}"
        notes.append(frame.note(text, theme, yref="y", **where))
    return shapes, notes
