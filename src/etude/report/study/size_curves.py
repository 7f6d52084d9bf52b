"""Figure: the best rate against a size, with the lines of the scaling rules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from etude.report import words
from etude.report.figures import frame
from etude.report.figures.palette import LIGHT, Theme
from etude.report.figures.view import View, rates_view
from etude.studies.analysis.groups import BATCH, SizeDrift
from etude.studies.batch_rules import batch_rules
from etude.studies.summary import RateSummary

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

INNER, ROW = 260, 21
"""The height of the panel and of a line of the key, in pixels."""

BATCH_RULES = {"the linear rule": 1.0, "the square-root rule": 0.5}
"""Goyal et al. 2017, arXiv:1706.02677; Malladi et al. 2022, arXiv:2205.10287."""

MODEL_RULES = {"no change": 0.0, "inverse proportion": -1.0}
"""What muP aims at, and what it is for Adam under the standard parametrisation: Yang et al. 2022,
arXiv:2203.03466."""


def rules_of(size: str) -> dict[str, float]:
    """Return the slopes of the scaling rules for a size, by name."""
    return BATCH_RULES if size == BATCH else MODEL_RULES


def caption(found: SizeDrift) -> str:
    """Return the caption."""
    return (
        f"The best rate at each {found.size}, with the rates that are the best of 90% of the draws "
        "of the seeds; an arrow where it is the lowest or highest that was tried, so that a better "
        "one may lie outside. The lines have the slopes of the rules and pass through the middle "
        "of the points"
        + (
            "; of three or more, the noise-scale rule is fitted to them."
            if found.size == BATCH
            else "."
        )
    )


def draw(found: SizeDrift, theme: Theme = LIGHT) -> Figure:
    """Draw the figure."""
    from plotly.graph_objects import Figure

    points = [
        (size, one)
        for size, one in zip(found.sizes, found.summaries, strict=True)
        if one.optimum is not None
    ]
    lines = [*_rules(found, points, theme), *_noise_scale(found, points, theme)]
    best = [one.optimum for _, one in points if one.optimum is not None]
    seen = [end for one in best for end in (one.low, one.high)]
    seen += [value for line in lines for value in line.y]
    across = rates_view(found.sizes)
    key = ROW * (1 + len(lines))
    return Figure(
        [*lines, _optima(points, theme)],
        frame.layout(
            theme,
            INNER + 40 + 52 + key,
            margin={"l": frame.MARGIN, "r": 14, "t": 40, "b": 52 + key},
            showlegend=True,
            legend={
                **frame.layout(theme, 0)["legend"],
                "orientation": "v",
                "y": frame.legend_place(INNER),
                "itemclick": "toggle",
            },
            xaxis={
                **frame.rate_axis(theme, across, title=_title(found.size, theme)),
                "tickvals": list(found.sizes),
                "ticktext": [f"{size:g}" for size in found.sizes],
                "minor": {},
            },
            yaxis=frame.value_axis(theme, _height(seen)),
            annotations=[frame.panel_title("best learning rate", theme)],
        ),
    )


def _height(rates: Sequence[float]) -> View:
    return View(min(rates) / 2, max(rates) * 2, True)


def _title(text: str, theme: Theme) -> dict[str, Any]:
    return {"text": words.safe(text), "font": {"size": 13, "color": theme.soft}, "standoff": 8}


def _optima(points: Sequence[tuple[float, Any]], theme: Theme) -> Any:
    from plotly.graph_objects import Scatter

    best = [one.optimum for _, one in points]
    symbols = [
        "circle"
        if not one.at_edge
        else ("triangle-down" if one.optimum.lr == one.lrs[0] else "triangle-up")
        for _, one in points
    ]
    return Scatter(
        x=[size for size, _ in points],
        y=[one.lr for one in best],
        name="measured",
        mode="markers",
        marker={"size": 10, "color": theme.accent, "symbol": symbols},
        error_y={
            "type": "data", "symmetric": False, "thickness": 2, "width": 5, "color": theme.accent,
            "array": [one.high - one.lr for one in best],
            "arrayminus": [one.lr - one.low for one in best],
        },
        hovertemplate="%{x:~g}<br>best rate %{y:~g}<extra></extra>",
    )  # fmt: skip


def _noise_scale(
    found: SizeDrift, points: Sequence[tuple[float, RateSummary]], theme: Theme
) -> list[Any]:
    """Return the noise-scale rule, fitted to at least three batch sizes."""
    from plotly.graph_objects import Scatter

    best = [one.optimum.lr for _, one in points if one.optimum is not None]
    if found.size != BATCH or len(best) < 3:
        return []
    sizes = [size for size, _ in points]
    rule = next(rule for rule in batch_rules(sizes, best) if rule.noise_scale is not None)
    return [
        Scatter(
            x=sizes,
            y=list(rule.lrs),
            name=f"noise-scale rule: fitted, noise scale {words.number(rule.noise_scale, 2)}",
            mode="lines",
            line={"width": 1.5, "color": theme.soft, "dash": "dashdot"},
            hoverinfo="skip",
        )
    ]


def _rules(found: SizeDrift, points: Sequence[tuple[float, Any]], theme: Theme) -> list[Any]:
    """Return a line for each rule, through the geometric mean of the points."""
    from plotly.graph_objects import Scatter

    if not points:
        return []
    middle = math.exp(sum(math.log(size) for size, _ in points) / len(points))
    level = math.exp(sum(math.log(one.optimum.lr) for _, one in points) / len(points))
    ends = [found.sizes[0], found.sizes[-1]]
    dashes = ("dash", "dot", "dashdot")
    return [
        Scatter(
            x=ends,
            y=[level * (size / middle) ** slope for size in ends],
            name=f"{name}: slope {words.number(slope)}",
            mode="lines",
            line={"width": 1.5, "color": theme.second, "dash": dash},
            hoverinfo="skip",
        )
        for (name, slope), dash in zip(rules_of(found.size).items(), dashes, strict=False)
    ]
