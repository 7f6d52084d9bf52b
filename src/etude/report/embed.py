"""Figures as data in a page: drawn once for paper, with what a dark screen changes beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
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
    light, dark = (json.loads(draw(theme).to_json()) for theme in (LIGHT, DARK))
    return {"figure": light, "dark": changes(light, dark)}


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
