"""Plans and parameters as canonical JSON: one text and one digest for each value."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from etude import files
from etude.errors import BadTypeError, BadValueError, StorageError, shown

LARGEST = 2**24
"""The length in characters of the longest plan that is stored."""

DEEPEST = 50
"""How deep tables and lists may be nested."""

TOLD = 3
"""How many differences between two plans one message lists."""


def canonical(value: Mapping[str, Any], what: str) -> str:
    """Return a table as JSON with sorted keys and no spaces: equal tables have equal texts.

    Args:
        value: The table; tuples are stored as lists.
        what: What the table is, for error messages.

    Raises:
        BadTypeError: If it holds a value that JSON cannot represent.
        BadValueError: If it holds NaN or an infinity, or is too long or too deep.

    >>> canonical({"lr": 0.1, "depth": 2}, "the plan")
    '{"depth":2,"lr":0.1}'
    """
    _refuse_other(value, what, 0)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    if len(text) > LARGEST:
        raise BadValueError(
            f"{what} has {len(text):,} characters as JSON, and at most {LARGEST:,} are stored: "
            "name large data by a reference instead"
        )
    return text


def digest_of(text: str) -> str:
    """Return the SHA-256 digest of a text, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def read(text: object, what: str) -> dict[str, Any]:
    """Read a table that `canonical` wrote; it may come from an unknown source.

    Raises:
        StorageError: If it is anything else.
    """
    try:
        found = files.parse_json(text) if isinstance(text, str) else None
    except ValueError as error:
        raise StorageError(f"{what} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise StorageError(f"{what} is damaged: it is {shown(text)}, not a table as JSON")
    return found


def differences(kept: object, given: object) -> str:
    """Return where two plans differ, as text; at most three places are listed.

    >>> differences({"lrs": [0.1, 0.2], "steps": 10}, {"lrs": [0.1, 0.3], "seeds": 2})
    'lrs[1] is 0.2 there and 0.3 here; seeds is only here; steps is only there'
    """
    found = list(_differences(kept, given, ""))
    more = f"; and {len(found) - TOLD} more" if len(found) > TOLD else ""
    return "; ".join(found[:TOLD]) + more


def _differences(kept: object, given: object, path: str) -> Iterator[str]:
    if isinstance(kept, dict) and isinstance(given, dict):
        for key in sorted(kept.keys() | given.keys()):
            here = f"{path}.{key}" if path else str(key)
            if key not in kept or key not in given:
                yield f"{shown(here).strip(chr(39))} is only {'there' if key in kept else 'here'}"
            else:
                yield from _differences(kept[key], given[key], here)
    elif isinstance(kept, list) and isinstance(given, list):
        if len(kept) != len(given):
            yield f"{path} has {len(kept)} entries there and {len(given)} here"
        for i, (one, other) in enumerate(zip(kept, given, strict=False)):
            yield from _differences(one, other, f"{path}[{i}]")
    elif type(kept) is not type(given) or kept != given:
        yield f"{path} is {shown(kept, 40)} there and {shown(given, 40)} here"


def _refuse_other(value: object, what: str, depth: int) -> None:
    if depth > DEEPEST:
        raise BadValueError(f"{what} is nested deeper than {DEEPEST} tables and lists")
    if isinstance(value, Mapping):
        for key, one in value.items():
            if not isinstance(key, str):
                raise BadTypeError(f"{what} has the key {shown(key)}: keys are texts")
            _refuse_other(one, f"{key!r} of {what}" if depth == 0 else what, depth + 1)
    elif isinstance(value, (list, tuple)):
        for one in value:
            _refuse_other(one, what, depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise BadValueError(f"{what} is {value}: give a finite number")
    elif value is not None and not isinstance(value, (str, int, bool)):
        raise BadTypeError(
            f"{what} is {shown(value)} of {type(value).__name__}: give text, a number, true or "
            "false, null, a list or a table"
        )
