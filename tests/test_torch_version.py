"""A torch that is too old is refused in one line, by the room that needs it and by no other."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from etude import torch_version
from etude.errors import MissingExtraError

ROOT = Path(__file__).resolve().parents[1]
WANTED = ".".join(map(str, torch_version.FLOOR))
NEWEST = torch_version.newest_tried()

OLD = """
import importlib.metadata
found = importlib.metadata.version
importlib.metadata.version = lambda name: "1.13.1" if name == "torch" else found(name)
import {room}
"""


@pytest.fixture(autouse=True)
def _anew() -> None:
    torch_version.require_torch.cache_clear()


@pytest.mark.parametrize("found", ["1.13.1", "2.0.0+cpu", "2.5.1"])
def test_an_old_torch_is_refused(monkeypatch, found):
    monkeypatch.setattr(torch_version, "version", lambda name: found)
    message = rf"^torch {re.escape(found)} is too old: .*; pip install 'torch>={WANTED}'$"
    with pytest.raises(MissingExtraError, match=message):
        torch_version.require_torch()


@pytest.mark.parametrize("found", [f"{WANTED}.0", f"{NEWEST}.0+cpu", f"{NEWEST}.9", "2.11.1"])
def test_what_was_tried_passes_without_a_word(monkeypatch, found, recwarn):
    monkeypatch.setattr(torch_version, "version", lambda name: found)
    torch_version.require_torch()
    assert not recwarn.list


@pytest.mark.parametrize("found", ["2.20.0a0+git1234", "3.0.0"])
def test_a_newer_one_is_warned_of_once(monkeypatch, found):
    monkeypatch.setattr(torch_version, "version", lambda name: found)
    message = rf"not tried with torch {re.escape(found)}; .* pip install 'torch=={NEWEST}\.\*'$"
    with pytest.warns(UserWarning, match=message) as caught:
        torch_version.require_torch()
    assert len(caught) == 1
    torch_version.require_torch()
    assert len(caught) == 1


def test_a_worker_does_not_repeat_the_warning(monkeypatch, recwarn):
    monkeypatch.setattr(torch_version, "version", lambda name: "3.0.0")
    monkeypatch.setattr(torch_version.multiprocessing, "parent_process", lambda: "its parent")
    torch_version.require_torch()
    assert not recwarn.list


def test_a_missing_torch_is_named(monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(torch_version, "version", missing)
    with pytest.raises(MissingExtraError, match=rf"torch, .* installed: pip .*'torch>={WANTED}'"):
        torch_version.require_torch()


@pytest.mark.parametrize("room", ["etude.tasks", "etude.optimizers", "etude.layerwise"])
def test_the_room_that_needs_torch_says_so_at_import(room):
    done = subprocess.run(
        [sys.executable, "-c", OLD.format(room=room)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.match(r"etude\.errors\.MissingExtraError: torch 1\.13\.1 is too old: ", last)


@pytest.mark.parametrize("room", ["etude", "etude.schedules"])
def test_what_needs_no_torch_is_imported(room):
    subprocess.run([sys.executable, "-c", OLD.format(room=room)], check=True)


def test_the_floor_is_the_one_that_is_promised():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"torch>={WANTED}" in project["dependencies"]
    table = (ROOT / "docs" / "torch-versions.md").read_text(encoding="utf-8")
    assert f"| {WANTED}." in table


def test_the_newest_is_the_one_that_the_tests_are_pinned_to():
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert re.search(rf"^torch=={re.escape(NEWEST)}\.", pins, re.MULTILINE)
    table = (ROOT / "docs" / "torch-versions.md").read_text(encoding="utf-8")
    assert f"| {NEWEST}." in table
