"""The health section of the report on a run: what the watch has found, and the layers."""

from __future__ import annotations

from etude.diagnosis.finding import Diagnosis
from etude.diagnosis.health.rate_said import Tied, critical_said, place_said, tied_of
from etude.diagnosis.health.read import UNWATCHED, health_of
from etude.errors import StorageError
from etude.record import Record
from etude.report.document import Fact, Section, Tone
from etude.report.kinds.diagnosis import layer_sections, verdict_said

UNREAD = "cannot be read"


def fact(record: Record) -> list[Fact]:
    """Return what the watch found in a few words; nothing if the run was not watched."""
    try:
        found = health_of(record)
    except StorageError as error:
        return [Fact("Health", UNREAD, str(error), Tone.WARN)]
    if found is None:
        return []
    tone = Tone.GOOD if found.healthy else Tone.WARN if found.findings else Tone.PLAIN
    return [Fact("Health", verdict_said(found), _note(found), tone)]


def _note(found: Diagnosis) -> str:
    if found.findings:
        return "see below"
    if not found.healthy:
        return found.unseen[0][:-1] if found.unseen else ""
    gaps = [text[:1].lower() + text[1:-1] for text in found.unseen if text.endswith(UNWATCHED)]
    return "; ".join([f"in {found.seen[0]}", *gaps])


def sections(record: Record, tied: Tied | None = None) -> tuple[Section, ...]:
    """Return the findings, which the terminal prints too, and the readings of the layers.

    Args:
        record: The run.
        tied: The tied range of the tuning that the run belongs to; None takes what its watch was
            given.
    """
    try:
        found = health_of(record)
        tied = tied or tied_of(record)
    except StorageError:
        return ()
    if found is None:
        return ()
    judged = () if found.verdict is None or not found.verdict.faulty else (str(found.verdict),)
    said = (*judged, *map(str, found.findings)) or (_quiet(found),)
    unseen = tuple(found.unseen)
    looked = f"Looked at: {'; '.join(found.seen)}." if found.seen else ""
    placed = "" if tied is None else place_said(record.recipe.lr, tied)
    critical = "" if found.history is None else critical_said(found.history)
    rate = [text for text in (placed, critical, looked) if text]
    told = Section("Health", (*said, *unseen, *rate), detail=not found.findings)
    return told, *(() if found.history is None else layer_sections(found.history, detail=True))


def _quiet(found: Diagnosis) -> str:
    if found.healthy:
        return "Nothing is wrong in what was looked at."
    return "Whether the run is healthy cannot be told."
