"""Figures as data in a page: each in the light theme, with the changes for the dark theme."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from etude.report.figures.palette import DARK, LIGHT, Theme

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Change = list[Any]
"""A path into a figure, and the value at that path in the dark theme."""


def both(draw: Callable[[Theme], Figure]) -> dict[str, Any]:
    """Return a figure in the light theme, and the changes for the dark theme.

    Args:
        draw: A function that draws the figure in the colours of a theme.
    """
    light, dark = (_small(json.loads(draw(theme).to_json())) for theme in (LIGHT, DARK))
    return {"figure": light, "dark": changes(light, dark)}


def _small(figure: dict[str, Any]) -> dict[str, Any]:
    """Return a figure with its values rounded to a precision that cannot be seen."""
    for trace in figure["data"]:
        for axis in ("x", "y"):
            trace[axis] = rounded(trace[axis])
    return figure


def rounded(values: Sequence[Any]) -> list[Any]:
    """Return the values of an axis, rounded to a precision that cannot be seen.

    That is the finer of five significant digits, one more than a figure shows, and 1/10,000 of the
    range of all values: far less than a pixel, also on a logarithmic axis.

    Args:
        values: The values; those that are not floats do not change.

    >>> rounded([0.123456789, 2.0, 1500, None])
    [0.12346, 2.0, 1500, None]
    >>> rounded([1000.00123456, 1000.00345678])
    [1000.0012346, 1000.0034568]
    """
    floats = [v for v in values if isinstance(v, float) and math.isfinite(v)]
    span = max(floats, default=0.0) - min(floats, default=0.0)
    decimals = -math.inf if not 0 < span < math.inf else 4 - math.floor(math.log10(span))
    return [_rounded(v, decimals) if isinstance(v, float) else v for v in values]


def _rounded(value: float, decimals: float) -> float:
    if not math.isfinite(value) or value == 0:
        return value
    own = 4 - math.floor(math.log10(abs(value)))
    return round(value, int(max(own, decimals)))


def changes(first: Any, second: Any) -> list[Change]:
    """Return the paths at which two trees of the same shape differ, and the second's values.

    >>> changes({"a": [1, 2], "b": 3}, {"a": [1, 5], "b": 3})
    [[['a', 1], 5]]
    """
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        pairs: list[tuple[Any, Any, Any]] = [(key, first[key], second[key]) for key in first]
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        pairs = [(i, a, b) for i, (a, b) in enumerate(zip(first, second, strict=True))]
    else:
        return [] if first == second else [[[], second]]
    return [[[key, *path], value] for key, a, b in pairs for path, value in changes(a, b)]


def alike(first: Any, second: Any) -> list[Change]:
    """Return what turns one tree into another; a list of plain values is replaced as a whole.

    Unlike `changes`, the trees may have another shape, and the result is short for trees that are
    mostly alike, such as two figures of one kind.

    >>> alike({"a": [1, 2], "b": {"c": 3}}, {"a": [1, 5, 6], "b": {"c": 3}})
    [[['a'], [1, 5, 6]]]
    """
    pairs: list[tuple[Any, Any, Any]] = []
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        pairs = [(key, first[key], second[key]) for key in first]
    elif _nested(first) and _nested(second) and len(first) == len(second):
        pairs = [(i, a, b) for i, (a, b) in enumerate(zip(first, second, strict=True))]
    if not pairs:
        return [] if first == second else [[[], second]]
    return [[[key, *path], value] for key, a, b in pairs for path, value in alike(a, b)]


def _nested(value: Any) -> bool:
    """Return whether a value is a list of lists or tables."""
    return isinstance(value, list) and all(isinstance(item, (dict, list)) for item in value)


def script_data(value: Any) -> str:
    r"""Return a value as JSON that is safe in HTML: '<', '>' and '&' are escaped.

    >>> script_data("</script>")
    '"\\u003c/script\\u003e"'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
