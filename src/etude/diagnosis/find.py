"""All that can be found in a history."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from etude.diagnosis.finding import Finding
from etude.diagnosis.history import History

RULES: tuple[Callable[[History], Sequence[Finding]], ...] = ()


def find(history: History) -> list[Finding]:
    """Return the findings of all rules, causes first."""
    return [finding for rule in RULES for finding in rule(history)]
