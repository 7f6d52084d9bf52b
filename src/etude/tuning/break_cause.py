"""Why no rate gets past an update, in a sentence."""

from __future__ import annotations

from etude.trials.bad_batch import said_of_break
from etude.trials.pool import TrialPool


def cause_said(pool: TrialPool, update: int | None, cause: str) -> str:
    """Return why no rate gets past an update; empty where none is to blame but the rate."""
    if update is None or not cause:
        return ""
    return said_of_break(update, cause, pool.first.parameters)
