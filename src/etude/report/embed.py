"""Figures as data in a page: drawn once for paper, with what a dark screen changes beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from etude.report.palette import DARK, LIGHT, Theme

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Change = list[Any]
"""A path into a figure, and the value that stands there in the dark."""


def both(draw: Callable[[Theme], Figure]) -> dict[str, Any]:
    """Return a figure in its light dress, and the changes that make the dark one of it.

    Args:
        draw: Draws the figure in the colours of a theme.
    """
    light, dark = (_small(json.loads(draw(theme).to_json())) for theme in (LIGHT, DARK))
    return {"figure": light, "dark": changes(light, dark)}


def _small(figure: dict[str, Any]) -> dict[str, Any]:
    """Return a figure whose values are rounded to what can be seen."""
    for trace in figure["data"]:
        for axis in ("x", "y"):
            trace[axis] = rounded(trace[axis])
    return figure


def rounded(values: Sequence[Any]) -> list[Any]:
    """Return the values of an axis, rounded to what can be seen of them.

    That is the finer of five significant digits, one more than a figure names, and a
    ten-thousandth of the range of all: far less than a pixel, on a logarithmic axis too.

    Args:
        values: Numbers; what is no float is left as it is.

    >>> rounded([0.123456789, 2.0, 1500, None])
    [0.12346, 2.0, 1500, None]
    >>> rounded([1000.00123456, 1000.00345678])
    [1000.0012346, 1000.0034568]
    """
    floats = [v for v in values if isinstance(v, float) and math.isfinite(v)]
    span = max(floats, default=0.0) - min(floats, default=0.0)
    seen = -math.inf if not 0 < span < math.inf else 4 - math.floor(math.log10(span))
    return [_rounded(v, seen) if isinstance(v, float) else v for v in values]


def _rounded(value: float, decimals: float) -> float:
    if not math.isfinite(value) or value == 0:
        return value
    own = 4 - math.floor(math.log10(abs(value)))
    return round(value, int(max(own, decimals)))


def changes(one: Any, other: Any) -> list[Change]:
    """Return where two trees of the same shape differ, and what the second holds there.

    >>> changes({"a": [1, 2], "b": 3}, {"a": [1, 5], "b": 3})
    [[['a', 1], 5]]
    """
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        pairs: list[tuple[Any, Any, Any]] = [(key, one[key], other[key]) for key in one]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(i, a, b) for i, (a, b) in enumerate(zip(one, other, strict=True))]
    else:
        return [] if one == other else [[[], other]]
    return [[[key, *path], value] for key, a, b in pairs for path, value in changes(a, b)]


def script_data(value: Any) -> str:
    r"""Return a value as JSON that no HTML parser can leave: without '<', '>' and '&'.

    >>> script_data("</script>")
    '"\\u003c/script\\u003e"'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
