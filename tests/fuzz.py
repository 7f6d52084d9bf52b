"""Damage done to valid files: at every place of a JSON value, and to the bytes of any file."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

HOSTILE: list[Any] = [
    None,
    True,
    -1,
    2**63,
    10**400,
    1e308,
    -0.5,
    "",
    "x" * 10_000,
    "\ud800\0",
    "nan",
    "../../etc",
    [],
    {},
    [[]],
    [None],
    {"": {}},
    {"$": "tensor", "name": "nowhere"},
    {"$": "float", "value": []},
    ["x", 1, {}],
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside a JSON value, its own first; of long lists the ends."""
    yield path
    if isinstance(value, dict):
        for key, one in value.items():
            yield from places(one, (*path, key))
    elif isinstance(value, list):
        for i in sorted({0, 1, len(value) - 1} & set(range(len(value)))):
            yield from places(value[i], (*path, i))


def with_value(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a JSON value with another one at a path."""
    if not path:
        return new
    changed = copy.copy(value)
    changed[path[0]] = with_value(value[path[0]], path[1:], new)
    return changed


def without(value: Any, path: tuple[Any, ...]) -> Any:
    """Return a JSON value without what stands at a path."""
    changed = copy.copy(value)
    if len(path) == 1:
        del changed[path[0]]
    else:
        changed[path[0]] = without(value[path[0]], path[1:])
    return changed


@st.composite
def damaged_json(draw: Any, valid: Any) -> str:
    """Return JSON in which one value is of another kind, or missing, or that is no JSON at all."""
    path = draw(st.sampled_from(list(places(valid))))
    if path and draw(st.booleans()):
        return json.dumps(without(valid, path))
    return json.dumps(with_value(valid, path, draw(st.sampled_from(HOSTILE))))


@st.composite
def damaged_bytes(draw: Any, valid: bytes) -> bytes:
    """Return bytes cut short, with some changed, or with others in between."""
    at = draw(st.integers(0, len(valid)))
    kind = draw(st.sampled_from(["cut", "flip", "insert", "repeat"]))
    if kind == "cut":
        return valid[:at]
    if kind == "flip":
        changed = bytearray(valid)
        for _ in range(draw(st.integers(1, 4))):
            if changed:
                changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
        return bytes(changed)
    if kind == "insert":
        return valid[:at] + draw(st.binary(min_size=1, max_size=20)) + valid[at:]
    return valid[:at] + valid[at : at + 40] * draw(st.integers(2, 50)) + valid[at:]
