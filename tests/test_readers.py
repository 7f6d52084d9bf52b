"""No file of a folder, however damaged or hostile, ends in anything but one clear error."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch.nn.functional import mse_loss

from etude import Recipe, Record, Task, train, tune
from etude.errors import EtudeError, StorageError
from etude.tuning.result import TuneResult
from tests.fuzz import damaged_bytes, damaged_json

LONGEST = 1_500
RECIPE = Recipe(lr=0.05, steps=20, batch_size=8, evaluations=4)
FUZZ = settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def line() -> Task:
    x = torch.linspace(-1, 1, 40)[:, None]
    return Task(lambda: torch.nn.Linear(1, 1), (x, 3 * x), loss=mse_loss)


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """A finished run, a paused one, and a finished tuning."""
    home = tmp_path_factory.mktemp("kept")
    train(line(), RECIPE, folder=home / "run")
    tune(line(), RECIPE, 1.5, folder=home / "tuning", progress=False, engine="loop")
    return home


def own(error: EtudeError) -> None:
    assert 0 < len(str(error)) < LONGEST


def reads_or_refuses(read: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read()
        except EtudeError as error:
            own(error)


class Damage:
    """A copy of a folder in which one file is damaged, again and again."""

    def __init__(self, folder: Path, copy: Path, name: str) -> None:
        if copy.exists():
            shutil.rmtree(copy)
        shutil.copytree(folder, copy)
        self.folder, self.path = copy, copy / name
        self.valid = self.path.read_bytes()

    def write(self, content: str | bytes) -> Path:
        data = content.encode(errors="surrogatepass") if isinstance(content, str) else content
        self.path.write_bytes(data)
        return self.folder


@pytest.mark.parametrize("name", ["record.json", "series.safetensors"])
@FUZZ
@given(data=st.data())
def test_a_record(kept, tmp_path, name, data):
    damage = Damage(kept / "run", tmp_path / "copy", name)
    texts = name.endswith(".json") and data.draw(st.booleans())
    made = damaged_json(json.loads(damage.valid)) if texts else damaged_bytes(damage.valid)
    folder = damage.write(data.draw(made))
    reads_or_refuses(lambda: repr(Record.load(folder)))


@FUZZ
@given(data=st.data())
def test_the_findings_of_a_tuning(kept, tmp_path, data):
    damage = Damage(kept / "tuning", tmp_path / "copy", "tuning.json")
    texts = data.draw(st.booleans())
    valid = json.loads(damage.valid)
    made = damaged_json(valid) if texts else damaged_bytes(damage.valid)
    folder = damage.write(data.draw(made))
    reads_or_refuses(lambda: (TuneResult.load(folder).plain(), repr(TuneResult.load(folder))))


@FUZZ
@given(data=st.data())
def test_what_was_asked_of_a_tuning(kept, data, tmp_path):
    """Read alone: a budget or a length that is valid would be trained."""
    from etude.storage.tuning_folder import TuningFolder
    from etude.tuning.tuning_folder import kept_request

    damage = Damage(kept / "tuning", tmp_path / "copy", "tuning.json")
    request = json.loads(damage.valid)["request"]
    text = data.draw(damaged_json({"request": request}))
    folder = damage.write(text)
    reads_or_refuses(lambda: kept_request(TuningFolder(folder), None))


@FUZZ
@given(data=st.data())
def test_what_names_a_task(kept, tmp_path, data):
    """In its own file and in a record; nothing of it is run by reading it."""
    from etude.storage.run_folder import RunFolder
    from etude.tasks.references.ref import TaskRef

    ref = TaskRef("/mine.py:make", {"width": 3, "sizes": [1, 2]}, "ab", "cd").plain()
    damage = Damage(kept / "run", tmp_path / "copy", "record.json")
    text = data.draw(damaged_json(ref))
    (damage.folder / "task.json").write_bytes(text.encode(errors="surrogatepass"))
    reads_or_refuses(lambda: repr(RunFolder(damage.folder).task.read()))
    record = {**json.loads(damage.valid), "task_ref": json.loads(text)}
    damage.write(json.dumps(record))
    reads_or_refuses(lambda: repr(Record.load(damage.folder).ref))


@FUZZ
@given(data=st.data())
@example(data=None)
def test_a_recipe(tmp_path, data):
    if data is None:
        texts = ["[" * 100_000, "a = " + "[" * 5000, "lr = 0x" + "f" * 9000, "version = true", ""]
        contents = [text.encode() for text in texts]
    else:
        contents = [data.draw(damaged_bytes(RECIPE.to_toml().encode()))]
        plain = {"version": 1, **RECIPE.plain()}
        (tmp_path / "recipe.json").write_text(data.draw(damaged_json(plain)))
        reads_or_refuses(lambda: repr(Recipe.load(tmp_path / "recipe.json")))
    for content in contents:
        (tmp_path / "recipe.toml").write_bytes(content)
        reads_or_refuses(lambda: repr(Recipe.load(tmp_path / "recipe.toml")))


def sealed(text: str) -> str:
    """Return a checkpoint's JSON with a digest that fits: its writer knew how to make one."""
    try:
        content = json.loads(text)
        body = json.dumps(content["body"], sort_keys=True, separators=(",", ":"))
        content["sha256"] = hashlib.sha256(body.encode()).hexdigest()
    except (ValueError, TypeError, KeyError):
        return text
    return json.dumps(content)


