"""Files are whole or absent, whatever fails on the way."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from etude import files
from etude.errors import EtudeError, StorageError


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_written_text_and_json_are_read_back(tmp_path):
    files.write_text(tmp_path / "a.txt", "γ = ½\n")
    files.write_json(tmp_path / "a.json", {"lr": 0.1, "list": [1, None, "x"]})
    assert files.read_text(tmp_path / "a.txt", "the text") == "γ = ½\n"
    assert files.read_json(tmp_path / "a.json", "the table") == {"lr": 0.1, "list": [1, None, "x"]}
    assert leftovers(tmp_path) == ["a.json", "a.txt"]


def failing(error: BaseException):
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("what", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.write_bytes"])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, what):
    path = tmp_path / "kept.json"
    files.write_json(path, {"old": True})
    monkeypatch.setattr(what, failing(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(StorageError, match=r"kept\.json.*No space left on device; free some space"):
        files.write_json(path, {"old": False})
    monkeypatch.undo()
    assert files.read_json(path, "it") == {"old": True}
    assert leftovers(tmp_path) == ["kept.json"]


def test_a_write_stopped_half_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "kept.txt"
    files.write_text(path, "old")

    def write(temporary: Path) -> None:
        temporary.write_text("ne", encoding="utf-8")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        files.write_atomic(path, write)
    assert path.read_text(encoding="utf-8") == "old"
    assert leftovers(tmp_path) == ["kept.txt"]


def test_json_without_a_number_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "kept.json"
    files.write_json(path, 1)
    with pytest.raises(ValueError, match="Out of range float values"):
        files.write_json(path, float("nan"))
    assert files.read_json(path, "it") == 1
    assert leftovers(tmp_path) == ["kept.json"]


@pytest.mark.parametrize("place", ["file/inside", "missing/inside", "n" * 300])
def test_a_place_that_cannot_be_written_is_named(tmp_path, place):
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    with pytest.raises(StorageError, match=r"cannot write .*: .*choose another folder"):
        files.write_text(tmp_path / place, "x")
    assert leftovers(tmp_path) == ["file"]


def test_a_folder_under_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match=r"cannot write to the folder .*file/runs.*another one"):
        files.make_folder(tmp_path / "file" / "runs")
    with pytest.raises(StorageError, match=r"'.*/file' is a file; choose another one"):
        files.make_folder(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="cannot write to the folder"):
        files.make_folder(tmp_path)


def test_a_folder_that_refuses_files_is_refused(tmp_path, monkeypatch):
    denied = failing(PermissionError(errno.EACCES, "Permission denied"))
    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    with pytest.raises(StorageError, match="Permission denied; choose another one"):
        files.make_folder(tmp_path)


@pytest.mark.parametrize("content", [b'{"half": ', b"\xff\xfe\x00", b""])
def test_a_damaged_json_is_named(tmp_path, content):
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"the record .*record\.json"):
        files.read_json(path, "the record")


def test_a_missing_file_says_what_was_looked_for(tmp_path):
    with pytest.raises(StorageError, match=r"cannot read the recipe .*gone\.toml.*No such file"):
        files.read_text(tmp_path / "gone.toml", "the recipe")
    assert issubclass(StorageError, EtudeError)
    assert issubclass(StorageError, OSError)
