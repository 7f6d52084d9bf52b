"""Elements that all figures share: fonts, axes, titles of panels, notes."""

from __future__ import annotations

from typing import Any

from etude.report import words
from etude.report.figures.palette import Theme
from etude.report.figures.view import View

SANS = "-apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"

MARGIN = 52
"""The margin left of a panel, in pixels, for the values of its axis."""

NARROW = 300
"""The width of a panel on a page of 400 pixels; texts that fit there fit on any page."""

LONGEST_LABELS = (-5.0, 6.0)
"""The exponents between which a label fits into the margin when it is written in full."""

MANY_DECADES = 1.7
"""Above this number of decades an axis is labelled at powers of ten, below it also at 2 and 5."""


def layout(theme: Theme, height: int, **more: Any) -> dict[str, Any]:
    """Return the layout of a figure: no decoration, the legend below.

    Args:
        theme: The colours.
        height: The height in pixels, on every screen.
        more: Other entries of the layout.
    """
    return {
        "template": "none",
        "autosize": True,
        "height": height,
        "margin": {"l": MARGIN, "r": 14, "t": 30, "b": 46},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": SANS, "size": 13, "color": theme.ink},
        "hoverlabel": {
            "bgcolor": theme.paper,
            "bordercolor": theme.rule,
            "font": {"family": SANS, "size": 13, "color": theme.ink},
        },
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "yanchor": "top",
            "font": {"size": 12.5, "color": theme.ink},
            "title": {"font": {"size": 12.5, "color": theme.soft}},
            "itemclick": False,
            "itemdoubleclick": False,
        },
        "showlegend": False,
        "separators": f".{words.THIN}",
        "modebar": {
            "bgcolor": "rgba(0,0,0,0)",
            "color": theme.rule,
            "activecolor": theme.accent,
        },
        **more,
    }


def value_axis(theme: Theme, view: View, **more: Any) -> dict[str, Any]:
    """Return the vertical axis of a panel, with grid lines and without an axis line."""
    return {
        **_axis(theme, view),
        "showgrid": True,
        "gridcolor": theme.grid,
        "gridwidth": 1,
        "nticks": 6,
        **more,
    }


def rate_axis(theme: Theme, view: View, **more: Any) -> dict[str, Any]:
    """Return the horizontal axis of learning rates."""
    return {
        **_axis(theme, view),
        **_base_line(theme),
        "minor": {"ticks": "outside", "dtick": "D1", "ticklen": 3, "tickcolor": theme.rule},
        "title": _title("learning rate", theme),
        **more,
    }


def update_axis(
    theme: Theme, length: int, title: bool = True, name: str = "updates", **more: Any
) -> dict[str, Any]:
    """Return the horizontal axis of updates, with the length of the full run.

    The training loss of update 0 is at 0, and so is the evaluation before it.

    Args:
        theme: The colours.
        length: The length of the full run.
        title: Whether the axis has a title and tick labels.
        name: What the axis counts.
        more: Further entries of the axis.
    """
    return {
        **_axis(theme, View(-0.01 * length, 1.015 * length, False)),
        **_base_line(theme),
        "tickformat": ",~g",
        "nticks": 8,
        "showticklabels": title,
        "title": _title(name, theme) if title else None,
        **more,
    }


def panel_title(text: str, theme: Theme, axis: str = "", lift: int = 8) -> dict[str, Any]:
    """Return the name of a panel's quantity, horizontally above its axis.

    Args:
        text: The name.
        theme: The colours.
        axis: The number of the panel's axis; empty for the first.
        lift: Pixels above the panel.
    """
    return {
        "text": text,
        "showarrow": False,
        "xref": "paper",
        "x": 0,
        "xanchor": "left",
        "xshift": -MARGIN,
        "yref": f"y{axis} domain",
        "y": 1,
        "yanchor": "bottom",
        "yshift": lift,
        "font": {"size": 13, "color": theme.soft},
    }


def panel_end(text: str, theme: Theme, axis: str = "", lift: int = 8) -> dict[str, Any]:
    """Return the last value of a panel's line, above the right end of the panel.

    Args:
        text: The value, in words.
        theme: The colours.
        axis: The number of the panel's axis; empty for the first.
        lift: Pixels above the panel.
    """
    return {
        **panel_title(text, theme, axis, lift),
        "x": 1,
        "xanchor": "right",
        "xshift": 0,
        "font": {"size": 13, "color": theme.accent},
    }


def note(text: str, theme: Theme, **place: Any) -> dict[str, Any]:
    """Return a small text inside a panel."""
    return {
        "text": text,
        "showarrow": False,
        "font": {"size": 12, "color": theme.soft},
        **place,
    }


def room(text: str) -> float:
    """Return the width of a small text, with a gap, as a share of a narrow panel's width.

    >>> room("0.00455") < 0.25
    True
    """
    return (7.2 * len(text) + 10) / NARROW


def stacked(heights: list[int], gap: int, top: int, bottom: int) -> tuple[int, list[Any]]:
    """Return the height of a figure with panels above each other, and the range of each panel.

    Args:
        heights: The heights of the panels in pixels, from the top.
        gap: The gap between two panels in pixels.
        top: The margin above the first panel in pixels.
        bottom: The margin below the last panel in pixels.

    >>> stacked([100, 100], 50, 0, 0)
    (250, [[0.6, 1.0], [0.0, 0.4]])
    """
    inner = sum(heights) + gap * (len(heights) - 1)
    domains, reached = [], inner
    for height in heights:
        domains.append([max(0.0, (reached - height) / inner), reached / inner])
        reached -= height + gap
    return inner + top + bottom, domains


def legend_place(inner: int) -> float:
    """Return the position of a legend below the title of the horizontal axis.

    The legend takes its space from the panels; on a narrow screen it has several rows.

    Args:
        inner: The height of the panels in pixels.

    >>> legend_place(600)
    -0.11
    """
    return -66 / inner


def _axis(theme: Theme, view: View) -> dict[str, Any]:
    low, high = view.limits()
    log: dict[str, Any] = {}
    if view.log:
        # Without a format plotly would write a small 2 instead of 0.02.
        powers = high - low > MANY_DECADES
        log = {"dtick": 1 if powers else "D2", "tickformat": "~g"}
        if low < LONGEST_LABELS[0] or high > LONGEST_LABELS[1]:
            # These labels are wider than the margin in full: 10⁻⁶ and 2e-6 are not.
            log["tickformat"] = "" if powers else ".0e"
        if high - low > 7:
            del log["dtick"]
    return {
        "type": "log" if view.log else "linear",
        "range": [low, high],
        "zeroline": False,
        "showgrid": False,
        "tickfont": {"size": 12.5, "color": theme.soft},
        "exponentformat": "power",
        **log,
    }


def _title(text: str, theme: Theme) -> dict[str, Any]:
    return {"text": text, "font": {"color": theme.soft, "size": 13}, "standoff": 8}


def _base_line(theme: Theme) -> dict[str, Any]:
    return {
        "showline": True,
        "linecolor": theme.rule,
        "linewidth": 1,
        "ticks": "outside",
        "ticklen": 5,
        "tickcolor": theme.rule,
    }
