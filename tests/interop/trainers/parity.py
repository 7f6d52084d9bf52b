"""How far the losses of two trainings lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etude.record import Record


@dataclass(frozen=True)
class Parity:
    """A training, and its largest difference from another library's, over all updates."""

    record: Record
    worst: float

    @classmethod
    def of(cls, record: Record, theirs: Sequence[float]) -> Parity:
        pairs = zip(record.series["loss"], theirs, strict=True)
        return cls(record, max(abs(a - b) for a, b in pairs))
