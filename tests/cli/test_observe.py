"""`--observe`: observers by reference."""

from __future__ import annotations

import re

import pytest

from etude.cli.options.observe import observers
from etude.errors import EtudeError

TEXT = """
import etude

class Step(etude.Observer):
    def on_update(self, state):
        return state.step

def made(every=3):
    return Step(every=every)

ready = made()
number = 3
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "watching.py").write_text(TEXT, encoding="utf-8")
    return "watching.py"


@pytest.mark.parametrize(
    ("said", "every"),
    [("Step", 1), ("Step every=5", 5), ("made", 3), ("made every=4", 4), ("ready", 3)],
)
def test_a_class_an_instance_or_a_function_is_named(file, said, every):
    (found,) = observers([f"{file}:{said}"])
    assert (type(found).__name__, found.every) == ("Step", every)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("watching.py:Stepp", "did you mean 'Step'"),
        ("watching.py:number", "watching.py:number is an int, not an etude.Observer"),
        ("watching.py:Step often=5", "unexpected keyword argument 'often'"),
        ("watching.py:ready every=5", "is an observer already, and takes no options"),
        ("watching.py:Step every", "write KEY=VALUE"),
        ("missing.py:Step", "there is no Python file 'missing.py'"),
        ("no_such_module:Step", "there is no module 'no_such_module'"),
        ("Step", "observer 'Step' cannot be read: give 'path/to/file.py:name'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(file, text, said):
    with pytest.raises(EtudeError, match=re.escape(said)) as caught:
        observers([text])
    assert "\n" not in str(caught.value)


def test_a_recipe_from_the_folder_of_a_tuning_brings_its_tied_range(tmp_path):
    import torch

    import etude
    from etude.cli.options.observe import watcher

    x = torch.linspace(-1, 1, 64)[:, None]
    task = etude.Task(torch.nn.Linear(1, 1), (x, 3 * x), loss=torch.nn.functional.mse_loss)
    recipe = etude.Recipe(steps=20, batch_size=16)
    best = etude.tune(task, recipe, 1.5, folder=tmp_path / "tuned", progress=False)
    file = tmp_path / "tuned" / "recipe.toml"
    tuned = etude.Recipe.load(file)
    assert watcher(True, task, tuned.replace(lr=0.5), file).tied == best.tied
    assert watcher(True, task, tuned.replace(steps=30), file).tied is None
    (tmp_path / "recipe.toml").write_text(tuned.to_toml(), encoding="utf-8")
    assert watcher(True, task, tuned, tmp_path / "recipe.toml").tied is None
    assert watcher(True, task, None, file) is True
    assert watcher(True, task, tuned, None) is True
    assert watcher(False, task, tuned, file) is False
