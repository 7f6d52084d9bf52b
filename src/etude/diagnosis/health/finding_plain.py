"""Findings and diagnoses from the plain values that their `to_dict` returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etude.diagnosis.finding import Cause, Diagnosis, Finding, Symptom
from etude.diagnosis.history import History
from etude.errors import StorageError, shown


def diagnosis_of(plain: Mapping[str, Any], history: History | None = None) -> Diagnosis:
    """Return the diagnosis that `Diagnosis.to_dict` made plain.

    Raises:
        StorageError: If it names a symptom or cause that is not known.
    """
    return Diagnosis(
        tuple(finding_of(one) for one in plain["findings"]),
        seen=tuple(plain["seen"]),
        unseen=tuple(plain["unseen"]),
        history=history,
    )


def finding_of(plain: Mapping[str, Any]) -> Finding:
    """Return the finding that `Finding.to_dict` made plain.

    Raises:
        StorageError: If it names a symptom or cause that is not known.

    >>> one = Finding(Symptom.DEAD, "40 of 64 units never fire.", layer="2", evidence={"dead": 40})
    >>> finding_of(one.to_dict()) == one
    True
    """
    return Finding(
        _what(plain["what"]),
        plain["text"],
        layer=plain["layer"],
        step=plain["step"],
        evidence={name: _evidence(value) for name, value in plain["evidence"].items()},
        fix=plain["fix"],
    )


def _what(word: str) -> Symptom | Cause:
    for kind in (Symptom, Cause):
        if word in {one.value for one in kind}:
            return kind(word)
    raise StorageError(f"{shown(word)} is no symptom and no cause that this version knows")


def _evidence(value: float | str) -> float | str:
    return float(value) if value in ("nan", "inf", "-inf") else value
