"""A folder from somebody else leads nowhere else, and what cannot be written is said first."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.errors import StorageError
from etude.storage import checkpoint, layout
from etude.storage.compressed_folder import CompressedFolder
from etude.storage.run_folder import RunFolder
from etude.storage.study import StudyDatabase
from etude.storage.tuning_folder import TuningFolder

STATE = {"step": 3}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder that a link leads to, with checkpoints that must stay."""
    place = tmp_path / "elsewhere"
    for step in (1, 2):
        checkpoint.save(place, step, STATE)
    return place


def content(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in folder.iterdir()}


def test_checkpoints_behind_a_link_are_neither_read_nor_deleted(tmp_path, elsewhere):
    home = RunFolder(tmp_path / "run")
    home.path.mkdir()
    (home.path / "checkpoints").symlink_to(elsewhere)
    before = content(elsewhere)
    for call in (home.newest_state, home.refuse_taken):
        with pytest.raises(StorageError, match=r"checkpoints' is a symbolic link, to .*elsewhere'"):
            call()
    assert content(elsewhere) == before


@pytest.mark.parametrize("link", ["trials", "trials/lr-0.1"])
def test_trials_behind_a_link_are_refused(tmp_path, elsewhere, link):
    home = TuningFolder(tmp_path / "tuning")
    (home.path / link).parent.mkdir(parents=True)
    (home.path / link).symlink_to(elsewhere)
    with pytest.raises(StorageError, match=r"is a symbolic link, .* put a folder in its place"):
        home.trial("lr-0.1")


def test_a_fold_behind_a_link_is_refused(tmp_path, elsewhere):
    home = RunFolder(tmp_path / "trial")
    home.path.mkdir()
    (home.path / "fold-0").symlink_to(elsewhere)
    with pytest.raises(StorageError, match=r"the folder of a fold .* is a symbolic link"):
        home.fold(0)


def test_a_run_folder_that_is_a_link_itself_is_the_users_own(tmp_path):
    """Runs are often kept on another disk: the user named it, and so it is where they want it."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    home = RunFolder(tmp_path / "runs")
    home.save_state(3, STATE)
    assert home.newest_state() == STATE


@pytest.mark.parametrize("name", layout.FILES)
def test_a_folder_in_place_of_a_file_is_named_before_anything_is_trained(tmp_path, name):
    home = RunFolder(tmp_path)
    (tmp_path / name).mkdir()
    with pytest.raises(StorageError, match=rf"{name}' is a folder, and a file of this name has"):
        home.newest_state()
    with pytest.raises(StorageError, match=r"is a folder, and a file|already holds a run|is not"):
        home.refuse_taken()
    with (
        pytest.raises(StorageError, match=r"is a folder, and a file|already holds"),
        CompressedFolder(tmp_path).claimed(),
    ):
        pass
    assert [one.name for one in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["checkpoints", "trials", "tensorboard"])
def test_a_file_in_place_of_a_folder_is_named_before_anything_is_trained(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(StorageError, match=rf"{name}' is a file, and a folder of this name has"):
        RunFolder(tmp_path).newest_state()


@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_a_checkpoint_that_is_a_folder_is_named(elsewhere, kind):
    path = elsewhere / f"step-{2:012d}.{kind}"
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageError, match=rf"step-000000000002\.{kind}' is a folder"):
        checkpoint.load_newest(elsewhere)


@pytest.mark.parametrize("depth", [0, 1])
def test_files_of_a_study_behind_a_link_are_refused(tmp_path, elsewhere, depth):
    with StudyDatabase(tmp_path / "studies.db") as database:
        study = database.create("rates", {}, [{"lr": 0.1}])
        assert study.files is not None
        (digest,) = study.files.put([b"x"])
        place = study.files.place(digest)
        place.unlink()
        place.parent.rmdir()
        link = place.parent
        if depth == 0:
            link = study.files.path
            link.rmdir()
        link.symlink_to(elsewhere)
        before = content(elsewhere)
        study.files._made.clear()
        with pytest.raises(StorageError, match=r"the folder of the study's files .* symbolic link"):
            study.files.put([b"x"])
    assert content(elsewhere) == before
