"""The digest of a recipe: a short name for all of its values, the same in every process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

LENGTH = 16
"""Hexadecimal digits: two of a million recipes share a digest once in forty million times."""

DEFAULTS_BEFORE: Mapping[str, Any] = {
    "optimizer": "adamw",
    "lr": 0.001,
    "schedule": "warmup('5%') >> cosine()",
    "steps": "20 epochs",
    "accumulate": 1,
    "evaluations": 20,
    "precision": "float32",
    "seed": 0,
}
"""What the first digests left out: a recipe's values that were these. They never change."""


SINCE: frozenset[str] = frozenset({"spikes", "compress"})
"""Fields that are younger than the digest: None leaves a recipe's digest what it was before."""


def digest_of(values: Mapping[str, Any], version: int) -> str:
    """Return the digest of every value and of the format's version.

    A value that equals its default counts too: the digest of a recipe stays what it is when a
    default changes, and the digest of an empty recipe becomes another. Only fields that are younger
    than the first digests are left out where they are None, so that those of older recipes stay.

    Args:
        values: Every field as JSON can hold it; where order counts, as lists.
        version: Of the recipe's format.

    >>> digest_of({"lr": 0.1}, 1) != digest_of({"lr": 0.1}, 2)
    True
    """
    known = {name: v for name, v in values.items() if v is not None or name not in SINCE}
    return _hashed({"version": version, **known})


def digest_before(values: Mapping[str, Any]) -> str:
    """Return the digest as it was first: of the values that differ from the defaults of then.

    Args:
        values: As for `digest_of`.
    """
    return _hashed(
        {
            name: value
            for name, value in values.items()
            if value not in (None, {}) and DEFAULTS_BEFORE.get(name) != value
        }
    )


def _hashed(table: Mapping[str, Any]) -> str:
    text = json.dumps(table, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]
