"""A disk that fills up, and a folder that cannot be written."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from torch.nn.functional import cross_entropy

from etude import Record, Task, train
from etude.errors import StorageError
from tests.training.common import BASE, X, Y, mlp


def full_after(monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """Let the disk be full after so many files."""
    done = []
    replace = Path.replace

    def limited(self: Path, target: Path) -> Path:
        done.append(target)
        if len(done) > writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", limited)


def test_a_disk_that_fills_up_keeps_what_was_saved_and_the_run_goes_on_later(tmp_path, monkeypatch):
    task = Task(mlp, (X, Y), loss=cross_entropy)
    whole = train(task, BASE)
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        full_after(patch, writes=11)
        with pytest.raises(StorageError, match="No space left on device; free some") as caught:
            train(task, BASE, folder=folder)
    assert "lost: " in caught.value.__notes__[0]
    kept = Record.load(folder)
    assert 0 < kept.cost.steps < 40
    again = train(task, folder=folder, resume=True)
    assert again.series["loss"].tolist() == whole.series["loss"].tolist()
    assert (folder / "model.safetensors").exists()


@pytest.mark.parametrize("place", ["a file", "under a file"])
def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path, place):
    (tmp_path / "file").write_text("", encoding="utf-8")
    folder = tmp_path / "file" if place == "a file" else tmp_path / "file" / "run"
    steps: list[int] = []
    with pytest.raises(StorageError, match=r"cannot write to the folder .*choose another one"):
        train(
            Task(mlp, (X, Y), loss=cross_entropy),
            BASE,
            folder=folder,
            on_step=lambda run: steps.append(run.step),
        )
    assert steps == []
