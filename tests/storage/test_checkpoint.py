"""Checkpoints: whole or absent, named when damaged, and the one before is used."""

from __future__ import annotations

import errno
import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.errors import StorageError
from etude.storage import checkpoint


def state(step: int) -> dict[str, object]:
    return {"step": step, "model": {"w": torch.full((50,), float(step))}, "seen": [1, 2, step]}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def file(folder: Path, step: int, kind: str) -> Path:
    return folder / f"step-{step:012d}.{kind}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for step in (5, 10, 15):
        checkpoint.save(tmp_path, step, state(step))
    return tmp_path


def test_only_the_two_newest_are_kept(folder):
    assert names(folder) == [
        f"step-{step:012d}.{kind}" for step in (10, 15) for kind in ("json", "safetensors")
    ]


def test_the_newest_is_read_back(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = checkpoint.load_newest(folder)
    assert found is not None
    assert (found["step"], found["seen"]) == (15, [1, 2, 15])
    assert torch.equal(found["model"]["w"], torch.full((50,), 15.0))


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.load_newest(tmp_path) is None
    assert checkpoint.load_newest(tmp_path / "missing") is None


@settings(max_examples=40)
@given(kind=st.sampled_from(["json", "safetensors"]), data=st.data())
def test_any_damage_is_named_and_the_one_before_is_used(tmp_path_factory, kind, data):
    folder = tmp_path_factory.mktemp("damaged")
    for step in (10, 15):
        checkpoint.save(folder, step, state(step))
    path = file(folder, 15, kind)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[place:]
    if kind == "json" and json_equal(bytes(content), path):
        return  # white space: what it says is unchanged
    path.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match=r"step-000000000015.*; continuing from step 10 instead"):
        found = checkpoint.load_newest(folder)
    assert found is not None
    assert found["step"] == 10


def json_equal(content: bytes, path: Path) -> bool:
    try:
        return json.loads(content) == json.loads(path.read_bytes())
    except ValueError:
        return False


@pytest.mark.parametrize(
    ("kind", "message"), [("safetensors", "has lost its tensors"), ("json", "is half-written")]
)
def test_a_missing_half_is_named_and_the_one_before_is_used(folder, kind, message):
    file(folder, 15, kind).unlink()
    with pytest.warns(UserWarning, match=rf"{message}.*; continuing from step 10 instead"):
        found = checkpoint.load_newest(folder)
    assert found is not None
    assert found["step"] == 10
    checkpoint.save(folder, 12, state(12))
    checkpoint.save(folder, 20, state(20))
    assert checkpoint.load_newest(folder)["step"] == 20


def test_a_first_checkpoint_half_written_is_a_start_anew(tmp_path):
    checkpoint.save(tmp_path, 5, state(5))
    file(tmp_path, 5, "json").unlink()
    with pytest.warns(UserWarning, match="half-written.*; continuing from the start instead"):
        assert checkpoint.load_newest(tmp_path) is None


def test_all_damaged_is_an_error_that_names_each(folder):
    file(folder, 15, "json").write_text("{", encoding="utf-8")
    file(folder, 10, "safetensors").write_bytes(b"")
    with pytest.raises(StorageError, match=r"no checkpoint in .* is whole: .*15\.json.*; .*10\."):
        checkpoint.load_newest(folder)


def test_a_newer_version_is_not_half_understood(folder):
    for step in (10, 15):
        path = file(folder, step, "json")
        path.write_text(json.dumps({"version": 3, "new": []}), encoding="utf-8")
    with pytest.raises(StorageError, match="is of version 3, this Etude reads 1 and 2: use the"):
        checkpoint.load_newest(folder)


def sealed(path: Path, change: Any) -> None:
    """Change a checkpoint's JSON and its digest with it."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    text = json.dumps(content["body"], sort_keys=True, separators=(",", ":"))
    content["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_checkpoint_of_the_first_format_is_read_and_says_what_it_lacks(folder):
    sealed(file(folder, 15, "json"), lambda content: content.update(version=1))
    with pytest.warns(
        UserWarning, match="of an older Etude, which did not save how tensors are laid out"
    ):
        found = checkpoint.load_newest(folder)
    assert torch.equal(found["model"]["w"], torch.full((50,), 15.0))


@pytest.mark.parametrize(
    "state",
    [
        None,
        [],
        {"$": "tensor", "name": "/model/w"},
        {"step": 15, "model": {"w": {"$": "tensor", "name": "/model/w", "stride": [2**60]}}},
        {"step": 15, "model": {"w": {"$": "tensor"}}},
        {"step": 15, "model": {"$": "dict", "items": [[{"a": 1}, 2]]}},
    ],
)
def test_a_state_that_was_made_up_is_damaged(folder, state):
    sealed(file(folder, 15, "json"), lambda content: content["body"].update(state=state))
    with pytest.warns(UserWarning, match=r"000015\.json' is damaged.*continuing from step 10"):
        assert checkpoint.load_newest(folder)["step"] == 10


@pytest.mark.parametrize("what", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.write_bytes"])
def test_a_write_that_fails_leaves_the_earlier_ones(folder, monkeypatch, what):
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(what, full)
    with pytest.raises(StorageError, match=r"cannot write .*step-0*20.*No space left on device"):
        checkpoint.save(folder, 20, state(20))
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert checkpoint.load_newest(folder)["step"] == 15
    assert not [name for name in names(folder) if name.endswith(".tmp")]


def test_a_full_disk_inside_safetensors_is_an_error_of_ours(folder, monkeypatch):
    from safetensors import SafetensorError

    def full(*args: object) -> None:
        raise SafetensorError("Error while serializing: No space left on device (os error 28)")

    monkeypatch.setattr("etude.storage.checkpoint.save_file", full)
    with pytest.raises(StorageError, match="No space left on device"):
        checkpoint.save(folder, 20, state(20))
    assert checkpoint.load_newest(folder)["step"] == 15


def test_a_place_that_is_no_folder_is_an_error_of_ours(tmp_path):
    (tmp_path / "checkpoints").write_text("a file", encoding="utf-8")
    with pytest.raises(StorageError, match=r"cannot write to the folder .*checkpoints"):
        checkpoint.save(tmp_path / "checkpoints", 5, state(5))
