"""What is read back may be damaged or somebody else's: one line, and nothing elsewhere changes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from etude.cli.program import app

SHORT = ("cancer-mlp", "--steps", "8", "--batch-size", "64")
BEGIN = {
    "train": SHORT,
    "tune": (*SHORT[:2], "16", *SHORT[3:], "--budget", "1.5", "--engine", "loop"),
    "grid": (*SHORT, "--lrs", "0.01,0.1", "--engine", "loop"),
    "population": (*SHORT, "--members", "2", "--generations", "2", "--engine", "loop"),
}
GO_ON = {
    "train": ("--steps", "12"),
    "tune": ("--budget", "2.5", "--engine", "loop"),
    "grid": ("--engine", "loop"),
    "population": ("--engine", "loop"),
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Callable[[str], Path]:
    """Return a folder that a verb has written, made once."""
    made: dict[str, Path] = {}

    def of(verb: str) -> Path:
        if verb not in made:
            made[verb] = tmp_path_factory.mktemp(verb) / "run"
            words = (verb, *BEGIN[verb], "--out", str(made[verb]))
            done = CliRunner().invoke(app, words, catch_exceptions=False)
            assert done.exit_code == 0, done.stderr
        return made[verb]

    return of


@pytest.fixture
def resumed(etude, kept):
    """Copy a verb's folder, damage it, and resume from it."""

    def call(verb: str, damage: Callable[[Path], None]):
        shutil.copytree(kept(verb), "run")
        damage(Path("run"))
        return etude(verb, "--resume", "run", *GO_ON[verb])

    return call


def content(folder: Path) -> dict[str, bytes]:
    return {str(one): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


def trained(run: Path) -> dict[str, bytes]:
    """All but the file that holds what is asked for, which a larger budget changes first."""
    return {name: text for name, text in content(run).items() if not name.endswith("/tuning.json")}


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("train", "checkpoints"),
        ("tune", "trials"),
        ("tune", "trials/lr-*"),
        ("tune", "trials/*/checkpoints"),
        ("grid", "trials"),
        ("grid", "trials/*/checkpoints"),
        ("population", "trials/*/checkpoints"),
    ],
)
def test_a_link_inside_the_folder_leads_nowhere(resumed, tmp_path, verb, name):
    elsewhere = tmp_path / "elsewhere"

    def move(run: Path) -> None:
        place = min(run.glob(name))
        shutil.move(place, elsewhere)
        place.symlink_to(elsewhere)
        before.update(content(elsewhere))

    before: dict[str, bytes] = {}
    said = resumed(verb, move)
    assert said.code == 1
    assert said.err.count("\n") == 1
    assert "is a symbolic link, to " in said.err
    assert "put a folder in its place" in said.err
    assert before
    assert content(elsewhere) == before


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("train", "model.safetensors"),
        ("train", "record.json"),
        ("train", "checkpoints/step-*.safetensors"),
        ("train", "checkpoints/step-*.json"),
        ("tune", "report.html"),
        ("tune", "trials/*/checkpoints/step-*.json"),
        ("grid", "series.safetensors"),
        ("population", "model.safetensors"),
    ],
)
def test_a_folder_in_place_of_a_file_is_one_line_before_anything_is_trained(resumed, verb, name):
    before: dict[str, bytes] = {}

    def replace(run: Path) -> None:
        path = min(run.glob(name))
        path.unlink()
        path.mkdir()
        before.update(trained(run))

    said = resumed(verb, replace)
    assert said.code == 1
    assert said.err.count("\n") == 1
    assert "is a folder, and a file of this name has to be written: move it away" in said.err
    assert trained(Path("run")) == before


def unlinked(path: Path) -> None:
    path.unlink()


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere/fingerprint.json")


@pytest.mark.parametrize("damage", [unlinked, dangling])
def test_digests_that_are_gone_are_not_written_anew_in_silence(resumed, damage):
    with pytest.warns(UserWarning, match="data, model and loss are still those of the run cannot"):
        assert resumed("train", lambda run: damage(run / "fingerprint.json")).code == 0
    assert not Path("run/fingerprint.json").is_symlink()
