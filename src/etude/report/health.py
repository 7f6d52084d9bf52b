"""The health section of the report on a run: what the watch has found, and the layers."""

from __future__ import annotations

from etude.diagnosis.finding import Diagnosis
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


def sections(record: Record) -> tuple[Section, ...]:
    """Return the findings, which the terminal prints too, and the readings of the layers."""
    try:
        found = health_of(record)
    except StorageError:
        return ()
    if found is None:
        return ()
    judged = () if found.verdict is None or not found.verdict.faulty else (str(found.verdict),)
    said = (*judged, *map(str, found.findings)) or (_quiet(found),)
    unseen = tuple(found.unseen)
    looked = f"Looked at: {'; '.join(found.seen)}." if found.seen else ""
    told = Section(
        "Health", (*said, *unseen, *([looked] if looked else [])), detail=not found.findings
    )
    return told, *(() if found.history is None else layer_sections(found.history, detail=True))


def _quiet(found: Diagnosis) -> str:
    if found.healthy:
        return "Nothing is wrong in what was looked at."
    return "Whether the run is healthy cannot be told."
