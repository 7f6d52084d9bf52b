"""Findings and diagnoses from the plain values that their `to_dict` returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etude.diagnosis.finding import Cause, Diagnosis, Finding, Symptom, Verdict
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
        verdict=None if plain.get("verdict") is None else verdict_of(plain["verdict"]),
        too_short=plain.get("too_short", False),
    )


def verdict_of(plain: Mapping[str, Any]) -> Verdict:
    """Return the verdict that `Verdict.to_dict` made plain.

    Raises:
        StorageError: If it names a symptom or cause that is not known.

    >>> one = Verdict(True, Cause.LR_TOO_LOW, 0.84, ranked=((Cause.LR_TOO_LOW, 0.84),))
    >>> verdict_of(one.to_dict()) == one
    True
    """
    return Verdict(
        plain["faulty"],
        None if plain["cause"] is None else _cause(plain["cause"]),
        plain["probability"],
        ranked=tuple((_cause(one["cause"]), one["probability"]) for one in plain["ranked"]),
        evidence=tuple(plain["evidence"]),
        follows=tuple(_symptom(word) for word in plain["follows"]),
        layer=plain["layer"],
        step=plain["step"],
        reliability=plain["reliability"],
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
        certain=plain.get("certain", False),
    )


def _what(word: str) -> Symptom | Cause:
    for kind in (Symptom, Cause):
        if word in {one.value for one in kind}:
            return kind(word)
    raise StorageError(f"{shown(word)} is no symptom and no cause that this version knows")


def _cause(word: str) -> Cause:
    found = _what(word)
    if not isinstance(found, Cause):
        raise StorageError(f"{shown(word)} is a symptom, where a cause should stand")
    return found


def _symptom(word: str) -> Symptom:
    found = _what(word)
    if not isinstance(found, Symptom):
        raise StorageError(f"{shown(word)} is a cause, where a symptom should stand")
    return found


def _evidence(value: float | str) -> float | str:
    return float(value) if value in ("nan", "inf", "-inf") else value
