"""The folder of a tuning: read back, resumed after an interruption or a kill, refused."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from etude import Recipe, TuneResult, train, tune
from etude.errors import BadValueError, EtudeError, StorageError
from etude.record import Evaluation
from etude.training.loop import TrainingLoop
from etude.training.run import Run
from tests.tuning.common import (
    BASE,
    noisy,
    quick,
    same,
    task,
    weights,
)


@cache
def in_memory() -> TuneResult:
    return quick(task(noisy), BASE, 3.0)


def test_a_result_is_saved_and_read_back(tmp_path):
    folder = tmp_path / "run"
    best = quick(task(noisy), BASE, 3.0, folder=folder)
    assert same(best, in_memory())
    again = TuneResult.load(folder)
    assert same(again, best)
    assert again.seconds == best.seconds
    assert again.model is None
    assert again.record.evaluations == best.record.evaluations
    names = {p.name for p in folder.iterdir()}
    assert names >= {"recipe.toml", "record.json", "series.safetensors", "model.safetensors"}
    kept = [len(list(place.glob("step-*.json"))) for place in folder.rglob("checkpoints")]
    assert set(kept) == {1}  # the newest of each: a larger budget goes on from there
    assert Recipe.load(folder / "recipe.toml") == best.recipe
    resumed = tune(task(noisy), folder=folder, resume=True, progress=False)
    assert same(resumed, best)
    assert weights(resumed.model) == weights(best.model)


class StopError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 40, 41, 80, 97, 128, 150])
def test_a_tuning_interrupted_anywhere_goes_on_to_the_same_result(tmp_path, monkeypatch, after):
    from etude.training.loop import TrainingLoop

    folder = tmp_path / "run"
    updates: list[int] = []
    update = TrainingLoop._update

    def counted(self: TrainingLoop, *args: Any) -> None:
        updates.append(1)
        if len(updates) > after:
            raise StopError("the power is gone")
        update(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_update", counted)
        with pytest.raises(StopError, match="the power is gone") as caught:
            quick(task(noisy), BASE, 3.0, folder=folder, engine="loop")
    call = f"etude.tune(task, folder={str(folder)!r}, resume=True)"
    assert f"The trials are saved. Go on with: {call}" in caught.value.__notes__[0]
    with pytest.raises(StorageError, match="holds a tuning that is not finished: resume it"):
        TuneResult.load(folder)
    again = tune(task(noisy), folder=folder, resume=True, progress=False)
    assert same(again, in_memory())
    assert weights(again.model) == weights(in_memory().model)


def test_a_kill_between_the_last_update_and_its_evaluation_loses_nothing(tmp_path, monkeypatch):
    """A trial may be saved on the very update at which trials are compared."""
    from etude.training.run import Run

    recipe = BASE.replace(steps=160)
    whole = quick(task(), recipe, 1.25)
    folder = tmp_path / "run"
    evaluate = Run.evaluate

    def die(self: Run) -> Evaluation:
        if self.step == 160:
            raise SystemExit("killed")
        return evaluate(self)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "evaluate", die)
        with pytest.raises(SystemExit, match="killed"):
            quick(task(), recipe, 1.25, folder=folder, engine="loop")
    again = tune(task(), folder=folder, resume=True, progress=False)
    assert same(again, whole)


def test_what_can_be_resumed_and_what_cannot(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(BadValueError, match="resume=True needs folder="):
        tune(task(), resume=True)
    with pytest.raises(StorageError, match=r"holds no tuning to resume: there is no tuning\.json"):
        tune(task(), folder=folder, resume=True)
    best = quick(task(), BASE.replace(steps=16), 1.25, folder=folder)
    with pytest.raises(StorageError, match="already holds a run: resume it, or choose another"):
        quick(task(), BASE, folder=folder)
    assert same(TuneResult.load(folder), best)
    (folder / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(StorageError, match=r"model\.safetensors' is damaged"):
        tune(task(), folder=folder, resume=True)
    for content in ("{", "[]", '{"result": {}}', '{"result": 3}', ""):
        (folder / "tuning.json").write_text(content, encoding="utf-8")
        with pytest.raises(StorageError, match=r"tuning\.json' is damaged"):
            TuneResult.load(folder)
    (folder / "tuning.json").write_text('{"request": {"recipe": {}}}', encoding="utf-8")
    with pytest.raises(EtudeError, match=r"tuning\.json' is damaged"):
        tune(task(), folder=folder, resume=True)


def test_a_tuning_of_another_recipe_is_refused(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    text = '{"request": {"task": "task", "recipe": {"steps": 64}, "budget": 3.0}}'
    (folder / "tuning.json").write_text(text, encoding="utf-8")
    with pytest.raises(StorageError, match="holds a tuning of another recipe"):
        tune(task(), Recipe(steps=65), folder=folder, resume=True)
    with pytest.raises(StorageError, match="holds a tuning, which cannot be resumed as a run"):
        train(task(), folder=folder, resume=True)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="cannot write to the folder"):
        quick(task(), BASE, folder=tmp_path / "file")


def test_weights_that_are_lost_are_told_and_no_untrained_network_takes_their_place(tmp_path):
    folder = tmp_path / "run"
    best = quick(task(noisy), BASE, 1.5, folder=folder)
    (folder / "model.safetensors").unlink()
    with pytest.warns(UserWarning, match="has lost the trained weights of its tuning"):
        again = tune(task(noisy), folder=folder, resume=True, progress=False)
    assert again.model is None
    assert same(again, best)
