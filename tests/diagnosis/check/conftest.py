"""Fixtures of the checks' tests."""

from __future__ import annotations

import pytest

from etude.diagnosis.check import checks, one_batch, short_run


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine changes what is seen in time, and tests are not about that."""
    monkeypatch.setattr(one_batch, "SECONDS", 600.0)
    monkeypatch.setattr(short_run, "SECONDS", 600.0)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what trains, for faults that are seen before."""
    monkeypatch.setattr(checks, "OF_TRAINING", ())


before_training = pytest.mark.usefixtures("untrained")
