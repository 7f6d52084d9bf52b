"""A healthy run is told healthy, and nothing else."""

from __future__ import annotations

import pytest

from tests.diagnosis.programs import HEALTHY


@pytest.mark.parametrize("every", [None, 1])
@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_is_called_healthy(name, every):
    told = []
    w = HEALTHY[name](every=every, on_finding=told.append)
    report = w.report()
    assert str(report) == "healthy", report
    assert not told
    assert report.history.samples >= 8
