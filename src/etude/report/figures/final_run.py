"""Figure: the training and validation loss of one run, its metric, and other recorded series."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etude.record import Record, Status
from etude.report import words
from etude.report.figures import frame
from etude.report.figures.curves import PlottedCurve, curve, evaluated, smooth, window_for
from etude.report.figures.palette import LIGHT, Theme
from etude.report.figures.trial_curves import smoothing
from etude.report.figures.view import View, shown_length, view

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_PANELS = 6
"""The largest number of series below the loss; the caption names those that are left out."""

BLOW_UP = 1_000.0
"""For a run that diverged, the largest loss shown, as a multiple of the first loss."""

NAMES = {"grad_norm": "gradient norm, before clipping"}


@dataclass(frozen=True)
class Panel:
    """A recorded series below the loss."""

    name: str
    curve: PlottedCurve
    view: View


@dataclass(frozen=True)
class FinalRun:
    """The data of the figure.

    Attributes:
        length: The number of updates of the full run.
        updates: The number of updates done.
        status: How the run ended.
        raw: The training loss of each update.
        smooth: The smoothed training loss.
        window: The number of updates over which it is smoothed.
        valid: The validation loss.
        view: The range of the losses.
        metric: The metric on the validation data; None if the task has no metric.
        panels: Other series.
        left_out: The names of series that are not drawn.
    """

    length: int
    updates: int
    status: Status
    raw: PlottedCurve
    smooth: PlottedCurve
    window: int
    valid: PlottedCurve
    view: View
    metric: Panel | None
    panels: tuple[Panel, ...]
    left_out: tuple[str, ...]


def info(record: Record) -> FinalRun:
    """Return the data of the figure."""
    losses = record.series.get("loss", ())
    window = window_for(record.length)
    raw, valid = curve(losses), evaluated(record.evaluations)
    metric = evaluated(record.evaluations, "metric")
    others = [name for name in record.series if name not in ("loss", "lr")]
    others.sort(key=lambda name: (name != "grad_norm", name))
    return FinalRun(
        length=record.length,
        updates=record.cost.steps,
        status=record.status,
        raw=raw,
        smooth=curve(smooth(losses, window)),
        window=window,
        valid=valid,
        view=_view(raw, valid, record.status),
        metric=_metric(record, metric),
        panels=tuple(_panel(record, name) for name in others[:MOST_PANELS]),
        left_out=tuple(others[MOST_PANELS:]),
    )


def _view(raw: PlottedCurve, valid: PlottedCurve, status: Status) -> View:
    """Return the range of the losses, in which a spike does not flatten the rest."""
    values = (*raw.values, *valid.values)
    start = valid.values[0] if valid else math.nan
    if status == Status.DIVERGED and valid and raw:
        # The growth of the loss is what matters here.
        return view(values, min(max(values), BLOW_UP * max(abs(start), 1e-300)), room=0)
    return view(values, start, room=0.6)


def _metric(record: Record, line: PlottedCurve) -> Panel | None:
    return Panel(record.metric or "metric", line, view(line.values, log=False)) if line else None


def _panel(record: Record, name: str) -> Panel:
    line = curve(record.series[name])
    return Panel(NAMES.get(name, name), line, view(line.values))


def caption(info: FinalRun) -> str:
    """Return the caption."""
    if not info.updates:
        return "No update was done."
    parts = ["Thin line: the training loss of every update."]
    if not info.raw:
        parts = ["The loop reported no training loss."]
    elif info.window > 1:
        parts.append(f"Thick line: the smoothed training loss ({smoothing(info.window)}).")
    if info.valid:
        parts.append(
            "Line with points: the validation loss. If it rises while the training loss still "
            "falls, the network overfits."
        )
    hidden = sum(c.hidden for c in (info.raw, info.valid, *(p.curve for p in info.panels)))
    if hidden:
        parts.append(f"Not drawn because NaN or infinite: {words.plural(hidden, 'value')}.")
    if info.left_out:
        parts.append(f"Recorded but not drawn: {', '.join(info.left_out)}.")
    return " ".join(parts)


def draw(info: FinalRun, theme: Theme = LIGHT) -> Figure:
    """Draw the figure."""
    from plotly.graph_objects import Figure

    panels = [*([info.metric] if info.metric is not None else []), *info.panels]
    heights = [270] + [130] * len(panels)
    total, domains = frame.stacked(heights, 44, 30, 46 + 40)
    axes: dict[str, Any] = {}
    views = [info.view, *(panel.view for panel in panels)]
    for index, (shown, domain) in enumerate(zip(views, domains, strict=True)):
        number = str(index + 1) if index else ""
        last = index == len(views) - 1
        axes[f"xaxis{number}"] = frame.update_axis(
            theme,
            shown_length(info.length, info.updates),
            title=last,
            anchor=f"y{number}",
            **({"matches": "x"} if index else {}),
        )
        percent = info.metric is not None and index == 1 and info.metric.name in words.PERCENT
        axes[f"yaxis{number}"] = frame.value_axis(
            theme,
            shown,
            domain=domain,
            anchor=f"x{number}",
            nticks=6 if index == 0 else 4,
            **({"tickformat": ".0%"} if percent else {}),
        )
    traces = _loss(info, theme)
    for index, panel in enumerate(panels):
        traces.append(_series(panel, index + 2, panel is info.metric, theme))
    titles = ["loss", *(words.safe(panel.name) for panel in panels)]
    ends = [
        frame.panel_end(text, theme, axis)
        for text, axis in ((_valid_end(info), ""), (_metric_end(info), "2"))
        if text
    ]
    return Figure(
        traces,
        frame.layout(
            theme,
            total,
            margin={"l": frame.MARGIN, "r": 14, "t": 30, "b": 46},
            showlegend=True,
            legend_y=frame.legend_place(total - 30 - 46),
            annotations=[
                frame.panel_title(title, theme, str(i + 1) if i else "")
                for i, title in enumerate(titles)
            ]
            + ends,
            **axes,
        ),
    )


def _valid_end(info: FinalRun) -> str:
    return f"validation ends at {words.number(info.valid.values[-1])}" if info.valid else ""


def _metric_end(info: FinalRun) -> str:
    if info.metric is None:
        return ""
    return f"ends at {words.metric(info.metric.name, info.metric.curve.values[-1])}"


def _loss(info: FinalRun, theme: Theme) -> list[Any]:
    """Return the lines of the loss: raw, smoothed, validation, and the end if it diverged."""
    from plotly.graph_objects import Scatter

    few = "lines+markers" if len(info.raw.steps) < 40 else "lines"
    rows: list[tuple[str, PlottedCurve, str, Any, Any]] = [
        ("training", info.raw, few, {"color": theme.raw, "width": 1}, {"size": 4}),
        ("training, smoothed", info.smooth, "lines", {"color": theme.ink, "width": 2}, None),
        (
            "validation",
            info.valid,
            "lines+markers",
            {"color": theme.accent, "width": 2},
            {"size": 6},
        ),
    ]
    if info.window == 1:
        del rows[1]
    traces = [
        Scatter(
            x=line.steps,
            y=line.values,
            name=name,
            mode=mode,
            line=style,
            marker=marker,
            hovertemplate=f"{name} loss %{{y:.4g}}<br>update %{{x}}<extra></extra>",
        )
        for name, line, mode, style, marker in rows
        if line
    ]
    if info.status == Status.DIVERGED:
        traces.append(
            Scatter(
                x=[info.updates],
                y=[info.view.high],
                name="diverged",
                mode="markers",
                marker={"symbol": "x", "size": 10, "color": theme.warn},
                cliponaxis=False,
                hovertemplate="diverged at update %{x}<extra></extra>",
            )
        )
    return traces


def _series(panel: Panel, axis: int, is_metric: bool, theme: Theme) -> Any:
    from plotly.graph_objects import Scatter

    colour = theme.accent if is_metric else theme.second
    value = ".2%" if is_metric and panel.name in words.PERCENT else ".4g"
    return Scatter(
        x=panel.curve.steps,
        y=panel.curve.values,
        mode="lines+markers" if is_metric else "lines",
        line={"color": colour, "width": 2 if is_metric else 1.2},
        marker={"size": 6},
        xaxis=f"x{axis}",
        yaxis=f"y{axis}",
        showlegend=False,
        hovertemplate=f"{words.safe(panel.name)} %{{y:{value}}}<br>update %{{x}}<extra></extra>",
    )
