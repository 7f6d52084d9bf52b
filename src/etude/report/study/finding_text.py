"""`StudyFinding`: one sentence about a study, with the trials that it is computed from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from etude.report.study.naming import trials_text


@dataclass(frozen=True)
class StudyFinding:
    """One sentence, which holds for the trials that it names.

    Attributes:
        text: The sentence, or two.
        trials: The numbers of the trials that it is computed from.
    """

    text: str
    trials: tuple[int, ...]

    @classmethod
    def of(cls, text: str, trials: Iterable[int]) -> StudyFinding:
        """Return a finding; the trials are put in order."""
        return cls(text, tuple(sorted(set(trials))))

    def __str__(self) -> str:
        return f"{self.text} ({trials_text(self.trials)})" if self.trials else self.text


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun; the plural may be irregular.

    >>> counted(1, "kind of run", "kinds of run"), counted(2, "kind of run", "kinds of run")
    ('1 kind of run', '2 kinds of run')
    """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def all_of(number: int, singular: str) -> str:
    """Return that several things are meant, without exception.

    >>> all_of(2, "kind"), all_of(3, "kind")
    ('both kinds', 'all 3 kinds')
    """
    return f"both {singular}s" if number == 2 else f"all {counted(number, singular)}"