@FUZZ
@given(data=st.data())
def test_a_checkpoint(kept, tmp_path, data):
    (found,) = (p.name for p in (kept / "run/checkpoints").glob("step-*20.json"))
    damage = Damage(kept / "run", tmp_path / "copy", f"checkpoints/{found}")
    for other in damage.folder.glob("checkpoints/*"):
        if other.stem != damage.path.stem:
            other.unlink()
    texts = data.draw(st.integers(0, 3)) > 0
    if texts:
        folder = damage.write(sealed(data.draw(damaged_json(json.loads(damage.valid)))))
    else:
        folder = damage.write(data.draw(damaged_bytes(damage.valid)))
    reads_or_refuses(lambda: train(line(), folder=folder, resume=True))


@pytest.mark.parametrize("name", ["checkpoints/step-000000000020.safetensors", "fingerprint.json"])
@FUZZ
@given(data=st.data())
def test_the_other_files_of_a_run(kept, tmp_path, name, data):
    damage = Damage(kept / "run", tmp_path / "copy", name)
    texts = name.endswith(".json") and data.draw(st.booleans())
    made = damaged_json(json.loads(damage.valid)) if texts else damaged_bytes(damage.valid)
    folder = damage.write(data.draw(made))
    reads_or_refuses(lambda: train(line(), folder=folder, resume=True))


@FUZZ
@given(data=st.data())
def test_the_weights_of_a_tuning(kept, tmp_path, data):
    damage = Damage(kept / "tuning", tmp_path / "copy", "model.safetensors")
    folder = damage.write(data.draw(damaged_bytes(damage.valid)))
    reads_or_refuses(lambda: tune(line(), folder=folder, resume=True, progress=False))


@pytest.mark.parametrize("name", ["record.json", "series.safetensors"])
def test_a_pipe_or_a_folder_is_not_read(kept, tmp_path, name):
    folder = Damage(kept / "run", tmp_path / "copy", name).folder
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(EtudeError, match="it is not an ordinary file"):
        Record.load(folder)
    if hasattr(os, "mkfifo"):
        (folder / name).rmdir()
        os.mkfifo(folder / name)
        with pytest.raises(EtudeError, match="it is not an ordinary file"):
            Record.load(folder)


def test_a_trial_is_not_read_from_outside_the_folder(kept, tmp_path):
    damage = Damage(kept / "tuning", tmp_path / "copy", "tuning.json")
    table = json.loads(damage.valid)
    for place in ("../run", "/etc", "trials/../../run", "a\\..\\b"):
        table["result"]["trials"][0]["folder"] = place
        damage.write(json.dumps(table))
        with pytest.raises(EtudeError, match="is outside the folder"):
            TuneResult.load(damage.folder)


@pytest.mark.parametrize("part", ["loss", "parts", "metric", "metric_parts", "weight"])
def test_an_evaluation_of_other_than_numbers_is_refused(kept, tmp_path, part):
    (found,) = (p.name for p in (kept / "run/checkpoints").glob("step-*20.json"))
    damage = Damage(kept / "run", tmp_path / "copy", f"checkpoints/{found}")
    for other in damage.folder.glob("checkpoints/*"):
        if other.stem != damage.path.stem:
            other.unlink()
    content = json.loads(damage.valid)
    evaluations = content["body"]["state"]["evaluations"]
    one = evaluations[0]
    one[part] = ["items"] if part.endswith("parts") else "items"
    folder = damage.write(sealed(json.dumps(content)))
    with pytest.raises(StorageError, match="damaged"):
        train(line(), folder=folder, resume=True)
