"""The tables of the study database, one schema for SQLite and PostgreSQL."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

VERSION = 2
"""The version of the schema. A newer database is refused, an older one is migrated."""

metadata = MetaData()

versions = Table("etude_version", metadata, Column("version", Integer, primary_key=True))
"""One row."""

studies = Table(
    "etude_studies",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("uid", String(32), nullable=False),
    Column("plan", Text, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("created", Double, nullable=False),
)
"""A study: its plan as canonical JSON, and the name of the folder of its files (`uid`)."""

trials = Table(
    "etude_trials",
    metadata,
    Column("study", ForeignKey("etude_studies.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("parameters", Text, nullable=False),
    Column("key", String(64), nullable=False),
    Column("state", String(8), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("lost", Integer, nullable=False, server_default="0"),
    # who trains it; the lease identifies one claim, and stays when the trial is finished
    Column("lease", String(32)),
    Column("worker", String(200)),
    Column("granted", Double),
    Column("expires", Double),
    # what came of it
    Column("loss", Double),
    Column("metric", Double),
    Column("diverged", Boolean),
    Column("seconds", Double),
    Column("more", Text),
    Column("record", String(64)),
    Column("weights", String(64)),
    Column("error", Text),
    Column("place", Text),
    Column("finished", Double),
    UniqueConstraint("study", "key"),
    Index("etude_trials_by_state", "study", "state", "number"),
)
"""A trial: its parameters as canonical JSON with their digest (`key`), its lease, its result."""

workers = Table(
    "etude_workers",
    metadata,
    Column("study", ForeignKey("etude_studies.id"), primary_key=True),
    Column("name", String(200), primary_key=True),
    Column("since", Double, nullable=False),
    Column("seen", Double, nullable=False),
)
"""Who works on a study, and when it last claimed a trial or sent a heartbeat."""
